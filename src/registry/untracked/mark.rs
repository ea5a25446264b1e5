//! The mark of a thread that calls tokio's spawn for headcount itself.
//!
//! The hook that counts untracked tasks runs inside that call, and reads the mark. Without
//! `--cfg tokio_unstable` there is no hook, and nothing is marked.

#[cfg(tokio_unstable)]
use std::cell::Cell;

#[cfg(tokio_unstable)]
thread_local! {
    /// True while this thread calls tokio's spawn for a tracked task.
    static TRACKED: Cell<bool> = const { Cell::new(false) };
}

/// A guard that sets the mark of this thread, and restores the previous one when it is dropped.
#[derive(Debug)]
pub(crate) struct Mark {
    #[cfg(tokio_unstable)]
    before: bool,
}

/// Marks what this thread spawns as tracked, until the guard is dropped.
#[inline]
pub(crate) fn mark_tracked() -> Mark {
    Mark {
        #[cfg(tokio_unstable)]
        before: TRACKED.replace(true),
    }
}

/// Marks what this thread spawns as untracked, until the guard is dropped. For the drop of a
/// task's future: the user's code may spawn in it, even inside headcount's own call of spawn, when
/// the runtime is closed.
#[inline]
pub(crate) fn mark_untracked() -> Mark {
    Mark {
        #[cfg(tokio_unstable)]
        before: TRACKED.replace(false),
    }
}

/// Returns whether this thread spawns a tracked task. True if its thread-local storage is
/// destroyed.
#[cfg(tokio_unstable)]
pub(super) fn is_tracked() -> bool {
    TRACKED.try_with(Cell::get).unwrap_or(true)
}

#[cfg(tokio_unstable)]
impl Drop for Mark {
    #[inline]
    fn drop(&mut self) {
        TRACKED.set(self.before);
    }
}
