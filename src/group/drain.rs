//! Draining and cancelling of a group or of the whole service, within budgets.
//!
//! A drain walks the tree of groups from the leaves up: it tells a group to drain and waits for its
//! tasks, until a budget ends. It then cancels the tasks that are over their own budget, or leaves
//! the rest to the cancel layer. A cancel sets a flag for tasks that start later, then walks over
//! the live tasks repeatedly until none is left.
//!
//! All of it runs on the control runtime, so its timers fire even when every worker is blocked.
//! Only the first walk of [`TaskGroup::cancel`] runs on the caller's thread.

use super::{TaskGroup, empty};
use crate::registry::query::await_query::{self, Answers};
use crate::registry::scope::Scope;
use crate::registry::{self, LiveTask};
use crate::report::row::KindRow;
use crate::report::tally::Tally;
use crate::task::TaskId;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The pause between two walks over the tasks to cancel. It grows from the first to the last value,
/// and is longer if a walk takes long: see [`WALK_SHARE`].
const WALK_FIRST: Duration = Duration::from_millis(2);
const WALK_LAST: Duration = Duration::from_millis(200);
/// The number of live tasks at which a wait registers a waker. This many tasks end within a
/// millisecond or two.
const FEW: u64 = 10_000;
/// The shortest time in which one task ends, for an estimate of how long many take.
const END_NANOS: u64 = 50;
/// The bounds of the pause between two reads of the number of live tasks.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(20);
/// The pause after a walk is at least this many times as long as the walk, because a walk takes a
/// processor from the tasks that are ending.
const WALK_SHARE: u32 = 4;

/// The time that tasks get to answer what they await before they are cancelled. A task answers in
/// its next poll, so one that blocks in its current poll does not answer.
const ANSWER: Duration = Duration::from_millis(100);
/// The most tasks that one drain asks what they await: one of each kind.
const KINDS: usize = 32;

/// A drain in progress.
#[derive(Debug)]
pub(crate) struct Drain {
    /// The end of the whole drain. No budget of a group or task extends it.
    until: Instant,
    /// True if tasks are asked what they await before they are cancelled.
    asks: bool,
    /// Held for short sections only, never across an await.
    ignored: Mutex<Ignored>,
}

/// The tasks that did not end within their drain budget.
///
/// Each is counted once, by id: a task that was cancelled may still be live at a later count.
#[derive(Debug, Default)]
struct Ignored {
    tally: Tally,
    counted: HashSet<TaskId>,
    /// The answers of some of them to what they awaited before they were cancelled.
    awaits: Answers,
}

// === impl Drain ===

impl Drain {
    /// Creates a drain that ends `budget` from now. Nothing is told to drain yet.
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            until: Instant::now() + budget,
            asks: false,
            ignored: Mutex::default(),
        }
    }

    /// Makes the drain ask tasks what they await before it cancels them because their own budget
    /// has ended.
    pub(crate) fn asking(self) -> Self {
        Self { asks: true, ..self }
    }

    /// Returns the tasks that had to be cancelled or are still live, and what some of the cancelled
    /// ones awaited.
    ///
    /// Daemons are excluded, because a drain does not wait for them.
    pub(crate) fn ignored(self, scope: &'static Scope) -> (Tally, Answers) {
        self.count(scope, |_| true);
        let ignored = self.ignored.into_inner();
        let ignored = ignored.unwrap_or_else(PoisonError::into_inner);
        (ignored.tally, ignored.awaits)
    }

    /// Counts the chosen live tasks that were not counted before, and returns the id of one task of
    /// each kind among them, kinds that block a thread excluded.
    fn count(&self, scope: &'static Scope, chosen: impl Fn(&LiveTask) -> bool) -> Vec<TaskId> {
        let mut ignored = self.ignored_now();
        let Ignored { tally, counted, .. } = &mut *ignored;
        let mut found = HashSet::new();
        let new = Tally::by_turns(scope, |task| {
            let new = !task.kind.options.daemon && chosen(task) && !counted.contains(&task.id);
            if new {
                found.insert(task.id);
            }
            new
        });
        counted.extend(found);
        // A task that never started cannot answer.
        let may_answer = |row: &&KindRow| row.tid().is_none() && row.never_started == 0;
        let parked = new.rows().into_iter().filter(may_answer);
        let first = parked.filter_map(KindRow::to_ask).collect();
        tally.merge(new);
        first
    }

    /// Asks the tasks what they await and keeps the answers that come within [`ANSWER`].
    ///
    /// Does nothing unless the drain asks, can read stacks, and has time left. Only one question
    /// can be asked at a time in the process, so this also waits, within the same limit, for one
    /// that a dump is asking.
    async fn ask(&self, scope: &'static Scope, mut tasks: Vec<TaskId>) {
        tasks.truncate(KINDS.saturating_sub(self.ignored_now().awaits.len()));
        let may_ask = cfg!(feature = "stacks") && self.asks && Instant::now() < self.until;
        if tasks.is_empty() || !may_ask {
            return;
        }
        let answers = await_query::ask(scope, tasks, Instant::now() + ANSWER).await;
        self.ignored_now().awaits.extend(answers);
    }

    fn ignored_now(&self) -> MutexGuard<'_, Ignored> {
        self.ignored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains one group while the rest of the service keeps running, and cancels what is left if
    /// the group has a budget of its own.
    pub(super) async fn group(self, group: &TaskGroup) -> u64 {
        let scope = group.scope();
        self.tree(scope, self.until).await;
        if scope.live() > 0 && scope.drain_budget().is_some() {
            self.cancel_ignorant(scope).await;
            let until = Instant::now() + group.inner.budgets.cancel;
            self.wait(scope, until).await;
        }
        done(group)
    }

    /// Drains every group of the service. Tasks that are left at the end stay live, for the cancel
    /// layer.
    pub(crate) async fn all(&self, root: &'static Scope) {
        self.tree(root, self.until).await;
    }

    /// Tells the groups in `scope` to drain, one after the other, then `scope` itself, and waits
    /// for their tasks.
    ///
    /// Returns when no task is left, or at `until`. It is boxed because it recurses, at most as
    /// deep as groups nest.
    fn tree<'a>(
        &'a self,
        scope: &'static Scope,
        until: Instant,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let children = scope.children_to_drain();
            for (done, child) in children.iter().enumerate() {
                let now = Instant::now();
                if now >= until {
                    break;
                }
                match child.drain_budget() {
                    Some(budget) => {
                        self.tree(child.scope(), until.min(now + budget)).await;
                        if child.scope().live() > 0 && now + budget <= until {
                            self.cancel_ignorant(child.scope()).await;
                        }
                    }
                    None => {
                        // A group that hangs must not use up the time of the others: when its share
                        // is over, the next group is told. One share is for the tasks of `scope`
                        // itself.
                        let steps = u32::try_from(children.len() - done + 1).unwrap_or(u32::MAX);
                        let share = until.saturating_duration_since(now) / steps;
                        self.tree(child.scope(), now + share).await;
                    }
                }
            }
            // This also tells groups that were created in the meantime.
            scope.request_drain();
            self.wait(scope, until).await;
        })
    }

    /// Waits until no task is left below `scope` or until `until`, and cancels tasks as their own
    /// budgets end.
    async fn wait(&self, scope: &'static Scope, until: Instant) {
        let watch = scope.watch();
        loop {
            let due =
                next_task_budget(scope).map_or(until, |after| until.min(Instant::now() + after));
            if timeout_at(due, empty(&watch)).await.is_ok() || Instant::now() >= until {
                return;
            }
            self.cancel_where(scope, |budget, drained| {
                budget.is_some_and(|budget| budget <= drained)
            })
            .await;
        }
    }

    /// Cancels the tasks below `scope`, at the end of the group's own budget, except those with a
    /// longer budget of their own.
    async fn cancel_ignorant(&self, scope: &'static Scope) {
        self.cancel_where(scope, |budget, drained| {
            budget.is_none_or(|budget| budget <= drained)
        })
        .await;
    }

    /// Counts, asks and cancels the tasks below `scope` for which `over` holds. It receives the
    /// task's own drain budget and the time for which its group has been draining.
    async fn cancel_where(
        &self,
        scope: &'static Scope,
        over: impl Fn(Option<Duration>, Duration) -> bool,
    ) {
        let chosen = |kind: &registry::kind::Kind, scope: &Scope| {
            scope
                .draining_for()
                .is_some_and(|drained| over(kind.options.drain_budget, drained))
        };
        let ignorant = self.count(scope, |task| chosen(task.kind, task.scope()));
        self.ask(scope, ignorant).await;
        registry::cancel(scope, chosen);
    }
}

/// Waits for the tasks of one group after [`ask_to_end`], while the rest of the service keeps
/// running.
///
/// `walked` is the time that the first walk took.
pub(super) async fn cancel_group(group: &TaskGroup, budget: Duration, walked: Duration) -> u64 {
    ended(group.scope(), Instant::now() + budget, walked).await;
    done(group)
}

/// Cancels every task below `scope` and waits until none is left or until `until`.
pub(crate) async fn cancel_all(scope: &'static Scope, until: Instant) {
    let walked = ask_to_end(scope);
    ended(scope, until, walked).await;
}

/// Cancels every task below `scope`, and those that start there from now on. Returns the time that
/// the walk took.
pub(super) fn ask_to_end(scope: &'static Scope) -> Duration {
    scope.start_cancelling();
    walk(scope)
}

/// Walks once over the live tasks and cancels those below `scope`. Returns the time that it took.
fn walk(scope: &'static Scope) -> Duration {
    let begun = std::time::Instant::now();
    registry::cancel(scope, |_, _| true);
    begun.elapsed()
}

/// Waits until no task is left below `scope` or until `until`, and repeats the walk in growing
/// intervals.
///
/// A task that starts during a walk can be missed by it, and can itself miss the flag that cancels
/// new tasks. The next walk finds it.
async fn ended(scope: &'static Scope, until: Instant, mut walked: Duration) {
    let mut pause = WALK_FIRST;
    loop {
        let again = until.min(Instant::now() + pause.max(walked * WALK_SHARE));
        if timeout_at(again, all_ended(scope)).await.is_ok() || again == until {
            return;
        }
        pause = (pause * 4).min(WALK_LAST);
        walked = walk(scope);
    }
}

/// Waits until no task is left below `scope`, even if very many end at once.
///
/// While a waker is registered, every task that ends decrements one shared counter, which the
/// workers would contend for. So it polls the number of live tasks until only [`FEW`] are left, and
/// registers a waker then.
async fn all_ended(scope: &'static Scope) {
    loop {
        let live = scope.live();
        if live <= FEW {
            break;
        }
        let soonest = Duration::from_nanos(live.saturating_mul(END_NANOS));
        sleep(soonest.clamp(LOOK_FIRST, LOOK_LAST)).await;
    }
    empty(&scope.watch()).await;
}

/// Reopens the group if no task is left, unless the service is shutting down, and returns what is
/// left.
fn done(group: &TaskGroup) -> u64 {
    let scope = group.scope();
    let left = scope.live();
    if left == 0 && !group.registry_root().is_stopping() {
        scope.reopen();
    }
    left
}

/// Returns the time until the drain budget of a live task below `scope` ends, or `None` if none has
/// a budget that is still running.
///
/// It works by kinds, not tasks, so it may name a moment at which no task of `scope` is due.
fn next_task_budget(scope: &'static Scope) -> Option<Duration> {
    let draining: Vec<Duration> = scope
        .subtree()
        .iter()
        .filter_map(|scope| scope.draining_for())
        .collect();
    registry::kind::all()
        .filter(|kind| kind.options.drain_budget.is_some() && registry::counts(kind).live() > 0)
        .filter_map(|kind| kind.options.drain_budget)
        .flat_map(|budget| {
            draining
                .iter()
                .filter_map(move |drained| budget.checked_sub(*drained))
        })
        .min()
}
