//! The awaits of a task, from the addresses that a probe recorded.
//!
//! Symbolizing reads debug information and may take seconds the first time, so it runs on a thread
//! that nothing waits for without a budget.
//!
//! The frames of one chain, from the inner end, and their treatment:
//!
//! | frames | treatment |
//! |---|---|
//! | the unwinder and the probe | dropped: a frame of the probe's file clears the list |
//! | the runtime's deferring of a wake, and its budget | dropped: see [`Awaited::always_ready`] |
//! | the leaf future, if it is tokio's | one frame, with words for it, see [`leaves`] |
//! | futures of another library | the outermost frame of each run of one library is kept |
//! | the standard library, tokio's macros | dropped |
//! | the user's futures | kept |
//! | the function that polls the task | the chain ends here |
//!
//! Nothing is read from the task here: the addresses are all there is, and they stay valid until a
//! module is unloaded.

pub(crate) mod leaves;
pub(crate) mod type_name;

use super::Chain;
use super::await_probe::{self, Recorded};
use super::cache::AWAITS;
use super::frame::Frame;
use super::resolve::{resolve, without_build_paths};

/// The file in which tokio keeps wakers that it wakes after the poll. `yield_now` and a budget that
/// is used up lead there: the task is polled again without an event.
const DEFER: &str = "/src/runtime/scheduler/defer.rs";
/// The parts of tokio in which a task yields, which say nothing about what it awaits.
const YIELDS: [&str; 4] = [
    DEFER,
    "/src/runtime/scheduler/",
    "/src/runtime/context",
    "/src/task/coop/",
];

/// The fewest polls while draining of a task that is called always ready. One with fewer may have
/// been woken in the poll by chance.
const MANY: u64 = 8;

/// The awaits of a task that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// Each future that it awaits, as the chain of awaits that leads there.
    pub(crate) chains: Vec<Vec<Frame>>,
    /// The number of polls since it was told to drain, if it waits for nothing: it was woken within
    /// the poll in which it answered, or has asked tokio to poll it again.
    pub(crate) always_ready: Option<u64>,
}

/// Returns the awaits of a task that answered after this many polls.
pub(crate) fn of_answer(
    recorded: &Recorded,
    polls: u64,
    is_task: impl Fn(&Frame) -> bool,
) -> Awaited {
    let mut yields = recorded.was_woken;
    let chain = |chain: &Chain| {
        let (awaits, is_deferred) = of(chain, &is_task);
        yields |= is_deferred;
        awaits
    };
    Awaited {
        chains: recorded.chains.iter().map(chain).collect(),
        always_ready: always_ready(yields, polls),
    }
}

/// Returns the number of polls if the task is always ready: it asked in its answer to be polled
/// again, and was polled many times since it was told to drain, or was not told.
pub(crate) fn always_ready(yields: bool, polls: u64) -> Option<u64> {
    let is_many = polls == 0 || polls >= MANY;
    (yields && is_many).then_some(polls)
}

/// Returns the awaits of one chain: what the task waits for first, and the task's own future last.
/// Also returns whether the chain is that of a task that yields: it waits for nothing.
///
/// `chain` is a call stack from the leaf up to the task. Frames of this mechanism, of the task's
/// machinery, and of the standard library are dropped. Of consecutive frames of one library only
/// the outermost is kept, because that is the call the user awaits. Libraries are told apart by
/// file, because a release build names inlined functions without their modules. `is_task` recognizes
/// the frames that poll, drop or run a task: the chain ends there. Blocks while symbols are looked
/// up.
///
/// A function without a path is named by the type that the function around it polls, if that shows
/// it.
///
/// Called on the symbolizer's thread. Without debug information the result is empty, because frames
/// without a file count as machinery.
fn of(chain: &Chain, is_task: impl Fn(&Frame) -> bool) -> (Vec<Frame>, bool) {
    let mut awaits: Vec<Frame> = Vec::new();
    // The innermost frames, as long as they are of tokio.
    let mut leaf: Vec<Frame> = Vec::new();
    let mut yields = false;
    let frames = |address: &usize| AWAITS.frames(*address, resolve);
    for mut frame in chain.calls.iter().flat_map(frames) {
        if let Some(last) = awaits.last_mut()
            && !last.function.contains("::")
            && let Some(future) = type_name::polled(&frame.function)
        {
            last.function = future;
        }
        frame.function = readable(&frame.function);
        let file = frame.file.as_deref().unwrap_or("");
        if frame.is_in(&await_probe::FILE) {
            awaits.clear();
            leaf.clear();
        } else if is_task(&frame) {
            break;
        } else if is_in_tokio(&frame, &YIELDS) {
            yields |= is_in_tokio(&frame, &[DEFER]);
        } else if is_machinery(file) {
            continue;
        } else if awaits.is_empty() && leaves::is_of_tokio(&frame) {
            leaf.push(frame);
        } else {
            match awaits.last_mut() {
                Some(last) if last.is_inside(&frame) => *last = frame,
                _ => awaits.push(frame),
            }
        }
    }
    if let Some(outermost) = leaf.last() {
        let outermost = Frame {
            waits_for: match yields {
                true => None,
                false => leaves::waits_for(&leaf, chain.socket.as_deref()),
            },
            ..outermost.clone()
        };
        awaits.insert(0, outermost);
    }
    (without_build_paths(awaits), yields)
}

/// Returns whether the frame is of tokio, in one of these files or folders.
fn is_in_tokio(frame: &Frame, places: &[&str]) -> bool {
    let file = frame.file.as_deref().unwrap_or("");
    file.starts_with("tokio-") && places.iter().any(|place| file.contains(place))
}

/// Returns whether the file is of the standard library or of tokio's macros, which are part of
/// every future.
///
/// The paths are those that `resolve::short` leaves: the standard library without its `/rustc/`
/// prefix, and dependencies with their package first. A frame without a file is dropped too,
/// because it cannot be attributed to a library.
fn is_machinery(file: &str) -> bool {
    file.is_empty()
        || ["core/src/", "std/src/", "alloc/src/"]
            .iter()
            .any(|library| file.starts_with(library))
        || file.starts_with("tokio-") && file.contains("/src/macros/")
}

/// Returns the name to show. If the debug information has no name for the body of an `async fn` or
/// a closure, that is its kind, such as `async fn`.
///
/// The suffix `::{{closure}}` is the body of an `async fn` in the legacy names of rustc; it is cut
/// off, since every await would end with it.
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

// === impl Frame ===

impl Frame {
    /// Returns whether the frame and `outer` are one function, or are from the same library.
    ///
    /// A library is the first component of a path like `tokio-1.54.1/src/…`. A path that begins
    /// with `src/`, or that has more components before `src`, names no library, so two functions of
    /// the user's package stay two awaits. A member of a workspace with its folder at the top has
    /// the form of a library, and its consecutive awaits become one.
    fn is_inside(&self, outer: &Self) -> bool {
        let library = |frame: &Self| {
            let (package, _) = frame.file.as_deref()?.split_once("/src/")?;
            (!package.is_empty() && !package.contains('/')).then(|| package.to_owned())
        };
        // Functions without a path, such as closures, are told apart by their lines.
        let same = self.function == outer.function
            && self.file == outer.file
            && (self.function.contains("::") || self.line == outer.line);
        same || library(self).is_some_and(|inner| library(outer) == Some(inner))
    }
}
