//! A place in the program: a function, and its file and line where the debug information tells.

use super::asking::Chain;
use super::kept::AWAITS;

/// One call of a stack, or one await of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Frame {
    /// The function. Of an await without `{{closure}}` at the end: that is how the compiler calls the body of an
    /// `async fn`.
    pub function: String,
    /// The file: from the package on for a dependency (`tokio-1.54.1/src/sync/oneshot.rs`), as it was compiled else.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
}

/// The awaits of a task, what it waits for first, and the task's own future last.
///
/// A call stack from the leaf up to the task. Of each library only the outermost call is kept: that is what the user
/// awaits. It goes by files, because a release build names inlined functions without their modules.
pub(crate) fn awaits(chain: &Chain) -> Vec<Frame> {
    let mut awaits: Vec<Frame> = Vec::new();
    let frames = |address: &usize| AWAITS.frames(*address, resolve);
    for mut frame in chain.iter().flat_map(frames) {
        frame.function = readable(&frame.function);
        let file = frame.file.as_deref().unwrap_or("");
        if file.ends_with("src/audit/asking.rs") {
            awaits.clear();
        } else if frame.is_of_task() {
            break;
        } else if !is_machinery(file) {
            match awaits.last_mut() {
                Some(last) if last.is_inside(&frame) => *last = frame,
                _ => awaits.push(frame),
            }
        }
    }
    awaits
}

/// What every future is made of.
fn is_machinery(file: &str) -> bool {
    file.is_empty()
        || ["core/src/", "std/src/", "alloc/src/"]
            .iter()
            .any(|library| file.starts_with(library))
        || file.starts_with("tokio-") && file.contains("/src/macros/")
}

/// What is at an address: the innermost of several functions that were inlined into each other first.
#[cfg(feature = "stacks")]
pub(super) fn resolve(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let Some(name) = symbol.name() else { return };
        // Without the hash at its end.
        let function = format!("{name:#}");
        let file = symbol.filename();
        frames.push(Frame {
            function,
            file: file.map(|file| short(&file.to_string_lossy())),
            line: symbol.lineno(),
        });
    });
    frames
}

#[cfg(not(feature = "stacks"))]
pub(super) fn resolve(_: usize) -> Vec<Frame> {
    Vec::new()
}

/// Where the debug information has no name for the body of an `async fn` it has what it is.
fn readable(function: &str) -> String {
    let kinds = [
        ("{async_fn#", "async fn"),
        ("{async_block#", "async block"),
        ("{async_closure#", "async closure"),
        ("{closure#", "closure"),
    ];
    let kind = kinds.iter().find(|(start, _)| function.starts_with(start));
    match kind {
        Some((_, kind)) => (*kind).to_owned(),
        None => function.trim_end_matches("::{{closure}}").to_owned(),
    }
}

/// Without the folders above a package that cargo fetched, or the standard library.
#[cfg(feature = "stacks")]
fn short(file: &str) -> String {
    if let Some((_, library)) = file.split_once("/library/")
        && file.starts_with("/rustc/")
    {
        return library.to_owned();
    }
    match file.split_once("/registry/src/") {
        Some((_, rest)) => rest
            .split_once('/')
            .map_or(rest, |(_, file)| file)
            .to_owned(),
        // As a spawn site is shown, where the program runs in its own workspace.
        None => std::env::current_dir()
            .ok()
            .and_then(|here| file.strip_prefix(here.to_str()?)?.strip_prefix('/'))
            .unwrap_or(file)
            .to_owned(),
    }
}

// === impl Frame ===

impl Frame {
    /// Whether this is where a task is polled, dropped or run.
    pub(crate) fn is_of_task(&self) -> bool {
        const FILES: [&str; 2] = ["src/registry/tracked.rs", "src/registry/tracked/row.rs"];
        let file = self.file.as_deref().unwrap_or_default();
        FILES.iter().any(|own| file.ends_with(own))
    }

    /// Whether `outer` is the same function, or of the same library.
    fn is_inside(&self, outer: &Self) -> bool {
        let library = |frame: &Self| {
            let (package, _) = frame.file.as_deref()?.split_once("/src/")?;
            (!package.is_empty() && !package.contains('/')).then(|| package.to_owned())
        };
        // Nameless ones are told apart by their lines.
        let same = self.function == outer.function
            && self.file == outer.file
            && (self.function.contains("::") || self.line == outer.line);
        same || library(self).is_some_and(|inner| library(outer) == Some(inner))
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.function)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            (Some(file), None) => write!(f, " ({file})"),
            (None, _) => Ok(()),
        }
    }
}
