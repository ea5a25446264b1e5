//! The heartbeat of the work runtime.
//!
//! The control side spawns an empty task on the work runtime. The task stores the time at which a
//! worker polls it, so the age of the last stored time tells how long no worker has been free. The
//! admin server sends one each second; every read of the metrics sends one too.
//!
//! A long age means that no worker was free: one that is busy with a long poll does not raise it
//! while another is free. Without an admin server only scrapes send heartbeats, so the age then
//! also contains the time between scrapes.

use crate::inspect::own::number;
use crate::registry::clock;
use crate::registry::root::Root;
use crate::registry::untracked::mark::mark_tracked;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// The time of the last heartbeat. Clones share it.
///
/// It belongs to one runtime. It says nothing about the heartbeats of tasks, which `watch`
/// observes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeat {
    /// The clock reading of the last answer; 0 before the first. The release store of the task
    /// pairs with the acquire load in `age`.
    last: Arc<AtomicU64>,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Spawns a heartbeat task, unless one is still pending: a blocked runtime does not collect
    /// more of them.
    ///
    /// Called on the admin thread each second, and on the thread of a scrape. It does not wait for
    /// the answer, and never blocks.
    ///
    /// After the runtime has ended, tokio drops the task unpolled. That also drops its mark, so the
    /// next one can be sent.
    pub(crate) fn send(&self, root: &Arc<Root>, work: &Handle) {
        let Some(own_task) = root.begin_own_task() else {
            return;
        };
        let last = Arc::clone(&self.last);
        // The mark keeps the hooks from counting this task as untracked. It is no task of the
        // service either, so it has no row.
        let _mark = mark_tracked();
        #[expect(
            clippy::disallowed_methods,
            reason = "a task of headcount, for some microseconds"
        )]
        let task = work.spawn(async move {
            last.store(clock::raw().max(1), Ordering::Release);
            drop(own_task);
        });
        root.note_own_task(number(task.id()));
    }

    /// Returns the time since the last heartbeat was answered; `None` before the first.
    ///
    /// The answer to the heartbeat that the same scrape has sent is mostly not in yet.
    pub(crate) fn age(&self) -> Option<Duration> {
        match self.last.load(Ordering::Acquire) {
            0 => None,
            last => Some(clock::since(last)),
        }
    }
}
