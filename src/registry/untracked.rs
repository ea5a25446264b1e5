//! Tasks that others spawn on the runtime that we own, counted by spawn site through tokio's hooks.
//!
//! The hooks need `--cfg tokio_unstable`. They must not panic (that would kill a worker) and must not call out.

#[cfg(tokio_unstable)]
pub(crate) use hooks::{install, mark_tracked, mark_untracked, tracked_task_ended};

#[cfg(not(tokio_unstable))]
pub(crate) use nothing::{mark_tracked, mark_untracked, tracked_task_ended};

#[cfg(tokio_unstable)]
mod hooks {
    use crate::registry::kind;
    use crate::registry::root::{Event, Root};
    use crate::threads;
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use tokio::runtime::{Builder, TaskMeta};
    use tokio::task::Id;

    thread_local! {
        /// Set while we call tokio's spawn: the hook runs inside.
        static TRACKED: Cell<bool> = const { Cell::new(false) };
        /// The tracked task whose row ended last on this thread: its terminate hook comes next.
        static ENDED: Cell<Option<Id>> = const { Cell::new(None) };
        /// A terminate that had no spawn. On a closed runtime the spawn comes after it.
        static UNKNOWN: Cell<Option<Id>> = const { Cell::new(None) };
    }

    /// While it lives, what this thread spawns is tracked.
    #[derive(Debug)]
    pub(crate) struct Mark(bool);

    /// Marks this thread as spawning a tracked task.
    #[inline]
    pub(crate) fn mark_tracked() -> Mark {
        Mark(TRACKED.replace(true))
    }

    /// Marks this thread as dropping a task's future: what that spawns is not ours, even inside our spawn.
    #[inline]
    pub(crate) fn mark_untracked() -> Mark {
        Mark(TRACKED.replace(false))
    }

    impl Drop for Mark {
        #[inline]
        fn drop(&mut self) {
            TRACKED.set(self.0);
        }
    }

    /// Called when a row ends, by the thread that runs the terminate hook of that task next.
    #[inline]
    pub(crate) fn tracked_task_ended() {
        ENDED
            .try_with(|ended| ended.set(tokio::task::try_id()))
            .ok();
    }

    /// Has every spawn and every end of a task on the runtime counted for `root`.
    pub(crate) fn install(builder: &mut Builder, root: &Arc<Root>) {
        root.set_hooked();
        let (spawned, ended) = (Arc::clone(root), root.number);
        builder.on_task_spawn(move |meta| on_spawn(&spawned, meta));
        builder.on_task_terminate(move |meta| on_terminate(ended, meta));
    }

    fn on_spawn(root: &Root, meta: &TaskMeta<'_>) {
        if TRACKED.try_with(Cell::get).unwrap_or(true) || is(&UNKNOWN, meta.id()) {
            return;
        }
        let found = kind::intern_untracked(root.number, meta.spawned_at());
        found.bump(|counters| &counters.started);
        let kind = found.kind;
        if !kind.seen.load(Ordering::Relaxed) && !kind.seen.swap(true, Ordering::Relaxed) {
            root.tell(Event::UntrackedSite(kind));
        }
    }

    fn on_terminate(root: u64, meta: &TaskMeta<'_>) {
        if is(&ENDED, meta.id()) {
            return;
        }
        let found = kind::intern_untracked(root, meta.spawned_at());
        if !found.kind.seen.load(Ordering::Relaxed) || threads::is_of_blocking_pool(root) {
            // Blocking work and workers end without ever having been spawned as tasks; a helper may start both tasks and
            // blocking work at one place.
            threads::note_end_of_work(root);
            UNKNOWN.try_with(|cell| cell.set(Some(meta.id()))).ok();
            return;
        }
        found.bump(|counters| &counters.ended[0]);
    }

    fn is(cell: &'static std::thread::LocalKey<Cell<Option<Id>>>, id: Id) -> bool {
        cell.try_with(|cell| cell.get() == Some(id))
            .unwrap_or(false)
    }
}

#[cfg(not(tokio_unstable))]
mod nothing {
    /// Marks nothing: there is no hook that would look.
    #[derive(Debug)]
    pub(crate) struct Mark;

    #[inline]
    pub(crate) fn mark_tracked() -> Mark {
        Mark
    }

    #[inline]
    pub(crate) fn mark_untracked() -> Mark {
        Mark
    }

    #[inline]
    pub(crate) fn tracked_task_ended() {}
}
