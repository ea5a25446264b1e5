//! The sources of the crate, without their tests.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the library or the binary.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The path of its module, such as `["registry", "slots", "slot"]`; empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    /// Without the tests at its end.
    pub(crate) lines: Vec<String>,
}

/// Every source of the library and the binary, without files of tests and models.
pub(crate) fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found: Vec<Source> = files(&root)
        .into_iter()
        .filter(|path| {
            let inside = path.strip_prefix(&root).expect("it is in src");
            !inside.iter().any(|part| {
                let part = part.to_string_lossy();
                part.starts_with("tests") || part.starts_with("loom")
            })
        })
        .map(|path| source(&root, path))
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "the sources are there");
    found
}

/// Every Rust file below a folder.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a source is text");
    let inside = path.strip_prefix(root).expect("it is in src");
    let module = inside.with_extension("");
    let module: Vec<String> = module
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .filter(|part| part != "lib")
        .collect();
    Source {
        lines: code(&text).map(str::to_owned).collect(),
        module,
        path,
    }
}

// === impl Source ===

impl Source {
    /// The name at the root of the crate; `None` for `lib.rs`.
    pub(crate) fn top(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// The lines that are neither comments nor documentation, joined.
    pub(crate) fn code(&self) -> String {
        let code = self.lines.iter().filter(|line| is_code(line));
        code.map(|line| format!("{line}\n")).collect()
    }

    /// The path below the repository, for messages.
    pub(crate) fn shown(&self) -> String {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = self.path.strip_prefix(root).expect("it is in here");
        path.display().to_string()
    }
}

pub(crate) fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

/// Returns the lines of a text up to the tests at its end. A module of tests in a file of its own,
/// `mod tests;`, ends nothing.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |line: &str| line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test,");
    let begins_tests = |at: &usize| {
        let mut after = lines[at + 1..]
            .iter()
            .skip_while(|line| line.starts_with(['#', ' ', ')']));
        let opens = |line: &&str| line.starts_with("mod ") && line.ends_with('{');
        is_test(lines[*at]) && after.next().is_some_and(opens)
    };
    let end = (0..lines.len()).find(begins_tests).unwrap_or(lines.len());
    lines.into_iter().take(end)
}

#[test]
fn only_tests_within_a_file_are_cut_off() {
    let text = "#[cfg(test)]\nmod tests;\n\nfn one() {}\n\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n";
    let kept: Vec<&str> = code(text).collect();
    assert_eq!(kept, ["#[cfg(test)]", "mod tests;", "", "fn one() {}", ""]);
}
