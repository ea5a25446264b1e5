//! Where those are that did not end: what tasks await, and the stacks of threads, read when it mattered, and named at
//! the end within what the deadline leaves.

use super::close::Left;
use super::pipeline::{Before, Pipeline};
use super::symbols::{Chains, Nameless};
use crate::audit::facts;
use crate::audit::lock::{self, Waiter};
use crate::audit::places::Places;
use crate::audit::stack::{self, Means, Stack};
use crate::audit::trace::Trace;
use crate::registry::chains::Question;
use crate::report::{Report, TaskFinding};
use crate::task::{TaskId, TaskKind};
use crate::threads::{self, ThreadClass};
use std::collections::{BTreeSet, HashMap};
use std::panic::Location;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

/// How long tasks may take to answer, and stacks to be read between two layers. A task that is in a poll does not answer.
const ANSWER: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_micros(500);
/// How long stacks and names may take, if the deadline leaves so much: a tenth of a second, but seconds in a debug build.
const NAMES: Duration = Duration::from_secs(5);
/// What the report needs of the deadline.
const RESERVE: Duration = Duration::from_millis(300);
/// Of so many kinds one task is asked, and the thread of one is looked at.
const KINDS: usize = 32;
/// The most threads that are looked at.
const LISTED: usize = 1000;

/// What was found of the tasks that ignored the drain, when it was over.
#[derive(Debug, Default)]
pub(super) struct Looked {
    chains: Chains,
    stacks: Stacks,
}

/// The stacks of threads, read at one moment.
#[derive(Debug, Default)]
struct Stacks {
    read: HashMap<u32, Result<Stack, String>>,
    places: Places,
}

/// The same, as they are shown.
type Traces = HashMap<u32, Trace>;

impl Pipeline {
    /// Asks one task of each kind what it awaits, and looks at the threads that tasks hold. `chains`: of tasks that have
    /// answered before.
    pub(super) async fn look(&self, ignored: &[TaskFinding], mut chains: Chains) -> Looked {
        let until = Instant::now() + ANSWER;
        let held = ignored.iter().filter_map(|task| task.tid).take(KINDS);
        let stacks = self.read(held.collect(), Means::Quiet, until).await;
        chains.extend(self.ask(ignored).await);
        Looked { chains, stacks }
    }

    async fn ask(&self, ignored: &[TaskFinding]) -> Chains {
        let first = ignored.iter().filter_map(|task| task.ids.first().copied());
        let of: Vec<TaskId> = first.take(KINDS).collect();
        if of.is_empty() || !cfg!(feature = "stacks") {
            return Chains::new();
        }
        let Some(question) = Question::ask(self.root.scope, of) else {
            return Chains::new();
        };
        let until = Instant::now() + ANSWER;
        while !question.is_answered() && Instant::now() < until {
            sleep(LOOK).await;
        }
        question.answers()
    }

    /// Reads stacks on a thread of its own, and waits so long.
    async fn read(&self, tids: BTreeSet<u32>, means: Means, until: Instant) -> Stacks {
        let tids: Vec<u32> = tids.into_iter().collect();
        let look = move || Stacks {
            read: tids
                .iter()
                .copied()
                .zip(stack::read(&tids, means))
                .collect(),
            places: Places::read(),
        };
        if !cfg!(feature = "stacks") {
            return look();
        }
        let (tell, told) = oneshot::channel();
        let started = threads::start(
            self.root.number,
            "headcount-stacks",
            ThreadClass::Control,
            Location::caller(),
            // Nobody may be waiting any more.
            move || drop(tell.send(look())),
        );
        match started {
            Ok(_) => timeout_at(until, told).await.ok().and_then(Result::ok),
            Err(_) => None,
        }
        .unwrap_or_default()
    }

    /// Says in the report where everybody is, and who of the threads is left.
    pub(super) async fn identify(
        &mut self,
        report: &mut Report,
        left: Left,
        looked: Looked,
        before: &Before,
    ) {
        let now = Instant::now();
        let deadline = before.begun + self.plan.deadline;
        let spare = deadline
            .saturating_duration_since(now)
            .saturating_sub(RESERVE);
        let until = now + NAMES.min(spare);
        let main = self.main_thread();
        let facts: Vec<_> = left.tids().take(LISTED).map(facts::read).collect();
        let held = report.cancel.lingering.iter().filter_map(|task| task.tid);
        let tids = left.tids().take(LISTED).chain(held).chain(main);
        let stacks = self.read(tids.collect(), Means::Any, until).await;
        let (last, drained) = self.name(report, stacks, looked, until).await;
        for task in &mut report.drain.ignored {
            show(task, task.tid.and_then(|tid| drained.get(&tid)));
        }
        let lingering = &mut report.cancel.lingering;
        // Unless another task holds it, which then is where it is shown.
        let main = main.filter(|main| lingering.iter().all(|task| task.tid != Some(*main)));
        for task in lingering {
            let main = main.filter(|_| task.kind == TaskKind::Main);
            show(task, task.tid.or(main).and_then(|tid| last.get(&tid)));
        }
        self.close_with(report, left, &facts, &last, before);
    }

    /// The thread of `main`, when it does not come back.
    fn main_thread(&self) -> Option<u32> {
        let is_main = |known: &threads::Known| {
            known.root == self.root.number && known.class == ThreadClass::Main
        };
        let main = threads::all().into_iter().find(is_main)?;
        self.owned.main_runs.borrow().then_some(main.tid)
    }

    /// Names what was read last and what was read when the drain was over, and puts into the findings what tasks await.
    async fn name(
        &mut self,
        report: &mut Report,
        last: Stacks,
        looked: Looked,
        until: Instant,
    ) -> (Traces, Traces) {
        let (mut tids, mut nameless) = (Vec::new(), Nameless::default());
        let (mut last_traces, mut drained) = (last.by_address(), looked.stacks.by_address());
        for (is_last, stacks) in [(true, last), (false, looked.stacks)] {
            for (tid, stack) in stacks.read {
                if let Ok(stack) = stack {
                    tids.push((is_last, tid));
                    nameless.stacks.push(stack);
                }
            }
        }
        let has_chains = !looked.chains.is_empty();
        nameless.chains = looked.chains;
        let names = self.symbols.name(nameless, until).await;
        self.symbols.end();
        for (at, trace) in names.stacks {
            let (is_last, tid) = tids[at];
            let traces = if is_last {
                &mut last_traces
            } else {
                &mut drained
            };
            traces.insert(tid, trace);
        }
        if has_chains && names.awaits.is_empty() {
            let sentence = "what tasks await: not observed, its names took too long";
            report.not_observed.push(sentence.to_owned());
        }
        let findings = report.drain.ignored.iter_mut();
        for task in findings.chain(&mut report.cancel.lingering) {
            task.awaits = task.ids.iter().find_map(|id| names.awaits.get(id).cloned());
        }
        (last_traces, drained)
    }
}

/// Puts the stack of its thread into a finding.
fn show(task: &mut TaskFinding, trace: Option<&Trace>) {
    if let Some(trace) = trace {
        task.stack.clone_from(&trace.frames);
        task.stack_note.clone_from(&trace.note);
    }
}

// === impl Stacks ===

impl Stacks {
    fn by_address(&self) -> Traces {
        let trace = |(tid, stack): (&u32, &Result<Stack, String>)| {
            let trace = match stack {
                Ok(stack) => Trace::by_address(stack, &self.places),
                Err(why) => Trace::absent(why),
            };
            (*tid, trace)
        };
        self.read.iter().map(trace).collect()
    }
}

/// What the stacks of threads say of them together. `names` are of threads of this process, whether they wait or not.
pub(super) fn hints<'a>(
    facts: &[&facts::Facts],
    traces: impl Iterator<Item = Option<&'a Trace>>,
    names: &HashMap<u32, &str>,
) -> Vec<String> {
    let waiters: Vec<Waiter<'_>> = facts
        .iter()
        .zip(traces)
        .map(|(facts, trace)| Waiter {
            facts,
            lock: trace.and_then(|trace| trace.lock),
            name: names.get(&facts.tid).copied().unwrap_or(""),
        })
        .collect();
    let name_of = |tid: u32| names.get(&tid).map(|name| (*name).to_owned());
    lock::hints(&waiters, lock::posix_owner, name_of)
}
