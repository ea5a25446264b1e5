//! Whether the work runtime answers: a task that does nothing is sent to it, and notes when it was run.

use crate::registry::clock;
use crate::registry::root::Root;
use crate::registry::untracked::mark_tracked;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// The last answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeat {
    /// Clock reading, 0 before the first.
    last: Arc<AtomicU64>,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Sends a task, unless one is on its way: a runtime that is stuck gets no more of them.
    pub(crate) fn send(&self, root: &Arc<Root>, work: &Handle) {
        let Some(own_task) = root.begin_own_task() else {
            return;
        };
        let last = Arc::clone(&self.last);
        // It is ours, so it must not be counted as untracked; and it is no task of the service, so it has no row.
        let _mark = mark_tracked();
        #[expect(
            clippy::disallowed_methods,
            reason = "a task of headcount, for some microseconds"
        )]
        drop(work.spawn(async move {
            last.store(clock::raw().max(1), Ordering::Release);
            drop(own_task);
        }));
    }

    /// The time since the last answer; `None` before the first.
    pub(crate) fn age(&self) -> Option<Duration> {
        match self.last.load(Ordering::Acquire) {
            0 => None,
            last => Some(clock::since(last)),
        }
    }
}
