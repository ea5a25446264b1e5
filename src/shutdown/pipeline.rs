//! The pipeline: runs one shutdown from its first reason to the report.
//!
//! It goes through the optional pre-drain delay, the layers drain, cancel and close, the evidence of
//! what is left, the exit hooks, the printed report, and the wait for a final scrape. Each step is a
//! function over the [`Context`] that returns its part of the report, and each is bounded by its
//! budget and by what the deadline leaves. While a layer waits, messages are handled and the status
//! line is drawn.
//!
//! It reports failures instead of returning them.
//!
//! The bounds of the steps, in their order. "Deaf" means that messages wait in the inbox meanwhile:
//! a second signal then has no effect before the next step. The third one still ends the process.
//!
//! ```text
//! step               at most                              leaves of the deadline   deaf
//! pre-drain delay    plan.pre_drain                       0                        no
//! drain              plan.drain                           0                        no
//!   questions        20 ms for threads, 0.1 s for stacks,
//!                    0.1 s for answers                    -                        yes
//! cancel             plan.cancel                          0                        no
//! close              plan.close                           0                        no
//!   last look        20 ms                                -                        yes
//! evidence           5 s                                  0.3 s                    yes
//! exit hooks         the budget of each, at once          0.3 s                    yes
//! print              0.2 s for the log, 0.5 s for text    0.1 s for the text       yes
//! final scrape       plan.scrape_hold                     0.5 s                    no
//! ```
//!
//! A close layer that sees a thread which is just starting may take up to 5 s more. The default
//! deadline leaves 1.5 s or more for all that comes after the layers; whatever takes longer than the
//! deadline is cut by the watchdog, if the process may be ended.

use super::context::Context;
use super::{cancel, close, drain, evidence, exit_hooks, last_scrape};
use crate::audit::ownership::OwnChildren;
use crate::audit::{self, Baseline, ThreadKey};
use crate::control::output::{self, Output, Stream};
use crate::control::plan::Print;
use crate::control::watchdog::EXIT_CODE;
use crate::recorder::{self, What};
use crate::report::dump::Phase;
use crate::report::not_observed::NO_SITES;
use crate::report::{
    self, CancelLayer, ChildRow, CloseLayer, DrainLayer, Outcome, Reason, Report, verdict,
};
use crate::task::TaskOutcome;
use crate::threads::ThreadClass;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest wait for the printed report to be written.
///
/// A pipe or terminal that is read takes microseconds. Text that is not written by then stays with
/// the printing thread, which goes on while the process lives.
const PRINT_BUDGET: Duration = Duration::from_millis(500);
/// The part of the deadline that is reserved for the exit while the report is printed. `main` needs
/// it to receive the report, drop the runtime and return.
const EXIT: Duration = Duration::from_millis(100);
/// The longest wait for log events before the report is printed. It is spent twice: before the exit
/// hooks, and before the printed report. The control thread blocks meanwhile.
const LOG_BUDGET: Duration = Duration::from_millis(200);
/// The most log events about lingering tasks, and about lingering threads. The report has all of
/// them. Twice that many fit into the queue of the log, which drops events when it is full.
const LOGGED: usize = 32;

/// Stops the service, and returns the report. Exits the process instead if `main` still blocks its
/// thread and the process may be ended.
///
/// Log events about the result are sent before the exit hooks run, because one may push the log. The
/// report is printed after them, because it shows their results. The wait for a final scrape comes
/// last: only scrapes that begin after the report was published count for it.
///
/// The order of the steps matters in these places:
///
/// - The threads and children of the service are listed before anything is told to stop, so that
///   the report can tell a thread that ended from one that appeared in the shutdown.
/// - The phase is `Done` before the evidence is collected: no layer runs any more, and a second
///   signal cuts nothing.
/// - The tasks that outlived the cancel layer are looked at again when the close layer is over, so
///   that the report names none as lingering that has ended.
/// - Tasks are completed with stacks before the report is built; it does not change afterwards,
///   except for the results of the exit hooks.
/// - The time `published` is taken after the report is in the progress, so a scrape that begins
///   later contains it.
///
/// Nothing here returns an error. A step that could not observe something adds a sentence to
/// `not_observed`.
pub(super) async fn run(cx: &mut Context, reason: Reason) -> Arc<Report> {
    cx.begin(&reason);
    let before = threads(&cx.baseline);
    cx.stop_serving(&reason);
    let mut children = OwnChildren::default();
    children.note(&cx.baseline, &cx.plan.unknown_threads);
    let pre_drain = drain::pre_drain(cx, &reason).await;
    let drained = drain::run(cx).await;
    let mut cancelled = cancel::run(cx, &drained.layer, drained.early, &mut children).await;
    let mut closed = close::run(cx, cancelled.closing.take(), &children).await;
    let mut outlived = cancelled.look_again(cx).await;
    let panicked = cx.take_panics();
    cx.enter(Phase::Done);
    let total = cx.begun.elapsed();

    let evidence = evidence::collect(
        cx,
        drained.seen,
        &outlived.lingering,
        closed.tids().collect(),
    )
    .await;
    closed.judge_again(&evidence);
    let mut drain = drained.layer;
    evidence.complete_ignored(&mut drain.ignored);
    evidence.complete_lingering(&mut outlived.lingering);
    let main_stays = cancelled.main_stays;
    let mut not_observed = Vec::from_iter(cancelled.not_observed());
    let cancel = cancelled.into_layer(outlived, panicked);
    let close = closed.layer(cx, &evidence, &before);
    let processes = processes(cx);
    if cancel
        .untracked
        .iter()
        .flatten()
        .any(|row| row.spawned.is_none())
    {
        not_observed.push(NO_SITES.to_owned());
    }
    not_observed.extend(closed.not_observed(cx));
    not_observed.extend(evidence.not_observed());
    let mut report = Report {
        schema: report::SCHEMA,
        service: cx.plan.service.clone(),
        pid: std::process::id(),
        required_failed: reason.is_failure(),
        reason,
        outcome: outcome(cx, main_stays, (&drain, &cancel, &close), &processes),
        strict: cx.plan.strict,
        total,
        pre_drain,
        drain,
        cancel,
        close,
        failed_tasks: cx.mishaps.ended(TaskOutcome::Failed),
        panicked_tasks: cx.mishaps.ended(TaskOutcome::Panicked),
        given_up_processes: cx.root.given_up(),
        lost_records: BTreeMap::new(),
        verdict: None,
        processes,
        not_observed,
        flush: Vec::new(),
    };
    report.verdict = verdict::of(&report);

    log_completed(&cx.output, &report);
    log_lingering(&cx.output, &report);
    cx.output.flush_logs(LOG_BUDGET);
    let report = exit_hooks::run(cx, report).await;
    let published = std::time::Instant::now();
    print(cx, &report);
    last_scrape::wait(cx, published).await;
    if report.outcome == Outcome::Forced {
        // `main` still blocks the thread that would return the report.
        signal_hook::low_level::exit(EXIT_CODE);
    }
    report
}

/// Returns the threads of the process, except those of the control side: they come and go, and one
/// that takes a dump is not a thread of the service that ended. Costs one read of `/proc/self/task`
/// and of one file per thread. Empty if threads are not observed.
fn threads(baseline: &Baseline) -> HashSet<ThreadKey> {
    let threads = audit::threads(baseline).into_iter();
    threads
        .filter(|thread| thread.class() != ThreadClass::Control)
        .map(|thread| thread.os.key)
        .collect()
}

/// Returns the rows of the child processes that tasks ran when the shutdown began.
fn processes(cx: &Context) -> Vec<ChildRow> {
    let begun = cx.begun.into_std();
    let all = cx.root.processes.all().into_iter();
    let ran = all.filter(|process| {
        let end = process.state().end;
        end.is_none_or(|(_, at)| at >= begun)
    });
    ran.filter_map(|process| ChildRow::of_task(&process))
        .collect()
}

/// Returns the outcome of the shutdown.
///
/// It is forced if `main` hangs and the process may be ended. Otherwise it is lingering if a task,
/// thread or child is left or the end of a child was not seen, clean if nothing had to be
/// cancelled, dropped or killed, and cancelled in all other cases.
///
/// `Forced` does not depend on the deadline: a `main` that still blocks its thread would keep the
/// report from being returned, so the process ends with [`EXIT_CODE`] right after the last step.
/// Where headcount may not end the process, the other rules decide, and `main` shows as a lingering
/// task.
fn outcome(
    cx: &Context,
    main_stays: bool,
    (drain, cancel, close): (&DrainLayer, &CancelLayer, &CloseLayer),
    processes: &[ChildRow],
) -> Outcome {
    // A `main` that started after the cancel is not counted: it is cancelled before its first poll,
    // and is about to return.
    let is_forced = main_stays && *cx.owned.main_runs.borrow() && cx.plan.may_exit;
    let lingers = cancel.lingering() > 0
        || !close.threads.is_empty()
        || !close.children.is_empty()
        || processes.iter().any(|process| process.end.is_none());
    let is_killed = processes.iter().any(|process| !process.killed.is_empty());
    let all_drained = drain.ignored.is_empty() && drain.not_polled.is_empty();
    if is_forced {
        Outcome::Forced
    } else if lingers {
        Outcome::Lingering
    } else if all_drained && cancel.cancelled == 0 && cancel.dropped() == 0 && !is_killed {
        Outcome::Clean
    } else {
        Outcome::Cancelled
    }
}

/// Logs the exit hooks that failed, prints the report, and waits until it is written.
///
/// Blocks the control thread: the watch and the drains of groups stand still meanwhile, which is
/// harmless at this point because all tasks are cancelled. The text is formatted here and written
/// by the printing thread.
fn print(cx: &Context, report: &Report) {
    for flush in report.flush.iter().filter(|flush| !flush.is_delivered()) {
        let (signal, text) = (flush.signal.clone(), flush.text.clone());
        cx.output
            .log(move || tracing::warn!(target: "headcount::shutdown", signal, "{text}"));
    }
    // The log comes first, so that the report is the last output, unless the log takes too
    // long.
    cx.output.flush_logs(LOG_BUDGET);
    let text = match cx.plan.print {
        Print::Nowhere => None,
        Print::Text => Some(report.to_text(output::has_colours(Stream::Stderr))),
        Print::Json => Some(report.to_json() + "\n"),
    };
    if let Some(text) = text {
        cx.output.text(cx.plan.print.stream(), text);
    }
    // If the reader of the stream is stuck, the report is still returned before the deadline.
    let left = cx.deadline().saturating_duration_since(Instant::now());
    cx.output.flush(PRINT_BUDGET.min(left.saturating_sub(EXIT)));
}

/// Logs that the shutdown is complete. At the info level if the outcome is clean or cancelled, else
/// as a warning. The event is emitted by the log thread; values are copied because the report
/// changes hands meanwhile.
fn log_completed(output: &Output, report: &Report) {
    let (outcome, reason) = (report.outcome, report.reason.to_string());
    let service = report.service.clone();
    let total = report.total.as_secs_f64();
    let tasks = report.lingering_tasks();
    let threads = report.close.threads.len();
    let verdict = report.verdict.clone();
    output.log(move || match outcome {
        Outcome::Clean | Outcome::Cancelled => tracing::info!(
            name: "headcount.shutdown.completed",
            target: "headcount::shutdown",
            service, reason, outcome = outcome.as_str(), total_seconds = total, verdict,
            "shutdown completed"
        ),
        Outcome::Lingering | Outcome::Forced | Outcome::Unclean => tracing::warn!(
            name: "headcount.shutdown.completed",
            target: "headcount::shutdown",
            service, reason, outcome = outcome.as_str(), total_seconds = total,
            lingering_tasks = tasks, lingering_threads = threads, verdict,
            "shutdown completed"
        ),
    });
}

/// Logs each lingering task and thread. At most [`LOGGED`] of each, oldest kind of task first,
/// because the report lists them so. Tasks of one kind share an event.
fn log_lingering(output: &Output, report: &Report) {
    for task in report.cancel.lingering.iter().take(LOGGED) {
        let (group, name, count) = (task.group, task.name, task.count);
        let (age, spawned) = (task.oldest.as_secs_f64(), task.spawned.to_string());
        // The id of the first one. The record belongs to its trace.
        let id = task.rows.first().map_or(0, |task| task.id.get());
        let words = report::path(group, name);
        recorder::note(What::Lingers, None, &words);
        output.log(move || {
            tracing::warn!(
                name: "headcount.task.lingering",
                target: "headcount::task",
                group, task = name, id, count, age_seconds = age, spawned,
                "task lingers"
            );
        });
    }
    for thread in report.close.threads.iter().take(LOGGED) {
        let (name, class, tid) = (thread.name.clone(), thread.class, thread.tid);
        recorder::note(What::ThreadLingers, None, &name);
        output.log(move || {
            tracing::warn!(
                name: "headcount.thread.lingering",
                target: "headcount::shutdown",
                thread = name, class = class.as_str(), tid,
                "thread lingers"
            );
        });
    }
}
