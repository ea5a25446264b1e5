//! The watch over the running service: finds blocked workers and missed heartbeats, and logs them
//! while they last.
//!
//! Ten times a second, or more often if the limit is short, it looks at which task each thread is
//! running, and then gives a *pulse*: a time stamp that each task notes in its slot when it is next
//! polled. A task that is on the same thread at two looks and has noted no newer pulse
//! has been in one poll all the time. A poll therefore reads no clock and counts nothing.
//!
//! The watch runs on the control runtime, so it works when every worker is blocked. It says nothing
//! about polls once the service is stopping, because the report covers that.
//!
//! ```text
//! look n        thread 7 is in task 3, which noted pulse p      seen first: the episode begins
//! pulse
//! look n+1      thread 7 is in task 3, pulse p                  the same poll, it lasts
//! …
//! limit over    the same                                        warning, once
//! look m        thread 7 is in another task, or pulse q         the poll has ended
//! ```
//!
//! A poll counts from the look that saw it first, so a duration is too short by up to one pause,
//! 100 ms by default; a poll that fits between two looks is never seen. Looks read the shards of
//! the threads and the slots that they point to, so they cost by threads, not by live tasks.
//!
//! It asks no task, and reads stacks only for a warning, without interrupting a system call.

mod describe;
mod episodes;
mod log;
#[cfg(tokio_unstable)]
mod workers;

use crate::control::output::Output;
use crate::dump::symbols::Symbolizer;
use crate::recorder;
use crate::registry::clock;
use crate::registry::heartbeats::{self, Stage};
use crate::registry::query::on_threads::{self, Holder};
use crate::registry::root::Root;
use crate::task::TaskId;
use crate::threads::{self, Known, ThreadClass};
use episodes::{Change, Episodes, RateLimit};
use log::{Event, Log};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

/// The longest time between two looks. Heartbeats are looked at as often, so a missed one is
/// noticed this late at most.
const LOOK: Duration = Duration::from_millis(100);
/// The shortest time between two looks. Together with [`LOOKS`] it makes the shortest useful limit
/// 10 ms.
const LOOK_LEAST: Duration = Duration::from_millis(5);
/// The number of looks within the limit, as far as the two bounds above allow. A duration is
/// therefore right to a tenth of the limit.
const LOOKS: u32 = 10;

/// The watch over one root.
#[derive(Debug)]
struct Watch {
    /// The root of the watched tasks. It is kept alive until the control runtime is dropped.
    root: Arc<Root>,
    /// The work runtime, for its metrics. It does not keep the runtime from being closed.
    work: Handle,
    /// True if headcount built the work runtime, so that its threads are registered.
    #[cfg_attr(
        not(tokio_unstable),
        expect(dead_code, reason = "its workers are then unknown")
    )]
    is_ours: bool,
    /// The longest poll without a warning; `None` disables the warnings. At least 10 ms.
    limit: Option<Duration>,
    /// The time between two looks. A tenth of the limit, between 5 and 100 ms.
    pause: Duration,
}

/// The polls in progress, and the workers that they block.
#[derive(Debug)]
struct Polls {
    /// Polls of tracked tasks, by thread, task and pulse. The pulse tells two polls of one task on
    /// one thread apart.
    tracked: Episodes<(u32, TaskId, u64), Holder>,
    /// Workers that untracked tasks block.
    #[cfg(tokio_unstable)]
    untracked: workers::Workers,
    /// True if all workers were blocked at the last look. The event is sent at the change to true
    /// only.
    were_stuck: bool,
}

/// The clock of the watch, which counts only the time that was watched.
///
/// While the process is stopped, or the watch gets no CPU time, the clock stands still: a task that
/// occupied its thread meanwhile is not to blame. Between two looks at most `most` is counted.
///
/// Both parts of the watch use it: limits of polls and heartbeats are watched time.
#[derive(Debug)]
struct Clock {
    /// The time of the last look, by tokio's clock.
    last: Instant,
    /// The time that was watched since the beginning.
    total: Duration,
    /// Twice the pause: a look that is late by more was kept from running.
    most: Duration,
}

/// Starts the watch over a root, on the control runtime. It ends with that runtime.
///
/// It gives the first pulse, so it must begin before the first task is spawned. `is_ours` tells
/// whether headcount built the work runtime. `limit` is the longest poll without a warning; `None`
/// disables the warnings about polls and workers. Two tasks are spawned: one looks, the other
/// writes the log, so that a slow description delays no look.
#[expect(
    clippy::disallowed_methods,
    reason = "on our own control runtime, not on the work runtime"
)]
pub(crate) fn begin(
    control: &Handle,
    root: &Arc<Root>,
    (work, is_ours): (&Handle, bool),
    limit: Option<Duration>,
    (output, symbolizer): (&Output, &Symbolizer),
) {
    let (events, seen) = unbounded_channel();
    let watch = Watch::new(root, work, is_ours, limit);
    drop(control.spawn(Log::new(root, output, symbolizer).run(seen)));
    drop(control.spawn(watch.run(events)));
}

// === impl Watch ===

impl Watch {
    /// Prepares the watch, and gives the first pulse.
    fn new(root: &Arc<Root>, work: &Handle, is_ours: bool, limit: Option<Duration>) -> Self {
        // With a shorter limit every poll would exceed it at the first look.
        let limit = limit.map(|limit| limit.max(LOOK_LEAST * 2));
        let pause = limit.map_or(LOOK, |limit| (limit / LOOKS).clamp(LOOK_LEAST, LOOK));
        if limit.is_some() {
            clock::pulse();
            root.set_pulse();
        }
        let watch = Self {
            root: Arc::clone(root),
            work: work.clone(),
            is_ours,
            limit,
            pause,
        };
        watch.note_beat();
        watch
    }

    /// Notes in the black box, if it is that of this runtime, that the process is alive.
    fn note_beat(&self) {
        let tasks = || self.root.scope.size_hint() as u64;
        let state = (clock::raw(), self.limit.is_some());
        recorder::beat(self.root.number, state, tasks, on_threads::outside_box);
    }

    /// Watches until the control runtime, and with it this future, is dropped.
    ///
    /// Sleeps are relative, so a look that takes long delays the next one instead of being followed
    /// by two.
    async fn run(self, events: UnboundedSender<Event>) {
        let mut clock = Clock::begin(self.pause * 2);
        let mut polls = Polls::new();
        let mut heartbeats = RateLimit::full();
        loop {
            sleep(self.pause).await;
            let now = clock.now();
            self.note_beat();
            look_for_beats(&self.root, now, &mut heartbeats, &events);
            if let Some(limit) = self.limit {
                self.look(&mut polls, (now, limit), &events);
                // Right after the look, so that a task seen in it and one that has noted this pulse
                // are never the same poll.
                clock::pulse();
            }
        }
    }

    /// Looks once at all threads, and sends what has changed.
    ///
    /// While the service stops, polls are followed but nothing is reported, except that a task
    /// stops blocking its thread. With no thread in a task it costs a walk over the shards, and
    /// with `tokio_unstable` a look at the workers that are not parked. Without `tokio_unstable`
    /// untracked tasks are not looked at.
    fn look(
        &self,
        polls: &mut Polls,
        (now, limit): (Duration, Duration),
        events: &UnboundedSender<Event>,
    ) {
        let silent = self.root.is_stopping();
        let holders = on_threads::holders(self.root.scope);
        let on = holders.iter().map(|holder| {
            let key = (holder.tid, holder.id, holder.pulse);
            (key, *holder)
        });
        let changes = polls.tracked.look(now, on, |holder, _, since| {
            let held = now - since;
            (held >= limit && !silent && self.holds_worker(holder)).then_some(held)
        });
        let mut seen: Vec<Event> = changes
            .into_iter()
            .map(|change| self.poll_event(change))
            .collect();
        #[cfg(tokio_unstable)]
        if self.has_workers() && !silent {
            let is_tracked = |tid| holders.iter().any(|holder| holder.tid == tid);
            let work = (&self.work, limit);
            let changes = workers::look(&mut polls.untracked, work, now, is_tracked);
            seen.extend(changes.into_iter().map(Event::Worker));
        }
        let stuck = self.all_stuck(&polls.blocked());
        if let Some(workers) = stuck.filter(|_| !polls.were_stuck && !silent) {
            seen.push(Event::AllStuck { workers });
        }
        polls.were_stuck = stuck.is_some();
        for event in seen {
            // Fails only when the control side ends.
            events.send(event).ok();
        }
    }

    /// Adds the number of the worker to a change, for the log. It is looked up at the beginning
    /// only.
    fn poll_event(&self, change: Change<Holder>) -> Event {
        let worker = match &change {
            Change::Began { of, .. } => self.worker_of(of.tid),
            Change::Ended { .. } => None,
        };
        Event::Poll { change, worker }
    }

    /// Returns the number of workers if every one of them is blocked by one of these threads.
    ///
    /// On a current-thread runtime every such thread counts, on others only registered workers of
    /// this root. Checks the number of threads first, which costs nothing in a healthy service.
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

    /// Returns whether no worker is parked. This is checked because the thread of a task that uses
    /// `block_in_place` may have handed its worker to another thread. The park count is even while
    /// a worker is not parked. Always true, if there are workers, on targets without 64-bit
    /// atomics, where tokio has no such count.
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

    /// Returns whether the work runtime is a current-thread runtime. Then the thread inside
    /// `block_on` is the only worker.
    fn has_one_thread(&self) -> bool {
        self.work.runtime_flavor() == RuntimeFlavor::CurrentThread
    }

    /// Returns whether the threads of the runtime are known to be its workers: multi-threaded, and
    /// built by headcount.
    #[cfg(tokio_unstable)]
    fn has_workers(&self) -> bool {
        self.is_ours && !self.has_one_thread()
    }

    /// Returns whether the task keeps its thread from running other tasks. A thread that runs
    /// `block_in_place` has handed its worker to another thread.
    #[cfg(tokio_unstable)]
    fn holds_worker(&self, holder: &Holder) -> bool {
        let is_async = holder.kind.options.runs == crate::task::TaskKind::Async;
        !self.has_workers() || !is_async || self.worker_of(holder.tid).is_some()
    }

    /// Returns true. Without `tokio_unstable` the thread of a worker is unknown, so
    /// `block_in_place` is recognized in the stack instead, when the warning is prepared.
    #[cfg(not(tokio_unstable))]
    #[expect(clippy::unused_self, reason = "tokio exposes it with tokio_unstable")]
    fn holds_worker(&self, _: &Holder) -> bool {
        true
    }

    /// Returns the number of the worker that the thread is running.
    #[cfg(tokio_unstable)]
    fn worker_of(&self, tid: u32) -> Option<usize> {
        if !self.is_ours {
            return None;
        }
        let known = threads::all().into_iter().find(|known| known.tid == tid)?;
        let metrics = self.work.metrics();
        (0..metrics.num_workers()).find(|at| metrics.worker_thread_id(*at) == Some(known.thread))
    }

    /// Returns `None`: only unstable tokio exposes the thread of a worker.
    #[cfg(not(tokio_unstable))]
    #[expect(clippy::unused_self, reason = "tokio exposes it with tokio_unstable")]
    fn worker_of(&self, _: u32) -> Option<usize> {
        None
    }
}

// === impl Polls ===

impl Polls {
    /// Begins with nothing in progress.
    fn new() -> Self {
        Self {
            tracked: Episodes::new(),
            #[cfg(tokio_unstable)]
            untracked: Episodes::new(),
            were_stuck: false,
        }
    }

    /// Returns the threads that have been blocked for longer than the limit. Busy workers are left
    /// out: they may be making progress.
    fn blocked(&self) -> HashSet<u32> {
        let blocked = self.tracked.long().map(|holder| holder.tid);
        #[cfg(tokio_unstable)]
        let blocked = {
            let workers = self.untracked.long().filter(|worker| worker.sleeps());
            blocked.chain(workers.map(|worker| worker.turn.tid))
        };
        blocked.collect()
    }
}

// === impl Clock ===

impl Clock {
    /// Begins at zero.
    fn begin(most: Duration) -> Self {
        Self {
            last: Instant::now(),
            total: Duration::ZERO,
            most,
        }
    }

    /// Advances the clock, and returns the total time watched. Counts at most `most` since the last
    /// call.
    fn now(&mut self) -> Duration {
        let now = Instant::now();
        self.total += now.duration_since(self.last).min(self.most);
        self.last = now;
        self.total
    }
}

/// Sends the heartbeats that were missed, as far as the rate limit allows, and those that have
/// resumed.
///
/// Runs while the service stops too, so that a stall that was reported can end; no task is then
/// expected to beat. The number of stalled required tasks goes to the root, from which readiness
/// reads it.
fn look_for_beats(
    root: &Root,
    now: Duration,
    limit: &mut RateLimit,
    events: &UnboundedSender<Event>,
) {
    let stalled = heartbeats::look(root.number, root.is_stopping(), now, |change| {
        let suppressed = match change.stage {
            Stage::Stalled => limit.take(now),
            Stage::BeatsAgain => Some(0),
            Stage::Unreported => {
                limit.suppress();
                None
            }
        };
        let Some(suppressed) = suppressed else {
            return false;
        };
        // Fails only when the control side ends.
        events.send(Event::Heartbeat { change, suppressed }).ok();
        true
    });
    root.set_stalled_required(stalled);
}
