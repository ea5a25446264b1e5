//! The rows of reports, dumps, snapshots and the admin API: one type per thing, wherever it is
//! listed.
//!
//! A row has all fields that are known somewhere; those that a list does not fill are empty or
//! `None` there. In JSON each list has the keys of its own rows: see [`json`].

pub(crate) mod json;
mod untracked;

pub use untracked::UntrackedRow;
pub(crate) use untracked::UntrackedTasks;

use super::stack;
use crate::audit::{self, Audited, Baseline, Child};
use crate::registry::LiveTask;
use crate::registry::kind::Kind;
use crate::registry::root::Process;
use crate::stacks::awaits::Awaited;
use crate::stacks::frame::Frame;
use crate::stacks::trace::Trace;
use crate::task::{TaskId, TaskKind, TaskState};
use crate::threads::ThreadClass;
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::Location;
use std::path::Path;
use std::time::{Duration, Instant};

/// One live tracked task, as it was when it was read.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::{TaskKind, TaskState};
///
/// let jobs = tasks.group("jobs");
/// jobs.task("reload").daemon().spawn(std::future::pending::<()>());
/// let row = jobs.snapshot().tasks().next().expect("it is live");
/// assert_eq!((row.group, row.name, row.kind), ("jobs", "reload", TaskKind::Async));
/// assert!(row.daemon && !row.required);
/// assert!(row.state <= TaskState::Running);
/// assert_eq!(row.spawned.file(), file!());
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskRow {
    /// The task's id.
    pub id: TaskId,
    /// The path of the task's group; empty for the root.
    pub group: &'static str,
    /// The task's name.
    pub name: &'static str,
    /// The way it is run: async, local, blocking, or `main`.
    pub kind: TaskKind,
    /// The source location of the spawn.
    pub spawned: &'static Location<'static>,
    /// True if the task is [`required`](crate::Spawn::required): its end begins a shutdown.
    pub required: bool,
    /// True if the task is a [`daemon`](crate::Spawn::daemon), which no drain or shutdown waits
    /// for.
    pub daemon: bool,
    /// The task's state.
    pub state: TaskState,
    /// The time since it was spawned.
    pub age: Duration,
    /// The time since it was last polled, at most 0.1 s too long; `None` if that is not observed.
    /// Known in reports and dumps.
    pub last_poll: Option<Duration>,
    /// The kernel's id of the thread that polled, dropped or ran it at that moment.
    pub on_thread: Option<u32>,
    /// True if its future was being dropped before it had returned: because it was cancelled, or
    /// with its runtime. The drop has then lasted since the last poll.
    pub dropping: bool,
    /// The futures it awaits, each as the chain of awaits that leads there, the innermost first.
    /// Empty if no waker was registered; `None` if that is not observed. Known in reports and
    /// dumps.
    pub awaits: Option<Vec<Vec<Frame>>>,
    /// The number of its polls since it was told to drain, if it never waits: it asked to be polled
    /// again within the poll in which it was asked what it awaits. 0 if it was not told. The awaits
    /// then lead to the places where it yields. Known in reports and dumps.
    pub always_ready: Option<u64>,
    /// The type of its future or closure, shortened, as in [`KindRow::future`].
    pub future: &'static str,
}

/// Live tracked tasks of one group, name and spawn site.
///
/// Many tasks with one origin are one row: [`count`](Self::count) is their number.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use headcount::TaskState;
///
/// let budget = Duration::from_millis(20);
/// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     let http = tasks.group("http");
///     for _ in 0..3 {
///         http.spawn("accept", std::future::pending::<()>());
///     }
/// });
/// let accept = &report.drain.ignored[0];
/// assert_eq!((accept.path().as_str(), accept.count), ("http/accept", 3));
/// assert_eq!(accept.in_state(TaskState::Draining), 3);
/// // They are parked: none is on a thread or blocks one.
/// assert_eq!((accept.tid(), accept.held()), (None, None));
/// for chain in accept.awaits().unwrap_or_default() {
///     println!("awaits {}", chain[0]);
/// }
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindRow {
    /// The path of the group; empty for the root.
    pub group: &'static str,
    /// The name of the tasks.
    pub name: &'static str,
    /// The way they are run: async, local, blocking, or `main`.
    pub kind: TaskKind,
    /// True if they are daemons, which a shutdown does not wait for.
    pub daemon: bool,
    /// The source location of the spawn.
    pub spawned: &'static Location<'static>,
    /// The number of tasks.
    pub count: u64,
    /// The number of tasks in each state, in the order of [`TaskState::ALL`].
    pub(crate) states: [u64; TaskState::ALL.len()],
    /// The age of the oldest. In the JSON of a report: `age_seconds`.
    pub oldest: Duration,
    /// The longest time that one of them has been draining; `None` if they were not told to drain.
    pub draining: Option<Duration>,
    /// The number of tasks that were never polled, and of closures that never ran.
    pub never_started: u64,
    /// The number of other tasks that were not polled since they were told to drain. Nothing may
    /// have woken them.
    pub not_polled: u64,
    /// The reason why they could not be polled or started, as a clause: `importer holds the only
    /// worker`. Known in reports.
    pub held_by: Option<String>,
    /// At most five of them: first those on a thread, then those that are stalled, then the oldest.
    pub rows: Vec<TaskRow>,
    /// The thread that the first of them was on, as `"name" (tid 17)`.
    pub on_thread: Option<String>,
    /// The stack of that thread, in the form of [`ThreadRow::stack`]. It was read at the end of the
    /// drain for the tasks of the drain layer, and at the end of the last layer for those that are
    /// still alive. Known in reports.
    pub stack: Vec<Frame>,
    /// The limits of that stack, as in [`ThreadRow::stack_note`].
    pub stack_note: Option<String>,
    /// The type of the future or closure of the first such task, shortened: `orders::import` for
    /// the future of an `async fn`. Other tasks of generic code may have other types.
    pub future: &'static str,
}

/// One live thread.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use headcount::ThreadKind;
/// use headcount::threads::ThreadClass;
///
/// let budget = Duration::from_millis(100);
/// let runtime = headcount::Runtime::builder().close_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.spawn_thread("watcher", ThreadKind::Tracked, || loop {
///         std::thread::park();
///     });
/// });
/// let mut lingering = report.close.threads.iter();
/// let watcher = lingering.find(|row| row.name == "watcher").expect("it never ends");
/// assert_eq!(watcher.class, ThreadClass::Tracked);
/// assert!(watcher.own && watcher.started.is_some());
/// for frame in &watcher.stack {
///     println!("{frame}");
/// }
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadRow {
    /// The kernel's id of the thread.
    pub tid: u32,
    /// The full name of a registered thread. For other threads the name that the kernel keeps: at
    /// most 15 bytes, and the name of the creator if the thread was never named.
    pub name: String,
    /// The class that the thread is registered with.
    pub class: ThreadClass,
    /// True if the thread is registered with the runtime that was asked, or that made the report or
    /// the dump.
    pub own: bool,
    /// True if it is in the baseline: it existed when headcount started. Known in dumps only.
    pub there_before: bool,
    /// The place that started the thread, if it was started or adopted through headcount. In the
    /// JSON of a dump: `spawned`.
    pub started: Option<&'static Location<'static>>,
    /// The time since the thread started.
    pub age: Duration,
    /// The CPU time that the thread has used, user and system.
    pub cpu: Duration,
    /// The kernel's scheduling state: `running`, `sleeping`, …
    pub state: &'static str,
    /// The clause that says what it waits for: `on CPU`, `blocked in recv(fd 4 → tcp
    /// 127.0.0.1:5432)`. If its stack shows more of a futex than the kernel does, that: `waiting
    /// for a mutex (futex 0x7f12ab00)`, `parked`. `None` if that is not observed. Known in reports
    /// and dumps.
    pub waits: Option<String>,
    /// The path of the tracked task that it polls, drops or runs. Known in reports and dumps.
    pub task: Option<String>,
    /// The attempts of the shutdown to end it, of those it opted in to: `nudged 412 times`, `its
    /// closer was called`.
    pub tried: Vec<String>,
    /// True if it was started after the shutdown began.
    pub appeared_while_stopping: bool,
    /// Its stack, the innermost function first, with inlined functions, and without the frames of
    /// the standard library below the function that the thread was started with. At most 128
    /// frames. Known in reports and dumps.
    pub stack: Vec<Frame>,
    /// The limits of the stack: `approximate` if the thread may have moved while it was read, or
    /// part of it was guessed; `incomplete` if it does not reach the function in which threads
    /// begin; `without names` if it was not symbolized.
    pub stack_note: Option<String>,
    /// The reason why there is no stack.
    pub no_stack: Option<String>,
}

/// A child process.
///
/// In the JSON of the lists of live children there are only its pid and its command.
///
/// # Examples
///
/// ```
/// # use std::process::Command;
/// # use std::time::Duration;
/// let budget = Duration::from_millis(100);
/// let runtime = headcount::Runtime::builder().close_budget(budget).print(false).build()?;
/// let mut child = None;
/// let report = runtime.run(async |_tasks| {
///     child = Command::new("sleep").arg("60").spawn().ok();
/// });
/// let row = &report.close.children[0];
/// assert_eq!(row.command, "sleep 60");
/// let mut child = child.expect("there is a command `sleep`");
/// assert_eq!(row.pid, child.id());
/// # child.kill()?;
/// # child.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildRow {
    /// Its pid.
    pub pid: u32,
    /// Its command line, at most 200 characters.
    pub command: String,
    /// The path of the task that ran it: its group and its name. `None` if no task is known.
    pub task: Option<String>,
    /// The way in which it ended, such as `exited with code 0`; `None` if its end was not seen.
    pub end: Option<String>,
    /// The signal that asked it to stop, such as `SIGTERM`; `None` if it was not asked.
    pub signal: Option<String>,
    /// The time from that signal to its end. In JSON: `took_seconds`.
    pub took: Option<Duration>,
    /// The processes that had to end before it was asked to stop.
    pub waited_for: Vec<String>,
    /// The processes that had to be killed: this one, and those that it had started, as `sh (pid
    /// 17)`.
    pub killed: Vec<String>,
    /// The reasons why it did not stop after the signal, a line for each process of its tree, as far as
    /// they were looked for: whether it ignores, blocks or handles the signal, and what it waits for.
    pub unstopped: Vec<String>,
}

/// Tasks of one group, name and spawn site that panicked in the same way while the service stopped.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     let group = tasks.clone();
///     tasks.spawn("save", async move {
///         group.draining().await;
///         None::<u8>.expect("a free block")
///     });
/// });
/// let panic = &report.drain.panicked[0];
/// assert_eq!((panic.name, panic.count), ("save", 1));
/// assert_eq!(panic.message, "a free block");
/// assert!(panic.location.is_some());
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PanicRow {
    /// The path of the group; empty for the root.
    pub group: &'static str,
    /// The name.
    pub name: &'static str,
    /// The source location of the spawn.
    #[serde(serialize_with = "json::site")]
    pub spawned: &'static Location<'static>,
    /// The message of the panic.
    pub message: String,
    /// The location of the panic, as `file:line:column`.
    pub location: Option<String>,
    /// The number of tasks.
    pub count: u64,
}

// === impl TaskRow ===

impl TaskRow {
    /// Creates the row of a task, without its last poll, which would be another read of its slot.
    /// `on_threads`: the thread that is in each task, by the address of the task's slot.
    pub(crate) fn new(task: &LiveTask, on_threads: &HashMap<usize, u32>) -> Self {
        let Kind {
            name,
            site,
            options,
            future,
            ..
        } = task.kind;
        Self {
            id: task.id,
            group: task.kind.group(),
            name,
            kind: options.runs,
            spawned: site,
            required: options.required,
            daemon: options.daemon,
            state: task.state,
            age: task.age(),
            last_poll: None,
            on_thread: on_threads.get(&task.slot_address()).copied(),
            dropping: task.dropping,
            awaits: None,
            always_ready: None,
            future,
        }
    }

    /// Puts what the task awaits into the row, if it has answered.
    pub(crate) fn show_awaits(&mut self, awaited: Option<Awaited>) {
        let Some(mut awaited) = awaited else {
            return;
        };
        for chain in &mut awaited.chains {
            stack::name_root(chain, self.future);
        }
        // A task that asked to be polled again has a chain. It is missing if its names came late.
        let is_named = !awaited.chains.is_empty() || awaited.always_ready.is_none();
        self.awaits = is_named.then_some(awaited.chains);
        self.always_ready = awaited.always_ready;
    }
}

// === impl KindRow ===

impl KindRow {
    /// Creates the row of a kind of which no task has been counted.
    pub(super) fn new(kind: &Kind) -> Self {
        Self {
            group: kind.group(),
            name: kind.name,
            kind: kind.options.runs,
            daemon: kind.options.daemon,
            spawned: kind.site,
            count: 0,
            states: [0; TaskState::ALL.len()],
            oldest: Duration::ZERO,
            draining: None,
            never_started: 0,
            not_polled: 0,
            held_by: None,
            rows: Vec::new(),
            on_thread: None,
            stack: Vec::new(),
            stack_note: None,
            future: kind.future,
        }
    }

    /// Returns the path of the tasks: their group and their name.
    #[must_use]
    pub fn path(&self) -> String {
        super::path(self.group, self.name)
    }

    /// Returns whether the other row is of the same group, name, spawn site and options.
    pub(crate) fn is_same_kind(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.spawned, row.name, row.group, row.kind, row.daemon);
        key(self) == key(other)
    }

    /// Returns the number of tasks in a state.
    #[must_use]
    pub fn in_state(&self, state: TaskState) -> u64 {
        self.states[state as usize]
    }

    /// Returns the kernel's id of the thread that the first listed task was on.
    #[must_use]
    pub fn tid(&self) -> Option<u32> {
        self.rows.first()?.on_thread
    }

    /// Returns the time that this task had been in one poll, or in its drop. It is an upper bound,
    /// rarely more than 0.1 s too long. `None` for closures, and if polls are not watched.
    #[must_use]
    pub fn held(&self) -> Option<Duration> {
        let first = self.rows.first();
        first.filter(|task| task.on_thread.is_some())?.last_poll
    }

    /// Returns whether the first listed task is in its drop, as in [`TaskRow::dropping`].
    #[must_use]
    pub fn is_dropping(&self) -> bool {
        self.rows.first().is_some_and(|task| task.dropping)
    }

    /// Returns whether one of the listed tasks never waits, and how often it was polled, as in
    /// [`TaskRow::always_ready`].
    #[must_use]
    pub fn always_ready(&self) -> Option<u64> {
        self.rows.iter().find_map(|task| task.always_ready)
    }

    /// Returns what the first listed task that answered awaits, as in [`TaskRow::awaits`]. In a
    /// report that is when the drain was over. `None` if no task answered: they were in a poll or
    /// run blocking work, or headcount was built without the feature `stacks`.
    #[must_use]
    pub fn awaits(&self) -> Option<&[Vec<Frame>]> {
        self.rows.iter().find_map(|task| task.awaits.as_deref())
    }

    /// Returns the listed task that is the most likely to answer what it awaits: one that is on no
    /// thread, if there is one.
    pub(crate) fn to_ask(&self) -> Option<TaskId> {
        let parked = self.rows.iter().find(|task| task.on_thread.is_none());
        Some(parked.or(self.rows.first())?.id)
    }
}

// === impl ThreadRow ===

impl ThreadRow {
    /// Creates the row of a thread, without its stack and what it waits for. `root`: the runtime to
    /// which [`own`](Self::own) refers.
    pub(crate) fn new(thread: &Audited, root: u64) -> Self {
        let known = thread.known.as_ref();
        Self {
            tid: thread.os.key.tid,
            name: thread.name().to_owned(),
            class: thread.class(),
            own: known.is_some_and(|known| known.root == root),
            there_before: thread.in_baseline,
            started: known.and_then(|known| known.started),
            age: thread.age,
            cpu: thread.os.cpu,
            state: thread.os.state_name(),
            waits: None,
            task: None,
            tried: Vec::new(),
            appeared_while_stopping: false,
            stack: Vec::new(),
            stack_note: None,
            no_stack: None,
        }
    }

    /// Returns every thread of the process.
    pub(crate) fn all(root: u64) -> Vec<Self> {
        let all = audit::threads(&Baseline::default());
        all.iter().map(|thread| Self::new(thread, root)).collect()
    }

    /// Puts a stack into the row.
    pub(crate) fn show(&mut self, trace: &Trace) {
        self.stack.clone_from(&trace.frames);
        self.stack_note.clone_from(&trace.note);
        self.no_stack.clone_from(&trace.none);
    }

    /// Returns what the thread waits for, or else its state in the kernel.
    pub(crate) fn waits(&self) -> &str {
        self.waits.as_deref().unwrap_or(self.state)
    }
}

// === impl ChildRow ===

impl ChildRow {
    /// Returns the file name of its program.
    pub(crate) fn program(&self) -> Cow<'_, str> {
        let program = self.command.split(' ').next().map(Path::new);
        let program = program.and_then(Path::file_name).unwrap_or_default();
        program.to_string_lossy()
    }

    /// Creates the row of a process that a task ran; `None` if it never ran.
    pub(crate) fn of_task(process: &Process) -> Option<Self> {
        let state = process.state();
        let ended = state.end.as_ref().map(|(_, at)| *at);
        let took = |told: Instant| {
            let until = ended.unwrap_or_else(Instant::now);
            until.saturating_duration_since(told)
        };
        let name = |number: i32| match signal_hook::low_level::signal_name(number) {
            Some(name) => name.to_owned(),
            None => format!("signal {number}"),
        };
        Some(Self {
            pid: state.pid?,
            command: state.command,
            task: Some(process.path.clone()),
            end: state.end.map(|(how, _)| how),
            signal: state.told.map(|(number, _)| name(number)),
            took: state.told.map(|(_, at)| took(at)),
            waited_for: state.waits_for,
            killed: state.killed,
            unstopped: state.unstopped,
        })
    }
}

impl From<Child> for ChildRow {
    fn from(child: Child) -> Self {
        Self {
            pid: child.pid,
            command: child.command,
            task: None,
            end: None,
            signal: None,
            took: None,
            waited_for: Vec::new(),
            killed: Vec::new(),
            unstopped: Vec::new(),
        }
    }
}

/// Returns a location as `file:line:column`, without the folder in which cargo keeps downloaded
/// sources.
pub(crate) fn short(location: &Location<'_>) -> String {
    in_crate(&location.to_string()).to_owned()
}

/// Cuts off the folder of downloaded sources: the crate's name and version come first.
pub(super) fn in_crate(place: &str) -> &str {
    let inside = place
        .split_once("/registry/src/")
        .and_then(|(_, rest)| rest.split_once('/'));
    inside.map_or(place, |(_, rest)| rest)
}
