//! Reads and symbolizes the stacks of other threads of this process.
//!
//! A thread that waits in the kernel is read from outside: the kernel shows its stack pointer and
//! program counter, and its memory is this process's. The thread does not notice. A thread on a
//! processor must report its own registers: a signal makes it copy registers and stack. Unwinding
//! and symbolizing work on the copies, in the reading thread.
//!
//! A thread is never stopped for longer than the handler runs. Threads of another process are only
//! read from outside ([`reader::foreign`]). The stack of the calling thread is not walked. Where the feature `stacks`, the system or
//! the architecture is missing, every read fails with that reason.

pub(crate) mod await_probe;
pub(crate) mod awaits;
mod cache;
pub(crate) mod frame;
pub(crate) mod locks;
pub(crate) mod places;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod reader;
pub(crate) mod source_file;
pub(crate) mod trace;

#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod missing;
mod names;
mod resolve;

use frame::Frame;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
use missing as means;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use reader as means;

use means::{clear_stack, pointers};

/// Which threads may be sent a signal to read their stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// Only threads on a processor: in others the signal would make some system calls return early
    /// (signal(7)), and a dump must not disturb the service.
    Quiet,
    /// Any thread that cannot be read well from outside. For a service that has ended, where an
    /// interrupted call does no harm.
    Any,
}

/// The stack of a thread, as it was read: addresses, not yet symbolized.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Innermost first: the program counter, then the return address of each call. At most 512.
    pub(crate) addresses: Vec<usize>,
    /// True if the thread did not move while it was read, or was stopped for it. Otherwise the
    /// stack is approximate.
    pub(crate) is_exact: bool,
    /// True if it reaches the function in which threads begin.
    pub(crate) is_complete: bool,
}

/// The call stack of an await. Empty without the feature `stacks`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The addresses of its calls, innermost first.
    pub(crate) calls: Vec<usize>,
    /// Words of the stack by which the socket is found. Empty once it was looked for.
    pub(crate) pointers: Vec<usize>,
    /// The socket that is waited for, such as `tcp 127.0.0.1:5432`, if it was found.
    pub(crate) socket: Option<String>,
}

/// Prepares what would take long, or hang, when it is needed: the signal handler, and the
/// symbolizer's list of modules.
///
/// Called once for each runtime, on the thread that builds it, before the baseline of threads is
/// taken.
pub(crate) fn prepare() {
    means::prepare();
}

/// Reads the stack of each thread, in the order of `tids`. An error is a reason that follows "no
/// stack: " in a report.
///
/// All threads together take at most two seconds, and another two if a read by another thread is in
/// progress first. Threads that the budget does not cover get an error.
pub(crate) fn read(tids: &[u32], means: Means) -> Vec<Result<Stack, String>> {
    means::read(tids, means)
}

/// Symbolizes a stack: its functions, innermost first, with inlined ones and those of the standard
/// library. It may take seconds, and hang with the loader's lock: call it on a thread with a
/// budget.
pub(crate) fn frames(stack: &Stack) -> Vec<Frame> {
    names::frames(stack)
}

/// Symbolizes the functions of the program in a stack. Those of libraries are shown as offsets. It
/// may hang like [`frames`].
pub(crate) fn frames_of_program(stack: &Stack, places: &places::Places) -> Vec<Frame> {
    names::frames_of_program(stack, places)
}

/// Drops the frames that every thread has: those of the standard library and of libc below the
/// function that the thread was started with, and unnamed ones at the inner end. At least one frame
/// is left of any stack.
pub(crate) fn folded(frames: Vec<Frame>) -> Vec<Frame> {
    names::folded(frames)
}

/// Puts the sockets into the chains that wait for one. Must run while their tasks are still waiting.
pub(crate) fn name_sockets<'a>(chains: impl Iterator<Item = &'a mut Chain>) {
    means::name_sockets(chains);
}

/// Adds the file of a spawn site, relative to the workspace. By it the folder of the build is told,
/// and removed from the paths of frames.
pub(crate) fn know_site(file: &'static str) {
    resolve::know_site(file);
}

/// A guard that is held while addresses are symbolized. When the last guard is dropped, the memory
/// of the debug information is freed: tens of megabytes. The cached results of [`cache`]
/// stay, so the next dump of the same addresses is fast; a new address takes as long as the first
/// did.
#[derive(Debug)]
pub(crate) struct Naming(());

/// The number of live guards.
///
/// The increment and the decrement are AcqRel, so the thread that frees the memory sees all
/// look-ups of the others as done.
static NAMING: AtomicUsize = AtomicUsize::new(0);

// === impl Naming ===

impl Naming {
    /// Keeps the debug information in memory until the guard is dropped.
    ///
    /// Nested guards are counted, so a dump inside of another keeps the memory until both are done.
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
