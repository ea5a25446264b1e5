//! Layer 3: the threads of the runtime end, children are gone, and what is left of either is named.

use super::cancel::Closing;
use super::last_resort::LastResort;
use super::pipeline::{Before, Pipeline};
use crate::audit::{self, Audited, facts};
use crate::registry;
use crate::report::{CancelLayer, ChildFinding, CloseLayer, ExcusedThreads, ThreadFinding};
use crate::threads::{self, Stop, ThreadClass, ThreadRule};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two audits.
const LOOK_FIRST: Duration = Duration::from_micros(500);
const LOOK_LAST: Duration = Duration::from_millis(50);
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

impl Pipeline {
    pub(super) async fn close(
        &mut self,
        before: &Before,
        closing: Closing,
        cancel: &CancelLayer,
    ) -> (CloseLayer, Vec<String>) {
        let mut layer = self.layer("close", self.plan.close, before);
        let until = layer.until;
        let last_resort = LastResort::begin(&self.root);
        if let Some(returned) = closing.returned {
            self.guarded(&mut layer, timeout_at(until, returned)).await;
        }
        let mut pause = LOOK_FIRST;
        let (lingering, rest, children) = loop {
            let (lingering, rest): (Vec<_>, Vec<_>) = audit::threads(&self.baseline)
                .into_iter()
                .partition(|thread| self.lingers(thread));
            let children = self.children();
            let done = children.is_empty() && lingering.is_empty();
            if done || Instant::now() >= until {
                break (lingering, rest, children);
            }
            let pause_now = pause.min(layer.left());
            self.guarded(&mut layer, sleep(pause_now)).await;
            pause = (pause * 2).min(LOOK_LAST);
        };
        drop(last_resort);
        let alive: HashSet<_> = lingering
            .iter()
            .chain(&rest)
            .map(|thread| thread.os.key)
            .collect();
        let ended = before.threads.difference(&alive).count() as u64;
        let mut not_observed = self.not_observed(cancel, lingering.iter().chain(&rest));
        let more = lingering.len().saturating_sub(LISTED);
        if more > 0 {
            not_observed.push(format!("{more} more threads that linger: not listed"));
        }
        let layer = CloseLayer {
            timing: layer.timing(),
            ended,
            expected: rest.len() as u64,
            excused: self.excused(&rest),
            threads: self.findings(before, &lingering),
            children,
        };
        (layer, not_observed)
    }

    fn lingers(&self, thread: &Audited) -> bool {
        match &thread.known {
            // Another runtime's: of another test, say.
            Some(known) if known.root != self.root.number => false,
            Some(known) => matches!(
                known.class,
                ThreadClass::Worker | ThreadClass::Blocking | ThreadClass::Tracked
            ),
            None if thread.in_baseline => false,
            None => self.plan.unknown_threads.lingers(thread) && self.rule_of(thread).is_none(),
        }
    }

    /// The rule that expects a thread that nobody registered. The service's own rules come first: their reasons are
    /// the better known ones.
    fn rule_of(&self, thread: &Audited) -> Option<&ThreadRule> {
        let mut rules = self.plan.expected.iter().chain(threads::shipped());
        rules.find(|rule| rule.matches(&thread.os.comm, None))
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

    fn findings(&self, before: &Before, lingering: &[Audited]) -> Vec<ThreadFinding> {
        if lingering.is_empty() {
            // To look who holds them is a walk over all tasks.
            return Vec::new();
        }
        let on_threads = registry::on_threads();
        let held: HashMap<u32, String> = registry::live_tasks(self.root.scope)
            .into_iter()
            .filter_map(|task| {
                let tid = on_threads.get(&task.place())?;
                Some((*tid, super::pipeline::path(task.kind)))
            })
            .collect();
        let facts: Vec<_> = lingering
            .iter()
            .take(LISTED)
            .map(|thread| facts::read(thread.os.key.tid))
            .collect();
        let finding = |(thread, waits): (&Audited, String)| ThreadFinding {
            name: thread.name().to_owned(),
            tid: thread.os.key.tid,
            class: thread.class(),
            age: thread.age,
            cpu: thread.os.cpu,
            state: thread.os.state_name().to_owned(),
            waits,
            started: thread
                .known
                .as_ref()
                .and_then(|known| known.started)
                .map(ToString::to_string),
            task: held.get(&thread.os.key.tid).cloned(),
            tried: thread
                .known
                .as_ref()
                .and_then(|known| known.stop.as_ref())
                .map_or_else(Vec::new, Stop::tried),
            appeared_while_stopping: !before.threads.contains(&thread.os.key),
        };
        lingering
            .iter()
            .zip(facts::sentences(&facts))
            .map(finding)
            .collect()
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

/// What to say when there are threads of runtimes that nobody told us of.
pub(super) fn other_runtimes<'a>(threads: impl Iterator<Item = &'a Audited>) -> Option<String> {
    let others = threads
        .filter(|thread| thread.known.is_none() && !thread.in_baseline)
        .filter(|thread| thread.os.comm.starts_with("tokio-r"))
        .count();
    (others > 0).then(|| {
        format!(
            "tasks of other tokio runtimes: not observed ({others} threads are named like theirs)"
        )
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
