//! Threads that are known: those that headcount started, those of the runtime it owns, and those that users declare.
//!
//! A thread is known by registration, from inside the thread; its name proves nothing, because an unnamed thread has
//! the name of the one that started it. What nobody registered is `unknown`; `audit` finds those.

mod expected;
mod idle;
mod known;
mod stop;

pub use expected::ThreadRule;
pub(crate) use expected::shipped;
pub(crate) use known::{Known, Registration, all, each_that_can_stop, forget_own};
pub(crate) use stop::DueCloser;
pub use stop::Stop;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The name of a runtime's threads. Those of the control side are `headcount-` and something else.
pub(crate) const WORK: &str = "headcount-work";

/// How long a runtime's threads may take to start.
const START: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(20);

/// What a user says of a thread when starting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadKind {
    /// It must be gone at the end of the shutdown, or it is reported as lingering.
    Tracked,
    /// It may die with the process.
    Daemon,
}

/// What a thread is, as far as somebody registered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ThreadClass {
    /// The thread that called [`run`](crate::run()).
    Main,
    /// A worker of the runtime.
    Worker,
    /// A thread of the runtime's blocking pool.
    Blocking,
    /// One of headcount's own.
    Control,
    /// One of the telemetry exporters.
    Telemetry,
    /// One that may die with the process.
    Daemon,
    /// One that must end.
    Tracked,
    /// Nobody registered it.
    Unknown,
}

/// How many threads live, by class.
///
/// While threads come and go it may be off by those that do so at the moment: one that starts or ends is unknown until
/// it has registered, and after it no longer is. No number is ever below zero, and all are exact when nothing moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadCounts {
    /// In the order of [`ThreadClass::ALL`].
    registered: [u64; ThreadClass::ALL.len() - 1],
    unknown: Option<u64>,
}

/// One live thread.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadInfo {
    /// The kernel's number.
    pub tid: u32,
    /// The full name where it is registered, else what the kernel knows: at most 15 bytes, and its creator's when it was
    /// never named.
    pub name: String,
    /// What it is registered as.
    pub class: ThreadClass,
    /// Whether it belongs to the runtime that was asked.
    pub own: bool,
    /// Where it was started, for threads that headcount started.
    #[cfg_attr(feature = "json", serde(serialize_with = "site"))]
    pub started: Option<&'static Location<'static>>,
    /// Since its start.
    #[cfg_attr(
        feature = "json",
        serde(rename = "age_seconds", serialize_with = "seconds")
    )]
    pub age: Duration,
    /// What it used of a processor.
    #[cfg_attr(
        feature = "json",
        serde(rename = "cpu_seconds", serialize_with = "seconds")
    )]
    pub cpu: Duration,
    /// `running`, `sleeping`, … in the kernel's sense.
    pub state: &'static str,
}

/// The handle of a thread that was started by [`TaskGroup::spawn_thread`](crate::TaskGroup::spawn_thread).
///
/// Dropping it leaves the thread running and known.
pub struct ThreadHandle<T>(JoinHandle<T>);

/// What a thread is started with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) root: u64,
    pub(crate) name: String,
    pub(crate) class: ThreadClass,
    pub(crate) started: &'static Location<'static>,
    pub(crate) stack_size: Option<usize>,
    pub(crate) stop: Option<Stop>,
}

// === impl ThreadKind ===

impl ThreadKind {
    pub(crate) fn class(self) -> ThreadClass {
        match self {
            Self::Tracked => ThreadClass::Tracked,
            Self::Daemon => ThreadClass::Daemon,
        }
    }
}

// === impl ThreadClass ===

impl ThreadClass {
    /// Every class, the unknown last.
    pub const ALL: [Self; 8] = [
        Self::Main,
        Self::Worker,
        Self::Blocking,
        Self::Control,
        Self::Telemetry,
        Self::Daemon,
        Self::Tracked,
        Self::Unknown,
    ];

    /// The word that reports and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Worker => "worker",
            Self::Blocking => "blocking",
            Self::Control => "control",
            Self::Telemetry => "telemetry",
            Self::Daemon => "daemon",
            Self::Tracked => "tracked",
            Self::Unknown => "unknown",
        }
    }
}

// === impl ThreadCounts ===

impl ThreadCounts {
    /// How many of a class live; `None` where that is not observed: the unknown of one runtime, because nobody tells
    /// whose they are, and the unknown of systems other than Linux.
    #[must_use]
    pub fn of(&self, class: ThreadClass) -> Option<u64> {
        match self.registered.get(class as usize) {
            Some(live) => Some(*live),
            None => self.unknown,
        }
    }

    /// Every class that is observed, with how many of it live.
    pub fn iter(&self) -> impl Iterator<Item = (ThreadClass, u64)> {
        let classes = ThreadClass::ALL.into_iter();
        classes.filter_map(|class| Some((class, self.of(class)?)))
    }

    /// How many live in all, as far as they are observed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, live)| live).sum()
    }
}

// === impl ThreadHandle ===

impl<T> ThreadHandle<T> {
    /// Waits for the thread to end.
    ///
    /// # Errors
    ///
    /// The payload of the thread's panic.
    pub fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }

    pub(crate) fn thread(&self) -> &std::thread::Thread {
        self.0.thread()
    }

    /// Whether the thread's closure has returned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> fmt::Debug for ThreadHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadHandle")
            .field(&self.thread().name())
            .finish()
    }
}

/// How many threads of the process live, by class. It takes about a microsecond, however many there are.
#[must_use]
pub fn live() -> ThreadCounts {
    let before = known::live();
    let all = os_count();
    let mut counts = known::live();
    // One that registered or ended between the readings is no unknown thread.
    let registered = before.total().max(counts.total());
    counts.unknown = all.map(|all| all.saturating_sub(registered));
    counts
}

/// How many threads of a root live, by class.
pub(crate) fn live_of(root: u64) -> ThreadCounts {
    known::live_of(root)
}

/// A folder has a link from each folder in it, one from itself and one from its parent; each thread is a folder.
fn os_count() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let folder = std::fs::metadata("/proc/self/task").ok()?;
        Some(folder.nlink().saturating_sub(2))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Starts a thread that is registered as long as it lives.
pub(crate) fn start<T: Send + 'static>(
    root: u64,
    name: &str,
    class: ThreadClass,
    started: &'static Location<'static>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<ThreadHandle<T>> {
    let start = Start {
        root,
        name: name.to_owned(),
        class,
        started,
        stack_size: None,
        stop: None,
    };
    start.spawn(work)
}

// === impl Start ===

impl Start {
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<ThreadHandle<T>> {
        let mut builder = std::thread::Builder::new();
        if let Some(bytes) = self.stack_size {
            builder = builder.stack_size(bytes);
        }
        // The system takes no name with a zero in it.
        let name: String = self.name.chars().filter(|c| *c != '\0').collect();
        let (root, class, started, stop) = (self.root, self.class, self.started, self.stop);
        let thread = builder.name(name).spawn(move || {
            let registration = Registration::of(Known {
                started: Some(started),
                stop: stop.clone(),
                ..Known::own(root, class)
            });
            let result = catch_unwind(AssertUnwindSafe(|| __headcount_begin(work)));
            if let Some(stop) = stop {
                stop.end();
            }
            drop(registration);
            result.unwrap_or_else(|payload| {
                tracing::error!(
                    target: "headcount::thread",
                    thread = std::thread::current().name(), started = %started, "thread panicked"
                );
                std::panic::resume_unwind(payload)
            })
        })?;
        Ok(ThreadHandle(thread))
    }
}

/// Runs what a thread was started with. In a stack it stands between that and what all threads have in common, and names
/// the closure, whatever was inlined.
#[inline(never)]
fn __headcount_begin<F: FnOnce() -> T, T>(work: F) -> T {
    let result = work();
    // Without it the call above may become a jump, and leave no trace.
    std::hint::black_box(());
    result
}

/// The same, for work that hears when it must end. Where there are both, the inner one counts.
#[inline(never)]
pub(crate) fn __headcount_begin_with<F: FnOnce(&Stop) -> T, T>(work: F, stop: &Stop) -> T {
    let result = work(stop);
    std::hint::black_box(());
    result
}

/// Registers the calling thread, which somebody else started, as long as it lives. One that is registered stays as it
/// is.
pub(crate) fn adopt_own(
    root: u64,
    name: &str,
    class: ThreadClass,
    started: &'static Location<'static>,
) {
    known::register(Known {
        name: name.to_owned(),
        started: Some(started),
        ..Known::own(root, class)
    });
}

/// Registers a thread that a runtime starts. One of the work runtime is blocking until it is seen to be a worker.
/// [`forget_own`] ends it.
pub(crate) fn register_pooled(root: u64, class: ThreadClass) {
    known::register(Known::own(root, class));
}

/// Waits until the workers that a runtime has just started have said that they are. Afterwards a task may keep one of
/// them before it parks for the first time, and it would pass for a thread of the blocking pool.
pub(crate) fn await_workers(root: u64, workers: usize) {
    let begun = Instant::now();
    let some_lack = || live_of(root).of(ThreadClass::Worker) < Some(workers as u64);
    while some_lack() && begun.elapsed() < START {
        std::thread::sleep(LOOK);
    }
}

/// Notes that the calling thread works for the runtime of a root. Cheap when that is known. A thread that is something
/// else stays what it is when it works for a current-thread runtime: it does not end with it.
#[inline]
pub(crate) fn note_worker(root: u64) {
    if known::own_class(root) == Some(ThreadClass::Blocking) {
        known::change_own(root, ThreadClass::Worker);
    }
}

/// Notes that work which is no task has ended on the calling thread: if it was a worker's, the thread belongs to the
/// blocking pool from here on. A worker whose task blocks in place leaves its place to another thread.
#[cfg(tokio_unstable)]
pub(crate) fn note_end_of_work(root: u64) {
    let was_worker = known::own_class(root) == Some(ThreadClass::Worker);
    if was_worker && tokio::runtime::worker_index().is_none() {
        known::change_own(root, ThreadClass::Blocking);
    }
}

/// Whether the calling thread runs blocking work of a root: one of its pool that is no worker. A worker always has an
/// index, also inside `block_in_place`.
#[cfg(tokio_unstable)]
pub(crate) fn is_of_blocking_pool(root: u64) -> bool {
    known::own_class(root) == Some(ThreadClass::Blocking)
        && tokio::runtime::worker_index().is_none()
}

/// The calling thread's id, as the kernel counts it.
pub(crate) fn own_tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

#[cfg(feature = "json")]
fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(feature = "json")]
fn site<S: serde::Serializer>(
    started: &Option<&'static Location<'static>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match started {
        Some(site) => serializer.collect_str(site),
        None => serializer.serialize_none(),
    }
}
