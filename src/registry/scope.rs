//! Scopes: what the tasks of one group share while the group lives: whether it drains, whether it is cancelled, and
//! who waits for its end.
//!
//! A scope's memory is never given back, only used again, so a slot may hold its number. Ordinary ends of tasks read
//! one flag of it; only while somebody waits do they write.

use super::{kind, shard};
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// The most groups that live at the same time; further ones share the scope of their parent.
pub(crate) const SCOPES: usize = 65_536;
const NONE: u32 = u32::MAX;
const CHUNK: usize = 256;
/// How many groups that are gone a new group looks at, to use one again.
const LOOKED_AT: usize = 16;

static TABLE: [OnceLock<Box<[Scope]>>; SCOPES / CHUNK] =
    [const { OnceLock::new() }; SCOPES / CHUNK];
static INDEX: Mutex<Index> = Mutex::new(Index {
    made: 0,
    gone: VecDeque::new(),
    created: 0,
});

#[derive(Debug)]
struct Index {
    made: usize,
    /// Scopes without a handle; those whose tasks have ended too may be used again.
    gone: VecDeque<u32>,
    created: u64,
}

#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) number: u32,
    in_use: AtomicBool,
    parent: AtomicU32,
    children: AtomicU32,
    path: AtomicU32,
    root: AtomicU64,
    /// The order of creation, for the order of draining.
    created: AtomicU64,
    draining: AtomicBool,
    /// Clock reading at which it was told to drain.
    told: AtomicU64,
    cancelling: AtomicBool,
    told_to_drain: Notify,
    drain_nanos: AtomicU64,
    drains_after: Mutex<Vec<u32>>,
    /// What the counters of starts stood at when the scope was taken into use.
    base: AtomicU64,
    /// Starts in scopes that were below this one and serve others.
    folded: AtomicU64,
    /// How many wait for this scope or one that holds it.
    watched: AtomicU32,
    waits: Waits,
}

/// Those who wait for a scope and all below it to be empty.
#[derive(Debug, Default)]
struct Waits {
    here: AtomicU32,
    /// Ends until somebody should look whether the scope is empty.
    countdown: AtomicI64,
    wakers: Mutex<Vec<Waker>>,
}

/// While it lives, ends of tasks in its scope, and below it, are counted for whoever waits.
#[derive(Debug)]
pub(crate) struct Watch(&'static Scope);

// === impl Scope ===

impl Scope {
    fn new(number: u32) -> Self {
        Self {
            number,
            in_use: AtomicBool::new(false),
            parent: AtomicU32::new(NONE),
            children: AtomicU32::new(0),
            path: AtomicU32::new(0),
            root: AtomicU64::new(0),
            created: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            told: AtomicU64::new(0),
            cancelling: AtomicBool::new(false),
            told_to_drain: Notify::new(),
            drain_nanos: AtomicU64::new(u64::MAX),
            drains_after: Mutex::new(Vec::new()),
            base: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            watched: AtomicU32::new(0),
            waits: Waits::default(),
        }
    }

    pub(crate) fn root(&self) -> u64 {
        self.root.load(Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> u32 {
        self.path.load(Ordering::Relaxed)
    }

    pub(crate) fn name(&self) -> &'static str {
        kind::path_name(self.path())
    }

    fn parent(&self) -> Option<&'static Self> {
        match self.parent.load(Ordering::Relaxed) {
            NONE => None,
            number => Some(at(number)),
        }
    }

    fn lineage(&'static self) -> impl Iterator<Item = &'static Self> {
        std::iter::successors(Some(self), |scope| scope.parent())
    }

    fn is_below(&'static self, above: &Self) -> bool {
        self.lineage().any(|scope| scope.number == above.number)
    }

    /// This scope and all below it, in the order of their creation.
    pub(crate) fn subtree(&'static self) -> Vec<&'static Self> {
        let index = index();
        self.subtree_in(&index)
    }

    fn subtree_in(&'static self, index: &Index) -> Vec<&'static Self> {
        if self.children.load(Ordering::Relaxed) == 0 {
            return vec![self];
        }
        let mut scopes: Vec<_> = made(index)
            .filter(|scope| scope.in_use.load(Ordering::Relaxed) && scope.is_below(self))
            .collect();
        scopes.sort_by_key(|scope| scope.created.load(Ordering::Relaxed));
        scopes
    }

    /// The scopes directly below this one, in the order in which they drain: the last created first, unless one was
    /// declared to drain after another.
    pub(crate) fn children_to_drain(&'static self) -> Vec<&'static Self> {
        let mut waiting = self.subtree();
        waiting.retain(|scope| scope.parent.load(Ordering::Relaxed) == self.number);
        let mut order: Vec<&'static Self> = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let free = waiting.iter().rposition(|scope| {
                let after = lock(&scope.drains_after);
                !waiting.iter().any(|other| after.contains(&other.number))
            });
            // `drain_after` refuses a cycle; if groups were made anew meanwhile, the last created goes first.
            order.push(waiting.remove(free.unwrap_or(waiting.len() - 1)));
        }
        order
    }

    /// Declares that this scope drains when `other` has drained; false when that would be a cycle or makes no sense.
    pub(crate) fn drain_after(&'static self, other: &'static Self) -> bool {
        let _index = index();
        let siblings = self.parent.load(Ordering::Relaxed) == other.parent.load(Ordering::Relaxed);
        if !siblings || other.reaches(self) {
            return false;
        }
        lock(&self.drains_after).push(other.number);
        true
    }

    fn reaches(&'static self, target: &Self) -> bool {
        let mut seen = vec![self.number];
        let mut next = 0;
        while next < seen.len() {
            if seen[next] == target.number {
                return true;
            }
            let after = lock(&at(seen[next]).drains_after).clone();
            for number in after {
                if !seen.contains(&number) {
                    seen.push(number);
                }
            }
            next += 1;
        }
        false
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How long ago it was told to drain.
    pub(crate) fn draining_for(&self) -> Option<Duration> {
        self.is_draining()
            .then(|| super::clock::since(self.told.load(Ordering::Relaxed)))
    }

    pub(crate) fn told_to_drain(&self) -> &Notify {
        &self.told_to_drain
    }

    /// Tells this scope alone to drain; the caller decides about those below.
    pub(crate) fn tell_to_drain(&self) {
        if !self.draining.load(Ordering::Relaxed) {
            self.told.store(super::clock::raw(), Ordering::Relaxed);
            self.draining.store(true, Ordering::Release);
        }
        self.told_to_drain.notify_waiters();
    }

    /// Makes a drained or cancelled scope, and all below it, work again.
    pub(crate) fn reopen(&'static self) {
        for scope in self.subtree() {
            scope.cancelling.store(false, Ordering::Release);
            scope.draining.store(false, Ordering::Release);
        }
    }

    /// Whether a task that starts here now is cancelled at once.
    #[inline]
    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancelling.load(Ordering::Relaxed)
    }

    /// From here on tasks that start in this scope or below are cancelled at once. One that starts at this moment may
    /// miss it and be missed by a walk over the slots, so whoever cancels walks again until nobody is left.
    pub(crate) fn start_cancelling(&'static self) {
        for scope in self.subtree() {
            scope.cancelling.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn drain_budget(&self) -> Option<Duration> {
        match self.drain_nanos.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    pub(crate) fn set_drain_budget(&self, budget: Duration) {
        let nanos = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX - 1);
        self.drain_nanos
            .store(nanos.min(u64::MAX - 1), Ordering::Relaxed);
    }

    /// The live daemons of this scope and all below it.
    pub(crate) fn live_daemons(&'static self) -> u64 {
        let numbers: Vec<u32> = self.subtree().iter().map(|scope| scope.number).collect();
        live_of(&numbers, shard::ScopeCounters::daemons)
    }

    /// The tasks that ever started in this scope and all that were below it, daemons left out.
    pub(crate) fn started(&'static self) -> u64 {
        let index = index();
        let scopes = self.subtree_in(&index);
        scopes.iter().map(|scope| scope.started_here()).sum()
    }

    fn started_here(&self) -> u64 {
        let started = sum_of(&[self.number], |counters| &counters.waited().started);
        let folded = self.folded.load(Ordering::Relaxed);
        started.wrapping_sub(self.base.load(Ordering::Relaxed)) + folded
    }

    fn is_vacant(&self) -> bool {
        let numbers = [self.number];
        self.children.load(Ordering::Relaxed) == 0
            && self.waits.here.load(Ordering::Relaxed) == 0
            && live_of(&numbers, shard::ScopeCounters::waited) == 0
            && live_of(&numbers, shard::ScopeCounters::daemons) == 0
    }

    /// The live tasks of this scope and all below it, daemons left out: 0 only if there was a moment without any.
    pub(crate) fn live(&'static self) -> u64 {
        let numbers: Vec<u32> = self.subtree().iter().map(|scope| scope.number).collect();
        live_of(&numbers, shard::ScopeCounters::waited)
    }

    /// Called by the thread that ended a task of this scope, after it counted that end.
    #[inline]
    pub(crate) fn after_end(&'static self) {
        // The program that would break: this thread's count is still in its store buffer when it reads `watched` as 0,
        // while one who waits sets `watched`, sums without that count, and sleeps for ever. So the count, this load, the
        // store of `watched` and the fence before the sum are all sequentially consistent: if this load misses the
        // store, the count comes before the sum.
        if self.watched.load(Ordering::SeqCst) != 0 {
            self.count_down();
        }
    }

    #[cold]
    fn count_down(&'static self) {
        for scope in self.lineage() {
            let waits = &scope.waits;
            if waits.here.load(Ordering::Acquire) != 0
                && waits.countdown.fetch_sub(1, Ordering::AcqRel) <= 1
            {
                waits.wake_all();
            }
        }
    }

    /// Begins to wait for this scope and all below it to be empty.
    pub(crate) fn watch(&'static self) -> Watch {
        let index = index();
        self.waits.here.fetch_add(1, Ordering::AcqRel);
        for scope in self.subtree_in(&index) {
            scope.watched.fetch_add(1, Ordering::SeqCst);
        }
        drop(index);
        Watch(self)
    }

    /// The handle is gone: once its tasks are too, the scope may serve another group.
    pub(crate) fn release(&self) {
        index().gone.push_back(self.number);
    }
}

// === impl Waits ===

impl Waits {
    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        for waker in wakers {
            waker.wake();
        }
    }
}

// === impl Watch ===

impl Watch {
    /// The live tasks; unless there are none, `waker` is woken when it is worth asking again.
    pub(crate) fn poll(&self, waker: &Waker) -> u64 {
        let waits = &self.0.waits;
        let mut wakers = lock(&waits.wakers);
        // Ends that come between here and the sum are counted twice, so the countdown may run out early, never late.
        waits.countdown.store(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let live = self.0.live();
        let n = i64::try_from(live).unwrap_or(i64::MAX);
        if live > 0 {
            if !wakers.iter().any(|known| known.will_wake(waker)) {
                wakers.push(waker.clone());
            }
            let ran_out = waits.countdown.fetch_add(n, Ordering::AcqRel) + n <= 0;
            drop(wakers);
            if ran_out {
                waits.wake_all();
            }
        }
        live
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let index = index();
        for scope in self.0.subtree_in(&index) {
            scope.watched.fetch_sub(1, Ordering::SeqCst);
        }
        drop(index);
        if self.0.waits.here.fetch_sub(1, Ordering::AcqRel) == 1 {
            lock(&self.0.waits.wakers).clear();
        }
    }
}

/// A scope for a new group: below `parent`, or the root of a runtime of that number.
#[track_caller]
pub(crate) fn create(parent: Option<&'static Scope>, root: u64, path: u32) -> &'static Scope {
    let mut index = index();
    let Some(scope) = index.take() else {
        tracing::warn!(
            target: "headcount",
            "more than {SCOPES} groups at once: the group made at {} shares its parent",
            Location::caller()
        );
        return parent.unwrap_or_else(|| at(0));
    };
    index.created += 1;
    let parent_number = parent.map_or(NONE, |parent| parent.number);
    if let Some(parent) = parent {
        parent.children.fetch_add(1, Ordering::Relaxed);
    }
    scope.parent.store(parent_number, Ordering::Relaxed);
    scope.path.store(path, Ordering::Relaxed);
    scope.root.store(root, Ordering::Relaxed);
    scope.created.store(index.created, Ordering::Relaxed);
    scope.drain_nanos.store(u64::MAX, Ordering::Relaxed);
    lock(&scope.drains_after).clear();
    let base = sum_of(&[scope.number], |counters| &counters.waited().started);
    scope.base.store(base, Ordering::Relaxed);
    scope.folded.store(0, Ordering::Relaxed);
    let inherited = |flag: fn(&Scope) -> &AtomicBool| {
        parent.is_some_and(|parent| flag(parent).load(Ordering::Acquire))
    };
    let draining = inherited(|scope| &scope.draining);
    scope.told.store(super::clock::raw(), Ordering::Relaxed);
    scope.draining.store(draining, Ordering::Release);
    let cancelling = inherited(|scope| &scope.cancelling);
    scope.cancelling.store(cancelling, Ordering::Release);
    let watched = parent.map_or(0, |parent| parent.watched.load(Ordering::Relaxed));
    scope.watched.store(watched, Ordering::SeqCst);
    scope.in_use.store(true, Ordering::Release);
    scope
}

pub(crate) fn at(number: u32) -> &'static Scope {
    let number = number as usize;
    &TABLE[number / CHUNK]
        .get()
        .expect("a scope's number is given out after the scope is made")[number % CHUNK]
}

/// The tasks that live in these scopes. All ends are read before the first start, so 0 means that there was a moment
/// without any.
fn live_of(scopes: &[u32], which: fn(&shard::ScopeCounters) -> &shard::StartedEnded) -> u64 {
    let ended = sum_of(scopes, |counters| &which(counters).ended);
    fence(Ordering::SeqCst);
    let started = sum_of(scopes, |counters| &which(counters).started);
    started.saturating_sub(ended)
}

fn sum_of(scopes: &[u32], counter: impl Fn(&shard::ScopeCounters) -> &AtomicU64) -> u64 {
    shard::all()
        .flat_map(|shard| scopes.iter().filter_map(|&scope| shard.scope_if_any(scope)))
        .fold(0_u64, |sum, counters| {
            sum.wrapping_add(counter(counters).load(Ordering::Acquire))
        })
}

fn index() -> MutexGuard<'static, Index> {
    lock(&INDEX)
}

fn made(index: &Index) -> impl Iterator<Item = &'static Scope> {
    TABLE
        .iter()
        .map_while(OnceLock::get)
        .flat_map(|chunk| chunk.iter())
        .take(index.made)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Index ===

impl Index {
    fn take(&mut self) -> Option<&'static Scope> {
        for _ in 0..self.gone.len().min(LOOKED_AT) {
            let scope = at(self.gone.pop_front()?);
            if scope.is_vacant() {
                if let Some(parent) = scope.parent() {
                    parent.children.fetch_sub(1, Ordering::Relaxed);
                    parent
                        .folded
                        .fetch_add(scope.started_here(), Ordering::Relaxed);
                }
                scope.in_use.store(false, Ordering::Release);
                return Some(scope);
            }
            self.gone.push_back(scope.number);
        }
        if self.made == SCOPES {
            return None;
        }
        let chunk = TABLE[self.made / CHUNK].get_or_init(|| {
            let first = self.made / CHUNK * CHUNK;
            (first..first + CHUNK)
                .map(|number| Scope::new(u32::try_from(number).expect("SCOPES fits u32")))
                .collect()
        });
        self.made += 1;
        Some(&chunk[(self.made - 1) % CHUNK])
    }
}
