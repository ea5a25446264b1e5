//! Stacks of other threads of this process: read quietly where that can be done, by a signal where it must be.
//!
//! A thread that waits in the kernel is read from outside: the kernel tells where it is, and its memory is ours. Nobody
//! notices. A thread on a processor has to say itself where it is, from a signal's handler. Unwinding and names are the
//! reader's work, from copies. It does not walk the stack of the thread that asks.

#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod engine;
#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod missing;
mod names;

use super::frame::Frame;

#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use engine as means;
#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
use missing as means;

/// Which threads may be interrupted to read their stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// Those on a processor only: a signal makes some system calls return early (signal(7)), and a dump disturbs nobody.
    Quiet,
    /// All of them: the service is over.
    Any,
}

/// The stack of a thread, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Innermost first: the program counter, then where each call returns to.
    pub(crate) addresses: Vec<usize>,
    /// Whether the thread did not move while it was read, or was stopped for it.
    pub(crate) is_exact: bool,
    /// Whether it reaches down to where threads begin.
    pub(crate) is_complete: bool,
}

/// Makes ready what would take long, or hang, when it is needed: the signal's handler, the list of modules, the names.
pub(crate) fn prepare() {
    means::prepare();
}

/// The stack of each thread, in their order, or why there is none: a sentence that follows "no stack: ".
pub(crate) fn read(tids: &[u32], means: Means) -> Vec<Result<Stack, String>> {
    means::read(tids, means)
}

/// The functions of a stack, innermost first, inlined ones and the standard library's among them. It may take long, and
/// hang with the loader's lock: for a thread with a budget.
pub(crate) fn frames(stack: &Stack) -> Vec<Frame> {
    names::frames(stack)
}

/// Without what every thread has: the standard library between the function that the thread was started with and the
/// kernel, and the unnamed ends.
pub(crate) fn folded(frames: Vec<Frame>) -> Vec<Frame> {
    names::folded(frames)
}

/// Gives back the memory that looking for names took: tens of megabytes. It is for whoever made a dump, at its end. The
/// names that were found are kept, so the next dump of the same places takes as little; another place takes as long as
/// the first.
pub(crate) fn give_back() {
    names::give_back();
}
