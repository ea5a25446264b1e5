//! The last moments of a run, as its black box shows them.

use super::SLOTS;
use super::read::{Copy, UnreadableBox, wall};
use crate::control::progress::Progress;
use crate::recorder::What;
use crate::recorder::sheet::{
    DESKS, Desk, EVENTS, EventCard, Head, KINDS, KindCard, Live, PATHS, SCOPES, Sheet, THREADS,
    ThreadCard,
};
use crate::registry::slots::BATCH;
use crate::registry::slots::slot::{Reading, Slot, WAKER_WORDS};
use crate::report;
use crate::report::dump::Phase;
use crate::state::boot;
use crate::task::TaskState;
use crate::threads::ThreadClass;
use rustix::process::geteuid;
use serde::Serialize;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The most tasks of a kind that have rows of their own: the oldest ones.
const ROWS: usize = 10;
/// The most events that are kept in memory of a previous run.
const KEPT_EVENTS: usize = 100;

/// What a run was doing when it was last seen: the live tasks, the threads that they held, the layer
/// of its shutdown, and the latest events.
///
/// It is read from the black box of the run, which [`Builder::black_box`](crate::Builder::black_box)
/// describes. Its `Display` form is a tree of several lines; its JSON form has all of it.
///
/// Times are as of the last sign of life, which comes ten times a second. A task that was started
/// later than that has the age zero.
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let orders = || headcount::Runtime::builder().state_folder(folder).print(false);
/// orders().build()?.run(async |_tasks| {});
///
/// let second = orders().build()?;
/// let previous = second.previous_run().expect("there was one");
/// // It ended with a report, so its black box was removed.
/// assert_eq!(previous.moments, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastMoments {
    /// The name of the service.
    pub service: String,
    /// The version of the service; empty if it was not set.
    pub version: String,
    /// The unique id of the run.
    pub run_id: String,
    /// The process id.
    pub pid: u32,
    /// True if the process was alive when the box was read.
    pub is_alive: bool,
    /// The start of the run. In JSON: `started_at`, in seconds since 1970.
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub started: SystemTime,
    /// The last sign of life. In JSON: `seen_at`, in seconds since 1970.
    #[serde(rename = "seen_at", with = "boot::seconds")]
    pub seen: SystemTime,
    /// The last sign of life as the time since the boot.
    #[serde(skip)]
    pub(in crate::state) seen_uptime: Duration,
    /// The time from the start to the last sign of life. In JSON: `ran_seconds`.
    #[serde(rename = "ran_seconds", serialize_with = "report::seconds")]
    pub ran: Duration,
    /// The phase of the shutdown.
    pub phase: Phase,
    /// The time for which the run had been in that phase. In JSON: `in_phase_seconds`.
    #[serde(rename = "in_phase_seconds", serialize_with = "report::seconds")]
    pub in_phase: Duration,
    /// The reason of the shutdown, if one had begun.
    pub reason: Option<String>,
    /// The number of live tasks that are in the box.
    pub live_tasks: u64,
    /// About how many more tasks were live that are not in the box: it was full, or the process had
    /// tasks before it had the box.
    pub tasks_not_in_box: u64,
    /// The number of threads that may have been in a task that is not known: they ran tasks before the
    /// process had the box, or it was full.
    pub threads_not_in_box: u64,
    /// The live tasks by kind, the kind with the oldest task first.
    pub(crate) tasks: Vec<Kind>,
    /// The threads that were in a task, the one that was in it longest first.
    pub(crate) on_threads: Vec<Held>,
    /// The registered threads, by id.
    pub(crate) threads: Vec<Thread>,
    /// The latest events, the oldest first. Those of a [`PreviousRun`](crate::state::PreviousRun) are
    /// the latest 100.
    pub(super) events: Vec<Event>,
    /// The number of events that the run noted; the ring holds the latest 10,000.
    pub(super) events_noted: u64,
    /// The number of ends of tasks that were not noted, because there were too many.
    pub(super) ends_not_noted: u64,
}

/// The live tasks of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Kind {
    pub(crate) group: String,
    /// Empty if the name is not in the box.
    pub(crate) name: String,
    pub(crate) runs: &'static str,
    /// The spawn site; empty if it is not in the box.
    pub(crate) spawned: String,
    pub(crate) count: u64,
    /// The numbers of tasks by state.
    pub(crate) states: BTreeMap<&'static str, u64>,
    #[serde(rename = "oldest_seconds", serialize_with = "report::seconds")]
    pub(crate) oldest: Duration,
    /// The oldest ones, the oldest first; at most [`ROWS`] unless more were asked for.
    pub(crate) rows: Vec<Task>,
}

/// One live task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Task {
    pub(crate) id: u64,
    #[serde(rename = "age_seconds", serialize_with = "report::seconds")]
    pub(crate) age: Duration,
    pub(crate) state: TaskState,
    /// The time since the last poll, at most 0.1 s too long; `None` if it is not known.
    #[serde(rename = "last_poll_seconds", serialize_with = "optional_seconds")]
    pub(crate) last_poll: Option<Duration>,
    /// Words of which one is the address of tokio's task, if the task has published a waker.
    #[serde(skip)]
    pub(crate) waker: [u64; WAKER_WORDS],
    /// The address of its slot in the process.
    #[serde(skip)]
    pub(crate) slot: u64,
}

/// A thread that was in a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Held {
    pub(crate) tid: u32,
    /// The name and the class of the thread, if it was registered.
    pub(crate) thread: Option<String>,
    pub(crate) class: Option<ThreadClass>,
    /// The path of the task; `None` if it is not in the box.
    pub(crate) task: Option<String>,
    pub(crate) id: Option<u64>,
    /// True if it dropped the task's future.
    pub(crate) dropping: bool,
    /// The time since the poll, the drop or the closure began; `None` if it is not known.
    #[serde(rename = "held_seconds", serialize_with = "optional_seconds")]
    pub(crate) held: Option<Duration>,
}

/// A registered thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) class: ThreadClass,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Event {
    /// The time from the event to the last sign of life.
    #[serde(rename = "ago_seconds", serialize_with = "report::seconds")]
    pub(super) ago: Duration,
    pub(super) what: &'static str,
    /// The path of the task that it is about.
    pub(super) task: Option<String>,
    /// The task's id; 0 for none.
    pub(super) id: u64,
    pub(super) text: String,
}

/// A kind as the box names it.
struct Named {
    group: String,
    name: String,
    runs: u32,
    spawned: String,
}

/// Writes seconds, or `null`.
fn optional_seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => report::seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

// === impl LastMoments ===

impl LastMoments {
    /// Reads a black box.
    ///
    /// The process that wrote it need not help: it may be dead, stopped, or blocked in every thread.
    /// If it lives, tasks that start or end during the reading may be missing.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not a black box, or one of another user (unless this one is root) or
    /// of another version, or if it is damaged.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use headcount::state::LastMoments;
    ///
    /// let moments = LastMoments::read("/run/user/1000/headcount/4711-5d1e7a52.box".as_ref())?;
    /// println!("{} tasks\n{moments}", moments.live_tasks);
    /// # Ok::<(), headcount::state::UnreadableBox>(())
    /// ```
    pub fn read(path: &Path) -> Result<Self, UnreadableBox> {
        Self::with_rows(path, ROWS)
    }

    /// Reads a black box, with at most `rows` tasks of each kind.
    fn with_rows(path: &Path, rows: usize) -> Result<Self, UnreadableBox> {
        let own = geteuid().as_raw();
        let copy = Copy::of(path, (own != 0).then_some(own))?;
        Self::of(&copy, rows)
    }

    /// Reads the black box of a live process, with at most `rows` tasks of each kind. `None` if it
    /// has none that can be read.
    #[cfg(feature = "service")]
    pub(crate) fn of_live(pid: u32, rows: usize) -> Option<Self> {
        let path = super::of_process(pid)?;
        let moments = Self::with_rows(&path, rows).ok()?;
        (moments.is_alive && moments.pid == pid).then_some(moments)
    }

    /// Reads the box that the previous run of this service left, which must be this user's. If the
    /// process of its marker is gone, the box is that of a dead process, even if it is locked.
    pub(in crate::state) fn of_previous(path: &Path, is_gone: bool) -> Result<Self, UnreadableBox> {
        let mut copy = Copy::of_dead(path)?;
        copy.is_alive &= !is_gone;
        Self::of(&copy, ROWS)
    }
}

impl LastMoments {
    /// Reads a copy that was checked, with at most `rows` tasks of each kind.
    pub(super) fn of(copy: &Copy, rows: usize) -> Result<Self, UnreadableBox> {
        let live = offset_of!(Sheet, live);
        let beat = copy.word(live + offset_of!(Live, beat));
        let phase = copy.word(live + offset_of!(Live, phase));
        let phase = usize::try_from(phase).ok();
        let phase = phase.and_then(|phase| Progress::PHASES.get(phase));
        let Some(&phase) = phase else {
            return Err(UnreadableBox::Damaged("its phase is unknown"));
        };
        let events = copy.events(beat);
        let started = copy.word(offset_of!(Head, started));
        // An event may be newer than the last beat.
        let seen = events
            .iter()
            .map(|(at, _)| *at)
            .max()
            .unwrap_or(0)
            .max(beat);
        let since = |nanos: u64| Duration::from_nanos(seen.saturating_sub(nanos));
        let entered = copy.word(live + offset_of!(Live, entered) + 8 * phase as usize);
        let entered = if entered == 0 { started } else { entered };
        let chunks = copy.word(live + offset_of!(Live, chunks));
        let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
        let slots = chunks.saturating_mul(BATCH).min(SLOTS);
        let tasks = (0..slots).filter_map(|at| Some((at, copy.slot(at)?)));
        let tasks: Vec<(usize, Reading)> = tasks.collect();
        let total = copy.word(live + offset_of!(Live, tasks));
        let has_more = copy.word(live + offset_of!(Live, outside)) != 0;
        let not_in_box = total.saturating_sub(tasks.len() as u64);
        Ok(Self {
            service: copy.text::<8>(offset_of!(Head, service)),
            version: copy.text::<8>(offset_of!(Head, version)),
            run_id: copy.text::<8>(offset_of!(Head, run_id)),
            pid: u32::try_from(copy.word(offset_of!(Head, pid))).unwrap_or(0),
            is_alive: copy.is_alive,
            started: wall(copy.word(offset_of!(Head, started_wall))),
            seen: copy.seen() + Duration::from_nanos(seen.saturating_sub(beat)),
            seen_uptime: Duration::from_nanos(seen),
            ran: since(started),
            phase,
            in_phase: since(entered),
            reason: Some(copy.text::<25>(live + offset_of!(Live, reason)))
                .filter(|reason| !reason.is_empty()),
            live_tasks: tasks.len() as u64,
            tasks_not_in_box: if has_more { not_in_box } else { 0 },
            threads_not_in_box: copy.word(live + offset_of!(Live, threads_outside)),
            on_threads: copy.on_threads(),
            threads: copy.threads(),
            tasks: copy.kinds(tasks, rows),
            events: events.into_iter().map(|(_, event)| event).collect(),
            events_noted: copy.word(live + offset_of!(Live, events)),
            ends_not_noted: copy.word(live + offset_of!(Live, unsaid)),
        })
    }
}

impl LastMoments {
    /// Drops all but the latest 100 events, for a copy that stays in memory.
    pub(in crate::state) fn shorten(&mut self) {
        let more = self.events.len().saturating_sub(KEPT_EVENTS);
        self.events.drain(..more);
        self.events.shrink_to_fit();
    }
}

// === impl Copy ===

impl Copy {
    /// Returns the name of a kind; `None` if it is not in the box.
    fn named(&self, number: u32) -> Option<Named> {
        let number = usize::try_from(number).ok().filter(|at| *at < KINDS)?;
        let at = offset_of!(Sheet, kinds) + number * size_of::<KindCard>();
        if self.half(at + offset_of!(KindCard, is_set)) != 1 {
            return None;
        }
        let path = self.half(at + offset_of!(KindCard, path)) as usize;
        let size = size_of::<crate::recorder::fixed_text::FixedText<32>>();
        let group = match path {
            1..PATHS => self.text::<32>(offset_of!(Sheet, paths) + path * size),
            _ => String::new(),
        };
        let file = self.text::<16>(at + offset_of!(KindCard, file));
        let line = self.half(at + offset_of!(KindCard, line));
        let column = self.half(at + offset_of!(KindCard, column));
        Some(Named {
            group,
            name: self.text::<8>(at + offset_of!(KindCard, name)),
            runs: self.half(at + offset_of!(KindCard, runs)),
            spawned: format!("{file}:{line}:{column}"),
        })
    }

    /// Returns the group and the name of a kind as one path.
    fn path_of(&self, kind: u32) -> Option<String> {
        let named = self.named(kind)?;
        Some(report::path(&named.group, &named.name))
    }

    /// Returns the time between a reading of the registry's clock and the last beat.
    fn since(&self, raw: u64) -> Duration {
        let beat = self.word(offset_of!(Sheet, live) + offset_of!(Live, beat_raw));
        let ticks = u128::from(beat.saturating_sub(raw));
        let scale = u128::from(self.word(offset_of!(Head, scale)));
        let nanos = (ticks * scale) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the tasks by kind, with at most `rows` of each.
    fn kinds(&self, tasks: Vec<(usize, Reading)>, rows: usize) -> Vec<Kind> {
        let first = self.word(offset_of!(Head, address));
        let mut by_kind: BTreeMap<u32, Vec<Task>> = BTreeMap::new();
        for (slot, task) in tasks {
            by_kind.entry(task.entry.kind).or_default().push(Task {
                id: task.entry.id,
                age: self.since(task.entry.started),
                state: self.state_of(&task),
                last_poll: self.last_poll(&task),
                waker: self.waker_words(slot),
                slot: first.wrapping_add((slot * size_of::<Slot>()) as u64),
            });
        }
        let mut kinds: Vec<Kind> = by_kind
            .into_iter()
            .map(|(number, tasks)| Kind::of(self.named(number), tasks, rows))
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.oldest));
        kinds
    }

    /// Returns the state of a task.
    fn state_of(&self, task: &Reading) -> TaskState {
        if task.cancelling || task.dropping {
            TaskState::Cancelling
        } else if self.is_draining(task.entry.scope) {
            TaskState::Draining
        } else if task.polled != 0 {
            TaskState::Running
        } else {
            TaskState::Created
        }
    }

    /// Returns the time between the last poll of a task and the last beat; `None` if polls note no
    /// pulse, or the task was not polled.
    fn last_poll(&self, task: &Reading) -> Option<Duration> {
        // The first poll may note a pulse from before the task was started.
        (self.has_pulse() && task.polled != 0)
            .then(|| self.since(task.polled.max(task.entry.started)))
    }

    /// Returns whether polls note a pulse.
    fn has_pulse(&self) -> bool {
        self.word(offset_of!(Sheet, live) + offset_of!(Live, has_pulse)) != 0
    }

    /// Returns whether a group was told to drain.
    fn is_draining(&self, scope: u32) -> bool {
        let scope = scope as usize;
        let at = offset_of!(Sheet, draining) + scope / 64 * 8;
        scope < SCOPES && self.word(at) >> (scope % 64) & 1 != 0
    }

    /// Returns the threads that are in a task.
    fn on_threads(&self) -> Vec<Held> {
        let address = self.word(offset_of!(Head, address));
        let has_pulse = self.has_pulse();
        let threads = self.threads();
        let mut all = Vec::new();
        for desk in 0..DESKS {
            let at = offset_of!(Sheet, desks) + desk * size_of::<Desk>();
            let current = self.word(at + offset_of!(Desk, current));
            let tid = self.half(at + offset_of!(Desk, tid));
            if current == 0 || tid == 0 {
                continue;
            }
            let place = current.checked_sub(address);
            let slot = place.and_then(|place| usize::try_from(place).ok());
            let task = slot.and_then(|place| self.slot(place / size_of::<Slot>()));
            let known = threads.iter().find(|thread| thread.tid == tid);
            let held = task.filter(|task| (has_pulse || task.dropping) && task.polled != 0);
            all.push(Held {
                tid,
                thread: known.map(|known| known.name.clone()),
                class: known.map(|known| known.class),
                task: task.and_then(|task| self.path_of(task.entry.kind)),
                id: task.map(|task| task.entry.id),
                dropping: task.is_some_and(|task| task.dropping),
                // The first poll may note a pulse from before the task was started.
                held: held.map(|task| self.since(task.polled.max(task.entry.started))),
            });
        }
        all.sort_by_key(|held| std::cmp::Reverse(held.held));
        all
    }

    /// Returns the registered threads, by id.
    fn threads(&self) -> Vec<Thread> {
        let mut threads = Vec::new();
        for card in 0..THREADS {
            let at = offset_of!(Sheet, threads) + card * size_of::<ThreadCard>();
            let tid = self.half(at + offset_of!(ThreadCard, tid));
            let class = self.half(at + offset_of!(ThreadCard, class)) as usize;
            let class = ThreadClass::ALL.get(class).copied();
            if tid != 0 {
                threads.push(Thread {
                    tid,
                    name: self.text::<6>(at + offset_of!(ThreadCard, name)),
                    class: class.unwrap_or(ThreadClass::Unknown),
                });
            }
        }
        threads.sort_by_key(|thread| thread.tid);
        threads
    }

    /// Returns the events of the ring with their times since the boot, the oldest first. `beat` is the
    /// time of the last beat.
    fn events(&self, beat: u64) -> Vec<(u64, Event)> {
        let mut all: Vec<(u64, u64, Event)> = Vec::new();
        for place in 0..EVENTS {
            let at = offset_of!(Sheet, ring) + place * size_of::<EventCard>();
            let stamp = self.word(at + offset_of!(EventCard, stamp));
            let number = stamp.wrapping_sub(1);
            let what = self.half(at + offset_of!(EventCard, what)) as usize;
            let what = What::ALL.get(what.wrapping_sub(1));
            let is_whole = stamp != 0 && number % EVENTS as u64 == place as u64;
            let Some(what) = what.filter(|_| is_whole) else {
                continue;
            };
            let kind = self.half(at + offset_of!(EventCard, kind)).checked_sub(1);
            let time = self.word(at + offset_of!(EventCard, at));
            let event = Event {
                ago: Duration::ZERO,
                what: what.as_str(),
                task: kind.map(|kind| self.path_of(kind).unwrap_or_default()),
                id: self.word(at + offset_of!(EventCard, id)),
                text: self.text::<11>(at + offset_of!(EventCard, text)),
            };
            all.push((number, time, event));
        }
        all.sort_by_key(|(number, ..)| *number);
        let seen = all.iter().map(|(_, at, _)| *at).max().unwrap_or(0);
        let seen = seen.max(beat);
        let all = all.into_iter().map(|(_, at, event)| {
            let ago = Duration::from_nanos(seen.saturating_sub(at));
            (at, Event { ago, ..event })
        });
        all.collect()
    }
}

// === impl Kind ===

impl Kind {
    /// Sums up the tasks of a kind, of which there is at least one.
    fn of(named: Option<Named>, mut tasks: Vec<Task>, rows: usize) -> Self {
        tasks.sort_by_key(|task| (std::cmp::Reverse(task.age), task.id));
        let mut states = BTreeMap::new();
        for task in &tasks {
            *states.entry(task.state.as_str()).or_default() += 1;
        }
        let (count, oldest) = (tasks.len() as u64, tasks[0].age);
        tasks.truncate(rows);
        let named = named.unwrap_or_else(|| Named {
            group: String::new(),
            name: String::new(),
            runs: 0,
            spawned: String::new(),
        });
        let runs = ["async", "local", "blocking", "main"];
        let runs = runs.get(named.runs as usize).copied();
        Self {
            group: named.group,
            name: named.name,
            runs: runs.unwrap_or("unknown"),
            spawned: named.spawned,
            count,
            states,
            oldest,
            rows: tasks,
        }
    }
}
