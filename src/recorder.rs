//! The recorder: where the process notes what it is doing, for a reader that comes after it has
//! died.
//!
//! The [`Sheet`] is a table of atomics. `state` maps it from a file, the black box, and hands it in;
//! without one every call here returns at once. Writers need no lock, allocate nothing and never
//! wait, so that workers, the watchdog and a panicking thread may all write. The kernel keeps the
//! pages of the file when the process is killed.
//!
//! Starts and ends of ordinary tasks are no events: the slots of live tasks are next to the sheet in
//! the same file, and say which tasks live. The ring of events is for what is rare.
//!
//! It does not read the sheet. That is for `state`, in another process.

pub(crate) mod fixed_text;
pub(crate) mod sheet;

use crate::task::TaskKind;
use sheet::{Desk, EVENTS, Sheet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The sheet, once there is one. Set at most once, before the first task of its runtime.
static SHEET: OnceLock<&'static Sheet> = OnceLock::new();
/// The most ends of tasks that are noted as events between two beats. A service in which every
/// request fails would otherwise flush the ring within a second.
const ENDS_A_BEAT: u32 = 20;

/// The kind of an event. The number is part of the format of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum What {
    Panicked = 1,
    Failed = 2,
    Cancelled = 3,
    Lingers = 4,
    Blocks = 5,
    Unblocked = 6,
    Stalled = 7,
    BeatsAgain = 8,
    UntrackedSite = 9,
    ProcessStarted = 10,
    ProcessEnded = 11,
    ProcessKilled = 12,
    ProcessRestarted = 13,
    GivenUp = 14,
    EndpointUp = 15,
    EndpointDown = 16,
    StopAsked = 17,
    Phase = 18,
    ThreadLingers = 19,
    AllBlocked = 20,
    Deadline = 21,
}

/// The task of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    /// The number of the task's kind.
    pub(crate) kind: u32,
    /// The task's id.
    pub(crate) id: u64,
}

// === impl What ===

impl What {
    /// All kinds of events, in the order of their numbers.
    pub(crate) const ALL: [Self; 21] = [
        Self::Panicked,
        Self::Failed,
        Self::Cancelled,
        Self::Lingers,
        Self::Blocks,
        Self::Unblocked,
        Self::Stalled,
        Self::BeatsAgain,
        Self::UntrackedSite,
        Self::ProcessStarted,
        Self::ProcessEnded,
        Self::ProcessKilled,
        Self::ProcessRestarted,
        Self::GivenUp,
        Self::EndpointUp,
        Self::EndpointDown,
        Self::StopAsked,
        Self::Phase,
        Self::ThreadLingers,
        Self::AllBlocked,
        Self::Deadline,
    ];

    /// Returns the word for JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Panicked => "task_panicked",
            Self::Failed => "task_failed",
            Self::Cancelled => "task_cancelled",
            Self::Lingers => "task_lingers",
            Self::Blocks => "worker_blocked",
            Self::Unblocked => "worker_unblocked",
            Self::Stalled => "task_stalled",
            Self::BeatsAgain => "task_beats_again",
            Self::UntrackedSite => "untracked_site",
            Self::ProcessStarted => "process_started",
            Self::ProcessEnded => "process_ended",
            Self::ProcessKilled => "process_killed",
            Self::ProcessRestarted => "process_restarted",
            Self::GivenUp => "process_given_up",
            Self::EndpointUp => "endpoint_up",
            Self::EndpointDown => "endpoint_down",
            Self::StopAsked => "stop_asked",
            Self::Phase => "phase_changed",
            Self::ThreadLingers => "thread_lingers",
            Self::AllBlocked => "all_workers_blocked",
            Self::Deadline => "deadline_passed",
        }
    }

    /// Returns whether a service may have any number of these events a second.
    const fn is_frequent(self) -> bool {
        matches!(self, Self::Panicked | Self::Failed | Self::Cancelled)
    }
}

/// Sets the sheet. Returns false if there is one already: a process has one black box.
pub(crate) fn begin(sheet: &'static Sheet) -> bool {
    SHEET.set(sheet).is_ok()
}

/// Returns whether a sheet was set.
pub(crate) fn has_begun() -> bool {
    SHEET.get().is_some()
}

/// Returns the desk of the shard of that number; `None` if there is no sheet, or it has too few.
pub(crate) fn desk(shard: usize) -> Option<&'static Desk> {
    SHEET.get()?.desks.get(shard)
}

/// Notes an event. `of` is the task that it is about. A long text is cut.
///
/// Costs about 100 ns. If two threads write to one place of the ring, because 10,000 events came
/// between the first and the last word of one, that event is mixed up.
pub(crate) fn note(what: What, of: Option<Subject>, text: &str) {
    let Some(sheet) = SHEET.get() else {
        return;
    };
    let live = &sheet.live;
    if what.is_frequent() && !has_room(&live.ends, &live.unsaid) {
        return;
    }
    let number = live.events.fetch_add(1, Ordering::Relaxed);
    let place = usize::try_from(number % EVENTS as u64).expect("the ring fits memory");
    let event = &sheet.ring[place];
    // A reader keeps an event only if its stamp is that of its place.
    event.stamp.store(0, Ordering::Release);
    event.at.store(nanos(uptime()), Ordering::Relaxed);
    event.what.store(what as u32, Ordering::Relaxed);
    event
        .kind
        .store(of.map_or(0, |of| of.kind + 1), Ordering::Relaxed);
    event.id.store(of.map_or(0, |of| of.id), Ordering::Relaxed);
    event.text.set(text);
    event.stamp.store(number + 1, Ordering::Release);
}

/// Takes one from the number of ends that may be noted until the next beat, or counts one that is
/// not noted.
fn has_room(ends: &AtomicU64, unsaid: &AtomicU64) -> bool {
    let most = u64::from(ENDS_A_BEAT);
    // Loaded first: when all tasks are cancelled at once, one shared counter is enough.
    let noted = ends.load(Ordering::Relaxed) < most && ends.fetch_add(1, Ordering::Relaxed) < most;
    if !noted {
        unsaid.fetch_add(1, Ordering::Relaxed);
    }
    noted
}

/// Notes that the process is alive, if the sheet is that of the runtime: the settings and the tasks of
/// another runtime are not those of the run. `raw` is the reading of the registry's clock. `has_pulse`:
/// polls note a pulse. `tasks` returns the number of live tasks, and is called if some are not in the
/// box; `threads` returns that of the threads whose desks are not.
pub(crate) fn beat(
    root: u64,
    (raw, has_pulse): (u64, bool),
    tasks: impl FnOnce() -> u64,
    threads: impl FnOnce() -> u64,
) {
    let Some(sheet) = of_root(root) else {
        return;
    };
    let live = &sheet.live;
    live.ends.store(0, Ordering::Relaxed);
    live.has_pulse
        .store(u64::from(has_pulse), Ordering::Relaxed);
    if live.outside.load(Ordering::Relaxed) != 0 {
        live.tasks.store(tasks(), Ordering::Relaxed);
    }
    live.threads_outside.store(threads(), Ordering::Relaxed);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    live.beat_wall
        .store(nanos(wall.unwrap_or_default()), Ordering::Relaxed);
    live.beat_raw.store(raw, Ordering::Relaxed);
    live.beat.store(nanos(uptime()), Ordering::Release);
}

/// Notes the chunks of slots: those that are in the file, and those that are not.
pub(crate) fn chunks(inside: usize, outside: usize) {
    if let Some(sheet) = SHEET.get() {
        let live = &sheet.live;
        live.outside.store(outside as u64, Ordering::Relaxed);
        live.chunks.store(inside as u64, Ordering::Release);
    }
}

/// Notes that a runtime enters a phase, if the sheet is that of the runtime.
pub(crate) fn phase(root: u64, number: u8, word: &str) {
    if let Some(sheet) = of_root(root) {
        let live = &sheet.live;
        live.entered[usize::from(number) % live.entered.len()]
            .store(nanos(uptime()), Ordering::Relaxed);
        live.phase.store(u64::from(number), Ordering::Release);
        note(What::Phase, None, word);
    }
}

/// Notes why a runtime stops, if the sheet is that of the runtime.
pub(crate) fn stopping(root: u64, reason: &str) {
    if let Some(sheet) = of_root(root) {
        sheet.live.reason.set(reason);
    }
}

/// Returns the sheet if it is that of the runtime.
fn of_root(root: u64) -> Option<&'static Sheet> {
    let sheet = *SHEET.get()?;
    (sheet.head.root.load(Ordering::Relaxed) == root).then_some(sheet)
}

/// Notes whether a group is told to drain, by the number of its scope.
pub(crate) fn draining(scope: u32, is_draining: bool) {
    let words = SHEET.get().map(|sheet| &sheet.draining[..]);
    let word = words.and_then(|words| words.get(scope as usize / 64));
    if let Some(word) = word {
        let bit = 1 << (scope % 64);
        if is_draining {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// Notes the name of a path of groups.
pub(crate) fn path(number: u32, name: &str) {
    let paths = SHEET.get().map(|sheet| &sheet.paths[..]);
    if let Some(path) = paths.and_then(|paths| paths.get(number as usize)) {
        path.set(name);
    }
}

/// Notes a kind: its number, path, name and spawn site, and the kind of work of its tasks.
pub(crate) fn kind(
    number: u32,
    path: u32,
    name: &str,
    site: &std::panic::Location<'_>,
    runs: TaskKind,
) {
    let kinds = SHEET.get().map(|sheet| &sheet.kinds[..]);
    let Some(card) = kinds.and_then(|kinds| kinds.get(number as usize)) else {
        return;
    };
    card.path.store(path, Ordering::Relaxed);
    card.runs.store(runs as u32, Ordering::Relaxed);
    card.line.store(site.line(), Ordering::Relaxed);
    card.column.store(site.column(), Ordering::Relaxed);
    card.name.set(name);
    card.file.set(fixed_text::end_of(site.file(), 128));
    card.is_set.store(1, Ordering::Release);
}

/// Notes a registered thread. `class` is the number of its class.
pub(crate) fn thread(tid: u32, class: u32, name: &str) {
    let Some(sheet) = SHEET.get() else {
        return;
    };
    let cards = sheet.threads_of(tid);
    // The kernel reuses ids, so the card of a thread that ended without a word may have this one.
    let known = cards
        .clone()
        .find(|card| card.tid.load(Ordering::Relaxed) == tid);
    let taken = known.or_else(|| {
        let mut free = cards.clone();
        free.find(|card| {
            let taken = card
                .tid
                .compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        })
    });
    if let Some(card) = taken {
        card.class.store(class, Ordering::Relaxed);
        card.name.set(name);
    }
}

/// Notes that a thread has another class.
pub(crate) fn thread_class(tid: u32, class: u32) {
    if let Some(card) = SHEET.get().and_then(|sheet| sheet.thread(tid)) {
        card.class.store(class, Ordering::Relaxed);
    }
}

/// Notes that a thread is no longer registered.
pub(crate) fn thread_ended(tid: u32) {
    if let Some(card) = SHEET.get().and_then(|sheet| sheet.thread(tid)) {
        card.tid.store(0, Ordering::Release);
    }
}

/// Returns the time since the boot, suspend included.
pub(crate) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// Returns a time in nanoseconds. They fit for five centuries.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
