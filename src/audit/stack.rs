//! Stacks of other threads of this process: read quietly where that can be done, by a signal where it must be.

use super::frame::Frame;

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
pub(crate) fn prepare() {}

/// The stack of each thread, in their order, or why there is none: a sentence that follows "no stack: ".
pub(crate) fn read(tids: &[u32], _means: Means) -> Vec<Result<Stack, String>> {
    tids.iter()
        .map(|_| Err("built without the feature `stacks`".to_owned()))
        .collect()
}

/// The functions of a stack, innermost first, inlined ones and the standard library's among them. It may take long, and
/// hang with the loader's lock: for a thread with a budget.
pub(crate) fn frames(_stack: &Stack) -> Vec<Frame> {
    Vec::new()
}

/// Without what every thread has: the standard library between the function that the thread was started with and the
/// kernel, and the unnamed ends.
pub(crate) fn folded(frames: Vec<Frame>) -> Vec<Frame> {
    frames
}
