//! Workers that untracked tasks hold, by what tokio and the kernel say of them.
//!
//! Nothing tells which untracked task a worker polls. But a worker that has not parked, and whose thread has not run for as
//! long, is asleep inside of a poll: tokio itself sleeps only when it parks. And one that neither parks nor counts a poll
//! is busy with few: tokio adds up its turns at each 61st at the latest, so one long poll is behind it, or so few that each
//! takes long. That is no proof that all is stuck, so such a worker does not count as stuck.

use super::episodes::Allowance;
use crate::audit;
use crate::threads;
use std::collections::HashMap;
use std::fmt;
use std::thread::ThreadId;
use std::time::Duration;
use tokio::runtime::Handle;

/// What is said to be busy is so for this long at least. A turn is up to four polls: 244 take 20 ms each then.
const BUSY: Duration = Duration::from_secs(5);

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

/// What is known of the workers.
#[derive(Debug)]
pub(super) struct Workers {
    /// By number.
    on: HashMap<usize, Seen>,
    allowance: Allowance,
}

/// What is seen of a worker since it made progress.
#[derive(Debug)]
struct Seen {
    held: Held,
    since: Duration,
    asleep_since: Duration,
    /// When it was looked at last, and how long its thread had run by then.
    looked: (Duration, Duration),
    /// How long it has run or slept since. One that has no processor is not to blame for that.
    worked: Duration,
    /// Whether it was for longer than the limit.
    is_over: bool,
    told: bool,
}

/// What is to be told.
#[derive(Debug)]
pub(super) enum Change {
    /// For so long, and so many more were not told of.
    Began(Held, Duration, u32),
    Ended(Held, Duration),
}

// === impl Workers ===

impl Workers {
    pub(super) fn new() -> Self {
        Self {
            on: HashMap::new(),
            allowance: Allowance::full(),
        }
    }

    /// Looks at the workers of a runtime with several threads, but for those that a tracked task holds.
    pub(super) fn look(
        &mut self,
        work: &Handle,
        now: Duration,
        limit: Duration,
        is_tracked: impl Fn(u32) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.on);
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
                    Seen::begin(held.clone(), now, counted.ran)
                }
            };
            if let Some((held, long)) = seen.over(held, (now, counted.ran), limit)
                && let Some(more) = self.allowance.take(now)
            {
                seen.told = true;
                changes.push(Change::Began(held, long, more));
            }
            self.on.insert(worker, seen);
        }
        changes.extend(before.into_values().filter_map(|seen| seen.ended(now)));
        changes
    }

    /// The threads that were told of, and in one poll for certain.
    pub(super) fn long(&self) -> impl Iterator<Item = u32> {
        let told = self.on.values();
        let told = told.filter(|seen| seen.told && seen.held.is_asleep());
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
    fn begin(held: Held, since: Duration, ran: Duration) -> Self {
        Self {
            held,
            since,
            asleep_since: since,
            looked: (since, ran),
            worked: Duration::ZERO,
            is_over: false,
            told: false,
        }
    }

    /// What is to be told of it, and for how long it has been so.
    fn over(
        &mut self,
        held: Held,
        (now, ran): (Duration, Duration),
        limit: Duration,
    ) -> Option<(Held, Duration)> {
        if held.asleep.is_none() || held.asleep != self.held.asleep {
            self.asleep_since = now;
        }
        let passed = now - self.looked.0;
        self.worked += match held.asleep {
            Some(_) => passed,
            None => passed.min(ran.saturating_sub(self.looked.1)),
        };
        self.looked = (now, ran);
        if self.is_over {
            // It stays what it was then.
            return None;
        }
        self.held = held;
        let slept = now - self.asleep_since;
        let is_asleep = slept >= limit;
        self.is_over = is_asleep || self.worked >= limit.max(BUSY);
        if !self.is_over {
            return None;
        }
        let long = if is_asleep {
            slept
        } else {
            self.held.asleep = None;
            now - self.since
        };
        Some((self.held.clone(), long))
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
