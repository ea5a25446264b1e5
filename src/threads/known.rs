//! Who is registered: by thread, and counted by class.
//!
//! A thread registers itself once, and ends its registration itself. Threads are kept in shards by number, so that
//! thousands that start and end do not wait for each other; counts are kept beside them, so that reading them walks
//! nothing.

use super::stop::Stop;
use super::{ThreadClass, ThreadCounts, own_tid};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;
/// All but unknown, which is what nobody registers.
const REGISTERED: usize = ThreadClass::ALL.len() - 1;

type Shard = BTreeMap<u32, Known>;
type Counts = [usize; REGISTERED];

static THREADS: [Mutex<Shard>; SHARDS] = [const { Mutex::new(BTreeMap::new()) }; SHARDS];
/// Of the whole process. Written under a shard's lock, and added to before it is taken from, so never below what lives.
static LIVE: [AtomicUsize; REGISTERED] = [const { AtomicUsize::new(0) }; REGISTERED];
/// Of each root that has any. Taken after a shard's lock.
static ROOTS: Mutex<BTreeMap<u64, Counts>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The root and class that this thread is registered with.
    static OWN: Cell<Option<(u64, ThreadClass)>> = const { Cell::new(None) };
    static AT_END: AtEnd = const { AtEnd };
}

/// A registered thread that lives.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tid: u32,
    /// As tokio knows it.
    #[cfg(tokio_unstable)]
    pub(crate) thread: std::thread::ThreadId,
    /// The root whose runtime it belongs to.
    pub(crate) root: u64,
    pub(crate) class: ThreadClass,
    pub(crate) name: String,
    pub(crate) started: Option<&'static Location<'static>>,
    /// Of those that can be asked to stop.
    pub(crate) stop: Option<Stop>,
}

/// Registers the calling thread until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    /// A thread that is known may run a runtime: it stays what it is, and ends its registration when it ends.
    is_first: bool,
}

/// Its drop is the last that a thread does here, also one that ended otherwise than by returning.
struct AtEnd;

// === impl Known ===

impl Known {
    /// The calling thread.
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
    pub(crate) fn new(
        root: u64,
        class: ThreadClass,
        started: Option<&'static Location<'static>>,
    ) -> Self {
        let known = Known::own(root, class);
        Self::of(Known { started, ..known })
    }

    /// `known` must be the calling thread.
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

/// Registers the calling thread until [`forget_own`] or its end. Whether it was not registered.
pub(super) fn register(known: Known) -> bool {
    // Both fail only for a thread that ends.
    let own = Some((known.root, known.class));
    let is_first = OWN.try_with(|cell| cell.get().is_none()).unwrap_or(true);
    if is_first {
        OWN.try_with(|cell| cell.set(own)).ok();
        AT_END.try_with(|_| ()).ok();
        put(known);
    }
    is_first
}

/// Notes that the calling thread ends.
pub(crate) fn forget_own() {
    let was = OWN.try_with(Cell::take);
    // A thread without storage has ended its registration with it, or it registered afterwards.
    if !matches!(was, Ok(None)) {
        take(own_tid());
    }
}

/// What the calling thread is, if it is registered for that root.
pub(super) fn own_class(root: u64) -> Option<ThreadClass> {
    let own = OWN.try_with(Cell::get).ok().flatten();
    own.and_then(|(own, class)| (own == root).then_some(class))
}

/// Notes that the calling thread, which is registered for that root, is something else from here on.
pub(super) fn change_own(root: u64, class: ThreadClass) {
    OWN.set(Some((root, class)));
    let tid = own_tid();
    let mut shard = shard(tid);
    if let Some(known) = shard.get_mut(&tid) {
        let before = known.class;
        known.class = class;
        count(root, class);
        discount(root, before);
    }
}

fn put(known: Known) {
    let mut shard = shard(known.tid);
    count(known.root, known.class);
    // A thread that ended without telling may have had this number before.
    let before = shard.insert(known.tid, known);
    if let Some(before) = &before {
        discount(before.root, before.class);
    }
    // It may own what a user gave.
    drop(shard);
    drop(before);
}

fn take(tid: u32) {
    let mut shard = shard(tid);
    let known = shard.remove(&tid);
    if let Some(known) = &known {
        discount(known.root, known.class);
    }
    // It may own what a user gave.
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

/// How many live, without the unknown.
pub(super) fn live() -> ThreadCounts {
    let mut counts = ThreadCounts::default();
    for (total, live) in counts.registered.iter_mut().zip(&LIVE) {
        *total = live.load(Ordering::Relaxed) as u64;
    }
    counts
}

/// How many of a root live, without the unknown.
pub(super) fn live_of(root: u64) -> ThreadCounts {
    let of_root = roots().get(&root).copied().unwrap_or_default();
    let mut counts = ThreadCounts::default();
    for (total, live) in counts.registered.iter_mut().zip(of_root) {
        *total = live as u64;
    }
    counts
}

/// All registered threads.
pub(crate) fn all() -> Vec<Known> {
    let mut all = Vec::new();
    for shard in &THREADS {
        all.extend(lock(shard).values().cloned());
    }
    all
}

/// Shows each thread of a root that can be asked to stop. While it is shown it cannot end, so its number is its own.
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
