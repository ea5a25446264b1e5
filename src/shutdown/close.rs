//! Layer 3: the threads of the runtime end, children are gone, and what is left of either is named.

use super::cancel::Closing;
use super::last_resort::LastResort;
use super::pipeline::{Before, Pipeline};
use super::roots::Roots;
use super::traces::hints;
use crate::audit::facts::Facts;
use crate::audit::trace::Trace;
use crate::audit::{self, Audited, lock};
use crate::registry::{self, LiveTask};
use crate::report::{
    CancelLayer, ChildFinding, ExcusedThreads, Report, ThreadFinding, Timing, count,
};
use crate::threads::{self, Stop, ThreadClass, ThreadRule};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Between two audits.
const LOOK_FIRST: Duration = Duration::from_micros(500);
const LOOK_LAST: Duration = Duration::from_millis(50);
/// How long a thread may take to start, on a machine that is busy.
const STARTING: Duration = Duration::from_secs(5);
/// The most threads that are listed.
const LISTED: usize = 1000;

/// What reports and dumps say of what they cannot see.
pub(super) const NOT_OURS: &str = "untracked tasks: not observed, the runtime is not headcount's";
pub(super) const NO_PROC: &str = "threads and children: not observed, /proc does not show them";

/// What a thread is that nobody registered and that was not there before.
#[derive(Debug, Clone)]
pub(crate) enum UnknownThreads {
    /// It lingers.
    Linger,
    /// It lingers when it was started, at whatever remove, by a thread with this tag: others are somebody else's.
    #[cfg(target_os = "linux")]
    LingerIfTagged(audit::tag::Tag),
    /// It is expected: the runtime that we do not own starts threads too, and nobody tells whose is whose.
    Expect,
}

/// Who is left when the last layer is over.
pub(super) struct Left {
    pub(super) timing: Timing,
    pub(super) children: Vec<ChildFinding>,
    lingering: Vec<Audited>,
    /// The threads that may live.
    rest: Vec<Audited>,
}

// === impl Left ===

impl Left {
    /// Of the threads that linger.
    pub(super) fn tids(&self) -> impl Iterator<Item = u32> {
        self.lingering.iter().map(|thread| thread.os.key.tid)
    }

    fn all(&self) -> impl Iterator<Item = &Audited> {
        self.lingering.iter().chain(&self.rest)
    }
}

impl Pipeline {
    pub(super) async fn close(&mut self, before: &Before, closing: Closing) -> Left {
        let mut layer = self.layer("close", self.plan.close, before);
        let until = layer.until;
        let last_resort = LastResort::begin(&self.root);
        if let Some(returned) = closing.returned {
            self.guarded(&mut layer, timeout_at(until, returned)).await;
        }
        let mut pause = LOOK_FIRST;
        let mut roots = Roots::new();
        let (lingering, rest, children) = loop {
            let (lingering, rest) = self.split(audit::threads(&self.baseline));
            let children = self.children();
            let undecided = rest.iter().any(|thread| self.is_undecided(thread));
            let done = children.is_empty() && lingering.is_empty() && !undecided;
            // Who is in the middle of its start is waited for beyond the budget: to pass over it would be to lose a leak.
            let longest = if undecided { until + STARTING } else { until };
            if done || Instant::now() >= longest {
                break (lingering, rest, children);
            }
            roots.ask(&lingering, &mut self.symbols);
            let pause_now = pause.min(longest.saturating_duration_since(Instant::now()));
            let found = self.guarded(&mut layer, roots.wait(pause_now)).await;
            self.calls.extend(found.into_iter().flatten());
            pause = (pause * 2).min(LOOK_LAST);
        };
        drop(last_resort);
        Left {
            timing: layer.timing(),
            children,
            lingering,
            rest,
        }
    }

    /// The threads that linger, and the others.
    fn split(&self, threads: Vec<Audited>) -> (Vec<Audited>, Vec<Audited>) {
        threads.into_iter().partition(|thread| self.lingers(thread))
    }

    /// Puts the last layer into the report. `facts` are of those that linger, in their order.
    pub(super) fn close_with(
        &mut self,
        report: &mut Report,
        mut left: Left,
        facts: &[Facts],
        traces: &HashMap<u32, Trace>,
        before: &Before,
    ) {
        for thread in left
            .lingering
            .iter()
            .filter(|thread| thread.known.is_none())
        {
            let trace = traces.get(&thread.os.key.tid);
            if let Some(trace) = trace.filter(|trace| !trace.calls.is_empty()) {
                self.calls.insert(thread.os.key, trace.calls.clone());
            }
        }
        let (lingering, excused) = self.split(std::mem::take(&mut left.lingering));
        left.rest.extend(excused);
        left.lingering = lingering;
        let tids: HashSet<u32> = left.tids().collect();
        let facts: Vec<&Facts> = facts
            .iter()
            .filter(|facts| tids.contains(&facts.tid))
            .collect();
        let names = left.all().map(|thread| (thread.os.key.tid, thread.name()));
        let by_thread = facts.iter().map(|facts| traces.get(&facts.tid));
        let layer = &mut report.close;
        layer.hints = hints(&facts, by_thread, &names.collect());
        let alive: HashSet<_> = left.all().map(|thread| thread.os.key).collect();
        layer.ended = before.threads.difference(&alive).count() as u64;
        layer.expected = left.rest.len() as u64;
        layer.excused = self.excused(&left.rest);
        layer.threads = self.findings(before, &left.lingering, &facts, traces);
        let more = left.lingering.len().saturating_sub(LISTED);
        let mut not_observed = self.not_observed(&report.cancel, left.all());
        if more > 0 {
            not_observed.push(format!("{more} more threads that linger: not listed"));
        }
        report.not_observed.splice(..0, not_observed);
    }

    fn lingers(&self, thread: &Audited) -> bool {
        match &thread.known {
            // Another runtime's: of another test, say.
            Some(known) if known.root != self.root.number => false,
            Some(known) => matches!(
                known.class,
                ThreadClass::Worker | ThreadClass::Blocking | ThreadClass::Tracked
            ),
            None if thread.in_baseline || may_be_ours(thread) => false,
            None => self.plan.unknown_threads.lingers(thread) && self.rule_of(thread).is_none(),
        }
    }

    /// Whether a moment later it may be seen to linger.
    fn is_undecided(&self, thread: &Audited) -> bool {
        thread.known.is_none()
            && !thread.in_baseline
            && (may_be_ours(thread) || self.plan.unknown_threads.is_undecided(thread))
    }

    /// The rule that expects a thread that nobody registered. The service's own rules come first: their reasons are
    /// the better known ones.
    fn rule_of(&self, thread: &Audited) -> Option<&ThreadRule> {
        let mut rules = self.plan.expected.iter().chain(threads::shipped());
        let calls = self.calls.get(&thread.os.key);
        rules.find(|rule| rule.matches(&thread.os.comm, calls.map(Vec::as_slice)))
    }

    /// Those that would linger if no rule expected them, in the order of the first of each.
    fn excused(&self, threads: &[Audited]) -> Vec<ExcusedThreads> {
        let mut excused: Vec<ExcusedThreads> = Vec::new();
        let unknown = threads
            .iter()
            .filter(|thread| thread.known.is_none() && !thread.in_baseline)
            .filter(|thread| self.plan.unknown_threads.lingers(thread));
        for rule in unknown.filter_map(|thread| self.rule_of(thread)) {
            match excused.iter_mut().find(|row| row.reason == rule.reason()) {
                Some(row) => row.count += 1,
                None => excused.push(ExcusedThreads {
                    count: 1,
                    reason: rule.reason().to_owned(),
                }),
            }
        }
        excused
    }

    fn findings(
        &self,
        before: &Before,
        lingering: &[Audited],
        facts: &[&Facts],
        traces: &HashMap<u32, Trace>,
    ) -> Vec<ThreadFinding> {
        if lingering.is_empty() {
            // To look who holds them is a walk over all tasks.
            return Vec::new();
        }
        let held = self.held();
        let nothing = Trace::absent("not read in time");
        let trace_of = |tid: u32| traces.get(&tid).unwrap_or(&nothing);
        let locks: Vec<_> = facts.iter().map(|facts| trace_of(facts.tid).lock).collect();
        let waits = lock::sentences(facts, &locks);
        let waits: HashMap<u32, String> = facts.iter().map(|facts| facts.tid).zip(waits).collect();
        let finding = |thread: &Audited| {
            let tid = thread.os.key.tid;
            let trace = trace_of(tid);
            let known = thread.known.as_ref();
            let stop = known.and_then(|known| known.stop.as_ref());
            Some(ThreadFinding {
                name: thread.name().to_owned(),
                tid,
                class: thread.class(),
                age: thread.age,
                cpu: thread.os.cpu,
                state: thread.os.state_name().to_owned(),
                waits: waits.get(&tid)?.clone(),
                started: known
                    .and_then(|known| known.started)
                    .map(ToString::to_string),
                task: held.get(&tid).cloned(),
                tried: stop.map_or_else(Vec::new, Stop::tried),
                appeared_while_stopping: !before.threads.contains(&thread.os.key),
                stack: trace.frames.clone(),
                stack_note: trace.note.clone(),
                no_stack: trace.none.clone(),
            })
        };
        lingering.iter().filter_map(finding).collect()
    }

    /// The task that a thread holds.
    fn held(&self) -> HashMap<u32, String> {
        let on_threads = registry::on_threads();
        let path = |task: LiveTask| {
            let tid = on_threads.get(&task.place())?;
            Some((*tid, super::pipeline::path(task.kind)))
        };
        let tasks = registry::live_tasks(self.root.scope);
        tasks.into_iter().filter_map(path).collect()
    }

    /// Notes whose children are ours, before the threads that forked them end and the kernel gives them to others.
    pub(super) fn note_children(&mut self) {
        let ours = audit::children(&self.baseline)
            .into_iter()
            .filter(|child| self.plan.unknown_threads.owns_child(child));
        self.children.extend(ours.map(|child| child.pid));
    }

    fn children(&self) -> Vec<ChildFinding> {
        audit::children(&self.baseline)
            .into_iter()
            .filter(|child| {
                self.children.contains(&child.pid) || self.plan.unknown_threads.owns_child(child)
            })
            .map(|child| ChildFinding {
                pid: child.pid,
                command: child.command,
            })
            .collect()
    }

    fn not_observed<'a>(
        &self,
        cancel: &CancelLayer,
        threads: impl Iterator<Item = &'a Audited>,
    ) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.owned.is_ours {
            sentences.push(NOT_OURS.to_owned());
        } else if !self.root.sees_untracked() {
            let estimate = cancel.dropped();
            sentences.push(format!(
                "untracked tasks: spawn sites not observed, built without tokio_unstable (estimated: {estimate})"
            ));
        }
        if self.owned.is_ours {
            sentences.extend(other_runtimes(threads));
        }
        if !audit::is_observed() {
            sentences.push(NO_PROC.to_owned());
        }
        sentences
    }
}

/// Whether it may be one of the control side that has yet to register itself: until then it has a name alone, that of the
/// one that started it or its own. A name excuses nobody for longer than a start may take.
fn may_be_ours(thread: &Audited) -> bool {
    let comm = &thread.os.comm;
    thread.age < STARTING && comm.starts_with("headcount-") && comm != threads::WORK
}

/// What to say when there are threads of runtimes that nobody told us of.
pub(super) fn other_runtimes<'a>(threads: impl Iterator<Item = &'a Audited>) -> Option<String> {
    let others = threads
        .filter(|thread| thread.known.is_none() && !thread.in_baseline)
        .filter(|thread| thread.os.comm.starts_with("tokio-r"))
        .count();
    (others > 0).then(|| {
        let named = if others == 1 { "is" } else { "are" };
        let others = count(others as u64, "thread");
        format!("tasks of other tokio runtimes: not observed ({others} {named} named like theirs)")
    })
}

// === impl UnknownThreads ===

impl UnknownThreads {
    fn lingers(&self, thread: &Audited) -> bool {
        match self {
            Self::Linger => true,
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(tag) => tag.marks_thread(thread.os.key.tid),
            Self::Expect => false,
        }
    }

    /// Whether the thread may be in the middle of its start. One that has been there for long blocks all signals for
    /// reasons of its own.
    fn is_undecided(&self, thread: &Audited) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(_) => {
                thread.age < STARTING && audit::tag::may_be_starting(thread.os.key.tid)
            }
            Self::Linger | Self::Expect => false,
        }
    }

    /// Whether a child that was not there before is one to answer for.
    fn owns_child(&self, child: &audit::Child) -> bool {
        match self {
            Self::Linger => true,
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(tag) => tag.marks_thread(child.forked_by),
            Self::Expect => false,
        }
    }
}
