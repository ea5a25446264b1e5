//! Spawn and join: the cost of tracking for a task that does nothing, and for one that yields ten
//! times.

use crate::{
    harness::{Scale, Variant, interleave},
    headcount::{self, Owned},
    peers::{
        self, BARE, BARE_AGAIN, Bare, JOIN_SET, MONITOR, Monitor, Peer, SUBSYSTEMS, Set, TOKEN,
        TRACKER, Tracker, TrackerAndToken, drive, spawn_and_join,
    },
    rounds::BATCH,
    table::{Limit, Row, Section, Unit},
};
use std::time::Duration;
use tokio::runtime::Runtime;

/// A runtime with headcount's hooks, which an attached group does not have.
const OWNED: &str = "headcount, its own runtime";
/// Divides the number of tasks that yield, which take about four times as long.
const YIELDING_SHARE: usize = 4;
/// Divides the number of subsystems, each of which takes many times as long as a task.
const SUBSYSTEM_SHARE: usize = 4;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let settings = [(2, 0, 1.10), (1, 0, 1.20), (2, 10, 1.10), (1, 10, 1.10)];
    settings
        .map(|(workers, yields, limit)| one(scale, workers, yields, limit))
        .into()
}

fn one(scale: &Scale, workers: usize, yields: usize, limit: f64) -> Section {
    let share = if yields == 0 { 1 } else { YIELDING_SHARE };
    let total = (scale.spawned / share).max(BATCH);
    let mut variants = variants(workers, total, yields);
    let rows = interleave(&mut variants, scale.repetitions)
        .into_iter()
        .map(|(name, figure)| Row::new((name, figure.per(total))))
        .collect();
    let place = if workers == 1 {
        "1 thread"
    } else {
        "2 workers"
    };
    let limits = [
        Limit::Ratio(limit),
        Limit::Below(JOIN_SET),
        Limit::Below(TOKEN),
        Limit::Below(MONITOR),
    ];
    Section {
        title: format!("Spawn and join, {place}, {yields} yields"),
        unit: Unit::Nanoseconds,
        note: "Per task. Tasks are spawned from within the runtime in batches of 1,000; each batch is joined before \
               the next.",
        rows,
    }
    .limit(headcount::NAME, &limits)
    .limit(OWNED, &limits)
}

fn variants(workers: usize, total: usize, yields: usize) -> Vec<Variant> {
    // Each round gets a fresh runtime: the kernel's placement of two workers changes a figure by a
    // third, and a runtime that stays keeps its placement for the whole run.
    let on = |name, repetition: fn(Work) -> Duration| {
        Variant::new(name, move || {
            repetition(Work {
                runtime: match workers {
                    1 => peers::current_thread(),
                    _ => peers::pool(workers),
                },
                total,
                yields,
            })
        })
    };
    let mut variants = vec![
        on(BARE, |work| work.with(|| Bare)),
        on(BARE_AGAIN, |work| work.with(|| Bare)),
        on(headcount::NAME, |work| work.with(headcount::attached)),
        on(TRACKER, |work| work.with(Tracker::new)),
        on(TOKEN, |work| work.with(TrackerAndToken::new)),
        on(JOIN_SET, |work| work.with(Set::new)),
        on(MONITOR, |work| work.with(Monitor::new)),
        on(SUBSYSTEMS, |work| work.subsystems()),
    ];
    // headcount's own runtime always has workers; it never uses the current thread.
    if workers > 1 {
        variants.insert(3, owned(workers, total, yields));
    }
    variants
}

fn owned(workers: usize, total: usize, yields: usize) -> Variant {
    Variant::new(OWNED, move || {
        let owned = Owned::new(workers);
        let tasks = owned.tasks();
        owned.drive(spawn_and_join(tasks, total, yields))
    })
}

/// The work of one repetition.
struct Work {
    runtime: Runtime,
    total: usize,
    yields: usize,
}

// === impl Work ===

impl Work {
    /// Runs the repetition; `peer` is called within the runtime.
    fn with<P: Peer>(self, peer: impl FnOnce() -> P) -> Duration {
        let guard = self.runtime.enter();
        let peer = peer();
        drop(guard);
        drive(&self.runtime, spawn_and_join(peer, self.total, self.yields))
    }

    fn subsystems(self) -> Duration {
        let total = (self.total / SUBSYSTEM_SHARE).max(BATCH);
        let took = drive(&self.runtime, peers::subsystems(total, self.yields));
        took.mul_f64(self.total as f64 / total as f64)
    }
}
