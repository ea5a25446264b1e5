//! Layer 1, drain: after the optional pre-drain delay, tells all groups to drain and waits until every
//! tracked task has ended.
//!
//! The walk over the groups, and the cancel of tasks that have a budget of their own, are in
//! `group/drain.rs`; this file applies them to the whole service and makes the layer's part of the
//! report. Tasks that are over the layer's budget are left for the cancel layer: nothing is
//! cancelled here because the layer ends.

use super::cancel::held::Held;
use super::cancel::{Early, Untracked};
use super::context::Context;
use super::evidence::{self, Seen};
use super::layer::alongside;
use super::thread_rules::ThreadRules;
use crate::control::output::Stream;
use crate::control::plan::Print;
use crate::group::Drain;
use crate::report::Reason;
use crate::report::dump::Phase;
use crate::report::{DrainLayer, KindRow, brief};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest wait for untracked tasks that are spawned in the drain, if the service has not set
/// one.
const CLEAN_UP: Duration = Duration::from_secs(1);

/// The result of the layer.
pub(super) struct Drained {
    /// The layer's part of the report, without stacks and await chains.
    pub(super) layer: DrainLayer,
    /// The stacks and await chains of tasks that ignored the drain, which are being symbolized.
    pub(super) seen: Seen,
    /// The untracked tasks in the middle of the drain, if it came so far.
    pub(super) early: Option<Early>,
}

/// Waits for the pre-drain delay. Readiness has already failed, and load balancers may need a while
/// to notice. Returns how long it took.
///
/// Tasks are not told anything yet, and new ones may start. The time is capped by the deadline, and
/// a second signal ends it. With text output a line says so on standard error, because nothing else
/// would explain why the service still serves.
pub(super) async fn pre_drain(cx: &mut Context, reason: &Reason) -> Duration {
    if cx.plan.pre_drain.is_zero() {
        return Duration::ZERO;
    }
    if cx.plan.print == Print::Text {
        let text = format!(
            "headcount {}: stopping ({reason}): no longer ready, still serving for {}\n",
            cx.plan.service,
            brief(cx.plan.pre_drain)
        );
        cx.output.text(Stream::Stderr, text);
    }
    let mut layer = cx.layer("pre-drain", cx.plan.pre_drain);
    let until = layer.until;
    cx.guarded(&mut layer, tokio::time::sleep_until(until))
        .await;
    layer.timing().took
}

/// Runs the layer.
///
/// Tasks that are spawned during the drain count as tasks of the layer. After a second signal
/// during the pre-drain delay the layer is skipped and marked as cut.
///
/// `live` is read before the first group is told to drain. A task that was cancelled in the layer
/// because of a budget of its own counts as ignored, not as ended.
///
/// Untracked tasks are waited for after the tracked ones, since those may still spawn.
///
/// The tasks that had no turn because a thread is held are told apart from those that ignored the
/// drain. The stacks and answers of the latter are taken last, while the tasks exist. That takes up
/// to 220 ms beyond the budget; the deadline does not shorten it.
///
/// Debug information is loaded in advance, because that may take longer than the later layers do on
/// a busy machine: from the beginning if an unknown thread needs a rule about its stack, else when
/// half of the budget is used.
pub(super) async fn run(cx: &mut Context) -> Drained {
    cx.enter(Phase::Draining);
    let scope = cx.root.scope;
    let (live, started) = (scope.live(), scope.started());
    let mut layer = cx.layer("drain", cx.plan.drain);
    // The results are read by nothing: a thread's stack may change until it is judged.
    let _roots = ThreadRules::new(cx.root.number, &cx.plan).warm(&cx.baseline, &cx.symbolizer);
    let (mut warm, mut early) = (None, None);
    let drain = Drain::new(layer.left()).asking();
    if cx.signals_seen < 2 {
        let (untracked, until) = (Untracked::of(cx), layer.until);
        let (besides, share) = match cx.plan.untracked {
            Some(share) => (HashMap::new(), share),
            None => (untracked.live(), CLEAN_UP),
        };
        let work = async {
            drain.all(scope).await;
            let last = Instant::now().checked_add(share);
            let last = last.map_or(until, |last| last.min(until));
            untracked.gone(&besides, last).await;
        };
        let half = until - layer.left() / 2;
        let (warm_root, symbolizer) = (Arc::clone(&cx.root), cx.symbolizer.clone());
        let warming = evidence::warm(&warm_root, &symbolizer, half);
        let others = Untracked::of(cx);
        // Kept if the budget ends the wait.
        let describing = async { early = others.describe_early(half, until).await };
        let both = alongside(alongside(work, warming), describing);
        let done = cx.guarded(&mut layer, both).await;
        warm = done.and_then(|((_, warm), _)| warm);
    } else {
        layer.cut = true;
    }
    let (left, answers) = drain.ignored(scope);
    let (timing, count) = (layer.timing(), left.count());
    let mut ignored = since_told(cx, left.into_findings());
    let held = Held::after_drain(cx, &ignored).await;
    let tasks = live + (scope.started() - started);
    let layer = DrainLayer {
        timing,
        tasks,
        ended: tasks.saturating_sub(count),
        not_polled: held.take_from(cx, &mut ignored, false),
        ignored,
        panicked: cx.take_panics(),
    };
    let seen = evidence::after_drain(cx, &layer.ignored, answers).await;
    // Its request would delay those that follow.
    drop(warm);
    Drained { layer, seen, early }
}

/// Counts the time of tasks that run a child process from the signal that asked the process to stop.
/// One that had to wait for others was not told by then.
fn since_told(cx: &Context, mut ignored: Vec<KindRow>) -> Vec<KindRow> {
    for row in &mut ignored {
        if let Some(process) = cx.root.processes.of_task(&row.path()) {
            row.draining = process.told.map(|(_, at)| at.elapsed());
        }
    }
    ignored
}
