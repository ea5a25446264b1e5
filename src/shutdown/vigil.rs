//! The vigil over the running service: who holds a worker, and whose heartbeat is missing, while it happens.
//!
//! Some times a second it looks at who is on which thread, and gives the pulse by which tasks note that they were polled.
//! A task that is on the same thread at two looks, and has noted no pulse in between, was in one poll for as long. So a
//! poll reads no clock and counts nothing. It runs on the control side, and is silent once the service stops: what is
//! stuck then is in the report.

mod described;
mod episodes;
mod told;
#[cfg(tokio_unstable)]
mod workers;

use super::voice::Voice;
use crate::registry::heartbeats;
use crate::registry::holders::{self, Holder};
use crate::registry::pulse;
use crate::registry::root::Root;
use crate::threads::{self, Known, ThreadClass};
use episodes::{Allowance, Change, Episodes};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};
use told::{News, Teller};

/// The time between two looks, unless the limit is short.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_LEAST: Duration = Duration::from_millis(5);
/// Looks in a limit, at least.
const LOOKS: u32 = 10;

/// The vigil over one root.
#[derive(Debug)]
pub(super) struct Vigil {
    root: Arc<Root>,
    work: Handle,
    #[cfg_attr(
        not(tokio_unstable),
        expect(dead_code, reason = "nobody knows its workers then")
    )]
    is_ours: bool,
    /// How long a poll may take; `None` for as long as it likes.
    limit: Option<Duration>,
    pause: Duration,
}

/// What is seen of polls under way.
#[derive(Debug)]
struct Polls {
    tracked: Episodes,
    #[cfg(tokio_unstable)]
    untracked: workers::Workers,
    were_stuck: bool,
}

/// The time that was watched. While the process was stopped, or had no processor for the vigil, nobody watched: what
/// held a thread meanwhile did so for no fault of its own.
#[derive(Debug)]
struct Watched {
    last: Instant,
    total: Duration,
    most: Duration,
}

// === impl Vigil ===

impl Vigil {
    /// Gives the first pulse, before there is any task.
    pub(super) fn new(
        root: &Arc<Root>,
        work: &Handle,
        is_ours: bool,
        limit: Option<Duration>,
    ) -> Self {
        // A shorter one would be over at the first look.
        let limit = limit.map(|limit| limit.max(LOOK_LEAST * 2));
        let pause = limit.map_or(LOOK, |limit| (limit / LOOKS).clamp(LOOK_LEAST, LOOK));
        if limit.is_some() {
            pulse::beat();
            root.set_pulse();
        }
        Self {
            root: Arc::clone(root),
            work: work.clone(),
            is_ours,
            limit,
            pause,
        }
    }

    /// Watches until it is dropped with the runtime that runs it.
    pub(super) async fn run(self, news: UnboundedSender<News>) {
        let mut watched = Watched::begin(self.pause * 2);
        let mut polls = Polls::new(self.limit.unwrap_or(Duration::MAX));
        let mut allowance = Allowance::full();
        loop {
            sleep(self.pause).await;
            let now = watched.now();
            look_for_beats(&self.root, now, &mut allowance, &news);
            if self.limit.is_some() {
                self.look(&mut polls, now, &news);
                // Right after the look: a poll that was seen and one that has noted this pulse are two.
                pulse::beat();
            }
        }
    }

    fn look(&self, polls: &mut Polls, now: Duration, news: &UnboundedSender<News>) {
        let silent = self.root.is_stopping();
        let holders = holders::holders(self.root.scope);
        let counts = |holder: &Holder| !silent && self.holds_worker(holder);
        let changes = polls.tracked.look(now, &holders, counts);
        let mut heard: Vec<News> = changes
            .into_iter()
            .map(|change| self.news(change))
            .collect();
        #[cfg(tokio_unstable)]
        if self.has_workers() && !silent {
            let is_tracked = |tid| holders.iter().any(|holder| holder.tid == tid);
            let limit = self.limit.unwrap_or(Duration::MAX);
            let changes = polls.untracked.look(&self.work, now, limit, is_tracked);
            heard.extend(changes.into_iter().map(News::from));
        }
        let stuck = self.all_stuck(&polls.long(now));
        if let Some(workers) = stuck.filter(|_| !polls.were_stuck && !silent) {
            heard.push(News::AllStuck { workers });
        }
        polls.were_stuck = stuck.is_some();
        for one in heard {
            // Nobody hears it after the end.
            news.send(one).ok();
        }
    }

    fn news(&self, change: Change) -> News {
        match change {
            Change::Began { holder, held, more } => News::Holds {
                worker: self.worker_of(holder.tid),
                holder,
                held,
                more,
            },
            Change::Ended { holder, held } => News::CameBack { holder, held },
        }
    }

    /// The number of workers, if each is held by one of these threads.
    fn all_stuck(&self, tids: &HashSet<u32>) -> Option<usize> {
        let workers = self.work.metrics().num_workers();
        if tids.len() < workers {
            return None;
        }
        let stuck = if self.has_one_thread() {
            tids.len()
        } else {
            let all = threads::all();
            let is_worker = |known: &&Known| {
                known.root == self.root.number && known.class == ThreadClass::Worker
            };
            let held = all.iter().filter(is_worker);
            held.filter(|known| tids.contains(&known.tid)).count()
        };
        (stuck >= workers && self.none_is_parked(workers)).then_some(workers)
    }

    /// Whether no worker waits for work. One whose task blocks in place may be another thread's by now.
    fn none_is_parked(&self, workers: usize) -> bool {
        #[cfg(target_has_atomic = "64")]
        {
            let metrics = self.work.metrics();
            (0..workers).all(|worker| metrics.worker_park_unpark_count(worker).is_multiple_of(2))
        }
        #[cfg(not(target_has_atomic = "64"))]
        {
            workers > 0
        }
    }

    fn has_one_thread(&self) -> bool {
        self.work.runtime_flavor() == RuntimeFlavor::CurrentThread
    }

    /// Whether we know the threads that are its workers.
    #[cfg(tokio_unstable)]
    fn has_workers(&self) -> bool {
        self.is_ours && !self.has_one_thread()
    }

    /// Whether the thread would run other tasks. One on which a task runs `block_in_place` has given its worker away.
    #[cfg(tokio_unstable)]
    fn holds_worker(&self, holder: &Holder) -> bool {
        let is_async = holder.kind.options.runs == crate::task::TaskKind::Async;
        !self.has_workers() || !is_async || self.worker_of(holder.tid).is_some()
    }

    /// The same; without tokio's word for it the stack tells, when the warning is made.
    #[cfg(not(tokio_unstable))]
    #[expect(clippy::unused_self, reason = "tokio tells it, with its word")]
    fn holds_worker(&self, _: &Holder) -> bool {
        true
    }

    /// Which worker that thread is at this moment.
    #[cfg(tokio_unstable)]
    fn worker_of(&self, tid: u32) -> Option<usize> {
        if !self.is_ours {
            return None;
        }
        let known = threads::all().into_iter().find(|known| known.tid == tid)?;
        let metrics = self.work.metrics();
        (0..metrics.num_workers()).find(|at| metrics.worker_thread_id(*at) == Some(known.thread))
    }

    #[cfg(not(tokio_unstable))]
    #[expect(clippy::unused_self, reason = "tokio tells it, with its word")]
    fn worker_of(&self, _: u32) -> Option<usize> {
        None
    }

    /// Who tells what the vigil sees.
    pub(super) fn teller(&self, voice: &Voice) -> Teller {
        Teller::new(&self.root, voice)
    }
}

// === impl Polls ===

impl Polls {
    fn new(limit: Duration) -> Self {
        Self {
            tracked: Episodes::new(limit),
            #[cfg(tokio_unstable)]
            untracked: workers::Workers::new(),
            were_stuck: false,
        }
    }

    /// The threads that are held for longer than the limit.
    fn long(&self, now: Duration) -> HashSet<u32> {
        let held = self.tracked.long(now);
        #[cfg(tokio_unstable)]
        let held = held.into_iter().chain(self.untracked.long()).collect();
        held
    }
}

#[cfg(tokio_unstable)]
impl From<workers::Change> for News {
    fn from(change: workers::Change) -> Self {
        match change {
            workers::Change::Began(on, held, more) => Self::Untracked { on, held, more },
            workers::Change::Ended(on, held) => Self::WorkerCameBack { on, held },
        }
    }
}

// === impl Watched ===

impl Watched {
    fn begin(most: Duration) -> Self {
        Self {
            last: Instant::now(),
            total: Duration::ZERO,
            most,
        }
    }

    /// How long has been watched. Between two calls no more than so much counts.
    fn now(&mut self) -> Duration {
        let now = Instant::now();
        self.total += now.duration_since(self.last).min(self.most);
        self.last = now;
        self.total
    }
}

/// Who has missed its heartbeat, and who beats again.
fn look_for_beats(
    root: &Root,
    now: Duration,
    allowance: &mut Allowance,
    news: &UnboundedSender<News>,
) {
    heartbeats::look(root, now, |change| {
        let is_stalled = change.is_stalled;
        let more = if is_stalled {
            allowance.take(now)
        } else {
            Some(0)
        };
        if let Some(more) = more {
            // Nobody hears it after the end.
            news.send(News::Heartbeat { change, more }).ok();
        }
        is_stalled && more.is_some()
    });
}
