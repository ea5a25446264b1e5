//! Roots: one for each runtime that is watched.
//!
//! Several runtimes of one process, as in tests, have a root each, and do not see each other's
//! tasks. A root holds the flags of its runtime's shutdown, and the one listener and the one
//! observer to which the registry calls out. Tasks refer to their root by its number, not by a
//! counted reference: a shared count would be contended by all workers.
//!
//! The end of a root: when the last handle of a runtime is dropped, its observer is kept for tasks
//! that still live, its heartbeats are forgotten, and its untracked kinds are free for another
//! root. Its scope is released like that of a group. Events for a root that is gone are dropped.

#[cfg(feature = "otel")]
pub(super) mod observers;
mod processes;
mod unready;

#[cfg(feature = "admin")]
pub use processes::{ChildRequest, ChildRequests, ChildVerb};
#[cfg(feature = "admin")]
pub(crate) use processes::{OutputLine, ProcessState};
pub(crate) use processes::{Process, Processes};
use unready::Unready;

use super::kind::Kind;
#[cfg(feature = "admin")]
use super::kind::OTHER;
#[cfg(feature = "otel")]
use super::observer::Observer;
use super::query::runtime_tasks::{RuntimeReader, RuntimeTasks};
use super::scope::{self, Owned, Scope};
use crate::inspect::own::Refusal;
use crate::task::TaskOutcome;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::runtime::Handle;

/// The number of the next root. 0 is no root's.
static NEXT: AtomicU64 = AtomicU64::new(1);
/// The roots that exist, by number.
///
/// Weak references, so that the map keeps no root alive.
static ROOTS: Mutex<Option<HashMap<u64, Weak<Root>>>> = Mutex::new(None);
/// The most names of processes that were given up. Further ones are counted as `_other`.
#[cfg(feature = "admin")]
const GIVEN_UP: usize = 100;

/// The text of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PanicText {
    /// The panic's message.
    pub(crate) message: String,
    /// The place in the code where it happened, if known.
    pub(crate) location: Option<String>,
}

/// An event that a root passes to its listener, the pipeline of its runtime.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A required task ended, with this outcome.
    RequiredEnded(&'static Kind, TaskOutcome),
    /// A task panicked during the shutdown.
    Panicked(&'static Kind, PanicText),
    /// A shutdown was requested, for this reason.
    Requested(String),
    /// The first untracked task of a spawn site was spawned.
    #[cfg_attr(
        not(tokio_unstable),
        expect(dead_code, reason = "no hook reports untracked tasks")
    )]
    UntrackedSite(&'static Kind),
}

/// A runtime that is watched.
pub(crate) struct Root {
    /// The number, unique in the process and never reused.
    pub(crate) number: u64,
    /// Set by the cancel layer of a shutdown: from then on no task may start. Never cleared.
    refusing: AtomicBool,
    /// Set when a shutdown begins. Never cleared: a runtime stops once.
    stopping: AtomicBool,
    /// Set when a required task ends before a shutdown has begun.
    required_lost: AtomicBool,
    /// The number of required tasks that miss their heartbeats. Set by each look of the control
    /// side.
    required_stalled: AtomicU32,
    /// True if the runtime has hooks that report untracked tasks.
    hooked: AtomicBool,
    /// True if the control side gives a pulse, so that tasks note when they are polled.
    has_pulse: AtomicBool,
    /// The number of headcount's own tasks on the runtime, at most one. Such a task has no row and
    /// is not an untracked task either.
    own_tasks: AtomicU64,
    /// The id of the last one, as tokio has it; 0 before the first.
    own_task: AtomicU64,
    /// The reader of the tasks that the runtime itself lists.
    reader: RuntimeReader,
    /// The child processes that were given up, by group and name.
    given_up: Mutex<BTreeMap<String, u64>>,
    /// The application's reasons for which the service is not ready.
    pub(crate) unready: Unready,
    /// The child processes that tasks of the runtime run.
    pub(crate) processes: Processes,
    /// The scope that holds all groups of the runtime.
    pub(crate) scope: &'static Scope,
    /// The guard of the scope, held until the root is dropped.
    #[expect(dead_code, reason = "it is held, not read")]
    own: Owned,
    /// The one listener of events.
    ///
    /// It must not block, since workers call it.
    listener: OnceLock<Box<dyn Fn(Event) + Send + Sync>>,
    /// The one observer, which makes spans.
    #[cfg(feature = "otel")]
    observer: OnceLock<Arc<dyn Observer>>,
}

/// A guard for headcount's own task on the runtime. Held from before the task is spawned until it
/// has ended.
#[cfg(feature = "admin")]
#[derive(Debug)]
pub(crate) struct OwnTask(Arc<Root>);

// === impl Root ===

impl Root {
    /// Makes a root with a scope, and registers it.
    ///
    /// Takes the lock of the scopes and that of the roots, one after the other.
    pub(crate) fn new() -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = scope::create_root(number);
        let root = Arc::new(Self {
            number,
            refusing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            required_lost: AtomicBool::new(false),
            required_stalled: AtomicU32::new(0),
            hooked: AtomicBool::new(false),
            has_pulse: AtomicBool::new(false),
            own_tasks: AtomicU64::new(0),
            own_task: AtomicU64::new(0),
            reader: RuntimeReader::default(),
            given_up: Mutex::default(),
            unready: Unready::default(),
            processes: Processes::default(),
            scope: own.scope(),
            own,
            listener: OnceLock::new(),
            #[cfg(feature = "otel")]
            observer: OnceLock::new(),
        });
        roots()
            .get_or_insert_default()
            .insert(number, Arc::downgrade(&root));
        root
    }

    /// Sets the listener of events. Only the first call has an effect.
    ///
    /// The listener is called by workers, so it must not block.
    pub(crate) fn listen(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        self.listener.set(Box::new(listener)).ok();
    }

    /// Sets the observer, which makes spans of the tasks that start from here on. Only the first
    /// call has an effect.
    #[cfg(feature = "otel")]
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        self.observer.set(observer).ok();
    }

    /// Returns the observer, if one was set.
    #[cfg(feature = "otel")]
    #[inline]
    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.get()
    }

    /// Returns whether new tasks are refused. The load is relaxed, so a spawn at the moment of
    /// [`Root::refuse`] may still be accepted.
    #[inline]
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Refuses new tasks from here on.
    pub(crate) fn refuse(&self) {
        self.refusing.store(true, Ordering::SeqCst);
    }

    /// Returns whether a shutdown has begun.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notes that a shutdown has begun.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Returns whether untracked tasks are seen one by one, through the runtime's hooks.
    pub(crate) fn sees_untracked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    /// Notes that the runtime has hooks. Must be called before the root has tasks or groups.
    #[cfg(tokio_unstable)]
    pub(crate) fn set_hooked(&self) {
        self.hooked.store(true, Ordering::Relaxed);
        self.scope.set_hooked();
    }

    /// Returns whether the time of the last poll of its tasks is known.
    pub(crate) fn has_pulse(&self) -> bool {
        self.has_pulse.load(Ordering::Relaxed)
    }

    /// Notes that the control side gives a pulse. Must be called before the first task starts.
    pub(crate) fn set_pulse(&self) {
        self.has_pulse.store(true, Ordering::Relaxed);
    }

    /// Returns how many of headcount's own tasks are on the runtime: 0 or 1.
    pub(crate) fn own_tasks(&self) -> u64 {
        self.own_tasks.load(Ordering::Acquire)
    }

    /// Looks at the tasks that the runtime itself lists. `handle` is the runtime's. Takes about half a
    /// microsecond a task, and at most about a second.
    ///
    /// # Errors
    ///
    /// Fails if the list cannot be read; the reason is for people.
    pub(crate) fn runtime_tasks(&self, handle: &Handle) -> Result<RuntimeTasks, Refusal> {
        let own = || self.own_task.load(Ordering::Acquire);
        self.reader.look(self.scope, own, handle)
    }

    /// Notes the id of headcount's own task, as tokio has it.
    #[cfg(feature = "admin")]
    pub(crate) fn note_own_task(&self, id: u64) {
        self.own_task.store(id, Ordering::Release);
    }

    /// Counts a child process that was given up. Takes a lock, since it is rare.
    #[cfg(feature = "admin")]
    pub(crate) fn give_up(&self, process: String) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = given_up.contains_key(&process);
        let name = if is_known || given_up.len() < GIVEN_UP {
            process
        } else {
            OTHER.to_owned()
        };
        *given_up.entry(name).or_default() += 1;
    }

    /// Returns the child processes that were given up, by group and name, with their numbers.
    pub(crate) fn given_up(&self) -> BTreeMap<String, u64> {
        let given_up = self.given_up.lock();
        given_up.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins headcount's own task; `None` if one is running already.
    #[cfg(feature = "admin")]
    pub(crate) fn begin_own_task(self: &Arc<Self>) -> Option<OwnTask> {
        let begun = self
            .own_tasks
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        begun.is_ok().then(|| OwnTask(Arc::clone(self)))
    }

    /// Returns whether a required task ended before a shutdown began.
    pub(crate) fn has_lost_required(&self) -> bool {
        self.required_lost.load(Ordering::Acquire)
    }

    /// Returns whether a required task misses its heartbeat.
    pub(crate) fn has_stalled_required(&self) -> bool {
        self.required_stalled.load(Ordering::Acquire) > 0
    }

    /// Sets the number of required tasks that miss their heartbeats.
    pub(crate) fn set_stalled_required(&self, stalled: u32) {
        self.required_stalled.store(stalled, Ordering::Release);
    }

    /// Passes an event to the listener, if there is one. A panic outside of a shutdown is not
    /// passed on.
    pub(crate) fn notify(&self, event: Event) {
        if matches!(event, Event::Panicked(..)) && !self.is_stopping() {
            // It is already logged and counted; only the report of a shutdown needs it.
            return;
        }
        if matches!(event, Event::RequiredEnded(..)) && !self.is_stopping() {
            self.required_lost.store(true, Ordering::Release);
        }
        if let Some(listener) = self.listener.get() {
            listener(event);
        }
    }
}

#[cfg(feature = "admin")]
impl Drop for OwnTask {
    fn drop(&mut self) {
        self.0.own_tasks.store(0, Ordering::Release);
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        #[cfg(feature = "otel")]
        if let Some(observer) = self.observer() {
            observers::outlive(self, observer);
        }
        if let Some(roots) = roots().as_mut() {
            roots.remove(&self.number);
        }
        super::heartbeats::forget(self.number);
        super::kind::release(self.number);
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Returns whether the root of that number exists and has a pulse.
pub(crate) fn has_pulse(number: u64) -> bool {
    find(number).is_some_and(|root| root.has_pulse())
}

/// Passes an event to the root of that number, if it still exists. Takes the lock of the roots, but
/// not during the call of the listener.
#[cold]
pub(crate) fn notify(number: u64, event: Event) {
    if let Some(root) = find(number) {
        root.notify(event);
    }
}

/// Returns the root of that number, if it still exists.
///
/// The reference that it returns may turn out to be the last one; dropping it then runs the drop of
/// the root on the caller's thread, after the lock is released.
fn find(number: u64) -> Option<Arc<Root>> {
    roots().as_ref()?.get(&number)?.upgrade()
}

/// Locks the map of roots.
///
/// Ignores lock poisoning: the map is changed by single insertions and removals.
fn roots() -> MutexGuard<'static, Option<HashMap<u64, Weak<Root>>>> {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(headcount_loom)))]
mod tests;
