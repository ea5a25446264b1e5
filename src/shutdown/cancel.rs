//! Layer 2: every tracked task left is cancelled; then the work runtime is closed to all, which drops the untracked.
//!
//! Nothing can cancel an untracked task alone, because nothing maps it to a handle. Closing the runtime drops them all.

use super::pipeline::{Before, Layer, Pipeline, findings};
use crate::group::cancel_all;
use crate::registry::root::Root;
use crate::registry::{self, LiveTask, Tally};
use crate::report::{CancelLayer, DrainLayer, TaskFinding, UntrackedFinding};
use crate::task::{TaskId, TaskKind};
use crate::threads::{self, ThreadClass};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks at whether anybody is left.
const LOOK_FIRST: Duration = Duration::from_micros(200);
const LOOK_LAST: Duration = Duration::from_millis(20);
/// A worker that holds the same task for so long is not about to drop others.
const STUCK: Duration = Duration::from_millis(5);
/// How often the estimate is taken: tokio's count falls a moment after a task's end.
const SETTLE: u32 = 50;

/// The work runtime being closed, on a thread of its own because that blocks.
pub(super) struct Closing {
    /// Tells when tokio's call has returned.
    pub(super) returned: Option<oneshot::Receiver<()>>,
}

impl Pipeline {
    pub(super) async fn cancel(
        &mut self,
        before: &Before,
        drain: &DrainLayer,
    ) -> (CancelLayer, Closing) {
        let mut layer = self.layer("cancel", self.plan.cancel, before);
        self.root.refuse();
        self.tracked_first(&mut layer).await;
        let sites = self.ended_by_site();
        let estimate = self.estimate_untracked().await;
        self.note_children();
        let closing = self.begin_closing(before);
        self.wait_for_tasks(&mut layer).await;
        let lingering = findings(&Tally::of(self.root.scope, |_| true));
        let count = |tasks: &[TaskFinding]| -> u64 {
            let waited = tasks.iter().filter(|task| !task.daemon);
            waited.map(|task| task.count).sum()
        };
        let layer = CancelLayer {
            timing: layer.timing(),
            cancelled: count(&drain.ignored).saturating_sub(count(&lingering)),
            untracked: self.untracked(&sites, estimate),
            panicked: Vec::new(),
            lingering,
            starved: self.starved().await,
        };
        (layer, closing)
    }

    /// Tasks that are cancelled are dropped by their workers, while timers and sockets still work for them; only then
    /// the runtime goes. Half of the budget is for those that do not come.
    async fn tracked_first(&mut self, layer: &mut Layer) {
        let half = Instant::now() + layer.left() / 2;
        let scope = self.root.scope;
        let released = self.owned.released.clone();
        let mut main = self.owned.main_runs.subscribe();
        self.guarded(layer, async {
            cancel_all(scope, half).await;
            released.send_replace(true);
            // Whoever is left is found afterwards.
            timeout_at(half, main.wait_for(|runs| !runs)).await.ok();
        })
        .await;
        self.main_stays = *self.owned.main_runs.borrow();
    }

    /// How many untracked tasks of each site had ended.
    fn ended_by_site(&self) -> HashMap<u32, u64> {
        registry::untracked_sites(&self.root)
            .into_iter()
            .map(|(kind, live, started)| (kind.number, started - live))
            .collect()
    }

    /// The tasks of the runtime that are not ours, where nobody tells us of them.
    async fn estimate_untracked(&self) -> u64 {
        if self.root.sees_untracked() || !self.owned.is_ours {
            return 0;
        }
        let mut least = u64::MAX;
        for _ in 0..SETTLE {
            let alive = self.work.metrics().num_alive_tasks() as u64;
            let alive = alive.saturating_sub(self.root.own_tasks());
            let tracked = Tally::of(self.root.scope, |task| {
                task.kind.options.runs == TaskKind::Async
            });
            least = least.min(alive.saturating_sub(tracked.count()));
            if least == 0 {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        least
    }

    fn begin_closing(&self, before: &Before) -> Closing {
        if !self.owned.has_runtime() {
            // Somebody else's, or `main` holds it.
            return Closing { returned: None };
        }
        let left = self.within_deadline(before, self.plan.cancel + self.plan.close);
        let (tell, returned) = oneshot::channel();
        let owned = Arc::clone(&self.owned);
        let started = threads::start(
            self.root.number,
            "headcount-close",
            ThreadClass::Control,
            Location::caller(),
            move || {
                if let Some(runtime) = owned.take() {
                    runtime.shutdown_timeout(left);
                }
                // Nobody may be waiting any more.
                tell.send(()).ok();
            },
        );
        if started.is_err() {
            // The system refuses a thread to wait with. The audit sees when the others are gone.
            self.owned.shutdown_background();
        }
        Closing {
            returned: started.is_ok().then_some(returned),
        }
    }

    /// How many tasks live on because no worker is free to drop them.
    async fn starved(&self) -> u64 {
        let Some(holders) = self.all_held() else {
            return 0;
        };
        // A worker that drops many tasks holds another one by then.
        sleep(STUCK).await;
        if self.all_held().as_ref() != Some(&holders) {
            return 0;
        }
        let tracked = Tally::of(self.root.scope, |task| {
            task.kind.options.runs != TaskKind::Blocking && !holders.contains_key(&task.place())
        });
        let workers = self.workers().unwrap_or(0);
        let by_untracked = workers.saturating_sub(holders.len() as u64);
        let untracked = registry::live_untracked(&self.root);
        tracked.count() + untracked.saturating_sub(by_untracked)
    }

    /// The tracked tasks that hold a worker, by slot, when none is free: untracked ones may hold the others.
    fn all_held(&self) -> Option<HashMap<usize, (TaskId, u32)>> {
        let workers = self.workers()?;
        let on_threads = registry::on_threads();
        let blocking = |task: &LiveTask| task.kind.options.runs == TaskKind::Blocking;
        let held: HashMap<_, _> = registry::live_tasks(self.root.scope)
            .into_iter()
            .filter(|task| !blocking(task))
            .filter_map(|task| Some((task.place(), (task.id, *on_threads.get(&task.place())?))))
            .collect();
        let untracked = registry::live_untracked(&self.root);
        (held.len() as u64 + untracked >= workers).then_some(held)
    }

    /// How many workers the runtime has, when all of them still live: one that was free would have ended.
    fn workers(&self) -> Option<u64> {
        if !self.owned.is_ours {
            return None;
        }
        if self.work.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return self.owned.main_runs.borrow().then_some(1);
        }
        let workers = self.work.metrics().num_workers() as u64;
        let live = threads::live_of(self.root.number).of(ThreadClass::Worker);
        (live >= Some(workers)).then_some(workers)
    }

    async fn wait_for_tasks(&mut self, layer: &mut Layer) {
        let (root, until) = (self.root.clone(), layer.until);
        let left =
            move || root.scope.live() + root.scope.live_daemons() + registry::live_untracked(&root);
        self.guarded(layer, none_left(left, until)).await;
    }

    fn untracked(
        &self,
        ended_before: &HashMap<u32, u64>,
        estimate: u64,
    ) -> Option<Vec<UntrackedFinding>> {
        if !self.owned.is_ours {
            return None;
        }
        if !self.root.sees_untracked() {
            let spawned = String::new();
            let finding = UntrackedFinding {
                spawned,
                dropped: estimate,
                lingering: 0,
            };
            return Some(if estimate > 0 {
                vec![finding]
            } else {
                Vec::new()
            });
        }
        let mut sites: Vec<UntrackedFinding> = registry::untracked_sites(&self.root)
            .into_iter()
            .map(|(kind, live, started)| {
                let before = ended_before.get(&kind.number).copied().unwrap_or(0);
                UntrackedFinding {
                    spawned: kind.site.to_string(),
                    dropped: (started - live).saturating_sub(before),
                    lingering: live,
                }
            })
            .filter(|site| site.dropped + site.lingering > 0)
            .collect();
        sites.sort_by_key(|site| std::cmp::Reverse(site.dropped + site.lingering));
        Some(sites)
    }
}

/// Waits until no untracked task lives, at most so long.
pub(super) async fn untracked_gone(root: &Root, until: Instant) {
    none_left(|| registry::live_untracked(root), until).await;
}

async fn none_left(left: impl Fn() -> u64, until: Instant) {
    let mut pause = LOOK_FIRST;
    while left() > 0 && Instant::now() < until {
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}
