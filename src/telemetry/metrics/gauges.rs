//! The metrics `thread_*`, `shutdown_*`, `warnings_total`, `log_dropped_total` and `runtime_*`.
//!
//! Each is a counter or gauge that is read as it stands; nothing is kept between scrapes.
//!
//! The figures come from three sources: atomics of headcount, a copy of the shutdown's timeline,
//! and the metrics of tokio
//! (<https://docs.rs/tokio/latest/tokio/runtime/struct.RuntimeMetrics.html>). The series of all
//! phases, layers, reasons and classes are present in every scrape, so none appears or vanishes
//! with the phase.

use super::family::Families;
use super::last_run::{LAYERS, unix};
use super::names;
use super::source::Source;
use crate::control::log_drops;
use crate::control::progress::Progress;
use crate::registry::count::warnings;
use crate::registry::kind::OTHER;
use crate::report::dump::Phase;
use crate::report::{Outcome, Reason};
use crate::threads::{self, ThreadClass};

// Named in the documentation on every build, and read only with tokio's unstable metrics.
#[cfg(not(tokio_unstable))]
const _: &names::Name = &names::RUNTIME_BLOCKING_QUEUE;

/// The most workers with series of their own; the time of the others is added up under `_other`.
/// The bound keeps a machine with very many processors from making very many series.
const WORKERS: usize = 256;

/// The phase that belongs to each layer of [`LAYERS`], in the same order.
pub(crate) const PHASES: [Phase; 3] = [Phase::Draining, Phase::Cancelling, Phase::Closing];

/// Adds `shutdown_*`, `warnings_total` and `log_dropped_total`.
///
/// The phase is read before the timeline, without a common lock. A scrape at a change may show the
/// new timeline with the old phase. The duration of a layer that is running grows from scrape to
/// scrape.
pub(crate) fn shutdown(source: &Source, families: &mut Families) {
    let current = source.progress.phase();
    let seen = source.progress.timeline();
    for phase in Progress::PHASES {
        let is_it = u64::from(phase == current);
        families.add(&names::SHUTDOWN_PHASE, &[phase.as_str()], is_it as f64);
    }
    families.add(&names::SHUTDOWN_STARTED, &[], seen.begun.map_or(0.0, unix));
    for ((layer, phase), budget) in LAYERS.iter().zip(PHASES).zip(source.budgets) {
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
    for (reason, count) in log_drops::counts() {
        families.add(&names::LOG_DROPPED, &[reason], count as f64);
    }
}

/// Adds `thread_*`. The lingering threads are those of the report, so they are 0 until it is final.
///
/// The live ones are those of the process, not of one runtime; counting them costs about a
/// microsecond.
pub(crate) fn threads(source: &Source, families: &mut Families) {
    for (class, live) in threads::live().iter() {
        families.add(&names::THREAD_LIVE, &[class.as_str()], live as f64);
    }
    let report = source.progress.timeline().report;
    for class in ThreadClass::ALL {
        let findings = report.iter().flat_map(|report| &report.close.threads);
        let count = findings.filter(|thread| thread.class == class).count();
        families.add(&names::THREAD_LINGERING, &[class.as_str()], count as f64);
    }
}

/// Adds `runtime_*`, and sends a heartbeat to the runtime.
///
/// The heartbeat task of headcount itself is not counted as a task of the runtime.
///
/// The queue length of the blocking pool exists only with `tokio_unstable`. The age of the
/// heartbeat is absent until the first one was answered.
pub(crate) fn runtime(source: &Source, families: &mut Families) {
    let metrics = source.work.metrics();
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
    let own = source.root.own_tasks();
    let alive = (metrics.num_alive_tasks() as u64).saturating_sub(own);
    families.add(&names::RUNTIME_TASKS, &[], alive as f64);
    if let Some(threads) = blocking_threads(source) {
        families.add(&names::RUNTIME_BLOCKING_THREADS, &[], threads as f64);
    }
    #[cfg(tokio_unstable)]
    families.add(
        &names::RUNTIME_BLOCKING_QUEUE,
        &[],
        metrics.blocking_queue_depth() as f64,
    );
    source.heartbeat.send(&source.root, &source.work);
    if let Some(age) = source.heartbeat.age() {
        families.add(&names::RUNTIME_HEARTBEAT, &[], age.as_secs_f64());
    }
}

/// Returns the number of threads in the blocking pool; `None` on a runtime that headcount attached
/// to.
///
/// Only the thread hooks of a runtime that headcount builds tell which threads belong to it. The
/// admin API shows the same figure.
pub(crate) fn blocking_threads(source: &Source) -> Option<u64> {
    let counts = threads::live_of(source.root.number);
    source
        .owns_runtime
        .then(|| counts.of(ThreadClass::Blocking))
        .flatten()
}
