//! Threads that are known: those that headcount started, those of the runtime it owns, and those that users declare.
//!
//! A thread is known by registration, from inside the thread; its name proves nothing, because an unnamed thread has
//! the name of the one that started it. What nobody registered is `unknown`; `audit` finds those.

mod expected;

pub use expected::ThreadRule;
pub(crate) use expected::shipped;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a runtime's threads may take to start.
const START: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(20);

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

thread_local! {
    static CLASS: Cell<Option<ThreadClass>> = const { Cell::new(None) };
}

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

/// A registered thread that lives.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tid: u32,
    /// The root whose runtime it belongs to, 0 for none.
    pub(crate) root: u64,
    pub(crate) class: ThreadClass,
    pub(crate) name: String,
    pub(crate) started: Option<&'static Location<'static>>,
}

/// Registers the calling thread until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    tid: u32,
    /// What the thread was before, and is again afterwards: a thread that is known may run a runtime.
    before: Option<Known>,
}

/// The handle of a thread that was started by [`TaskGroup::spawn_thread`](crate::TaskGroup::spawn_thread).
///
/// Dropping it leaves the thread running and known.
pub struct ThreadHandle<T>(JoinHandle<T>);

// === impl ThreadClass ===

impl ThreadClass {
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

// === impl Registration ===

impl Registration {
    pub(crate) fn new(
        root: u64,
        class: ThreadClass,
        started: Option<&'static Location<'static>>,
    ) -> Self {
        let tid = own_tid();
        let before = replace(own(root, class, started));
        // A thread that ended without telling may have had this id before; only this one has its class here.
        let before = before.filter(|_| CLASS.get().is_some());
        CLASS.set(Some(class));
        Self { tid, before }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let before = self.before.take();
        // The thread may be past its thread-local storage.
        CLASS
            .try_with(|class| class.set(before.as_ref().map(|known| known.class)))
            .ok();
        match before {
            Some(before) => drop(replace(before)),
            None => forget(self.tid),
        }
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

    /// Whether the thread's closure has returned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> fmt::Debug for ThreadHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadHandle")
            .field(&self.0.thread().name())
            .finish()
    }
}

/// Starts a thread that is registered as long as it lives.
pub(crate) fn start<T: Send + 'static>(
    root: u64,
    name: &str,
    class: ThreadClass,
    started: &'static Location<'static>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<ThreadHandle<T>> {
    let name: String = name.chars().filter(|c| *c != '\0').collect();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let registration = Registration::new(root, class, Some(started));
        let result = catch_unwind(AssertUnwindSafe(work));
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

/// Registers a thread of a runtime: blocking until it is seen to be a worker. [`forget_own`] ends it.
pub(crate) fn register_runtime_thread(root: u64) {
    // A thread that ended without telling may have had this id before.
    drop(replace(own(root, ThreadClass::Blocking, None)));
    CLASS.set(Some(ThreadClass::Blocking));
}

fn own(root: u64, class: ThreadClass, started: Option<&'static Location<'static>>) -> Known {
    Known {
        tid: own_tid(),
        root,
        class,
        name: std::thread::current().name().unwrap_or("").to_owned(),
        started,
    }
}

/// Waits until the workers that a runtime has just started have said that they are. Afterwards a task may keep one of
/// them before it parks for the first time, and it would pass for a thread of the blocking pool.
pub(crate) fn await_workers(root: u64, workers: usize) {
    let begun = Instant::now();
    let is_worker = |thread: &&Known| thread.root == root && thread.class == ThreadClass::Worker;
    while known().iter().filter(is_worker).count() < workers && begun.elapsed() < START {
        std::thread::sleep(LOOK);
    }
}

/// Notes that the calling thread of a runtime is a worker. Cheap when that is known. The thread of `main` stays what it
/// is when it works for a current-thread runtime: it does not end with it.
#[inline]
pub(crate) fn note_worker() {
    if CLASS.get() == Some(ThreadClass::Blocking) {
        CLASS.set(Some(ThreadClass::Worker));
        let tid = own_tid();
        if let Some(thread) = known().iter_mut().find(|thread| thread.tid == tid) {
            thread.class = ThreadClass::Worker;
        }
    }
}

/// Whether the calling thread runs blocking work: one of the pool that is no worker. A worker always has an index, also
/// inside `block_in_place`.
#[cfg(tokio_unstable)]
pub(crate) fn is_of_blocking_pool() -> bool {
    let blocking = CLASS.try_with(|class| class.get() == Some(ThreadClass::Blocking));
    blocking.unwrap_or(false) && tokio::runtime::worker_index().is_none()
}

/// Notes that the calling thread ends.
pub(crate) fn forget_own() {
    forget(own_tid());
}

/// Notes a thread, and returns what was known under its id.
fn replace(thread: Known) -> Option<Known> {
    let mut known = known();
    match known.iter_mut().find(|other| other.tid == thread.tid) {
        Some(other) => Some(std::mem::replace(other, thread)),
        None => {
            known.push(thread);
            None
        }
    }
}

fn forget(tid: u32) {
    known().retain(|thread| thread.tid != tid);
}

/// All registered threads.
pub(crate) fn all() -> Vec<Known> {
    known().clone()
}

/// The calling thread's id, as the kernel counts it.
pub(crate) fn own_tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

fn known() -> MutexGuard<'static, Vec<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
