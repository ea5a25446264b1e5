//! Await chains of the listed tasks: tasks are asked only when a dump is taken, so they cost
//! nothing before.
//!
//! A task is asked by waking it; it answers in its next poll with the addresses of what it awaits.
//! The addresses are symbolized afterwards.
//!
//! The question is the only thing in a dump that the service notices: each task asked is woken, and
//! is polled once more than it would be. A dump that is taken for the watchdog's last words asks
//! nothing.

use super::symbols::Awaits;
use crate::registry::query::await_query::{self, Answers};
use crate::registry::root::Root;
use crate::report::TaskRow;
use crate::report::dump::{Dump, Group};
use crate::task::{TaskKind, TaskState};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};

/// The time that tasks have to answer. A task that gets no worker within it does not answer.
/// Another question in the process, by a dump or a drain, is waited for within the same time.
const ANSWER: Duration = Duration::from_millis(100);
/// The most tasks that are asked. The first of each kind comes first. Every answer costs a
/// symbolized chain, within one budget for all.
const ASKED: usize = 100;

/// Asks the listed tasks what they await, and returns the answers that came in time. Blocks for at
/// most 100 ms. Returns none without the feature `stacks`. Must come before the kernel is asked,
/// while nothing else competes for the CPU. Tasks that ended meanwhile are not waited for.
pub(super) fn ask(root: &Root, dump: &mut Dump) -> Answers {
    if !cfg!(feature = "stacks") || holds_only_thread() {
        return Answers::new();
    }
    let mut rows = Vec::new();
    collect(&mut dump.root, &mut rows);
    // The first row of each kind, then the second of each.
    rows.sort_by_key(|(place, _)| *place);
    let ids = rows.iter().map(|(_, task)| task.id).take(ASKED);
    await_query::ask_blocking(root.scope, ids.collect(), Instant::now() + ANSWER)
}

/// Puts what tasks await into their rows. A row without an answer keeps `None`.
pub(super) fn fill(dump: &mut Dump, mut awaits: Awaits) {
    if awaits.is_empty() {
        return;
    }
    let mut rows = Vec::new();
    collect(&mut dump.root, &mut rows);
    for (_, task) in rows {
        task.show_awaits(awaits.remove(&task.id));
    }
}

/// Returns whether the caller runs on a current-thread runtime. No task of it could answer
/// meanwhile. Asking would block that runtime for 100 ms, without an answer.
fn holds_only_thread() -> bool {
    Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Collects the rows of tasks that can answer, each with its position within its kind. Closures of
/// the blocking pool, tasks that are on a thread and tasks that were never polled cannot. The
/// position orders the questions, so that a kind with many tasks does not use up the limit.
fn collect<'a>(group: &'a mut Group, rows: &mut Vec<(usize, &'a mut TaskRow)>) {
    for kind in &mut group.kinds {
        if kind.kind != TaskKind::Blocking {
            let can_answer =
                |task: &&mut TaskRow| task.on_thread.is_none() && task.state != TaskState::Created;
            rows.extend(kind.rows.iter_mut().filter(can_answer).enumerate());
        }
    }
    for inner in &mut group.groups {
        collect(inner, rows);
    }
}
