//! The tasks of a runtime of this process, tracked or not.
//!
//! Works on stable Rust and without flags, on a runtime that headcount owns or is attached to, also
//! while all of its workers are stuck. It costs nothing until the first look: that one calibrates
//! (see [`Layout`]), which takes about a millisecond, once in the process. A look takes about half
//! a microsecond a task.
//!
//! Seen are the tasks of `tokio::spawn` and the like. Tasks of a `LocalSet` are in lists of their
//! own, blocking closures in none, and a second copy of tokio in the program has its own runtimes:
//! none of these are seen.

mod calibrate;

use super::header::{Tables, Task};
use super::list::{self, Bounds, Lists, Look};
use super::memory::Memory;
use calibrate::Layout;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id};

use crate::threads;

/// The bytes of copies that a reader keeps during a look.
const KEPT: u64 = 1 << 20;
/// The words of a scheduler that may describe its lists.
const SCHEDULER: usize = 512;
/// The newest tasks of a list among which the task that a reader has just spawned must be.
const NEWEST: usize = 1000;
/// The longest path of a source file.
const PATH: usize = 4096;
/// The longest wait for the calibration, which takes a millisecond of a processor.
const CALIBRATION: Duration = Duration::from_secs(5);
/// The shortest time between two searches for the layout.
const AGAIN: Duration = Duration::from_secs(10);
/// The most searches for the lists.
const TRIES: usize = 3;
/// The most shards of a runtime. tokio makes at most 65,536.
const SHARDS: u64 = 1 << 16;

/// The layout of tokio's tasks, or the reason why it is not known.
static LAYOUT: OnceLock<Result<Layout, Refusal>> = OnceLock::new();
/// The last search for it that failed for a reason that may pass.
static FAILED: Mutex<Option<(Instant, Refusal)>> = Mutex::new(None);

/// The reason why nothing is shown, as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    text: String,
    /// True if it may be another one at the next look.
    is_for_now: bool,
}

/// A reader of the tasks of one runtime. The lists live as long as a handle of the runtime, also
/// while it shuts down and after that, so each look borrows one.
#[derive(Debug)]
pub(crate) struct OwnReader {
    memory: Memory,
    tables: Tables,
    lists: Lists,
    /// The table of the tasks by which readers find the lists. Such a task may be alive for some time
    /// after it was aborted, if no worker is free.
    probes: u64,
    /// The process that made it.
    pid: u32,
}

/// The place of a spawn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    file: String,
    line: u64,
    column: u64,
}

/// A guard that ends a task when it is dropped.
struct EndOnDrop(AbortHandle);

/// The future by which a reader finds the lists. It waits until it is aborted.
struct Probe;

/// Returns the number of a task, which is in its header.
pub(crate) fn number(id: Id) -> u64 {
    // The `Display` of an id is its number, and nothing else shows it.
    id.to_string().parse().unwrap_or(0)
}

// === impl Place ===

impl Place {
    /// Returns whether it is this location. Equal locations may have several addresses.
    pub(crate) fn is(&self, location: &Location<'_>) -> bool {
        let place = (u64::from(location.line()), u64::from(location.column()));
        self.file == location.file() && (self.line, self.column) == place
    }
}

// === impl Refusal ===

impl Refusal {
    /// Creates a refusal for a layout that is not known.
    fn for_good(text: String) -> Self {
        Self {
            text,
            is_for_now: false,
        }
    }

    /// Creates a refusal for a reason that may pass.
    fn for_now(text: String) -> Self {
        Self {
            text,
            is_for_now: true,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl OwnReader ===

impl OwnReader {
    /// Finds the lists of a runtime. It spawns a task on it for a moment, which need not be polled.
    /// The first call in the process calibrates, on a thread of its own: it blocks for about a
    /// millisecond, and at most 5 s. `root` is the number of the root for which the thread works.
    ///
    /// # Errors
    ///
    /// Fails if the runtime is closed, if the process may not read its own memory, or if tokio lays
    /// out its tasks in an unknown way.
    pub(crate) fn new(root: u64, handle: &Handle) -> Result<Self, Refusal> {
        let layout = layout(root)?;
        let memory = open()?;
        let scheduler = layout.scheduler(&memory, handle);
        let scheduler = scheduler.ok_or_else(|| not_found("its handle has no pointer"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a task of headcount, for some microseconds"
        )]
        let task = handle.spawn(Probe);
        let _end = EndOnDrop(task.abort_handle());
        let id = number(task.id());
        let tables = Tables::new(cfg!(tokio_unstable));
        let words = memory.some_words(scheduler, SCHEDULER);
        // A list may change while it is read.
        let found = (0..TRIES).find_map(|_| {
            let mut lists = (0..words.len()).filter_map(|at| layout.lists(&words, scheduler, at));
            lists.find_map(|lists| {
                let task = find(&lists, &memory, &tables, scheduler, id)?;
                Some((lists, task))
            })
        });
        let (lists, probe) =
            found.ok_or_else(|| not_found("no list has the task that was just spawned"))?;
        Ok(Self {
            memory,
            tables,
            lists,
            probes: probe.table,
            pid: std::process::id(),
        })
    }

    /// Looks at all tasks, within the bounds. A task that is alive from the start to the end of the
    /// look is in it once, unless the look was cut.
    pub(crate) fn look(&self, _alive: &Handle, bounds: Bounds) -> Look {
        // A library that was loaded since may have tables of its own.
        self.memory.refresh();
        let mut look = list::look(&self.memory, &self.tables, &self.lists, bounds);
        let listed = look.tasks.len();
        look.tasks
            .retain(|task| task.table != self.probes || !task.state.is_cancelled());
        let own = (listed - look.tasks.len()) as u64;
        look.counted = look
            .counted
            .map(|(before, after)| (before.saturating_sub(own), after.saturating_sub(own)));
        look
    }

    /// Reads a task again; `None` if it has ended.
    pub(crate) fn again(&self, _alive: &Handle, seen: &Task) -> Option<Task> {
        let task = self.lists.task(&self.memory, &self.tables, seen.header)?;
        let is_same = task.id == seen.id && task.table == seen.table;
        is_same.then_some(task)
    }

    /// Returns whether it was made by this process, and not by the parent before a fork.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Returns the place of a task's spawn, if it is known (`core::panic::Location`).
    pub(crate) fn place(&self, task: &Task) -> Option<Place> {
        let [file, length, place] = self.memory.words(task.spawned)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?.min(PATH)];
        let read = self.memory.read(file, &mut bytes);
        let file = String::from_utf8(bytes)
            .ok()
            .filter(|_| read as u64 == length)?;
        let [line, column] = [place & u64::from(u32::MAX), place >> 32];
        Some(Place { file, line, column })
    }

    /// Returns the functions of a task's type.
    pub(crate) fn functions(&self, task: &Task) -> Option<[u64; 7]> {
        let table = self.tables.get(&self.memory, task.table)?;
        Some(table.functions)
    }

    /// Returns the words of a task's cell from its header to its trailer: among them is its future.
    /// They may be torn while the task runs.
    pub(crate) fn cell(&self, _alive: &Handle, task: &Task, most: usize) -> Vec<u64> {
        let table = self.tables.get(&self.memory, task.table);
        let words = table.map_or(0, |table| usize::try_from(table.trailer / 8).unwrap_or(0));
        self.memory.some_words(task.header, words.min(most))
    }
}

/// Returns the task with an id, if it is among the newest ones of its list and every task up to it
/// belongs to the runtime.
fn find(lists: &Lists, memory: &Memory, tables: &Tables, scheduler: u64, id: u64) -> Option<Task> {
    let shard = usize::try_from(id & (lists.heads.len() as u64 - 1)).unwrap_or(0);
    let mut at = memory.word(lists.heads[shard]).unwrap_or(0);
    for _ in 0..NEWEST {
        let task = lists.task(memory, tables, at)?;
        if task.scheduler != scheduler {
            return None;
        }
        if task.id == id {
            return Some(task);
        }
        at = task.older;
    }
    None
}

/// Returns the layout of tokio's tasks, which is found at the first call. A call that fails for want
/// of something else than a known layout is repeated at the next look, at most every [`AGAIN`].
fn layout(root: u64) -> Result<Layout, Refusal> {
    if let Some(found) = LAYOUT.get() {
        return found.clone();
    }
    let mut last = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, refusal)) = last.as_ref().filter(|(at, _)| at.elapsed() < AGAIN) {
        return Err(refusal.clone());
    }
    let (tell, told) = channel();
    // On another thread, because a task must not run a runtime.
    let started = threads::start_own(root, "headcount-inspect", move || {
        // Fails if the wait timed out.
        tell.send(Layout::find()).ok();
    });
    let found = match started {
        Ok(_) => told.recv_timeout(CALIBRATION).unwrap_or_else(|_| {
            let reason = "there was no time to find their layout";
            Err(Refusal::for_now(format!(
                "tokio's tasks are not known: {reason}"
            )))
        }),
        Err(error) => Err(Refusal::for_now(format!(
            "tokio's tasks are not known: a thread could not be started: {error}"
        ))),
    };
    match &found {
        Err(refusal) if refusal.is_for_now => *last = Some((Instant::now(), refusal.clone())),
        _ => drop(LAYOUT.set(found.clone())),
    }
    found
}

/// Opens the memory of this process.
fn open() -> Result<Memory, Refusal> {
    Memory::open(Path::new("/proc/self"), KEPT).map_err(|error| {
        Refusal::for_now(format!("the process may not read its own memory: {error}"))
    })
}

fn not_found(reason: &str) -> Refusal {
    Refusal::for_now(format!("the runtime's lists are not found: {reason}"))
}

// === impl Probe ===

impl Future for Probe {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

// === impl EndOnDrop ===

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
