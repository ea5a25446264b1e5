//! Sentences about the parts that reports and dumps cannot observe.

use super::count;
use crate::threads::is_of_tokio;

/// The sentence for a runtime that the application owns.
pub(crate) const NOT_OURS: &str = "untracked tasks: not observed, the runtime is not headcount's";
/// The sentence for untracked tasks that tokio's own list shows, and that no hook saw.
pub(crate) const NO_SITES: &str =
    "untracked tasks: read from tokio's list, their spawn sites need --cfg tokio_unstable";
/// The sentence for a look at untracked tasks that was cut.
pub(crate) const NOT_ALL: &str =
    "untracked tasks: some were not seen, because tasks came and went or there was no time";
/// The sentence for a system without a usable `/proc`.
pub(crate) const NO_PROC: &str = "threads and children: not observed, /proc does not show them";
/// The sentence for answers that were not symbolized in time.
pub(crate) const AWAITS_LATE: &str = "what tasks await: not observed, symbolizing took too long";

/// Returns a sentence about threads of tokio runtimes that are unknown to headcount. `unknown`: the
/// names and calls of threads that are neither registered nor in the baseline.
///
/// The stack decides. A thread without a symbolized stack is recognized by tokio's default name,
/// and the sentence says so.
pub(crate) fn other_runtimes<'a>(
    unknown: impl Iterator<Item = (&'a str, Option<&'a [String]>)>,
) -> Option<String> {
    let (mut theirs, mut named) = (0, 0);
    for (name, calls) in unknown {
        match calls {
            Some(calls) if is_of_tokio(calls) => theirs += 1,
            None if name.starts_with("tokio-r") => named += 1,
            _ => {}
        }
    }
    let some = |threads: u64, what: &str| {
        let are = if threads == 1 { "is" } else { "are" };
        (threads > 0).then(|| format!("{} {are} {what}", count(threads, "thread")))
    };
    let found = [some(theirs, "theirs"), some(named, "named like theirs")];
    let found: Vec<_> = found.into_iter().flatten().collect();
    let threads = found.join(", ");
    (!found.is_empty()).then(|| format!("tasks of other tokio runtimes: not observed ({threads})"))
}
