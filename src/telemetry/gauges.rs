//! `shutdown_*`, `thread_*`, `warnings_total` and `runtime_*`: what one number or a few tell.

use super::family::Families;
use super::names;
use super::past::{LAYERS, unix};
use super::watched::Watched;
use crate::registry::kind::OTHER;
use crate::registry::warnings;
use crate::report::dump::Phase;
use crate::report::{Outcome, Reason};
use crate::shutdown::Standing;
use crate::threads::{self, ThreadClass};

/// Workers with a series of their own; the rest are added up.
const WORKERS: usize = 256;

/// The phase in which each layer is done.
pub(crate) const PHASES: [Phase; 3] = [Phase::Draining, Phase::Cancelling, Phase::Closing];

pub(crate) fn shutdown(watched: &Watched, families: &mut Families) {
    let current = watched.standing.phase();
    let seen = watched.standing.course().seen();
    for phase in Standing::PHASES {
        let is_it = u64::from(phase == current);
        families.add(&names::SHUTDOWN_PHASE, &[phase.as_str()], is_it as f64);
    }
    families.add(&names::SHUTDOWN_STARTED, &[], seen.begun.map_or(0.0, unix));
    for ((layer, phase), budget) in LAYERS.iter().zip(PHASES).zip(watched.budgets) {
        let took = seen.took(phase).as_secs_f64();
        families.add(&names::SHUTDOWN_LAYER_DURATION, &[layer], took);
        families.add(
            &names::SHUTDOWN_LAYER_BUDGET,
            &[layer],
            budget.as_secs_f64(),
        );
    }
    for (reason, count) in Reason::WORDS.iter().zip(seen.requested) {
        families.add(&names::SHUTDOWN_REQUESTED, &[reason], count as f64);
    }
    let forced = seen.report.as_ref().map(|report| report.outcome) == Some(Outcome::Forced);
    families.add(&names::SHUTDOWN_FORCED, &["cancel"], seen.cut as f64);
    families.add(
        &names::SHUTDOWN_FORCED,
        &["exit"],
        f64::from(u8::from(forced)),
    );
    for (kind, count) in warnings::counts() {
        families.add(&names::WARNINGS, &[kind], count as f64);
    }
}

pub(crate) fn threads(watched: &Watched, families: &mut Families) {
    for (class, live) in threads::live().iter() {
        families.add(&names::THREAD_LIVE, &[class.as_str()], live as f64);
    }
    let report = watched.standing.course().seen().report;
    for class in ThreadClass::ALL {
        let findings = report.iter().flat_map(|report| &report.close.threads);
        let count = findings.filter(|thread| thread.class == class).count();
        families.add(&names::THREAD_LINGERING, &[class.as_str()], count as f64);
    }
}

pub(crate) fn runtime(watched: &Watched, families: &mut Families) {
    let metrics = watched.work.metrics();
    let workers = metrics.num_workers();
    families.add(&names::RUNTIME_WORKERS, &[], workers as f64);
    let busy = |worker| metrics.worker_total_busy_duration(worker).as_secs_f64();
    for worker in 0..workers.min(WORKERS) {
        families.add(&names::RUNTIME_BUSY, &[&worker.to_string()], busy(worker));
    }
    if workers > WORKERS {
        let rest = (WORKERS..workers).map(busy).sum();
        families.add(&names::RUNTIME_BUSY, &[OTHER], rest);
    }
    let queued = metrics.global_queue_depth();
    families.add(&names::RUNTIME_QUEUE, &[], queued as f64);
    let own = watched.root.own_tasks();
    let alive = (metrics.num_alive_tasks() as u64).saturating_sub(own);
    families.add(&names::RUNTIME_TASKS, &[], alive as f64);
    if let Some(threads) = blocking_threads(watched) {
        families.add(&names::RUNTIME_BLOCKING_THREADS, &[], threads as f64);
    }
    #[cfg(tokio_unstable)]
    families.add(
        &names::RUNTIME_BLOCKING_QUEUE,
        &[],
        metrics.blocking_queue_depth() as f64,
    );
    watched.heartbeat.send(&watched.root, &watched.work);
    if let Some(age) = watched.heartbeat.age() {
        families.add(&names::RUNTIME_HEARTBEAT, &[], age.as_secs_f64());
    }
}

/// On a runtime of somebody else nobody tells whose a thread is.
pub(crate) fn blocking_threads(watched: &Watched) -> Option<u64> {
    let counts = threads::live_of(watched.root.number);
    watched
        .owns_runtime
        .then(|| counts.of(ThreadClass::Blocking))
        .flatten()
}
