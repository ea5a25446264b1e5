//! What the listed tasks await: asked of them when a dump is taken, and at no cost before.

use super::THREAD_NAME;
use super::seen::AtMost;
use crate::audit::asking::Chain;
use crate::audit::frame::{self, Frame};
use crate::audit::stack::Naming;
use crate::registry::chains::Question;
use crate::registry::root::Root;
use crate::report::dump::{Dump, Group, Task};
use crate::task::{TaskId, TaskKind, TaskState};
use crate::threads::{self, ThreadClass};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::mpsc::sync_channel;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};

/// How long tasks may take to answer. One that waits for a worker meanwhile does not.
const ANSWER: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_micros(100);
/// How long the names may take: a tenth of a second, but seconds in a debug build.
const NAMES: Duration = Duration::from_secs(5);
/// The most tasks that are asked: one of each kind first.
const ASKED: usize = 100;

/// What tasks await, by addresses.
pub(super) type Answers = HashMap<TaskId, Vec<Chain>>;
type Names = HashMap<TaskId, Vec<Vec<Frame>>>;

/// One thread at a time may be stuck.
static NAMING: AtMost = AtMost::new(1);

/// Asks the listed tasks.
pub(super) fn ask(root: &Root, dump: &mut Dump) -> Answers {
    if !cfg!(feature = "stacks") || holds_only_thread() {
        return Answers::new();
    }
    let mut rows = Vec::new();
    collect(&mut dump.root, &mut rows);
    // The first of each kind, then the second of each.
    rows.sort_by_key(|(place, _)| *place);
    let ids = rows.iter().map(|(_, task)| task.id).take(ASKED);
    answers(root, ids.collect())
}

/// Puts the answers into the rows.
pub(super) fn fill(root: &Root, dump: &mut Dump, answers: Answers) {
    if answers.is_empty() {
        return;
    }
    let Some(mut names) = named(root.number, answers) else {
        let sentence = "what tasks await: not observed, its names took too long";
        dump.not_observed.push(sentence.to_owned());
        return;
    };
    let mut rows = Vec::new();
    collect(&mut dump.root, &mut rows);
    for (_, task) in rows {
        task.awaits = names.remove(&task.id);
    }
}

/// Whether the caller is a task on the one thread of a runtime: nobody could answer meanwhile.
fn holds_only_thread() -> bool {
    Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// The rows of those that can answer, each with its place in its kind.
fn collect<'a>(group: &'a mut Group, rows: &mut Vec<(usize, &'a mut Task)>) {
    for kind in &mut group.kinds {
        if kind.kind != TaskKind::Blocking {
            let can_answer =
                |task: &&mut Task| task.on_thread.is_none() && task.state != TaskState::Created;
            rows.extend(kind.rows.iter_mut().filter(can_answer).enumerate());
        }
    }
    for inner in &mut group.groups {
        collect(inner, rows);
    }
}

fn answers(root: &Root, tasks: Vec<TaskId>) -> Answers {
    if tasks.is_empty() {
        return Answers::new();
    }
    let Some(question) = Question::ask(root.scope, tasks) else {
        return Answers::new();
    };
    let until = Instant::now() + ANSWER;
    while !question.is_answered() && Instant::now() < until {
        sleep(LOOK);
    }
    question.answers()
}

/// The chains with names, by a thread of its own: with the lock of the loader it may take for ever.
fn named(root: u64, answers: Answers) -> Option<Names> {
    let one = NAMING.begin()?;
    let (tell, told) = sync_channel(1);
    let site = Location::caller();
    let started = threads::start(root, THREAD_NAME, ThreadClass::Control, site, move || {
        let naming = Naming::begin();
        let names = answers.into_iter().map(|(task, chains)| {
            let awaits: Vec<_> = chains.iter().map(frame::awaits).collect();
            (task, awaits)
        });
        let names: Names = names.collect();
        drop((naming, one));
        // Nobody may be waiting any more.
        tell.send(names).ok();
    });
    let thread = started.ok()?;
    let names = told.recv_timeout(NAMES).ok()?;
    // It has told all, so it ends: the next dump shall not find it on its way out.
    thread.join().ok();
    Some(names)
}
