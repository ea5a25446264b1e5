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
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// While it lives, names are looked up. With the last one the memory that this took is given back: tens of megabytes. The
/// names that were found are kept, so the next dump of the same places takes as little; another place takes as long as
/// the first.
#[derive(Debug)]
pub(crate) struct Naming(());

static NAMING: AtomicUsize = AtomicUsize::new(0);

// === impl Naming ===

impl Naming {
    pub(crate) fn begin() -> Self {
        NAMING.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        if NAMING.fetch_sub(1, Ordering::AcqRel) == 1 {
            names::give_back();
        }
    }
}
