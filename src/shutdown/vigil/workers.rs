//! Workers that untracked tasks hold, by what tokio and the kernel say of them.
//!
//! Nothing tells which untracked task a worker polls. But a worker that has not parked, and whose thread has not run for as
//! long, is asleep inside of a poll: tokio itself sleeps only when it parks. And one that neither parks nor counts a poll
//! is busy with few: tokio adds up its polls at each 61st turn at the latest, so a poll of a second is behind it, or so few
//! that each takes as long as none should.

use crate::audit;
use crate::threads;
use std::collections::HashMap;
use std::fmt;
use std::thread::ThreadId;
use std::time::Duration;
use tokio::runtime::Handle;

/// What is said to be busy is so for this long at least: 61 turns take 16 ms each then.
const BUSY: Duration = Duration::from_secs(1);

/// A worker that does nothing else.
#[derive(Clone)]
pub(in crate::shutdown) struct Held {
    work: Handle,
    pub(super) worker: usize,
    pub(super) tid: u32,
    /// How often it parked and was unparked, and how many polls it has counted.
    progress: (u64, u64),
    /// What the kernel counted while it sleeps; `None` if it is busy.
    asleep: Option<String>,
}

/// Workers, by number.
#[derive(Debug, Default)]
pub(super) struct Workers(HashMap<usize, Seen>);

/// What is seen of a worker since it made progress.
#[derive(Debug)]
struct Seen {
    held: Held,
    since: Duration,
    asleep_since: Duration,
    /// What it had waited for a processor when that began.
    waited: Duration,
    told: bool,
}

/// What is to be told.
#[derive(Debug)]
pub(super) enum Change {
    Began(Held, Duration),
    Ended(Held, Duration),
}

// === impl Workers ===

impl Workers {
    /// Looks at the workers of a runtime with several threads, but for those that a tracked task holds.
    pub(super) fn look(
        &mut self,
        work: &Handle,
        now: Duration,
        limit: Duration,
        is_tracked: impl Fn(u32) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        let mut tids = None;
        for worker in 0..work.metrics().num_workers() {
            let progress = progress(work, worker);
            // Even: it has been unparked as often as parked.
            if !progress.0.is_multiple_of(2) {
                continue;
            }
            let tids = tids.get_or_insert_with(tids_by_thread);
            let thread = work.metrics().worker_thread_id(worker);
            let tid = thread.and_then(|thread| tids.get(&thread)).copied();
            let Some(tid) = tid.filter(|tid| !is_tracked(*tid)) else {
                continue;
            };
            let Some(counted) = audit::counted(tid) else {
                continue;
            };
            let held = Held {
                work: work.clone(),
                worker,
                tid,
                progress,
                asleep: counted.asleep,
            };
            let mut seen = match before.remove(&worker) {
                Some(seen) if seen.held.is_same_turn(&held) => seen,
                seen => {
                    changes.extend(seen.and_then(|seen| seen.ended(now)));
                    Seen::begin(held.clone(), now, counted.waited)
                }
            };
            changes.extend(seen.look(held, now, limit, counted.waited));
            self.0.insert(worker, seen);
        }
        changes.extend(before.into_values().filter_map(|seen| seen.ended(now)));
        changes
    }

    /// The threads that were told of.
    pub(super) fn long(&self) -> impl Iterator<Item = u32> {
        let told = self.0.values().filter(|seen| seen.told);
        told.map(|seen| seen.held.tid)
    }
}

fn progress(work: &Handle, worker: usize) -> (u64, u64) {
    let metrics = work.metrics();
    let parks = metrics.worker_park_unpark_count(worker);
    (parks, metrics.worker_poll_count(worker))
}

fn tids_by_thread() -> HashMap<ThreadId, u32> {
    let all = threads::all().into_iter();
    all.map(|known| (known.thread, known.tid)).collect()
}

// === impl Seen ===

impl Seen {
    fn begin(held: Held, since: Duration, waited: Duration) -> Self {
        Self {
            held,
            since,
            asleep_since: since,
            waited,
            told: false,
        }
    }

    fn look(
        &mut self,
        held: Held,
        now: Duration,
        limit: Duration,
        waited: Duration,
    ) -> Option<Change> {
        if held.asleep.is_none() || held.asleep != self.held.asleep {
            self.asleep_since = now;
        }
        // One that is told of keeps what it was told to be.
        if !self.told {
            self.held = held;
        }
        let (slept, busy) = (now - self.asleep_since, now - self.since);
        // One that has no processor is not to blame for that.
        let is_starved = waited.saturating_sub(self.waited) > busy / 2;
        let is_busy = busy >= limit.max(BUSY) && !is_starved;
        if self.told || slept < limit && !is_busy {
            return None;
        }
        self.told = true;
        let is_asleep = slept >= limit;
        if !is_asleep {
            self.held.asleep = None;
        }
        let long = if is_asleep { slept } else { busy };
        Some(Change::Began(self.held.clone(), long))
    }

    fn ended(self, now: Duration) -> Option<Change> {
        let long = now - self.since;
        self.told.then_some(Change::Ended(self.held, long))
    }
}

// === impl Held ===

impl Held {
    /// Whether it has made no progress in between.
    fn is_same_turn(&self, other: &Self) -> bool {
        (self.worker, self.tid, self.progress) == (other.worker, other.tid, other.progress)
    }

    /// Whether it sleeps inside of a poll; it is busy else.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// Whether it goes on.
    pub(super) fn is_still(&self) -> bool {
        if !self.is_asleep() {
            return progress(&self.work, self.worker) == self.progress;
        }
        audit::counted(self.tid).is_some_and(|counted| counted.asleep == self.asleep)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("worker", &self.worker)
            .field("tid", &self.tid)
            .field("asleep", &self.asleep)
            .finish_non_exhaustive()
    }
}
