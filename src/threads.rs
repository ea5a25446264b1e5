//! Registered threads: those that headcount starts, those of the runtime that it owns, and those
//! that a service declares.
//!
//! A thread is registered from inside, by its kernel thread id, until it ends. Names are not used
//! to identify a thread, because an unnamed thread inherits the name of its creator. A thread
//! without a registration has the class [`Unknown`](ThreadClass::Unknown); the audit finds it in
//! `/proc`, and a [`ThreadRule`] can declare it as expected.
//!
//! The number of unknown threads of a single runtime cannot be determined: the kernel does not
//! expose which thread started which.

mod expected;
mod idle;
mod known;
mod stop;

pub use expected::ThreadRule;
pub(crate) use expected::{IDLE, is_of_tokio, shipped};
pub(crate) use known::{Known, Registration, all, each_that_can_stop, forget_own};
pub(crate) use stop::DueCloser;
pub use stop::Stop;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The name of a work runtime's threads. Threads of the control side have other names that start
/// with `headcount-`.
pub(crate) const WORK: &str = "headcount-work";

/// The longest wait for the workers of a new runtime to register, and the pause between two looks.
const START: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(20);

/// The part that the shutdown gives to a thread, chosen when the thread is started.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::ThreadKind;
///
/// let hash = tasks.spawn_thread("hash", ThreadKind::Tracked, || 42);
/// assert_eq!(hash.join().unwrap(), 42);
/// // The shutdown does not wait for this one.
/// tasks.spawn_thread("idle", ThreadKind::Daemon, std::thread::park);
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadKind {
    /// The last layer of the shutdown waits for the thread, and reports it as lingering if it does
    /// not end.
    Tracked,
    /// The thread is not waited for, and ends with the process.
    Daemon,
}

/// The role of a thread, as it was registered.
///
/// # Examples
///
/// ```
/// use headcount::threads::ThreadClass;
///
/// assert_eq!(ThreadClass::Telemetry.as_str(), "telemetry");
/// assert_eq!(ThreadClass::ALL.last(), Some(&ThreadClass::Unknown));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ThreadClass {
    /// The thread that called [`run`](crate::run()).
    Main,
    /// A worker of the runtime.
    Worker,
    /// A thread of the runtime's blocking pool.
    Blocking,
    /// A thread of headcount itself.
    Control,
    /// A thread of a telemetry exporter.
    Telemetry,
    /// A thread that is allowed to end with the process: see [`ThreadKind::Daemon`].
    Daemon,
    /// A thread that must end before the process does: see [`ThreadKind::Tracked`].
    Tracked,
    /// A thread that was never registered.
    Unknown,
}

/// The number of live threads by class.
///
/// All numbers are exact while no thread starts or ends. A thread that is about to register, or has
/// just deregistered, counts as unknown.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::threads::ThreadClass;
///
/// let counts = tasks.thread_counts();
/// assert_eq!(counts.of(ThreadClass::Main), Some(1));
/// assert_eq!(counts.of(ThreadClass::Unknown), None, "not observed for one runtime");
/// assert_eq!(counts.total(), counts.iter().map(|(_, live)| live).sum::<u64>());
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadCounts {
    /// In the order of [`ThreadClass::ALL`].
    registered: [u64; ThreadClass::ALL.len() - 1],
    /// `None` if not observed.
    unknown: Option<u64>,
}

/// The join handle of a thread, made by [`TaskGroup::spawn_thread`](crate::TaskGroup::spawn_thread)
/// and [`SpawnThread::spawn`](crate::group::SpawnThread::spawn).
///
/// Dropping it leaves the thread running and registered.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::ThreadKind;
///
/// let broken = tasks.spawn_thread("broken", ThreadKind::Tracked, || {
///     None::<u8>.expect("a free seat")
/// });
/// while !broken.is_finished() {
///     tokio::task::yield_now().await;
/// }
/// assert!(broken.join().is_err());
/// # });
/// ```
pub struct ThreadHandle<T>(JoinHandle<T>);

/// The registration and the settings of a thread that is about to start.
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
    /// Returns the class that a thread of this kind is registered with.
    pub(crate) fn class(self) -> ThreadClass {
        match self {
            Self::Tracked => ThreadClass::Tracked,
            Self::Daemon => ThreadClass::Daemon,
        }
    }
}

// === impl ThreadClass ===

impl ThreadClass {
    /// Every class, in the order of the variants. `Unknown` is the last.
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

    /// Returns the lower-case name that reports and metrics use.
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
    /// Returns the number of live threads of a class, or `None` if it is not observed.
    ///
    /// Only `Unknown` can be `None`: in the counts of a single runtime, because the kernel does not
    /// expose which runtime a thread belongs to, and on systems other than Linux.
    #[must_use]
    pub fn of(&self, class: ThreadClass) -> Option<u64> {
        match self.registered.get(class as usize) {
            Some(live) => Some(*live),
            None => self.unknown,
        }
    }

    /// Returns every observed class with its number of live threads, in the order of
    /// [`ThreadClass::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (ThreadClass, u64)> {
        let classes = ThreadClass::ALL.into_iter();
        classes.filter_map(|class| Some((class, self.of(class)?)))
    }

    /// Returns the sum over all observed classes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, live)| live).sum()
    }
}

// === impl ThreadHandle ===

impl<T> ThreadHandle<T> {
    /// Blocks the calling thread until the thread has ended, and returns its result.
    ///
    /// It blocks a worker if it is called in an async task.
    ///
    /// # Errors
    ///
    /// Returns the panic's payload if the thread panicked.
    pub fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }

    pub(crate) fn thread(&self) -> &std::thread::Thread {
        self.0.thread()
    }

    /// Returns whether the thread's closure has returned. The thread itself may take a moment
    /// longer to end.
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

/// Returns the number of live threads of the process, by class.
///
/// It takes about a microsecond, however many threads there are.
///
/// # Examples
///
/// ```
/// use headcount::threads::{self, ThreadClass};
///
/// let runtime = headcount::Runtime::builder().print(false).worker_threads(2).build()?;
/// assert_eq!(threads::live().of(ThreadClass::Worker), Some(2));
/// # drop(runtime);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[must_use]
pub fn live() -> ThreadCounts {
    let before = known::live();
    let all = os_count();
    let mut counts = known::live();
    // The larger of the two readings, so that a thread that registered or ended in between does not
    // count as unknown.
    let registered = before.total().max(counts.total());
    counts.unknown = all.map(|all| all.saturating_sub(registered));
    counts
}

/// Returns the number of live registered threads of a root, by class.
pub(crate) fn live_of(root: u64) -> ThreadCounts {
    known::live_of(root)
}

/// Returns the number of threads of the process, as the kernel counts them; `None` if `/proc` is
/// not available.
///
/// `/proc/self/task` has one directory per thread. The link count of a directory is 2 plus the
/// number of its subdirectories, so a single `stat` is enough.
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

/// Starts a thread that is registered until it ends. It has the default stack size and cannot be
/// asked to stop.
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

/// Starts a thread of headcount's own, of class [`ThreadClass::Control`], that belongs to `root`.
/// Reports and dumps show the caller as its start site.
///
/// Dropping the handle detaches the thread. Most callers do: a thread that may block forever must
/// never be joined.
///
/// # Errors
///
/// Fails if the system refuses a thread. The caller then does without, or does the work itself.
#[track_caller]
pub(crate) fn start_own<T: Send + 'static>(
    root: u64,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<ThreadHandle<T>> {
    start(root, name, ThreadClass::Control, Location::caller(), work)
}

// === impl Start ===

impl Start {
    /// Starts the thread. It registers itself before it runs `work`.
    ///
    /// A panic of `work` is logged and then continues in the new thread, so `join` returns it.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<ThreadHandle<T>> {
        let mut builder = std::thread::Builder::new();
        if let Some(bytes) = self.stack_size {
            builder = builder.stack_size(bytes);
        }
        // `Builder::spawn` panics if the name contains a NUL character.
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

/// Runs the closure of a thread.
///
/// In a stack trace this frame separates the closure from the frames that every thread starts with.
/// Its generic parameter names the closure, even if the closure itself was inlined.
#[inline(never)]
fn __headcount_begin<F: FnOnce() -> T, T>(work: F) -> T {
    let result = work();
    // Keeps the call above from becoming a tail call, which would leave no frame.
    std::hint::black_box(());
    result
}

/// Runs the closure of a thread that can be asked to stop, as `__headcount_begin` does for other
/// threads.
///
/// A stack may contain both frames. The inner one then marks the beginning of the user's code.
#[inline(never)]
pub(crate) fn __headcount_begin_with<F: FnOnce(&Stop) -> T, T>(work: F, stop: &Stop) -> T {
    let result = work(stop);
    std::hint::black_box(());
    result
}

/// Registers the calling thread, which headcount did not start, until it ends. An existing
/// registration is kept.
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

/// Registers the calling thread, which a runtime has just started, until [`forget_own`] is called
/// on it.
///
/// Tokio starts workers and blocking threads through the same hook. A thread of the work runtime is
/// therefore registered as `Blocking` first, and becomes a `Worker` in [`note_worker`].
pub(crate) fn register_pooled(root: u64, class: ThreadClass) {
    known::register(Known::own(root, class));
}

/// Waits until the workers of a new runtime are known as such, for at most [`START`].
///
/// A worker becomes known when it parks for the first time. If tasks were spawned before that, one
/// of them could block a worker that still counts as a thread of the blocking pool.
pub(crate) fn await_workers(root: u64, workers: usize) {
    let begun = Instant::now();
    let some_lack = || live_of(root).of(ThreadClass::Worker) < Some(workers as u64);
    while some_lack() && begun.elapsed() < START {
        std::thread::sleep(LOOK);
    }
}

/// Records that the calling thread is a worker of a root's runtime, if it is registered as a
/// blocking thread of it.
///
/// A thread of any other class keeps its class, such as the main thread that runs a current-thread
/// runtime: it does not end with the runtime. This is called at every park, and costs one
/// thread-local read once the class is known.
#[inline]
pub(crate) fn note_worker(root: u64) {
    if known::own_class(root) == Some(ThreadClass::Blocking) {
        known::change_own(root, ThreadClass::Worker);
    }
}

/// Records that work other than a task has ended on the calling thread. If the thread was a worker
/// and no longer is one, it belongs to the blocking pool from here on.
///
/// This happens after `block_in_place`: tokio moves the worker to another thread meanwhile.
#[cfg(tokio_unstable)]
pub(crate) fn note_end_of_work(root: u64) {
    let was_worker = known::own_class(root) == Some(ThreadClass::Worker);
    if was_worker && tokio::runtime::worker_index().is_none() {
        known::change_own(root, ThreadClass::Blocking);
    }
}

/// Returns whether the calling thread belongs to the blocking pool of a root and is not a worker at
/// the moment.
///
/// A worker always has an index, even inside `block_in_place`.
#[cfg(tokio_unstable)]
pub(crate) fn is_of_blocking_pool(root: u64) -> bool {
    known::own_class(root) == Some(ThreadClass::Blocking)
        && tokio::runtime::worker_index().is_none()
}

/// Returns the calling thread's id in the kernel.
pub(crate) fn own_tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}
