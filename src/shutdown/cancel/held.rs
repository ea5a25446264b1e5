//! Threads that are held, so that other tasks have no turn: workers, the thread of `main`, and the
//! blocking pool.
//!
//! A task that had no turn because of that is not to blame for a stop that takes long. It is told
//! apart from a task that nothing has woken: only when every thread that could poll it is held by
//! the same polls at two looks could it not be polled.
//!
//! ```text
//! when             a thread is free if                       then
//! drain over       it is parked, or in another poll          the task ignored the drain
//! cancel over      it has ended, as the runtime is closing   the task lingers
//! ```

use crate::registry::query::on_threads::{self, Holder};
use crate::registry::{self, Turns, clock};
use crate::report::tally::{self, Tally};
use crate::report::{KindRow, UntrackedTasks};
use crate::report::{path, times};
use crate::shutdown::context::Context;
use crate::task::{TaskId, TaskKind};
use crate::threads::{self, ThreadClass};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::RuntimeFlavor;
use tokio::time::sleep;

/// The time between two looks. A worker that polls the same task for this long is not about to poll
/// others. A worker that has many short polls has counted some of them by then.
const STUCK: Duration = Duration::from_millis(20);
/// The most holders that a sentence names. Of the rest only the number is said.
const NAMED: usize = 3;

/// The threads of which none is free, each as a clause that says what holds them.
#[derive(Debug, Default)]
pub(in crate::shutdown) struct Held {
    /// The workers.
    workers: Option<String>,
    /// The number of untracked tasks that are not to blame, because no worker is free for them.
    untracked: u64,
    /// The thread of `main`, if it is not a worker.
    main: Option<String>,
    /// The threads of the blocking pool.
    blocking: Option<String>,
}

/// The holders of workers at one look. Equal at two looks if no worker was free in between.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// The tracked tasks that hold a worker, and the pulses of their polls.
    by: Vec<(TaskId, u32, u64)>,
    /// The paths of these tasks, with the number of each.
    names: BTreeMap<String, u64>,
    /// The progress of each worker, where tokio exposes it.
    progress: Vec<(u64, u64)>,
    /// The number of workers.
    workers: u64,
}

// === impl Held ===

impl Held {
    /// Looks at the threads after the drain, while the runtime works. Takes a few milliseconds, and
    /// nothing if no finding is of a task without a turn.
    pub(in crate::shutdown) async fn after_drain(cx: &Context, findings: &[KindRow]) -> Self {
        if !findings.iter().any(has_no_turn) {
            return Self::default();
        }
        Self::found(cx, open_workers).await
    }

    /// Looks at the threads after the cancel, while the runtime is closing or closed. `untracked`:
    /// the untracked tasks that are alive.
    pub(in crate::shutdown) async fn after_cancel(
        cx: &Context,
        findings: &[KindRow],
        untracked: &UntrackedTasks,
    ) -> Self {
        let is_waiting = |row: &KindRow| row.tid().is_none();
        if !findings.iter().any(is_waiting) && untracked.count() == 0 {
            return Self::default();
        }
        if !cx.owned.is_ours {
            // It works on.
            return Self::found(cx, open_workers).await;
        }
        let mut held = Self::found(cx, |cx| closing_workers(cx, untracked.running())).await;
        if held.workers.is_some() {
            held.untracked = untracked.count() - untracked.running();
        }
        held
    }

    /// Looks twice at the workers, and once at the other threads.
    async fn found(cx: &Context, look: impl Fn(&Context) -> Option<Look>) -> Self {
        let first = look(cx);
        if first.is_some() {
            // A poll that begins between the looks notes this pulse, and so is not the first one.
            clock::pulse();
            sleep(STUCK).await;
        }
        let held = first.filter(|first| look(cx).as_ref() == Some(first));
        Self {
            workers: held.map(Look::into_clause),
            untracked: 0,
            main: held_main(cx),
            blocking: held_pool(cx),
        }
    }

    /// Takes the findings about tasks that had no turn out of `findings`. `is_cancelled`: every task
    /// was told to end, so one that is on no thread had no turn since.
    pub(in crate::shutdown) fn take_from(
        &self,
        cx: &Context,
        findings: &mut Vec<KindRow>,
        is_cancelled: bool,
    ) -> Vec<KindRow> {
        let one_thread = has_one_thread(cx);
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for mut row in std::mem::take(findings) {
            let never_started = row.never_started == row.count;
            let waits = row.tid().is_none();
            let had_no_turn = has_no_turn(&row) || is_cancelled && waits;
            let held_by = match row.kind {
                TaskKind::Blocking => self.blocking.as_ref().filter(|_| never_started),
                TaskKind::Main | TaskKind::Local if !one_thread => self.main.as_ref(),
                _ => self.workers.as_ref(),
            };
            // A task that never started has ignored nothing, even if the reason is not known. If it
            // cannot be ended either, it lingers.
            let is_excused = held_by.is_some() || never_started && !is_cancelled;
            if had_no_turn && is_excused {
                row.held_by = held_by.cloned();
                taken.push(row);
            } else {
                left.push(row);
            }
        }
        *findings = tally::merged(left);
        taken
    }

    /// Returns the number of live tasks for which no worker is free. `not_polled`: the tracked ones
    /// among them, and closures that never started.
    pub(in crate::shutdown) fn starved(&self, not_polled: &[KindRow]) -> u64 {
        let tracked = not_polled
            .iter()
            .filter(|row| row.kind != TaskKind::Blocking);
        tracked.map(|row| row.count).sum::<u64>() + self.untracked
    }
}

/// Returns whether no task of the finding had a turn since it was told to drain.
fn has_no_turn(row: &KindRow) -> bool {
    row.tid().is_none() && row.never_started + row.not_polled == row.count
}

// === impl Look ===

impl Look {
    /// Looks at the tasks on workers.
    fn new(cx: &Context, workers: u64) -> Self {
        let one_thread = has_one_thread(cx);
        // The others are on the thread of `main`.
        let on_worker = |holder: &Holder| one_thread || holder.kind.options.runs == TaskKind::Async;
        let holders = on_threads::holders(cx.root.scope).into_iter();
        let mut holders: Vec<Holder> = holders.filter(on_worker).collect();
        holders.sort_by_key(|holder| holder.id);
        Self {
            by: holders
                .iter()
                .map(|one| (one.id, one.tid, one.pulse))
                .collect(),
            names: names(holders.iter().map(|one| (name(one), 1))),
            progress: Vec::new(),
            workers,
        }
    }

    /// Returns `importer holds the only worker`.
    fn into_clause(self) -> String {
        let tracked = self.by.len() as u64;
        let mut names = listed(&self.names);
        let others = self.workers.saturating_sub(tracked);
        match others {
            0 => {}
            1 => names.push("an untracked task".to_owned()),
            n => names.push(format!("{n} untracked tasks")),
        }
        let verb = if tracked + others == 1 {
            "holds"
        } else {
            "hold"
        };
        let all = match self.workers {
            1 => "the only worker".to_owned(),
            n => format!("all {n} workers"),
        };
        format!("{} {verb} {all}", joined(&names))
    }
}

/// Looks at the workers of a runtime that works. `None` if one of them is free.
///
/// A worker without a tracked task counts as held by an untracked one only if tokio exposes how
/// many polls it has counted, and that number stays the same.
fn open_workers(cx: &Context) -> Option<Look> {
    let metrics = cx.work.metrics();
    let workers = metrics.num_workers();
    let look = Look::new(cx, workers as u64);
    let progress: Vec<(u64, u64)> = (0..workers).map(|worker| progress(cx, worker)).collect();
    // The park count is odd while a worker is parked.
    let is_free = progress.iter().any(|(parks, _)| !parks.is_multiple_of(2));
    let by_untracked = cfg!(tokio_unstable) && cx.owned.is_ours;
    let is_held = look.by.len() >= workers || by_untracked;
    (!is_free && is_held).then_some(Look { progress, ..look })
}

/// Looks at the workers of a runtime that is closing. `None` if one of them has ended, because it
/// was free. `untracked`: the number of untracked tasks that a thread is polling.
fn closing_workers(cx: &Context, untracked: u64) -> Option<Look> {
    let workers = live_workers(cx)?;
    let look = Look::new(cx, workers);
    (look.by.len() as u64 + untracked >= workers).then_some(look)
}

/// Returns the number of times that a worker has parked and unparked, and the number of its polls.
/// Each is 0 where tokio does not expose it.
fn progress(cx: &Context, worker: usize) -> (u64, u64) {
    let metrics = cx.work.metrics();
    #[cfg(target_has_atomic = "64")]
    let parks = metrics.worker_park_unpark_count(worker);
    #[cfg(not(target_has_atomic = "64"))]
    let parks = 0;
    #[cfg(all(tokio_unstable, target_has_atomic = "64"))]
    let polls = metrics.worker_poll_count(worker);
    #[cfg(not(all(tokio_unstable, target_has_atomic = "64")))]
    let polls = 0;
    (parks, polls)
}

/// Returns the number of workers if all of them are still alive. A free worker would have ended.
/// `None` too on a runtime that the application owns. On a current-thread runtime the only worker
/// is the thread of `main`, as long as it is inside the runtime.
fn live_workers(cx: &Context) -> Option<u64> {
    if !cx.owned.is_ours {
        return None;
    }
    if has_one_thread(cx) {
        return cx.owned.main_runs.borrow().then_some(1);
    }
    let workers = cx.work.metrics().num_workers() as u64;
    let live = threads::live_of(cx.root.number).of(ThreadClass::Worker);
    (live >= Some(workers)).then_some(workers)
}

/// Returns what holds the thread of `main` on a runtime with workers of its own: a local task.
fn held_main(cx: &Context) -> Option<String> {
    if has_one_thread(cx) {
        return None;
    }
    let on_main = |holder: &Holder| {
        let runs = holder.kind.options.runs;
        matches!(runs, TaskKind::Main | TaskKind::Local)
    };
    let holder = on_threads::holders(cx.root.scope)
        .into_iter()
        .find(on_main)?;
    Some(format!("{} holds the thread of main", name(&holder)))
}

/// Returns what holds the threads of the blocking pool, if it has any.
fn held_pool(cx: &Context) -> Option<String> {
    let is_run = |task: &registry::LiveTask| {
        task.kind.options.runs == TaskKind::Blocking && task.turns != Turns::Never
    };
    let running = Tally::of(cx.root.scope, is_run);
    let tracked = running.count();
    let names = names(running.rows().iter().map(|row| (row.path(), row.count)));
    let mut names = listed(&names);
    let threads = threads::live_of(cx.root.number).of(ThreadClass::Blocking);
    let threads = threads.unwrap_or(0);
    if threads > tracked {
        names.push(format!("{} untracked", threads - tracked));
    }
    let all = match threads {
        // They are not registered on a runtime that the application owns.
        n if n < tracked => "the blocking threads are held".to_owned(),
        0 => return None,
        1 => "the only blocking thread is held".to_owned(),
        n => format!("all {n} blocking threads are held"),
    };
    Some(format!("{all} ({})", joined(&names)))
}

/// Returns whether the thread of `main` is the only worker.
fn has_one_thread(cx: &Context) -> bool {
    cx.work.runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Returns the path of a task.
fn name(holder: &Holder) -> String {
    path(holder.kind.group(), holder.kind.name)
}

/// Adds up the tasks of each path.
fn names(tasks: impl Iterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    let mut names = BTreeMap::new();
    for (path, count) in tasks {
        *names.entry(path).or_default() += count;
    }
    names
}

/// Returns `importer`, `resize ×50`, those with the most tasks first, and the number of the rest.
fn listed(names: &BTreeMap<String, u64>) -> Vec<String> {
    let mut names: Vec<(&String, &u64)> = names.iter().collect();
    names.sort_by_key(|(_, count)| Reverse(**count));
    let rest: u64 = names.iter().skip(NAMED).map(|(_, count)| **count).sum();
    let named = names.iter().take(NAMED);
    let mut listed: Vec<String> = named
        .map(|(name, count)| format!("{name}{}", times(**count)))
        .collect();
    if rest > 0 {
        listed.push(format!("{rest} more"));
    }
    listed
}

/// Joins words as `a, b and c`.
fn joined(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
