//! Questions to tasks: what are you awaiting?
//!
//! A task that is asked is woken, and answers at its next poll: it is polled once with a waker that
//! records where it is registered, and then once as usual. A task that is inside a poll meanwhile,
//! or runs a blocking closure, does not answer. One question can be under way at a time in a
//! process.
//!
//! The ask is cheap for tasks that are not asked: the walk changes the attention word, so each live
//! task looks into its slot once more at its next poll. A task that is asked pays an additional
//! poll with the walk of its stack. An asked task that has no waker in its slot answers only when
//! something else wakes it, so an answer is never certain.

use crate::registry::readings;
use crate::registry::scope::Scope;
use crate::registry::slots::attention;
use crate::stacks;
use crate::stacks::await_probe::Recorded;
use crate::task::TaskId;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The pause between two looks for answers.
const LOOK: Duration = Duration::from_micros(200);

/// The answers of the tasks that answered.
pub(crate) type Answers = HashMap<TaskId, Answer>;

/// The answer of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The places at which the poll registered a waker or woke the task.
    pub(crate) awaits: Recorded,
    /// The number of polls since the task was told to drain; 0 if it was not told.
    pub(crate) polls: u64,
}

/// The question under way and its answers so far.
///
/// Held for the insertion of one answer, and not during a poll.
static ASKED: Mutex<Option<Asked>> = Mutex::new(None);
/// True while a question is under way.
///
/// Taken by an exchange, so that a second asker tries again instead of blocking in a lock.
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// The tasks that were asked, and their answers.
#[derive(Debug)]
struct Asked {
    /// The ids of the tasks that are expected to answer.
    of: HashSet<u64>,
    /// The answers so far.
    answers: Answers,
}

/// A question under way, until it is dropped.
#[derive(Debug)]
struct Question(());

/// A question and the wait for its answers.
#[derive(Debug)]
struct Query {
    /// The scope to search.
    scope: &'static Scope,
    /// The tasks to ask; those outside of the scope never answer.
    tasks: Vec<TaskId>,
    /// `None` while another question is under way.
    question: Option<Question>,
}

/// Asks tasks what they await, as far as they are in `scope` or below it, and returns the answers
/// that come until `until`.
///
/// Waits, within the same limit, for another question that is under way in the process. Returns
/// none without the feature `stacks`.
pub(crate) async fn ask(scope: &'static Scope, tasks: Vec<TaskId>, until: Instant) -> Answers {
    let mut query = Query::new(scope, tasks);
    loop {
        match query.look(Instant::now() >= until) {
            Some(answers) => return answers,
            None => sleep(LOOK).await,
        }
    }
}

/// Like [`ask`], but blocks the calling thread.
pub(crate) fn ask_blocking(
    scope: &'static Scope,
    tasks: Vec<TaskId>,
    until: std::time::Instant,
) -> Answers {
    let mut query = Query::new(scope, tasks);
    loop {
        match query.look(std::time::Instant::now() >= until) {
            Some(answers) => return answers,
            None => std::thread::sleep(LOOK),
        }
    }
}

// === impl Query ===

impl Query {
    /// Asks nothing yet.
    fn new(scope: &'static Scope, tasks: Vec<TaskId>) -> Self {
        Self {
            scope,
            tasks,
            question: None,
        }
    }

    /// Asks, or looks for answers. Returns them when all have come, or at the latest when
    /// `is_late`.
    ///
    /// Never blocks, so that both forms of waiting can be built on it.
    fn look(&mut self, is_late: bool) -> Option<Answers> {
        if self.tasks.is_empty() || !cfg!(feature = "stacks") {
            return Some(Answers::new());
        }
        if self.question.is_none() {
            self.question = Question::ask(self.scope, self.tasks.iter().copied());
        }
        let is_over = self.question.as_ref().is_some_and(Question::is_answered);
        (is_over || is_late).then(|| {
            let question = self.question.take();
            question.map(Question::answers).unwrap_or_default()
        })
    }
}

// === impl Question ===

impl Question {
    /// Asks these tasks, as far as they are in `scope` or below it; `None` while another question
    /// is under way. The question is registered before the walk begins, so that an early answer is
    /// not lost.
    ///
    /// Does not wait for the answers. Without the feature `stacks` no task is asked.
    fn ask(scope: &'static Scope, of: impl IntoIterator<Item = TaskId>) -> Option<Self> {
        if UNDER_WAY.swap(true, Ordering::AcqRel) {
            return None;
        }
        let question = Self(());
        let of: HashSet<u64> = of.into_iter().map(TaskId::get).collect();
        *asked() = Some(Asked {
            of: of.clone(),
            answers: HashMap::new(),
        });
        if !of.is_empty() && cfg!(feature = "stacks") {
            let _walk = attention::Walk::begin();
            let mut found = HashSet::with_capacity(of.len());
            readings(scope)
                .filter(|(_, reading)| of.contains(&reading.entry.id))
                .for_each(|(slot, reading)| {
                    slot.ask(&reading);
                    found.insert(reading.entry.id);
                });
            // Tasks that have ended do not answer.
            if let Some(asked) = &mut *asked() {
                asked.of = found;
            }
        }
        Some(question)
    }

    /// Returns whether every task that was asked has answered.
    ///
    /// Counts only; answers of tasks that were not asked are never stored.
    fn is_answered(&self) -> bool {
        asked()
            .as_ref()
            .is_none_or(|asked| asked.answers.len() >= asked.of.len())
    }

    /// Ends the question, and returns the answers of the tasks that answered. A task that awaits
    /// several things at once has several chains of awaits.
    fn answers(self) -> Answers {
        let asked = asked().take();
        let mut answers = asked.map(|asked| asked.answers).unwrap_or_default();
        // While the tasks still wait for them.
        let chains = answers.values_mut().map(|answer| &mut answer.awaits.chains);
        stacks::name_sockets(chains.flatten());
        answers
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        *asked() = None;
        UNDER_WAY.store(false, Ordering::Release);
    }
}

/// Records a task's answer. Ignored if the question is over, or if the task was not asked by this
/// one.
///
/// Called by the worker, in the task's poll.
pub(crate) fn answer(task: TaskId, answer: Answer) {
    if let Some(asked) = &mut *asked()
        && asked.of.contains(&task.get())
    {
        asked.answers.insert(task, answer);
    }
}

/// Locks the question under way.
fn asked() -> MutexGuard<'static, Option<Asked>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}
