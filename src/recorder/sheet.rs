//! The layout of the sheet. It is that of the file, so a change of it is a new [`FORMAT`].
//!
//! ```text
//! Sheet: Head, Live, draining, threads, desks, paths, kinds, ring │ to a page │ slots
//! ```
//!
//! Every field is an atomic, for which any bytes are valid. A file of zeros is an empty sheet.

use super::fixed_text::FixedText;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The version of the layout, of the numbers of [`What`](super::What), phases and classes, and of the
/// words of a slot.
pub(crate) const FORMAT: u32 = 1;
/// The first bytes of the file.
pub(crate) const MAGIC: u64 = u64::from_ne_bytes(*b"hc-box\0\n");
/// The number of groups at the same time that are in the file: all of a process.
pub(crate) const SCOPES: usize = 65_536;
/// The number of registered threads that are in the file.
pub(crate) const THREADS: usize = 512;
/// The cards in which a thread looks for its own: those after the one of its id.
const PROBED: usize = 16;
/// The number of shards, so of threads that run tasks, that are in the file.
pub(crate) const DESKS: usize = 1024;
/// The number of paths of groups: all of a process.
pub(crate) const PATHS: usize = 256;
/// The number of kinds that are in the file. The tasks of others have no name in it.
pub(crate) const KINDS: usize = 1024;
/// The number of events that the ring holds.
pub(crate) const EVENTS: usize = 10_000;

/// The fixed part of the file.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Head {
    /// [`MAGIC`]; written last, so a file without it is not complete.
    pub(crate) magic: AtomicU64,
    /// [`FORMAT`].
    pub(crate) format: AtomicU32,
    pub(crate) uid: AtomicU32,
    /// The sizes of the sheet, of a slot, and the number of slots. A reader compares them with its
    /// own.
    pub(crate) sheet_bytes: AtomicU64,
    pub(crate) slot_bytes: AtomicU64,
    pub(crate) slots: AtomicU64,
    /// The address of the first slot in the process.
    pub(crate) address: AtomicU64,
    pub(crate) pid: AtomicU64,
    /// The start of the process in clock ticks since the boot; 0 if it is not known.
    pub(crate) pid_start: AtomicU64,
    /// The start of the run, by the wall clock and since the boot, in nanoseconds.
    pub(crate) started_wall: AtomicU64,
    pub(crate) started: AtomicU64,
    /// The nanoseconds in 2³² ticks of the registry's clock.
    pub(crate) scale: AtomicU64,
    /// The root of the runtime that has its phase in the file.
    pub(crate) root: AtomicU64,
    pub(crate) boot_id: FixedText<5>,
    pub(crate) run_id: FixedText<8>,
    pub(crate) service: FixedText<8>,
    pub(crate) version: FixedText<8>,
}

/// The part of the file that changes all the time.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Live {
    /// The time of the last beat since the boot, in nanoseconds; 0 before the first one.
    pub(crate) beat: AtomicU64,
    /// The same moment by the wall clock, and by the registry's clock.
    pub(crate) beat_wall: AtomicU64,
    pub(crate) beat_raw: AtomicU64,
    /// 1 if polls note a pulse, so that it is known how long they last.
    pub(crate) has_pulse: AtomicU64,
    /// The number of the phase.
    pub(crate) phase: AtomicU64,
    /// The time since the boot at which each phase was entered; 0 if it was not.
    pub(crate) entered: [AtomicU64; 5],
    /// The reason of the shutdown; empty before one has begun.
    pub(crate) reason: FixedText<25>,
    /// The number of chunks of slots in the file that are in use, and of those elsewhere.
    pub(crate) chunks: AtomicU64,
    pub(crate) outside: AtomicU64,
    /// The number of live tasks at the last beat. Kept only while there are chunks elsewhere.
    pub(crate) tasks: AtomicU64,
    /// The number of threads at the last beat whose desks are elsewhere.
    pub(crate) threads_outside: AtomicU64,
    /// The number of events so far.
    pub(crate) events: AtomicU64,
    /// The number of ends of tasks since the last beat, and of those that were not noted.
    pub(crate) ends: AtomicU64,
    pub(crate) unsaid: AtomicU64,
}

/// The task that a thread is in. Only the thread writes it, at each poll.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// The address of the slot of the task that the thread is in; 0 for none. An address and not a
    /// reference, since a reader compares it and never follows it.
    pub(crate) current: AtomicUsize,
    /// The kernel's id of the thread; 0 for none.
    pub(crate) tid: AtomicU32,
}

/// A registered thread.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ThreadCard {
    /// 0 in a free card.
    pub(crate) tid: AtomicU32,
    /// The number of its class.
    pub(crate) class: AtomicU32,
    pub(crate) name: FixedText<6>,
}

/// A kind of task.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct KindCard {
    /// 1 once the rest is complete.
    pub(crate) is_set: AtomicU32,
    pub(crate) path: AtomicU32,
    /// The number of the [`TaskKind`](crate::task::TaskKind).
    pub(crate) runs: AtomicU32,
    pub(crate) line: AtomicU32,
    pub(crate) column: AtomicU32,
    /// Unused, for the alignment.
    pub(crate) rest: AtomicU32,
    pub(crate) name: FixedText<8>,
    /// The file of the spawn site. Of a longer path the end.
    pub(crate) file: FixedText<16>,
}

/// An event in the ring.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct EventCard {
    /// The number of the event plus 1; 0 while it is written.
    pub(crate) stamp: AtomicU64,
    /// The time since the boot, in nanoseconds.
    pub(crate) at: AtomicU64,
    pub(crate) what: AtomicU32,
    /// The number of the kind plus 1; 0 for none.
    pub(crate) kind: AtomicU32,
    /// The task's id; 0 for none.
    pub(crate) id: AtomicU64,
    pub(crate) text: FixedText<11>,
}

/// All of the file but the slots.
#[repr(C, align(64))]
pub(crate) struct Sheet {
    pub(crate) head: Head,
    pub(crate) live: Live,
    /// One bit for each group that was told to drain, by the number of its scope.
    pub(crate) draining: [AtomicU64; SCOPES / 64],
    pub(crate) threads: [ThreadCard; THREADS],
    pub(crate) desks: [Desk; DESKS],
    pub(crate) paths: [FixedText<32>; PATHS],
    pub(crate) kinds: [KindCard; KINDS],
    pub(crate) ring: [EventCard; EVENTS],
}

// === impl Desk ===

impl Desk {
    /// Notes the task that this thread is in, by the address of its slot; 0 for none.
    ///
    /// Relaxed: a reader that sees an old value has read a moment earlier.
    #[inline]
    pub(crate) fn set_current(&self, slot: usize) {
        self.current.store(slot, Ordering::Relaxed);
    }

    /// Returns the address of the slot of the task that this thread is in; 0 for none.
    #[inline]
    pub(crate) fn own_current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }
}

// === impl Sheet ===

impl Sheet {
    /// Returns the cards in which a thread with this id may be.
    pub(super) fn threads_of(&self, tid: u32) -> impl Iterator<Item = &ThreadCard> + Clone {
        let first = tid as usize;
        (first..first + PROBED).map(|at| &self.threads[at % THREADS])
    }

    /// Returns the card of a thread.
    pub(super) fn thread(&self, tid: u32) -> Option<&ThreadCard> {
        let mut cards = self.threads_of(tid);
        cards.find(|card| card.tid.load(Ordering::Relaxed) == tid)
    }
}

impl fmt::Debug for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sheet").finish_non_exhaustive()
    }
}
