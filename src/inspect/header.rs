//! One task as it lies in memory: its header, and the table of functions that all tasks of its kind
//! share.
//!
//! A task begins with four words: its state, a pointer of the run queue, the address of its table,
//! and the number of the list that owns it. tokio's source calls the table `Vtable`. It has seven
//! functions and then the offsets, from the header, of the *trailer* with the neighbours in the
//! list, of the pointer to the scheduler, and of the task's id. The order has been the same since
//! tokio 1.28. With `tokio_unstable` a fourth offset follows, of the place of the spawn.

use super::memory::Memory;
use std::cell::RefCell;
use std::collections::HashMap;

/// The most tables that are kept, right ones and wrong ones. Each kind of task has one, so a large
/// program has some thousand.
const TABLES: usize = 1 << 16;
/// The bits of the state (`runtime/task/state.rs` of tokio 1.28 to 1.54). The
/// calibration of a reader of this process checks each.
pub(super) const RUNNING: u64 = 1;
pub(super) const COMPLETE: u64 = 2;
pub(super) const NOTIFIED: u64 = 4;
pub(super) const JOIN_INTEREST: u64 = 8;
pub(super) const JOIN_WAKER: u64 = 16;
pub(super) const CANCELLED: u64 = 32;
/// The value of one reference in the state.
pub(crate) const REFERENCE: u64 = 64;
/// More references than a task can have: a freed cell has an allocator's pointer in this place.
const MANY: u64 = 1 << 24;

/// The word that tokio changes in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(pub(crate) u64);

/// The functions and offsets of all tasks with one type of future on one kind of scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// `poll`, `schedule`, `dealloc`, `try_read_output`, `drop_join_handle_slow`,
    /// `drop_abort_handle`, `shutdown`.
    pub(crate) functions: [u64; 7],
    /// The offset of the two pointers to the neighbours.
    pub(crate) trailer: u64,
    /// The offset of the pointer to the scheduler, and the length of the header.
    pub(crate) scheduler: u64,
    /// The offset of the id.
    pub(crate) id: u64,
}

/// A task as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    /// The address of the task.
    pub(crate) header: u64,
    /// The address of its table, which tells its kind.
    pub(crate) table: u64,
    /// The id, as [`tokio::task::Id`] shows it.
    pub(crate) id: u64,
    pub(crate) state: State,
    /// The address of the place of the spawn (`core::panic::Location`); 0 without `tokio_unstable`.
    pub(crate) spawned: u64,
    /// The number of the list that owns it; 0 if none does.
    pub(crate) owner: u64,
    /// The address of its scheduler, which is one for each runtime.
    pub(crate) scheduler: u64,
    /// The neighbour that was spawned next; 0 if there is none.
    pub(crate) newer: u64,
    /// The neighbour that was spawned before; 0 if there is none.
    pub(crate) older: u64,
}

/// The tables that were read so far.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// True if tasks have the place of their spawn behind their id.
    has_spawn_place: bool,
    /// The tables by address; `None` for an address that holds none.
    known: RefCell<HashMap<u64, Option<Table>>>,
}

// === impl State ===

impl State {
    /// Returns the number of references: by the list, the `JoinHandle`, wakers, abort handles and
    /// queues.
    pub(crate) fn references(self) -> u64 {
        self.0 / REFERENCE
    }

    /// Returns whether a thread is polling the task.
    pub(crate) fn is_running(self) -> bool {
        self.0 & RUNNING != 0
    }

    /// Returns whether the future has returned, or was dropped.
    pub(crate) fn is_complete(self) -> bool {
        self.0 & COMPLETE != 0
    }

    /// Returns whether the task was woken, and not polled since.
    pub(crate) fn is_notified(self) -> bool {
        self.0 & NOTIFIED != 0
    }

    /// Returns whether the task was aborted.
    pub(crate) fn is_cancelled(self) -> bool {
        self.0 & CANCELLED != 0
    }

    /// Returns whether its `JoinHandle` is alive.
    pub(crate) fn has_join_handle(self) -> bool {
        self.0 & JOIN_INTEREST != 0
    }

    /// Returns whether something awaits its `JoinHandle`.
    pub(crate) fn is_awaited(self) -> bool {
        self.0 & JOIN_WAKER != 0
    }

    /// Returns whether the task waits although nothing is left that could wake it: no waker and no
    /// abort handle. `own` is the number of wakers of the task that headcount holds, and by which
    /// it wakes no task that waits.
    pub(crate) fn can_never_wake(self, own: u64) -> bool {
        let is_idle = self.0 & (RUNNING | COMPLETE | NOTIFIED | CANCELLED) == 0;
        let expected = 1 + u64::from(self.has_join_handle()) + own;
        is_idle && self.references() == expected
    }

    /// Returns whether a live task can have this state. A cell that was freed mostly cannot.
    pub(crate) fn is_possible(self) -> bool {
        (1..MANY).contains(&self.references()) && !(self.is_running() && self.is_complete())
    }

    /// Returns the state in one word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            state if state.is_complete() => "ending",
            state if state.is_running() => "running",
            state if state.is_cancelled() => "cancelled",
            state if state.is_notified() => "woken",
            _ => "waiting",
        }
    }
}

// === impl Table ===

impl Table {
    /// Reads the table at an address; `None` if the words there are not those of a table.
    pub(crate) fn read(memory: &Memory, at: u64) -> Option<Self> {
        if !at.is_multiple_of(8) || !memory.is_constant(at) {
            return None;
        }
        Self::of(memory.words(at)?).filter(|table| {
            let mut functions = table.functions.iter();
            functions.all(|function| memory.is_code(*function))
        })
    }

    /// Takes ten words for a table, if the offsets are those of one.
    pub(crate) fn of(words: [u64; 10]) -> Option<Self> {
        let [
            poll,
            schedule,
            dealloc,
            output,
            join,
            abort,
            shutdown,
            trailer,
            scheduler,
            id,
        ] = words;
        let is_table = (0x20..=0x100).contains(&scheduler)
            && (scheduler + 8..=scheduler + 64).contains(&id)
            && (id + 8..1 << 30).contains(&trailer)
            && (trailer | scheduler | id).is_multiple_of(8);
        is_table.then_some(Self {
            functions: [poll, schedule, dealloc, output, join, abort, shutdown],
            trailer,
            scheduler,
            id,
        })
    }
}

// === impl Tables ===

impl Tables {
    /// Creates an empty set. `has_spawn_place` says whether tokio was built with `tokio_unstable`.
    pub(crate) fn new(has_spawn_place: bool) -> Self {
        Self {
            has_spawn_place,
            known: RefCell::default(),
        }
    }

    /// Returns the table at an address, which is read at the first call.
    pub(crate) fn get(&self, memory: &Memory, at: u64) -> Option<Table> {
        if let Some(known) = self.known.borrow().get(&at) {
            return *known;
        }
        if !memory.is_constant(at) {
            // A cell that was freed has any word here. What is not constant now may be a library's
            // table later, so it is not kept.
            return None;
        }
        let table = Table::read(memory, at);
        let mut known = self.known.borrow_mut();
        if known.len() < TABLES {
            known.insert(at, table);
        }
        table
    }

    /// Reads the task at an address; `None` if the words there are not those of a live task.
    pub(crate) fn task(&self, memory: &Memory, header: u64) -> Option<Task> {
        if !header.is_multiple_of(8) {
            return None;
        }
        let [state, _, table, owner] = memory.words(header)?;
        let offsets = self.get(memory, table)?;
        let (id, spawned) = if self.has_spawn_place {
            let [id, spawned] = memory.words(header + offsets.id)?;
            (id, spawned)
        } else {
            (memory.word(header + offsets.id)?, 0)
        };
        // A task is pushed at the head, so the pointer to the one before it in the list is that to
        // the newer task.
        let [newer, older] = memory.words(header + offsets.trailer)?;
        let task = Task {
            header,
            table,
            id,
            state: State(state),
            spawned,
            owner,
            scheduler: memory.word(header + offsets.scheduler)?,
            newer,
            older,
        };
        task.state.is_possible().then_some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a table of tokio 1.54.
    const WORDS: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 0x80, 0x20, 0x28];

    #[test]
    fn the_words_of_a_table_are_recognized() {
        let table = Table::of(WORDS).expect("a table");
        assert_eq!(
            (table.trailer, table.scheduler, table.id),
            (0x80, 0x20, 0x28)
        );
        assert_eq!(table.functions, [1, 2, 3, 4, 5, 6, 7]);
        for (at, wrong) in [
            // A header that is too short, too long or not of whole words.
            (8, 0x18),
            (8, 0x108),
            (8, 0x21),
            // An id within the header, or far behind it.
            (9, 0x20),
            (9, 0x80),
            // A trailer before the id, or beyond any future.
            (7, 0x28),
            (7, 1 << 30),
        ] {
            let mut words = WORDS;
            words[at] = wrong;
            assert_eq!(Table::of(words), None, "word {at}: {wrong:#x}");
        }
    }

    #[test]
    fn a_task_with_no_waker_left_can_never_wake() {
        let state = |references: u64, bits: u64| State((references * REFERENCE) | bits);
        for (state, own, expected) in [
            // Only the list has it.
            (state(1, 0), 0, true),
            // The list and its handle have it.
            (state(2, JOIN_INTEREST), 0, true),
            (state(2, JOIN_INTEREST | JOIN_WAKER), 0, true),
            // Something else has it: a waker or an abort handle.
            (state(2, 0), 0, false),
            (state(3, JOIN_INTEREST), 0, false),
            // That is headcount's own.
            (state(2, 0), 1, true),
            // It does not wait.
            (state(1, RUNNING), 0, false),
            (state(1, NOTIFIED), 0, false),
            (state(1, COMPLETE), 0, false),
            // Its abort is about to drop it.
            (state(1, CANCELLED), 0, false),
        ] {
            assert_eq!(state.can_never_wake(own), expected, "{state:?}");
        }
    }

    #[test]
    fn a_state_is_one_word() {
        let words = [
            (REFERENCE, "waiting"),
            (REFERENCE | RUNNING | CANCELLED, "running"),
            (REFERENCE | NOTIFIED, "woken"),
            (REFERENCE | NOTIFIED | CANCELLED, "cancelled"),
            (REFERENCE | COMPLETE, "ending"),
        ];
        for (bits, word) in words {
            assert_eq!(State(bits).as_str(), word);
            assert!(State(bits).is_possible());
        }
        assert!(!State(0).is_possible(), "no reference");
        assert!(!State(REFERENCE | RUNNING | COMPLETE).is_possible());
        assert!(!State(!RUNNING).is_possible());
    }
}
