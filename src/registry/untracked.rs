//! Untracked tasks on a runtime that headcount owns, counted by spawn site through tokio's hooks.
//!
//! tokio calls a hook for every task that it spawns or ends, tracked ones included. A thread-local
//! mark, set around headcount's own call of tokio's spawn, tells the spawn hook that the task is
//! tracked. The terminate hook runs later, outside of that call: the tracked task that ends leaves
//! tokio's task id for it.
//!
//! The hooks need `--cfg tokio_unstable`. They must not panic, which would end a worker, and must
//! not call the user's code. Without the flag the functions here do nothing.

pub(crate) mod mark;

#[cfg(tokio_unstable)]
pub(crate) use hooks::{install, tracked_task_ended};

#[cfg(not(tokio_unstable))]
pub(crate) use nothing::tracked_task_ended;

#[cfg(tokio_unstable)]
mod hooks {
    use super::mark::is_tracked;
    use crate::registry::kind;
    use crate::registry::root::{Event, Root};
    use crate::threads;
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use tokio::runtime::{Builder, TaskMeta};
    use tokio::task::Id;

    thread_local! {
        /// The tracked task that ended last on this thread. Its terminate hook is the next one here.
        ///
        /// Compared with the id of the task in the hook, so that a stale note does no harm.
        static ENDED: Cell<Option<Id>> = const { Cell::new(None) };
        /// The last task that ended without a known spawn. On a closed runtime the spawn hook comes
        /// after the terminate hook.
        static UNKNOWN: Cell<Option<Id>> = const { Cell::new(None) };
    }

    /// Notes that this thread's current tokio task, a tracked one, has ended. Called by the thread
    /// that runs the terminate hook of that task next.
    #[inline]
    pub(crate) fn tracked_task_ended() {
        ENDED
            .try_with(|ended| ended.set(tokio::task::try_id()))
            .ok();
    }

    /// Installs the hooks, which count every spawn and every end of an untracked task on the
    /// runtime for `root`.
    pub(crate) fn install(builder: &mut Builder, root: &Arc<Root>) {
        root.set_hooked();
        let (spawned, ended) = (Arc::clone(root), root.number);
        builder.on_task_spawn(move |meta| on_spawn(&spawned, meta));
        builder.on_task_terminate(move |meta| on_terminate(ended, meta));
    }

    /// Counts the start of a task, unless it is tracked or has already ended. Notifies the root's
    /// listener of the first task of a spawn site.
    fn on_spawn(root: &Root, meta: &TaskMeta<'_>) {
        if is_tracked() || is(&UNKNOWN, meta.id()) {
            return;
        }
        let found = kind::intern_untracked(root.number, meta.spawned_at());
        found.bump(|counters| &counters.started);
        let kind = found.kind;
        if !kind.seen.load(Ordering::Relaxed) && !kind.seen.swap(true, Ordering::Relaxed) {
            root.notify(Event::UntrackedSite(kind));
        }
    }

    /// Counts the end of a task, unless it is tracked or its start was not counted.
    fn on_terminate(root: u64, meta: &TaskMeta<'_>) {
        if is(&ENDED, meta.id()) {
            return;
        }
        let found = kind::intern_untracked(root, meta.spawned_at());
        if !found.kind.seen.load(Ordering::Relaxed) || threads::is_of_blocking_pool(root) {
            // Blocking closures and workers end here without a spawn hook. The thread is checked
            // too, because a helper function may start both tasks and blocking closures at the same
            // place.
            threads::note_end_of_work(root);
            UNKNOWN.try_with(|cell| cell.set(Some(meta.id()))).ok();
            return;
        }
        found.bump(|counters| &counters.ended[0]);
    }

    /// Returns whether the cell holds this id. False if the thread-local storage is destroyed.
    fn is(cell: &'static std::thread::LocalKey<Cell<Option<Id>>>, id: Id) -> bool {
        cell.try_with(|cell| cell.get() == Some(id))
            .unwrap_or(false)
    }
}

#[cfg(not(tokio_unstable))]
mod nothing {
    /// Does nothing.
    #[inline]
    pub(crate) fn tracked_task_ended() {}
}
