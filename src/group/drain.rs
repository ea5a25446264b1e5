//! Draining and cancelling a group, within budgets.
//!
//! It runs on the control runtime: its clock runs when every worker is stuck.

use super::{TaskGroup, empty};
use crate::registry::scope::Scope;
use crate::registry::{self, LiveTask, Tally};
use crate::task::TaskId;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two walks over the tasks that are to be cancelled; longer when a walk takes long.
const WALK_FIRST: Duration = Duration::from_millis(2);
const WALK_LAST: Duration = Duration::from_millis(200);
/// As many tasks end within a millisecond or two.
const FEW: u64 = 10_000;
/// No task ends sooner after another.
const END_NANOS: u64 = 50;
/// Between two looks at whether few are left.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(20);
/// A walk takes a processor from those who end, so it may take no more than this share of the time.
const WALK_SHARE: u32 = 4;

/// What a drain or a cancel left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    left: u64,
}

/// One drain under way.
#[derive(Debug)]
pub(crate) struct Drain {
    until: Instant,
    ignored: Mutex<Ignored>,
}

/// Tasks that ignored the drain for as long as they had, each counted once: one that is cancelled may live on.
#[derive(Debug, Default)]
struct Ignored {
    tally: Tally,
    counted: HashSet<TaskId>,
}

// === impl Drained ===

impl Drained {
    pub(super) const fn new(left: u64) -> Self {
        Self { left }
    }

    /// How many tasks still live, daemons left out.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }
}

// === impl Drain ===

impl Drain {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            until: Instant::now() + budget,
            ignored: Mutex::default(),
        }
    }

    /// The tasks that had to be cancelled, and those that live; daemons left out, because nobody waits for them.
    pub(crate) fn ignored(self, scope: &'static Scope) -> Tally {
        self.count(scope, |_| true);
        let ignored = self.ignored.into_inner();
        ignored.unwrap_or_else(PoisonError::into_inner).tally
    }

    fn count(&self, scope: &'static Scope, chosen: impl Fn(&LiveTask) -> bool) {
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        let Ignored { tally, counted } = &mut *ignored;
        let mut found = HashSet::new();
        tally.merge(Tally::of(scope, |task| {
            let new = !task.kind.options.daemon && chosen(task) && !counted.contains(&task.id);
            if new {
                found.insert(task.id);
            }
            new
        }));
        counted.extend(found);
    }

    /// Drains one group while the rest of the service goes on.
    pub(super) async fn group(self, group: &TaskGroup) -> Drained {
        let scope = group.scope();
        self.tree(scope, self.until).await;
        if scope.live() > 0 && scope.drain_budget().is_some() {
            self.cancel_ignorant(scope);
            let until = Instant::now() + group.inner.budgets.cancel;
            self.wait(scope, until).await;
        }
        done(group)
    }

    /// Drains every group of the service.
    pub(crate) async fn all(&self, root: &'static Scope) {
        self.tree(root, self.until).await;
    }

    /// Tells the groups in `scope`, one after the other, and then `scope` itself, and waits for their tasks. Returns
    /// when none is left, or at `until`.
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
                            self.cancel_ignorant(child.scope());
                        }
                    }
                    None => {
                        // One group that hangs must not take the others' time: they are told when it had its share.
                        let steps = u32::try_from(children.len() - done + 1).unwrap_or(u32::MAX);
                        let share = until.saturating_duration_since(now) / steps;
                        self.tree(child.scope(), now + share).await;
                    }
                }
            }
            // Groups made meanwhile are told with their parent.
            scope.tell_to_drain();
            self.wait(scope, until).await;
        })
    }

    /// Waits until nobody is left below `scope`; cancels those whose own budget ends meanwhile.
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
            });
        }
    }

    /// The group's own budget is over: cancels all but tasks with a longer one.
    fn cancel_ignorant(&self, scope: &'static Scope) {
        self.cancel_where(scope, |budget, drained| {
            budget.is_none_or(|budget| budget <= drained)
        });
    }

    fn cancel_where(
        &self,
        scope: &'static Scope,
        over: impl Fn(Option<Duration>, Duration) -> bool,
    ) {
        let chosen = |kind: &registry::kind::Kind, scope: &Scope| {
            scope
                .draining_for()
                .is_some_and(|drained| over(kind.options.drain_budget, drained))
        };
        self.count(scope, |task| chosen(task.kind, task.scope()));
        registry::cancel(scope, chosen);
    }
}

/// Waits for the tasks of one group that were asked to end, while the rest of the service goes on.
pub(super) async fn cancel_group(group: &TaskGroup, until: Instant, walked: Duration) -> Drained {
    ended(group.scope(), until, walked).await;
    done(group)
}

/// Cancels every task below `scope` and waits until none is left, at most so long.
pub(crate) async fn cancel_all(scope: &'static Scope, until: Instant) {
    let walked = ask_to_end(scope);
    ended(scope, until, walked).await;
}

/// Cancels every task below `scope`, and those that start there from now on. The time that it took.
pub(super) fn ask_to_end(scope: &'static Scope) -> Duration {
    scope.start_cancelling();
    walk(scope)
}

fn walk(scope: &'static Scope) -> Duration {
    let begun = std::time::Instant::now();
    registry::cancel(scope, |_, _| true);
    begun.elapsed()
}

/// Waits until no task is left below `scope`, at most so long. A task that started at the moment of a walk may have been
/// missed by it, so there is another, again and again.
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

/// Waits until no task is left below `scope`, of which very many may end at once. Each end that somebody waits for is
/// counted down in one place, for which the workers would fight, so nobody waits before there are few.
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

/// With nothing left the group works again, unless the service stops.
fn done(group: &TaskGroup) -> Drained {
    let scope = group.scope();
    let left = scope.live();
    if left == 0 && !group.registry_root().is_stopping() {
        scope.reopen();
    }
    Drained::new(left)
}

/// How long until the next task below `scope` has drained for as long as it may.
fn next_task_budget(scope: &'static Scope) -> Option<Duration> {
    let told: Vec<Duration> = scope
        .subtree()
        .iter()
        .filter_map(|scope| scope.draining_for())
        .collect();
    registry::kind::all()
        .filter(|kind| kind.options.drain_budget.is_some() && registry::counts(kind).live() > 0)
        .filter_map(|kind| kind.options.drain_budget)
        .flat_map(|budget| {
            told.iter()
                .filter_map(move |told| budget.checked_sub(*told))
        })
        .min()
}
