//! Names for addresses, looked up on a thread of its own: it may take long, and with the lock of the loader for ever.

use super::pipeline::Pipeline;
use crate::audit::asking::Chain;
use crate::audit::frame::{self, Frame};
use crate::registry::chains::Question;
use crate::report::{Report, TaskFinding};
use crate::task::TaskId;
use crate::threads::{self, ThreadClass};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long tasks may take to answer. One that is in a poll does not.
const ANSWER: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_micros(500);
/// How long the names may take, if the deadline leaves so much: a tenth of a second, but seconds in a debug build.
const NAMES: Duration = Duration::from_secs(5);
/// What the report needs of the deadline.
const RESERVE: Duration = Duration::from_millis(300);
/// Of so many kinds one task is asked.
const KINDS: usize = 32;

/// Chains by the first task of a finding.
pub(super) type Chains = HashMap<TaskId, Vec<Chain>>;

/// One thread at a time may be stuck.
static LOOKING: AtomicBool = AtomicBool::new(false);

impl Pipeline {
    /// Asks one task of each kind what it awaits.
    pub(super) async fn ask(&self, ignored: &[TaskFinding]) -> Chains {
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

    /// Puts what tasks await into their findings.
    pub(super) async fn name_awaits(&self, chains: Chains, report: &mut Report, begun: Instant) {
        if chains.is_empty() {
            return;
        }
        let left = (begun + self.plan.deadline).saturating_duration_since(Instant::now());
        let budget = NAMES.min(left.saturating_sub(RESERVE));
        let Some(names) = named(self.root.number, chains, budget).await else {
            let sentence = "what tasks await: not observed, its names took too long";
            report.not_observed.push(sentence.to_owned());
            return;
        };
        let findings = report.drain.ignored.iter_mut();
        for task in findings.chain(&mut report.cancel.lingering) {
            task.awaits = task.ids.iter().find_map(|id| names.get(id).cloned());
        }
    }
}

async fn named(
    root: u64,
    chains: Chains,
    budget: Duration,
) -> Option<HashMap<TaskId, Vec<Vec<Frame>>>> {
    if LOOKING.swap(true, Ordering::SeqCst) {
        return None;
    }
    let (tell, told) = oneshot::channel();
    let started = threads::start(
        root,
        "headcount-symbols",
        ThreadClass::Control,
        Location::caller(),
        move || {
            let names = chains.into_iter().map(|(task, chains)| {
                let awaits: Vec<_> = chains.iter().map(frame::awaits).collect();
                (task, awaits)
            });
            // Nobody may be waiting any more.
            tell.send(names.collect()).ok();
            LOOKING.store(false, Ordering::SeqCst);
        },
    );
    if started.is_err() {
        LOOKING.store(false, Ordering::SeqCst);
        return None;
    }
    timeout(budget, told).await.ok()?.ok()
}
