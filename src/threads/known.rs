//! The registered threads of the process, by kernel thread id, and their numbers by class.
//!
//! A thread registers and deregisters itself. The table is sharded by thread id, so that thousands
//! of threads that start and end at once do not contend for one lock. The numbers are kept in
//! separate counters, so reading them does not walk the table.
//!
//! Lock order: a shard's lock before `ROOTS`. A [`Known`] can own user code (a closer), so it is
//! dropped only after the shard's lock has been released.

use super::stop::Stop;
use super::{ThreadClass, ThreadCounts, own_tid};
use crate::recorder;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;
/// The number of classes that a thread can be registered with: all but `Unknown`.
const REGISTERED: usize = ThreadClass::ALL.len() - 1;

type Shard = BTreeMap<u32, Known>;
type Counts = [usize; REGISTERED];

static THREADS: [Mutex<Shard>; SHARDS] = [const { Mutex::new(BTreeMap::new()) }; SHARDS];
/// The live threads of the process, by class. Written under a shard's lock. When a thread changes
/// its class, the new class is incremented before the old one is decremented, so a sum never misses
/// the thread.
static LIVE: [AtomicUsize; REGISTERED] = [const { AtomicUsize::new(0) }; REGISTERED];
/// The live threads by class, for each root that has any. Locked after a shard's lock, never
/// before.
static ROOTS: Mutex<BTreeMap<u64, Counts>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The root and class that this thread is registered with.
    static OWN: Cell<Option<(u64, ThreadClass)>> = const { Cell::new(None) };
    /// Deregisters the thread when its thread-local storage is destroyed.
    static AT_END: AtEnd = const { AtEnd };
}

/// A live registered thread.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tid: u32,
    /// The standard library's id, by which tokio's metrics name a worker.
    #[cfg(tokio_unstable)]
    pub(crate) thread: std::thread::ThreadId,
    /// The number of the root that the thread belongs to.
    pub(crate) root: u64,
    pub(crate) class: ThreadClass,
    /// The full name; empty if the thread has none.
    pub(crate) name: String,
    /// The place that started or adopted the thread, if it is known.
    pub(crate) started: Option<&'static Location<'static>>,
    /// The stop handle, if the thread can be asked to stop.
    pub(crate) stop: Option<Stop>,
}

/// A guard that keeps the calling thread registered until it is dropped, on the same thread.
#[derive(Debug)]
pub(crate) struct Registration {
    /// False if the thread was registered already, such as a tracked thread that runs a runtime.
    /// The earlier registration is then kept, and dropping this guard does not end it.
    is_first: bool,
}

/// A thread-local value that deregisters the thread when it is dropped, even if the thread did not
/// end by returning from its closure.
struct AtEnd;

// === impl Known ===

impl Known {
    /// Describes the calling thread, with the name that it has at the moment.
    pub(super) fn own(root: u64, class: ThreadClass) -> Self {
        Self {
            tid: own_tid(),
            #[cfg(tokio_unstable)]
            thread: std::thread::current().id(),
            root,
            class,
            name: std::thread::current().name().unwrap_or("").to_owned(),
            started: None,
            stop: None,
        }
    }
}

// === impl Registration ===

impl Registration {
    /// Registers the calling thread, which cannot be asked to stop.
    pub(crate) fn new(
        root: u64,
        class: ThreadClass,
        started: Option<&'static Location<'static>>,
    ) -> Self {
        let known = Known::own(root, class);
        Self::of(Known { started, ..known })
    }

    /// Registers the calling thread, which `known` must describe.
    pub(super) fn of(known: Known) -> Self {
        Self {
            is_first: register(known),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.is_first {
            forget_own();
        }
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        forget_own();
    }
}

/// Registers the calling thread until [`forget_own`] or the end of the thread. Returns false, and
/// changes nothing, if the thread is already registered.
pub(super) fn register(known: Known) -> bool {
    // Access to thread-local storage fails only while the thread is ending.
    let own = Some((known.root, known.class));
    let is_first = OWN.try_with(|cell| cell.get().is_none()).unwrap_or(true);
    if is_first {
        OWN.try_with(|cell| cell.set(own)).ok();
        AT_END.try_with(|_| ()).ok();
        put(known);
    }
    is_first
}

/// Deregisters the calling thread. Does nothing if it is not registered.
pub(crate) fn forget_own() {
    let was = OWN.try_with(Cell::take);
    // If the storage is gone, the thread may have registered after that, which only the table
    // knows.
    if !matches!(was, Ok(None)) {
        take(own_tid());
    }
}

/// Returns the class of the calling thread, if it is registered with that root. It takes no lock.
pub(super) fn own_class(root: u64) -> Option<ThreadClass> {
    let own = OWN.try_with(Cell::get).ok().flatten();
    own.and_then(|(own, class)| (own == root).then_some(class))
}

/// Changes the class of the calling thread, which must be registered with that root.
pub(super) fn change_own(root: u64, class: ThreadClass) {
    OWN.set(Some((root, class)));
    let tid = own_tid();
    let mut shard = shard(tid);
    if let Some(known) = shard.get_mut(&tid) {
        let before = known.class;
        known.class = class;
        recorder::thread_class(tid, class as u32);
        count(root, class);
        discount(root, before);
    }
}

fn put(known: Known) {
    recorder::thread(known.tid, known.class as u32, &known.name);
    let mut shard = shard(known.tid);
    count(known.root, known.class);
    // The kernel reuses thread ids, so the entry of a thread that ended without deregistering can
    // be in the way.
    let before = shard.insert(known.tid, known);
    if let Some(before) = &before {
        discount(before.root, before.class);
    }
    // Its drop can run user code, which must not hold the lock.
    drop(shard);
    drop(before);
}

fn take(tid: u32) {
    recorder::thread_ended(tid);
    let mut shard = shard(tid);
    let known = shard.remove(&tid);
    if let Some(known) = &known {
        discount(known.root, known.class);
    }
    // Its drop can run user code, which must not hold the lock.
    drop(shard);
    drop(known);
}

fn count(root: u64, class: ThreadClass) {
    LIVE[class as usize].fetch_add(1, Ordering::Relaxed);
    roots().entry(root).or_default()[class as usize] += 1;
}

fn discount(root: u64, class: ThreadClass) {
    LIVE[class as usize].fetch_sub(1, Ordering::Relaxed);
    let mut roots = roots();
    if let Some(counts) = roots.get_mut(&root) {
        counts[class as usize] -= 1;
        if *counts == Counts::default() {
            roots.remove(&root);
        }
    }
}

/// Returns the number of live registered threads of the process, by class.
pub(super) fn live() -> ThreadCounts {
    let mut counts = ThreadCounts::default();
    for (total, live) in counts.registered.iter_mut().zip(&LIVE) {
        *total = live.load(Ordering::Relaxed) as u64;
    }
    counts
}

/// Returns the number of live registered threads of a root, by class.
pub(super) fn live_of(root: u64) -> ThreadCounts {
    let of_root = roots().get(&root).copied().unwrap_or_default();
    let mut counts = ThreadCounts::default();
    for (total, live) in counts.registered.iter_mut().zip(of_root) {
        *total = live as u64;
    }
    counts
}

/// Returns all registered threads. The shards are locked one after the other, so this is not one
/// moment's picture.
pub(crate) fn all() -> Vec<Known> {
    let mut all = Vec::new();
    for shard in &THREADS {
        all.extend(lock(shard).values().cloned());
    }
    all
}

/// Calls `show` for each thread of a root that can be asked to stop.
///
/// It holds the thread's shard meanwhile, so the thread cannot deregister, and its id cannot be
/// reused, during the call. `show` must not register or deregister a thread.
pub(crate) fn each_that_can_stop(root: u64, mut show: impl FnMut(u32, &Stop)) {
    for shard in &THREADS {
        for known in lock(shard).values().filter(|known| known.root == root) {
            if let Some(stop) = &known.stop {
                show(known.tid, stop);
            }
        }
    }
}

fn shard(tid: u32) -> MutexGuard<'static, Shard> {
    lock(&THREADS[tid as usize % SHARDS])
}

fn lock(shard: &'static Mutex<Shard>) -> MutexGuard<'static, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn roots() -> MutexGuard<'static, BTreeMap<u64, Counts>> {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner)
}
