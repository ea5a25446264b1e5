//! Roots: one for each runtime that is watched, so that several in a process (tests) do not see each other's tasks.

use super::kind::Kind;
#[cfg(feature = "otel")]
use super::observer::Observer;
use super::scope::{self, Scope};
use crate::task::TaskOutcome;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

static NEXT: AtomicU64 = AtomicU64::new(1);
static ROOTS: Mutex<Option<HashMap<u64, Weak<Root>>>> = Mutex::new(None);
/// The observers of roots that are gone, while tasks of theirs live.
#[cfg(feature = "otel")]
static OUTLIVED: Mutex<Vec<Outlived>> = Mutex::new(Vec::new());

#[cfg(feature = "otel")]
struct Outlived {
    root: u64,
    scope: &'static Scope,
    observer: Arc<dyn Observer>,
}

/// What is said of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PanicText {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
}

/// What a root tells whoever listens: its runtime's pipeline.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A required task ended.
    RequiredEnded(&'static Kind, TaskOutcome),
    /// A task panicked while the service stopped, which says so.
    Panicked(&'static Kind, PanicText),
    /// Somebody asks for the shutdown, for this reason.
    Requested(String),
    /// The first untracked task of a spawn site.
    #[cfg_attr(
        not(tokio_unstable),
        expect(dead_code, reason = "no hook tells of any")
    )]
    UntrackedSite(&'static Kind),
}

/// One watched runtime.
pub(crate) struct Root {
    pub(crate) number: u64,
    /// Set by the cancel layer: nothing starts any more.
    refusing: AtomicBool,
    /// Set when the shutdown begins.
    stopping: AtomicBool,
    required_lost: AtomicBool,
    /// How many required tasks miss their heartbeats.
    required_stalled: AtomicU32,
    /// Whether the runtime's hooks tell of untracked tasks.
    hooked: AtomicBool,
    /// Whether its tasks note when they are polled.
    has_pulse: AtomicBool,
    /// Tasks of headcount itself on the runtime: they have no row, and are no untracked tasks.
    own_tasks: AtomicU64,
    pub(crate) scope: &'static Scope,
    listener: OnceLock<Box<dyn Fn(Event) + Send + Sync>>,
    #[cfg(feature = "otel")]
    observer: OnceLock<Arc<dyn Observer>>,
}

/// While it lives, a task of headcount itself is on the runtime, or about to be.
#[cfg(feature = "admin")]
#[derive(Debug)]
pub(crate) struct OwnTask(Arc<Root>);

// === impl Root ===

impl Root {
    pub(crate) fn new() -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = Arc::new(Self {
            number,
            refusing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            required_lost: AtomicBool::new(false),
            required_stalled: AtomicU32::new(0),
            hooked: AtomicBool::new(false),
            has_pulse: AtomicBool::new(false),
            own_tasks: AtomicU64::new(0),
            scope: scope::create(None, number, super::kind::ROOT_PATH),
            listener: OnceLock::new(),
            #[cfg(feature = "otel")]
            observer: OnceLock::new(),
        });
        roots()
            .get_or_insert_default()
            .insert(number, Arc::downgrade(&root));
        root
    }

    /// Who hears of events; the first call counts. It is called on the work side, so it must not block.
    pub(crate) fn listen(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        self.listener.set(Box::new(listener)).ok();
    }

    /// Who makes spans of the tasks that start from here on; the first call counts.
    #[cfg(feature = "otel")]
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        self.observer.set(observer).ok();
    }

    #[cfg(feature = "otel")]
    #[inline]
    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.get()
    }

    #[inline]
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self) {
        self.refusing.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether untracked tasks are seen exactly.
    pub(crate) fn sees_untracked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    #[cfg(tokio_unstable)]
    pub(crate) fn set_hooked(&self) {
        self.hooked.store(true, Ordering::Relaxed);
        self.scope.set_hooked();
    }

    /// Whether it is known when its tasks were polled last.
    pub(crate) fn has_pulse(&self) -> bool {
        self.has_pulse.load(Ordering::Relaxed)
    }

    /// From before its first task on, the control side gives the pulse.
    pub(crate) fn set_pulse(&self) {
        self.has_pulse.store(true, Ordering::Relaxed);
    }

    /// How many tasks of headcount itself are on the runtime.
    pub(crate) fn own_tasks(&self) -> u64 {
        self.own_tasks.load(Ordering::Acquire)
    }

    /// Begins a task of headcount itself, of which there is one at most; `None` while there is one.
    #[cfg(feature = "admin")]
    pub(crate) fn begin_own_task(self: &Arc<Self>) -> Option<OwnTask> {
        let begun = self
            .own_tasks
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        begun.is_ok().then(|| OwnTask(Arc::clone(self)))
    }

    /// Whether a required task ended before the shutdown.
    pub(crate) fn has_lost_required(&self) -> bool {
        self.required_lost.load(Ordering::Acquire)
    }

    /// Whether a required task misses its heartbeat.
    pub(crate) fn has_stalled_required(&self) -> bool {
        self.required_stalled.load(Ordering::Acquire) > 0
    }

    pub(super) fn set_stalled_required(&self, stalled: u32) {
        self.required_stalled.store(stalled, Ordering::Release);
    }

    pub(crate) fn tell(&self, event: Event) {
        if matches!(event, Event::Panicked(..)) && !self.is_stopping() {
            // It was logged, and is counted.
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
            outlived().push(Outlived {
                root: self.number,
                scope: self.scope,
                observer: Arc::clone(observer),
            });
        }
        if let Some(roots) = roots().as_mut() {
            roots.remove(&self.number);
        }
        super::heartbeats::forget(self.number);
        super::kind::release(self.number);
        self.scope.release();
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Without those that no task can ask for any more.
#[cfg(feature = "otel")]
fn outlived() -> MutexGuard<'static, Vec<Outlived>> {
    let mut outlived = OUTLIVED.lock().unwrap_or_else(PoisonError::into_inner);
    outlived.retain(|Outlived { root, scope, .. }| {
        scope.root() == *root && scope.live() + scope.live_daemons() > 0
    });
    outlived
}

/// The observer of the root of that number, if it still lives, or tasks of it do.
#[cfg(feature = "otel")]
#[cold]
pub(super) fn observer(number: u64) -> Option<Arc<dyn Observer>> {
    match find(number) {
        Some(root) => root.observer().cloned(),
        None => {
            let outlived = outlived();
            let found = outlived.iter().find(|outlived| outlived.root == number);
            found.map(|outlived| Arc::clone(&outlived.observer))
        }
    }
}

/// Whether the root of that number lives, and the control side gives it the pulse.
pub(crate) fn has_pulse(number: u64) -> bool {
    find(number).is_some_and(|root| root.has_pulse())
}

/// Tells the root of that number, if it still lives.
#[cold]
pub(crate) fn tell(number: u64, event: Event) {
    if let Some(root) = find(number) {
        root.tell(event);
    }
}

/// The root of that number, if it still lives.
fn find(number: u64) -> Option<Arc<Root>> {
    roots().as_ref()?.get(&number)?.upgrade()
}

fn roots() -> MutexGuard<'static, Option<HashMap<u64, Weak<Root>>>> {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner)
}
