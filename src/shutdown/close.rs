//! Layer 3, close: waits until the runtime's threads and the child processes are gone, and names
//! those that are left.
//!
//! It audits the process again and again: every thread is compared with the baseline, the
//! registered threads and the rules for expected ones. Meanwhile threads that have opted in are
//! asked to stop (see [`stop_threads`](super::stop_threads)). The layer ends when nothing lingers,
//! or with its budget. It kills no thread and no process.
//!
//! A look lists `/proc/self/task` and reads one file for each thread, so it is exact for threads
//! that headcount never saw. Looks begin 0.5 ms apart and end 50 ms apart. The report is made
//! later, by [`Closed::layer`], because the stacks that are read afterwards may excuse a thread.

mod blocked;

use super::cancel::Closing;
use super::context::Context;
use super::evidence::Evidence;
use super::stop_threads::StopRequests;
use super::thread_rules::ThreadRules;
use crate::audit::ownership::{OwnChildren, STARTING};
use crate::audit::waits::ThreadWait;
use crate::audit::{self, Audited, ThreadKey};
use crate::report::dump::Phase;
use crate::report::not_observed::{NO_PROC, other_runtimes};
use crate::report::stack;
use crate::report::tally::Tally;
use crate::report::{ChildRow, CloseLayer, ThreadRow, Timing};
use crate::stacks::locks;
use crate::stacks::trace::{Trace, hints};
use crate::threads::Stop;
use blocked::{Blocked, SETTLE};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The first pause between two audits. It doubles up to `LOOK_LAST`.
const LOOK_FIRST: Duration = Duration::from_micros(500);
/// The longest pause between two audits.
const LOOK_LAST: Duration = Duration::from_millis(50);
/// The time before the end of the layer in which expected threads are looked at, however many
/// linger: enough for two looks [`SETTLE`] apart, with the pause and the audit before the first.
const LOOKS: Duration = SETTLE.saturating_mul(3);
/// The part of the deadline that is left for the report when a thread that is just starting makes
/// the layer longer.
const REPORT: Duration = Duration::from_millis(500);
/// The most lingering threads in the report. Stacks are read of as many. The number of the others
/// is in `not_observed`.
pub(super) const LISTED: usize = 1000;

/// The threads and children that are left when the layer is over.
pub(super) struct Closed {
    /// The time of the layer, the wait for tokio's shutdown call included.
    timing: Timing,
    children: Vec<ChildRow>,
    /// The threads that should be gone.
    lingering: Vec<Audited>,
    /// The unknown threads that a rule about stacks may expect, and whose stacks were not symbolized
    /// in time. Empty until the rules are applied for the last time.
    undecided: Vec<Audited>,
    /// The threads that may be alive. The baseline, the control side, `main`, daemons, other
    /// runtimes, and threads that a rule expects.
    rest: Vec<Audited>,
    /// Kept, because the rules are applied once more with the stacks of the evidence.
    rules: ThreadRules,
    /// The threads among `rest` that were blocked at the end of the layer.
    blocked: Blocked,
}

/// Runs the layer.
///
/// It first waits for tokio's shutdown call to return, then audits until no child and no
/// lingering thread is left and no thread is undecided, or until the budget is over. Unknown
/// threads are looked at meanwhile, in case a rule expects them.
///
/// An expected thread that seems blocked, or that is at work although its rule holds only while it
/// is idle, is looked at for longer, within the budget. Only a thread that was blocked for [`SETTLE`]
/// at the last look is called blocked.
///
/// A closing that does not return within the budget is no finding by itself: the threads that keep
/// it are. Messages are handled and the status line is drawn all the time; nothing cuts this layer
/// short.
///
/// A thread that may still turn out to be headcount's own or the service's extends the layer by up
/// to [`STARTING`], beyond the budget and regardless of the deadline. Interrupts end with the
/// layer, before stacks are read.
pub(super) async fn run(cx: &mut Context, closing: Closing, children: &OwnChildren) -> Closed {
    cx.enter(Phase::Closing);
    let mut layer = cx.layer("close", cx.plan.close);
    let until = layer.until;
    let requests = StopRequests::begin(&cx.root);
    if let Some(returned) = closing {
        cx.guarded(&mut layer, timeout_at(until, returned)).await;
    }
    let last = cx.deadline() - REPORT.min(cx.plan.deadline);
    let mut pause = LOOK_FIRST;
    let mut rules = ThreadRules::new(cx.root.number, &cx.plan);
    let mut blocked = Blocked::default();
    let (lingering, rest, children) = loop {
        let (lingering, rest) = rules.split(audit::threads(&cx.baseline));
        let children = children.alive(&cx.baseline, &cx.plan.unknown_threads);
        let undecided = rest.iter().any(|thread| rules.is_undecided(thread));
        let at_work = rest.iter().any(|thread| rules.is_at_work(thread));
        let done = children.is_empty() && lingering.is_empty() && !undecided && !at_work;
        // A thread that is just starting is waited for beyond the budget: ignoring it could
        // miss a leak. The deadline holds all the same.
        let longest = if undecided {
            until.max((until + STARTING).min(last))
        } else {
            until
        };
        let is_over = Instant::now() >= longest;
        let is_near = Instant::now() + LOOKS >= until;
        let is_unsure = (done || is_near) && blocked.look(&rest, &rules);
        if is_over || (done && !is_unsure) {
            break (lingering, rest, children);
        }
        rules.look(&lingering, &cx.symbolizer);
        let pause_now = pause.min(longest.saturating_duration_since(Instant::now()));
        cx.guarded(&mut layer, rules.wait(pause_now)).await;
        pause = (pause * 2).min(LOOK_LAST);
    };
    drop(requests);
    blocked.settle();
    Closed {
        timing: layer.timing(),
        children: children.into_iter().map(ChildRow::from).collect(),
        lingering,
        undecided: Vec::new(),
        rest,
        rules,
        blocked,
    }
}

// === impl Closed ===

impl Closed {
    /// Returns the ids of the lingering threads, as many as the report lists. In the order of the
    /// audit, so that the evidence and the findings agree on which ones they are.
    pub(super) fn tids(&self) -> impl Iterator<Item = u32> {
        let tids = self.lingering.iter().map(|thread| thread.os.key.tid);
        tids.take(LISTED)
    }

    /// Returns all threads. Lingering ones first.
    fn all(&self) -> impl Iterator<Item = &Audited> {
        self.lingering
            .iter()
            .chain(&self.undecided)
            .chain(&self.rest)
    }

    /// Applies the rules once more, with the stacks that were read last: a thread may be excused
    /// that lingered at the end of the layer.
    ///
    /// A thread without a stack that was symbolized in time keeps the verdict of a look in the
    /// layer. If no look had a result either, it is undecided. It never makes a thread linger that
    /// did not.
    pub(super) fn judge_again(&mut self, evidence: &Evidence) {
        let unknown = self
            .lingering
            .iter()
            .filter(|thread| thread.known.is_none());
        for thread in unknown {
            if let Some(trace) = evidence.trace(thread.os.key.tid) {
                self.rules.learn(thread.os.key, trace);
            }
        }
        let (lingering, excused) = self.rules.split(std::mem::take(&mut self.lingering));
        self.rest.extend(excused);
        let is_undecided = |thread: &Audited| {
            self.rules.lacks_calls(thread) && evidence.is_late(thread.os.key.tid)
        };
        (self.undecided, self.lingering) = lingering.into_iter().partition(is_undecided);
    }

    /// Returns the layer's part of the report. `before`: the threads of the service when the
    /// shutdown began.
    ///
    /// `waits` has an entry for each thread that was listed, in the order in which the kernel was
    /// asked; sentences and hints are made from all of them together, because a deadlock shows only
    /// so.
    ///
    /// Threads that started in the shutdown and ended in it are in neither number.
    pub(super) fn layer(
        &self,
        cx: &Context,
        evidence: &Evidence,
        before: &HashSet<ThreadKey>,
    ) -> CloseLayer {
        let judged = self.lingering.iter().chain(&self.undecided);
        let tids: HashSet<u32> = judged.map(|thread| thread.os.key.tid).collect();
        let waits: Vec<&ThreadWait> = evidence.waits(&tids);
        let names = self.all().map(|thread| (thread.os.key.tid, thread.name()));
        let by_thread = waits.iter().map(|wait| evidence.trace(wait.tid));
        let alive: HashSet<_> = self.all().map(|thread| thread.os.key).collect();
        CloseLayer {
            timing: self.timing,
            ended: before.difference(&alive).count() as u64,
            expected: self.rest.len() as u64,
            excused: self.rules.excused(&self.rest),
            blocked: self.blocked.rows(&self.rest, cx.root.number),
            threads: findings(cx, before, &self.lingering, &waits, evidence),
            undecided: findings(cx, before, &self.undecided, &waits, evidence),
            hints: hints(&waits, by_thread, &names.collect()),
            children: self.children.clone(),
        }
    }

    /// Returns sentences about what the report cannot observe. At most one sentence for each kind
    /// of gap.
    pub(super) fn not_observed(&self, cx: &Context) -> Vec<String> {
        let mut sentences = Vec::new();
        if cx.owned.is_ours {
            let unknown = self
                .all()
                .filter(|thread| thread.known.is_none() && !thread.in_baseline);
            let unknown = unknown.map(|thread| (thread.name(), self.rules.calls(thread)));
            sentences.extend(other_runtimes(unknown));
        }
        if !audit::is_observed() {
            sentences.push(NO_PROC.to_owned());
        }
        let more = self.lingering.len().saturating_sub(LISTED);
        if more > 0 {
            sentences.push(format!("lingering threads not listed: {more}"));
        }
        sentences
    }
}

/// Returns the findings of the lingering threads.
///
/// A thread of which the kernel was not asked, because it is beyond [`LISTED`], has no sentence and
/// is left out. A stack that was not read in time is replaced by that reason.
fn findings(
    cx: &Context,
    before: &HashSet<ThreadKey>,
    lingering: &[Audited],
    waits: &[&ThreadWait],
    evidence: &Evidence,
) -> Vec<ThreadRow> {
    if lingering.is_empty() {
        // Finding out which tasks occupy them is a walk over all tasks.
        return Vec::new();
    }
    let tally = Tally::of(cx.root.scope, |_| true);
    let (held, futures) = (tally.on_threads(), tally.futures());
    let nothing = Trace::absent("not read in time");
    let trace_of = |tid: u32| evidence.trace(tid).unwrap_or(&nothing);
    let locks: Vec<_> = waits.iter().map(|wait| trace_of(wait.tid).lock).collect();
    let sentences = locks::sentences(waits, &locks).into_iter();
    let tids = waits.iter().map(|wait| wait.tid);
    let sentences: HashMap<u32, String> = tids.zip(sentences).collect();
    let finding = |thread: &Audited| {
        let tid = thread.os.key.tid;
        let stop = thread.known.as_ref().and_then(|known| known.stop.as_ref());
        let mut row = ThreadRow {
            waits: Some(sentences.get(&tid)?.clone()),
            task: held.get(&tid).cloned(),
            tried: stop.map_or_else(Vec::new, Stop::tried),
            appeared_while_stopping: !before.contains(&thread.os.key),
            ..ThreadRow::new(thread, cx.root.number)
        };
        row.show(trace_of(tid));
        stack::name_root(&mut row.stack, futures.get(&tid).unwrap_or(&""));
        Some(row)
    };
    lingering.iter().filter_map(finding).collect()
}

#[cfg(all(test, feature = "stacks", target_os = "linux"))]
mod tests;
