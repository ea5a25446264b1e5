//! Detection of workers that untracked tasks block, from tokio's metrics and the kernel's counters.
//!
//! Nothing exposes which untracked task a worker is polling, but two facts show that one blocks it:
//!
//! - *Asleep*: the worker is not parked, and its thread has slept all the time. Tokio itself sleeps
//!   only while parked, so the thread sleeps inside a poll.
//! - *Busy*: the worker has neither parked nor added to its poll count. Tokio adds up its polls at
//!   every 61st turn at the latest, so the worker has been in one long poll or in a few that are
//!   each long. This does not prove that it is stuck, so it does not count as blocked when all
//!   workers are checked.
//!
//! Both need `tokio_unstable`, for the poll count and the thread of a worker, and a multi-thread
//! runtime that headcount built. A kernel without scheduler statistics finds nothing. A worker that
//! a tracked task occupies is left to the other half of the watch, which knows the task.

use super::episodes::{Change, Episodes};
use crate::audit;
use crate::threads;
use std::collections::HashMap;
use std::fmt;
use std::thread::ThreadId;
use std::time::Duration;
use tokio::runtime::Handle;

/// The shortest time before a worker is reported as busy. A turn is up to four polls, so 244 polls
/// of 20 ms each would look the same. Longer limits apply as they are.
const BUSY: Duration = Duration::from_secs(5);

/// The workers that make no progress.
pub(super) type Workers = Episodes<Turn, Worker>;

/// A turn of a worker. While it stays the same, the worker makes no progress. It is the key of an
/// episode: any progress begins another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    /// The number of the worker.
    pub(super) number: usize,
    /// The kernel's id of its thread.
    pub(super) tid: u32,
    /// The number of times that it parked and unparked, and the number of polls that it has
    /// counted. The first number is even while the worker is not parked.
    progress: (u64, u64),
}

/// A worker that makes no progress.
#[derive(Clone)]
pub(super) struct Worker {
    /// For a later check whether it still makes no progress.
    work: Handle,
    pub(super) turn: Turn,
    /// The kernel's counters for a thread that sleeps; `None` if it is running. The line of
    /// `schedstat`; it changes each time that the thread wakes.
    asleep: Option<String>,
    /// The time since which its thread has slept without waking. Watched time.
    asleep_since: Duration,
    /// The time of the last look, and the CPU time of the thread by then.
    looked: (Duration, Duration),
    /// The time that the thread has run or slept. Time spent waiting for a CPU does not count.
    worked: Duration,
    /// True if it has slept for longer than the limit. Otherwise it is busy. Set by each look.
    sleeps: bool,
}

/// Looks at all workers of a multi-threaded runtime, except those that a tracked task occupies.
/// `now` is watched time.
///
/// A worker that has parked, unparked or counted polls since the last look starts over. Costs two
/// reads from `/proc` for each worker that is not parked, and a copy of the table of threads if
/// there is one.
pub(super) fn look(
    workers: &mut Workers,
    (work, limit): (&Handle, Duration),
    now: Duration,
    is_tracked: impl Fn(u32) -> bool,
) -> Vec<Change<Worker>> {
    let mut tids = None;
    let seen = (0..work.metrics().num_workers()).filter_map(|number| {
        let progress = progress(work, number);
        // Even while the worker is not parked.
        if !progress.0.is_multiple_of(2) {
            return None;
        }
        let tids = tids.get_or_insert_with(tids_by_thread);
        let thread = work.metrics().worker_thread_id(number)?;
        let tid = *tids.get(&thread)?;
        if is_tracked(tid) {
            return None;
        }
        let counted = audit::counted(tid)?;
        let turn = Turn {
            number,
            tid,
            progress,
        };
        let worker = Worker {
            work: work.clone(),
            turn,
            asleep: counted.asleep,
            asleep_since: now,
            looked: (now, counted.ran),
            worked: Duration::ZERO,
            sleeps: false,
        };
        Some((turn, worker))
    });
    workers.look(now, seen, |worker, seen, since| {
        worker.update(seen, now);
        worker.too_long(since, now, limit)
    })
}

/// Returns the park count and the poll count of a worker. Two loads of tokio's counters, which are
/// not of one moment.
fn progress(work: &Handle, number: usize) -> (u64, u64) {
    let metrics = work.metrics();
    let parks = metrics.worker_park_unpark_count(number);
    (parks, metrics.worker_poll_count(number))
}

/// Returns the thread ids of all registered threads.
fn tids_by_thread() -> HashMap<ThreadId, u32> {
    let all = threads::all().into_iter();
    all.map(|known| (known.thread, known.tid)).collect()
}

// === impl Worker ===

impl Worker {
    /// Takes one more look into account. Asleep time counts as a whole, running time by the CPU
    /// time that the kernel counted.
    fn update(&mut self, seen: Self, now: Duration) {
        if seen.asleep.is_none() || seen.asleep != self.asleep {
            self.asleep_since = now;
        }
        let passed = now - self.looked.0;
        self.worked += match seen.asleep {
            Some(_) => passed,
            None => passed.min(seen.looked.1.saturating_sub(self.looked.1)),
        };
        self.asleep = seen.asleep;
        self.looked = seen.looked;
    }

    /// Returns the time that the worker has been blocked, if that is longer than the limit.
    ///
    /// Sleeping is judged by the time without waking, being busy by the time worked: a thread that
    /// waits for a CPU is not at fault.
    fn too_long(&mut self, since: Duration, now: Duration, limit: Duration) -> Option<Duration> {
        let slept = now - self.asleep_since;
        self.sleeps = slept >= limit;
        if self.sleeps {
            Some(slept)
        } else {
            (self.worked >= limit.max(BUSY)).then(|| now - since)
        }
    }

    /// Returns whether it sleeps inside a poll. Otherwise it is busy.
    pub(super) fn sleeps(&self) -> bool {
        self.sleeps
    }

    /// Returns whether the worker is still blocked in the same way. Called after its stack was
    /// read, on the reading thread.
    pub(super) fn is_still(&self) -> bool {
        if !self.sleeps {
            return progress(&self.work, self.turn.number) == self.turn.progress;
        }
        audit::counted(self.turn.tid).is_some_and(|counted| counted.asleep == self.asleep)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("turn", &self.turn)
            .field("asleep", &self.asleep)
            .finish_non_exhaustive()
    }
}
