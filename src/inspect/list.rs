//! A walk over the lists of a runtime while its workers change them.
//!
//! A runtime has one list for each of its *shards*, by the id of the task. Each has a pointer to its
//! newest task and one to its oldest; new tasks are added at the newest end. The walk therefore goes
//! from the oldest task to newer ones, and every task that is alive from the start to the end of the
//! walk is seen, once.
//!
//! No lock is taken. A step counts only if the link holds from both sides; otherwise the task was
//! removed meanwhile, and the walk goes back to the last one that is still in the list.

use super::header::{Tables, Task};
use super::memory::Memory;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// The broken links after which a list is given up. Some thousand are seen at 50,000 spawns a
/// second.
const PATIENCE: u64 = 20_000;
/// The tasks by which a look may differ from the runtime's count without a doubt, and the share of
/// the tasks.
const SLACK: u64 = 50;
/// The steps between two looks at the clock.
const STEPS: u64 = 1024;

/// The place of the lists of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lists {
    /// The address of the pointer to the newest task of each list. That to the oldest one follows.
    pub(crate) heads: Vec<u64>,
    /// The number that each task of the lists has as its owner.
    pub(crate) owner: u64,
    /// The address of the runtime's own count of its tasks, if there is one.
    pub(crate) count: Option<u64>,
}

/// The bounds of a walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) tasks: usize,
    pub(crate) until: End,
}

/// The time at which a walk ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    At(Instant),
    /// The processor time of the thread that walks: on a busy machine, a walk may wait far longer than it works.
    Used(Duration),
}

/// The result of a walk.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The tasks, by list and from the oldest to the newest.
    pub(crate) tasks: Vec<Task>,
    /// The runtime's own count before and after the walk, if it has one.
    pub(crate) counted: Option<(u64, u64)>,
    /// The number of links that did not hold, because the list changed.
    pub(crate) breaks: u64,
    /// The number of lists that were not walked to their end.
    pub(crate) given_up: usize,
    /// The number of tasks in a list other than that of their id.
    pub(crate) misplaced: usize,
    /// True if a bound ended the walk.
    pub(crate) is_cut: bool,
}

/// The walk over one list.
struct Walk {
    /// The address of the pointer to the newest task.
    head: u64,
    tasks: Vec<Task>,
    breaks: u64,
    is_whole: bool,
}

/// Walks the lists, within the bounds.
pub(crate) fn look(memory: &Memory, tables: &Tables, lists: &Lists, bounds: Bounds) -> Look {
    let count = || lists.count.and_then(|at| memory.word(at));
    memory.keep(true);
    let before = count();
    let mut walks: Vec<Walk> = lists.heads.iter().copied().map(Walk::new).collect();
    let mut open: Vec<usize> = (0..walks.len()).collect();
    let (mut steps, mut tasks) = (0_u64, 0);
    // The lists take turns: neighbours in memory are in different ones.
    while !open.is_empty() && tasks < bounds.tasks {
        open.retain(|at| {
            steps += 1;
            walks[*at].step(memory, tables, lists.owner, bounds.until)
        });
        tasks = walks.iter().map(|walk| walk.tasks.len()).sum();
        if steps >= STEPS {
            steps = 0;
            if bounds.until.is_over() {
                break;
            }
        }
    }
    memory.keep(false);
    let mut look = Look {
        counted: before.zip(count()),
        is_cut: !open.is_empty() || bounds.until.is_over(),
        ..Look::default()
    };
    let mask = (walks.len() as u64).wrapping_sub(1);
    for (list, walk) in walks.into_iter().enumerate() {
        let misplaced = walk.tasks.iter();
        let misplaced = misplaced.filter(|task| task.id & mask != list as u64);
        look.misplaced += misplaced.count();
        look.breaks += walk.breaks;
        look.given_up += usize::from(!walk.is_whole);
        look.tasks.extend(walk.tasks);
    }
    // A task that has the memory of one that was read leads to the kept copy of the next one, which was read too.
    if look.breaks > 0 {
        let mut seen = HashSet::with_capacity(look.tasks.len());
        look.tasks
            .retain(|task| seen.insert((task.header, task.id)));
    }
    look
}

// === impl End ===

impl End {
    /// Returns the end after this much more processor time of this thread.
    pub(crate) fn after(work: Duration) -> Self {
        Self::Used(used().saturating_add(work))
    }

    fn is_over(self) -> bool {
        match self {
            Self::At(until) => Instant::now() > until,
            Self::Used(until) => used() > until,
        }
    }
}

/// Returns the processor time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or(0));
    seconds + Duration::from_nanos(time.tv_nsec.try_into().unwrap_or(0))
}

// === impl Look ===

impl Look {
    /// Returns whether every task was seen. The runtime's own count is a check of that: it may differ
    /// by the tasks that start or end while the lists are walked.
    pub(crate) fn is_whole(&self) -> bool {
        let fits = self.counted.is_none_or(|(before, after)| {
            let (listed, moved) = (
                self.tasks.len() as u64,
                before.abs_diff(after).saturating_add(self.breaks),
            );
            let slack = moved.saturating_add(SLACK + listed / SLACK);
            let most = before.max(after).saturating_add(slack);
            (before.min(after).saturating_sub(slack)..=most).contains(&listed)
        });
        self.given_up == 0 && self.misplaced == 0 && fits
    }
}

// === impl Lists ===

impl Lists {
    /// Reads a task that belongs to the lists; `None` if the words are not those of one.
    pub(crate) fn task(&self, memory: &Memory, tables: &Tables, header: u64) -> Option<Task> {
        let task = tables.task(memory, header)?;
        (task.owner == self.owner).then_some(task)
    }
}

// === impl Walk ===

impl Walk {
    fn new(head: u64) -> Self {
        Self {
            head,
            tasks: Vec::new(),
            breaks: 0,
            is_whole: false,
        }
    }

    /// Goes one task further. Returns false at the end.
    fn step(&mut self, memory: &Memory, tables: &Tables, owner: u64, until: End) -> bool {
        let (next, before) = match self.tasks.last() {
            Some(last) => (last.newer, last.header),
            None => match fresh(memory, self.head + 8) {
                Some(oldest) => (oldest, 0),
                // Unreadable is not empty.
                None => return false,
            },
        };
        if next == 0 && fresh(memory, self.head) == Some(before) {
            self.is_whole = true;
            return false;
        }
        let read = |at: u64| tables.task(memory, at).filter(|task| task.owner == owner);
        let task = (next != 0).then(|| read(next)).flatten();
        if let Some(task) = task.filter(|task| task.older == before) {
            self.tasks.push(task);
            return true;
        }
        self.breaks += 1;
        memory.forget(next);
        self.step_back(memory, tables, until, read);
        self.breaks < PATIENCE
    }

    /// Goes back to the last task that is still in the list, and reads it again. A runtime that closes
    /// removes its tasks from the oldest on, so it may go back to the beginning.
    fn step_back(
        &mut self,
        memory: &Memory,
        tables: &Tables,
        until: End,
        read: impl Fn(u64) -> Option<Task>,
    ) {
        while let Some(last) = self.tasks.pop() {
            memory.forget(last.header);
            if let Some(table) = tables.get(memory, last.table) {
                memory.forget(last.header.wrapping_add(table.trailer));
            }
            let before = self.tasks.last().map_or(0, |task| task.header);
            let is_linked = before != 0 || fresh(memory, self.head + 8) == Some(last.header);
            let again = read(last.header);
            let is_same = |task: &Task| task.older == before && task.id == last.id;
            if let Some(task) = again.filter(|task| is_linked && is_same(task)) {
                self.tasks.push(task);
                return;
            }
            if until.is_over() {
                self.breaks = PATIENCE;
                return;
            }
        }
    }
}

/// Reads a word that may have changed since it was kept.
fn fresh(memory: &Memory, at: u64) -> Option<u64> {
    memory.forget(at);
    memory.word(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A walk of a million tasks on a busy machine was given up after 10 s, of which it had worked for one.
    #[test]
    fn the_time_in_which_the_thread_waits_is_not_that_of_a_walk() {
        let work = Duration::from_millis(20);
        let (at, used) = (End::At(Instant::now() + work), End::after(work));
        std::thread::sleep(3 * work);
        assert!(at.is_over() && !used.is_over());
        while !used.is_over() {
            std::hint::spin_loop();
        }
    }
}
