//! Workers that an untracked task holds, by what tokio and the kernel say of them.
//!
//! Nothing tells which untracked task a worker polls. But a worker that has not parked, and whose thread has not run for as
//! long, is asleep inside of a poll: tokio itself sleeps only when it parks. So this needs no sampling and raises no false
//! alarm; it does not see a busy loop, which looks like many short polls.

use crate::audit;
use crate::threads;
use std::collections::HashMap;
use std::thread::ThreadId;
use std::time::Duration;
use tokio::runtime::Handle;

/// A worker that sleeps where it should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shutdown) struct Asleep {
    pub(super) worker: usize,
    pub(super) tid: u32,
    /// What the kernel counted of it so far: it has not run while this stays the same.
    ran: String,
}

/// Workers, by number, since when they are seen so, and whether it was told.
#[derive(Debug, Default)]
pub(super) struct Workers(HashMap<usize, Seen>);

#[derive(Debug)]
struct Seen {
    asleep: Asleep,
    since: Duration,
    told: bool,
}

/// What is to be told.
#[derive(Debug)]
pub(super) enum Change {
    Began(Asleep, Duration),
    Ended(Asleep, Duration),
}

// === impl Workers ===

impl Workers {
    /// Looks at the workers of a runtime with several threads, but for those that a tracked task holds.
    pub(super) fn look(
        &mut self,
        work: &Handle,
        now: Duration,
        limit: Duration,
        is_held: impl Fn(u32) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        let mut tids = None;
        let metrics = work.metrics();
        for worker in 0..metrics.num_workers() {
            // Even: it has been unparked as often as parked.
            if !metrics.worker_park_unpark_count(worker).is_multiple_of(2) {
                continue;
            }
            let tids = tids.get_or_insert_with(tids_by_thread);
            let thread = metrics.worker_thread_id(worker);
            let tid = thread.and_then(|thread| tids.get(&thread)).copied();
            let asleep = tid
                .filter(|tid| !is_held(*tid))
                .and_then(|tid| Asleep::find(worker, tid));
            let Some(asleep) = asleep else { continue };
            let mut seen = match before.remove(&worker) {
                Some(seen) if seen.asleep == asleep => seen,
                seen => {
                    changes.extend(seen.and_then(|seen| seen.ended(now)));
                    Seen::begin(asleep, now)
                }
            };
            let held = now - seen.since;
            if !seen.told && held >= limit {
                seen.told = true;
                changes.push(Change::Began(seen.asleep.clone(), held));
            }
            self.0.insert(worker, seen);
        }
        changes.extend(before.into_values().filter_map(|seen| seen.ended(now)));
        changes
    }

    /// The threads that were told of.
    pub(super) fn long(&self) -> impl Iterator<Item = u32> {
        let told = self.0.values().filter(|seen| seen.told);
        told.map(|seen| seen.asleep.tid)
    }
}

fn tids_by_thread() -> HashMap<ThreadId, u32> {
    let all = threads::all().into_iter();
    all.map(|known| (known.thread, known.tid)).collect()
}

// === impl Seen ===

impl Seen {
    fn begin(asleep: Asleep, since: Duration) -> Self {
        Self {
            asleep,
            since,
            told: false,
        }
    }

    fn ended(self, now: Duration) -> Option<Change> {
        let held = now - self.since;
        self.told.then_some(Change::Ended(self.asleep, held))
    }
}

// === impl Asleep ===

impl Asleep {
    /// `None` for a thread that runs or could.
    fn find(worker: usize, tid: u32) -> Option<Self> {
        let ran = audit::asleep(tid)?;
        Some(Self { worker, tid, ran })
    }

    /// Whether the thread has not run since.
    pub(super) fn is_still(&self) -> bool {
        audit::asleep(self.tid).as_deref() == Some(&self.ran)
    }
}
