//! What tasks await, for those who ask.
//!
//! A task that is asked is woken, and answers in its next poll: it is polled once with a waker that notes who keeps it,
//! then as always. One that is in a poll meanwhile, or runs blocking work, does not answer.

use super::scope::Scope;
use super::{cancels, readings};
use crate::audit::asking::Chain;
use crate::task::TaskId;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The answers of tasks.
pub(crate) type Answers = HashMap<TaskId, Vec<Chain>>;

/// What was asked, and the answers so far. One at a time.
static ASKED: Mutex<Option<Asked>> = Mutex::new(None);
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Asked {
    of: HashSet<u64>,
    answers: Answers,
}

/// A question under way.
#[derive(Debug)]
pub(crate) struct Question(());

// === impl Question ===

impl Question {
    /// Asks those tasks in `scope` and below it; `None` while another question is under way.
    pub(crate) fn ask(scope: &'static Scope, of: impl IntoIterator<Item = TaskId>) -> Option<Self> {
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
            let _walk = cancels::Walk::begin();
            let mut found = HashSet::with_capacity(of.len());
            readings(scope)
                .filter(|(_, reading)| of.contains(&reading.entry.id))
                .for_each(|(slot, reading)| {
                    slot.ask(&reading);
                    found.insert(reading.entry.id);
                });
            // Those that have ended do not answer.
            if let Some(asked) = &mut *asked() {
                asked.of = found;
            }
        }
        Some(question)
    }

    /// Whether all that were asked have answered.
    pub(crate) fn is_answered(&self) -> bool {
        asked()
            .as_ref()
            .is_none_or(|asked| asked.answers.len() >= asked.of.len())
    }

    /// The chains of awaits of those who answered; a task that waits for several things has several.
    pub(crate) fn answers(self) -> Answers {
        asked()
            .take()
            .map(|asked| asked.answers)
            .unwrap_or_default()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        *asked() = None;
        UNDER_WAY.store(false, Ordering::Release);
    }
}

/// A task's answer. Nobody may be asking any more.
pub(super) fn answer(task: TaskId, chains: Vec<Chain>) {
    if let Some(asked) = &mut *asked()
        && asked.of.contains(&task.get())
    {
        asked.answers.insert(task, chains);
    }
}

fn asked() -> MutexGuard<'static, Option<Asked>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}
