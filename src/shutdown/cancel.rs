//! Layer 2, cancel: cancels every tracked task that is left, then closes the work runtime, which
//! drops untracked tasks too.
//!
//! An untracked task cannot be cancelled by itself, because headcount has no handle to it.
//!
//! The order of the layer, and the share of the budget that each step has:
//!
//! ```text
//! list untracked tasks        half a microsecond for each task of the runtime
//! read what they await        a quarter of the budget at most, if there are any
//! refuse new tasks            at once
//! cancel tracked tasks        half of the budget; workers, timers and sockets still work
//! release the thread of main  within the same half, on a current-thread runtime
//! list the children           at once
//! close the runtime           on a thread of its own, for at most both layers' budgets
//! wait for the last tasks     the rest of the budget
//! ```
//!
//! A task that blocks in its poll is not ended by any of this: its worker is left behind. No thread
//! is killed. Only after the next layer is it decided what lingers ([`Cancelled::look_again`]): a
//! task that has ended by then was late.
//!
//! ```text
//! alive now    and on a thread, or a thread is free for it    lingers
//! alive now    and all threads that it needs are held         not polled
//! ended        and had a turn                                 late
//! ended        and had none                                   cancelled
//! ```

pub(super) mod held;

use super::context::Context;
use super::layer::Layer;
use crate::audit::ownership::OwnChildren;
use crate::dump::untracked::Describing;
use crate::group::cancel_all;
use crate::registry;
use crate::registry::root::Root;
use crate::report::dump::Phase;
use crate::report::not_observed::{NOT_ALL, NOT_OURS};
use crate::report::tally::{self, Tally};
use crate::report::{
    CancelLayer, DrainLayer, KindRow, PanicRow, Timing, UntrackedRow, UntrackedTasks,
};
use crate::task::{TaskId, TaskKind};
use crate::threads;
use held::Held;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// The first pause between two checks for tasks that are left. It doubles up to `LOOK_LAST`. A look
/// reads the counters of every shard, so the pause grows.
const LOOK_FIRST: Duration = Duration::from_micros(200);
/// The longest pause between two checks: the end of the last task is noticed this late at most.
const LOOK_LAST: Duration = Duration::from_millis(20);
/// The longest wait of the layer for the types of untracked tasks, and for what they await. They take
/// about 0.1 s, and more in a debug build.
const TYPES: Duration = Duration::from_secs(1);
/// The key of the estimate among live tasks by kind. No kind has this number.
const ESTIMATE: u32 = u32::MAX;

/// The result of the layer.
pub(super) struct Cancelled {
    /// The time of the layer.
    timing: Timing,
    /// The number of tasks that were alive at the beginning, without daemons.
    begun_with: u64,
    /// The untracked tasks before anything was cancelled; the reason if they are not observed.
    untracked: Result<UntrackedTasks, String>,
    /// The tasks that were still alive when the layer ended.
    left: Vec<KindRow>,
    /// True if `main` was still running when the tasks were cancelled, and did not end within its
    /// time.
    pub(super) main_stays: bool,
    /// The closing of the work runtime, which the next layer waits for.
    pub(super) closing: Closing,
}

/// The tasks that outlived the layer, as they are when the last layer is over.
#[derive(Default)]
pub(super) struct Outlived {
    /// The tasks that are still alive. Stacks are added later.
    pub(super) lingering: Vec<KindRow>,
    /// The tasks that are alive only because a thread is held.
    not_polled: Vec<KindRow>,
    /// The tasks that have ended since.
    late: Vec<KindRow>,
    starved: u64,
    untracked: Option<Vec<UntrackedRow>>,
}

/// The closing of the work runtime, on a separate thread because it blocks: receives a message when
/// tokio's shutdown call has returned. `None` if no thread waits for it.
///
/// The sender is dropped without a message only if the closing thread panicked, which ends the wait
/// too.
pub(super) type Closing = Option<oneshot::Receiver<()>>;

/// Runs the layer. From here on, new tasks are refused.
///
/// The order matters. The untracked tasks that have ended by themselves are counted first, so that
/// those dropped in this layer can be told apart: a tracked task may drop a set of them when it is
/// cancelled. `early`: what was seen of them in the drain. Tracked tasks are cancelled while the runtime still works; then children are
/// recorded, because closing ends the threads that forked them; then the runtime is closed.
pub(super) async fn run(
    cx: &mut Context,
    drain: &DrainLayer,
    early: Option<Early>,
    children: &mut OwnChildren,
) -> Cancelled {
    cx.enter(Phase::Cancelling);
    let mut layer = cx.layer("cancel", cx.plan.cancel);
    let mut untracked = untracked_now(cx);
    if let Ok(tasks) = &mut untracked {
        describe(cx, &layer, tasks, early).await;
    }
    cx.root.refuse();
    let main_stays = tracked_first(cx, &mut layer).await;
    children.note(&cx.baseline, &cx.plan.unknown_threads);
    let closing = begin_closing(cx);
    wait_for_tasks(cx, &mut layer).await;
    Cancelled {
        timing: layer.timing(),
        begun_with: waited(&drain.ignored) + waited(&drain.not_polled),
        untracked,
        left: left(cx),
        main_stays,
        closing,
    }
}

/// The untracked tasks in the middle of the drain, and the read of their types.
pub(super) struct Early(UntrackedTasks, Describing);

/// The untracked tasks of the work runtime. On a runtime that the application owns it sees none.
pub(super) struct Untracked {
    root: Arc<Root>,
    work: Handle,
    is_ours: bool,
}

// === impl Untracked ===

impl Untracked {
    /// Returns the untracked tasks of the shutdown's runtime.
    pub(super) fn of(cx: &Context) -> Self {
        Self {
            root: Arc::clone(&cx.root),
            work: cx.work.clone(),
            is_ours: cx.owned.is_ours,
        }
    }

    /// Returns the number of live tasks by the number of their kind. Without `tokio_unstable` it is
    /// one estimate.
    pub(super) fn live(&self) -> HashMap<u32, u64> {
        if !self.root.sees_untracked() {
            return HashMap::from([(ESTIMATE, self.estimate())]);
        }
        let sites = registry::untracked_sites(&self.root).into_iter();
        sites.map(|(kind, live, _)| (kind.number, live)).collect()
    }

    /// Waits until at most as many tasks of each kind are alive as in `besides`, or until `until`.
    ///
    /// Called by the drain. Which tasks have ended is not known, only how many.
    pub(super) async fn gone(&self, besides: &HashMap<u32, u64>, until: Instant) {
        let more = |(kind, live): (u32, u64)| {
            let before = besides.get(&kind).copied().unwrap_or(0);
            live.saturating_sub(before)
        };
        none_left(|| self.live().into_iter().map(more).sum(), until).await;
    }

    /// Begins to read the types of the tasks that are alive at `at`, and what they await. Debug
    /// information may take longer than the cancel layer has. `until`: the end of the drain.
    pub(super) async fn describe_early(&self, at: Instant, until: Instant) -> Option<Early> {
        sleep_until(at).await;
        if !self.is_ours {
            return None;
        }
        let tasks = UntrackedTasks::look(&self.root, &self.work).ok()?;
        let until = until.into_std() + TYPES;
        let describing = Describing::begin(self.root.number, &tasks, until);
        Some(Early(tasks, describing))
    }

    /// Returns one sample of the estimate: tokio's count of live tasks without the tracked ones and
    /// the heartbeat task of the admin server.
    fn estimate(&self) -> u64 {
        if !self.is_ours {
            return 0;
        }
        let alive = self.work.metrics().num_alive_tasks() as u64;
        let alive = alive.saturating_sub(self.root.own_tasks());
        let tracked = Tally::of(self.root.scope, |task| {
            task.kind.options.runs == TaskKind::Async
        });
        alive.saturating_sub(tracked.count())
    }
}

// === impl Cancelled ===

impl Cancelled {
    /// Looks again at the tasks that were left, after the last layer. Takes 20 ms if every worker is
    /// held, else no time.
    pub(super) async fn look_again(&self, cx: &Context) -> Outlived {
        // Before the rows: a task that ends in between is counted, and not listed.
        let ids = registry::live_tasks(cx.root.scope);
        let ids = ids.iter().map(|task| task.id).collect();
        let mut lingering = left(cx);
        let late = late(&self.left, &lingering, &ids);
        let untracked = untracked_now(cx);
        let nothing = UntrackedTasks::default();
        let listed = untracked.as_ref().unwrap_or(&nothing);
        let held = Held::after_cancel(cx, &lingering, listed).await;
        let not_polled = held.take_from(cx, &mut lingering, true);
        let both = untracked.ok().zip(self.untracked.as_ref().ok());
        Outlived {
            starved: held.starved(&not_polled),
            untracked: both.map(|(now, before)| now.since(before)),
            lingering,
            not_polled,
            late,
        }
    }

    /// Returns the reason if untracked tasks are not observed, or not all of them.
    pub(super) fn not_observed(&self) -> Option<String> {
        match &self.untracked {
            Ok(tasks) if tasks.is_whole => None,
            Ok(_) => Some(NOT_ALL.to_owned()),
            Err(reason) => Some(reason.clone()),
        }
    }

    /// Returns the layer's part of the report. `panicked`: the panics in this and the next layer.
    pub(super) fn into_layer(self, outlived: Outlived, panicked: Vec<PanicRow>) -> CancelLayer {
        let Outlived {
            lingering,
            not_polled,
            late,
            starved,
            untracked,
        } = outlived;
        let not_cancelled = waited(&lingering) + waited(&not_polled) + waited(&late);
        CancelLayer {
            timing: self.timing,
            cancelled: self.begun_with.saturating_sub(not_cancelled),
            untracked,
            panicked,
            lingering,
            not_polled,
            late,
            starved,
        }
    }
}

/// Returns the tasks that are alive.
fn left(cx: &Context) -> Vec<KindRow> {
    Tally::by_turns(cx.root.scope, |_| true).into_findings()
}

/// Returns the number of tasks without daemons.
fn waited(tasks: &[KindRow]) -> u64 {
    let waited = tasks.iter().filter(|task| !task.daemon);
    waited.map(|task| task.count).sum()
}

/// Returns the tasks that were `left`, had a turn, and are no longer alive: a row for each kind, as the
/// tasks were when they were left. `ids` are those of all that are alive.
///
/// A task that had no turn when it was left, has had one since and is alive takes the place of one that
/// has ended: then there are fewer, and never more.
fn late(left: &[KindRow], alive: &[KindRow], ids: &HashSet<TaskId>) -> Vec<KindRow> {
    let had_turn = |row: &&KindRow| row.never_started + row.not_polled < row.count;
    let left = left.iter().filter(had_turn).cloned().collect();
    let ended = tally::merged(left).into_iter().filter_map(|mut row| {
        let same = alive.iter().filter(|other| row.is_same_kind(other));
        let stay = same.filter(had_turn).map(|other| other.count);
        let count = row.count.saturating_sub(stay.sum());
        row.keep(count, |task| !ids.contains(&task.id));
        (count > 0).then_some(row)
    });
    ended.collect()
}

/// Cancels the tracked tasks, and waits for at most half of the budget.
///
/// Workers drop cancelled tasks while timers and sockets still work; only afterwards is the
/// runtime closed. The other half of the budget remains for tasks that do not end.
///
/// Returns whether `main` is still running then. Daemons are cancelled too. If the tasks use up the
/// half, `main` is looked at once and not waited for. A second half is kept because closing the
/// runtime drops tasks that no cancel reaches.
async fn tracked_first(cx: &mut Context, layer: &mut Layer) -> bool {
    let half = Instant::now() + layer.left() / 2;
    let scope = cx.root.scope;
    let released = cx.owned.released.clone();
    let mut main = cx.owned.main_runs.subscribe();
    cx.guarded(layer, async {
        cancel_all(scope, half).await;
        released.send_replace(true);
        // If `main` does not end, it is found below.
        timeout_at(half, main.wait_for(|runs| !runs)).await.ok();
    })
    .await;
    *cx.owned.main_runs.borrow()
}

/// Reads the types of untracked tasks and what they await, for a part of the layer's budget; not
/// after a second signal.
async fn describe(cx: &Context, layer: &Layer, tasks: &mut UntrackedTasks, early: Option<Early>) {
    if cx.signals_seen > 1 {
        return;
    }
    let until = std::time::Instant::now() + (layer.left() / 4).min(TYPES);
    if let Some(Early(mut earlier, describing)) = early {
        describing.complete(&mut earlier, until).await;
        tasks.describe_like(&earlier);
    } else {
        let describing = Describing::begin(cx.root.number, tasks, until);
        describing.complete(tasks, until).await;
    }
}

/// Looks at the untracked tasks. On a runtime that the application owns they are not the
/// shutdown's.
///
/// The first look is taken before anything is cancelled. A task that ends by itself between this and
/// the closing of the runtime counts as dropped.
fn untracked_now(cx: &Context) -> Result<UntrackedTasks, String> {
    if !cx.owned.is_ours {
        return Err(NOT_OURS.to_owned());
    }
    UntrackedTasks::look(&cx.root, &cx.work)
}

/// Starts to close the runtime.
///
/// Tokio's `Runtime::shutdown_timeout` blocks until the runtime's threads have ended or the time is
/// over, and the destructors of the tasks run meanwhile, which is code of the application. It may
/// therefore take as long as this layer and the next together, within the deadline.
///
/// Must come after the tracked tasks were cancelled: their destructors may need timers and sockets.
fn begin_closing(cx: &Context) -> Closing {
    if !cx.owned.has_runtime() {
        // It is the application's, or `main` is still inside it.
        return None;
    }
    let left = cx.within_deadline(cx.plan.cancel + cx.plan.close);
    let (tell, returned) = oneshot::channel();
    let owned = Arc::clone(&cx.owned);
    let started = threads::start_own(cx.root.number, "headcount-close", move || {
        if let Some(runtime) = owned.take() {
            runtime.shutdown_timeout(left);
        }
        // Fails if the wait timed out.
        tell.send(()).ok();
    });
    if started.is_err() {
        // Without a thread to wait on, close it in the background. The audit sees when its
        // threads are gone.
        cx.owned.shutdown_background();
    }
    started.is_ok().then_some(returned)
}

/// Waits until no task is left, tracked or untracked, for as long as the layer has. Daemons count
/// too, because closing the runtime drops them as well.
async fn wait_for_tasks(cx: &mut Context, layer: &mut Layer) {
    let (root, until) = (cx.root.clone(), layer.until);
    let left =
        move || root.scope.live() + root.scope.live_daemons() + registry::live_untracked(&root);
    cx.guarded(layer, none_left(left, until)).await;
}

/// Polls `left` until it returns zero, or until `until`.
///
/// It polls because untracked tasks have no waker to register. Returns at once if nothing is left.
async fn none_left(left: impl Fn() -> u64, until: Instant) {
    let mut pause = LOOK_FIRST;
    while left() > 0 && Instant::now() < until {
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

#[cfg(all(test, not(headcount_loom)))]
mod tests;
