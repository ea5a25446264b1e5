//! Scopes: what the tasks of one group share while the group lives: whether it drains, whether it is cancelled, and
//! who waits for its end.
//!
//! A scope's memory is never given back, only used again, so a slot may hold its number. Ordinary ends of tasks read
//! one flag of it; only while somebody waits do they write.

use super::waits::Waits;
use super::warnings::Warning;
use super::{kind, shard};
use std::collections::VecDeque;
use std::ops::Deref;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// The most groups that live at the same time; further ones share the scope of their parent.
pub(crate) const SCOPES: usize = 65_536;
/// The deepest nesting of groups; deeper ones share the scope of their parent. A shutdown recurses so deep.
pub(crate) const DEPTH: u32 = 128;
const NONE: u32 = u32::MAX;
const CHUNK: usize = 256;
/// How many groups that are gone a new group looks at, to use one again.
const LOOKED_AT: usize = 16;

static TABLE: [OnceLock<Box<[Scope; CHUNK]>>; SCOPES / CHUNK] =
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
    parent: AtomicU32,
    depth: AtomicU32,
    /// The tree downwards. Read and written under the lock of the index only.
    first_child: AtomicU32,
    next: AtomicU32,
    previous: AtomicU32,
    /// How many hold it, so that it serves no other group meanwhile.
    held: AtomicU32,
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
    /// Whether the runtime's hooks tell of untracked tasks.
    hooked: AtomicBool,
    waits: Waits,
}

/// While it lives, ends of tasks in its scope, and below it, are counted for whoever waits.
#[derive(Debug)]
pub(crate) struct Watch {
    scope: &'static Scope,
    number: u64,
}

/// While it lives, the scope serves no other group, whatever becomes of its own.
#[derive(Debug)]
pub(crate) struct Held(&'static Scope);

// === impl Scope ===

impl Scope {
    fn new(number: u32) -> Self {
        Self {
            number,
            parent: AtomicU32::new(NONE),
            depth: AtomicU32::new(0),
            first_child: AtomicU32::new(NONE),
            next: AtomicU32::new(NONE),
            previous: AtomicU32::new(NONE),
            held: AtomicU32::new(0),
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
            hooked: AtomicBool::new(false),
            waits: Waits::new(),
        }
    }

    pub(crate) fn root(&self) -> u64 {
        self.root.load(Ordering::Relaxed)
    }

    /// Whether hooks ask which tasks are tracked.
    #[inline]
    pub(crate) fn is_hooked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    /// Only before the scope has tasks, or groups in it.
    #[cfg(tokio_unstable)]
    pub(crate) fn set_hooked(&self) {
        self.hooked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn path(&self) -> u32 {
        self.path.load(Ordering::Relaxed)
    }

    pub(crate) fn name(&self) -> &'static str {
        kind::path_name(self.path())
    }

    fn parent(&self) -> Option<&'static Self> {
        link(&self.parent)
    }

    /// This scope and all above it.
    pub(crate) fn lineage(&'static self) -> impl Iterator<Item = &'static Self> {
        std::iter::successors(Some(self), |scope| scope.parent())
    }

    pub(crate) fn is_below(&'static self, above: &Self) -> bool {
        self.lineage().any(|scope| scope.number == above.number)
    }

    /// This scope and all below it, in the order of their creation.
    pub(crate) fn subtree(&'static self) -> Vec<&'static Self> {
        let index = index();
        self.subtree_in(&index)
    }

    fn subtree_in(&'static self, index: &Index) -> Vec<&'static Self> {
        let mut scopes = vec![self];
        let mut next = 0;
        while let Some(scope) = scopes.get(next) {
            scopes.extend(scope.children_in(index));
            next += 1;
        }
        scopes.sort_by_key(|scope| scope.created.load(Ordering::Relaxed));
        scopes
    }

    /// The scopes directly below this one, the last created first.
    fn children_in(&self, _: &Index) -> impl Iterator<Item = &'static Self> + use<> {
        std::iter::successors(link(&self.first_child), |child| link(&child.next))
    }

    /// The scopes directly below this one, in the order in which they drain: the last created first, unless one was
    /// declared to drain after another.
    pub(crate) fn children_to_drain(&'static self) -> Vec<Held> {
        let index = index();
        let mut order: Vec<_> = self.children_in(&index).collect();
        if order
            .iter()
            .any(|scope| !lock(&scope.drains_after).is_empty())
        {
            order = declared_order(order);
        }
        order.into_iter().map(Held::new).collect()
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

    /// When it was told to drain: a reading of the clock.
    #[cfg(feature = "otel")]
    pub(crate) fn told(&self) -> Option<u64> {
        self.is_draining()
            .then(|| self.told.load(Ordering::Relaxed))
    }

    pub(crate) fn told_to_drain(&self) -> &Notify {
        &self.told_to_drain
    }

    /// Tells this scope and all below it to drain. Those that are made later below it are born draining.
    pub(crate) fn tell_to_drain(&'static self) {
        let index = index();
        let scopes = self.subtree_in(&index);
        for scope in &scopes {
            if !scope.draining.load(Ordering::Relaxed) {
                scope.told.store(super::clock::raw(), Ordering::Relaxed);
                scope.draining.store(true, Ordering::Release);
            }
        }
        drop(index);
        for scope in scopes {
            scope.told_to_drain.notify_waiters();
        }
    }

    /// Makes a drained or cancelled scope, and all below it, work again.
    pub(crate) fn reopen(&'static self) {
        let index = index();
        for scope in self.subtree_in(&index) {
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
        let index = index();
        for scope in self.subtree_in(&index) {
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
        let budget = budget.min(super::clock::LONGEST);
        let nanos = u64::try_from(budget.as_nanos()).expect("LONGEST fits u64");
        self.drain_nanos.store(nanos, Ordering::Relaxed);
    }

    /// The live daemons of this scope and all below it.
    pub(crate) fn live_daemons(&'static self) -> u64 {
        self.sum_live(shard::ScopeCounters::daemons)
    }

    /// About as many as live in this scope and below it, daemons included.
    pub(crate) fn size_hint(&'static self) -> usize {
        let live = self.live() + self.live_daemons();
        usize::try_from(live).unwrap_or(0)
    }

    /// Whether nothing lives in this scope and below it, daemons included.
    pub(crate) fn is_empty(&'static self) -> bool {
        self.live() == 0 && self.live_daemons() == 0
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

    /// Only under the lock of the index.
    fn attach(&self, parent: Option<&'static Self>) {
        self.previous.store(NONE, Ordering::Relaxed);
        self.next.store(NONE, Ordering::Relaxed);
        let Some(parent) = parent else {
            return self.parent.store(NONE, Ordering::Relaxed);
        };
        self.parent.store(parent.number, Ordering::Relaxed);
        if let Some(next) = link(&parent.first_child) {
            self.next.store(next.number, Ordering::Relaxed);
            next.previous.store(self.number, Ordering::Relaxed);
        }
        parent.first_child.store(self.number, Ordering::Relaxed);
    }

    /// Only under the lock of the index.
    fn detach(&self) {
        let Some(parent) = self.parent() else { return };
        parent
            .folded
            .fetch_add(self.started_here(), Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        match link(&self.previous) {
            Some(previous) => previous.next.store(next, Ordering::Relaxed),
            None => parent.first_child.store(next, Ordering::Relaxed),
        }
        if let Some(next) = link(&self.next) {
            let previous = self.previous.load(Ordering::Relaxed);
            next.previous.store(previous, Ordering::Relaxed);
        }
    }

    fn is_vacant(&self) -> bool {
        let numbers = [self.number];
        self.first_child.load(Ordering::Relaxed) == NONE
            && self.held.load(Ordering::Acquire) == 0
            && !self.waits.is_awaited()
            && live_of(&numbers, shard::ScopeCounters::waited) == 0
            && live_of(&numbers, shard::ScopeCounters::daemons) == 0
    }

    /// The live tasks of this scope and all below it, daemons left out: 0 only if there was a moment without any.
    pub(crate) fn live(&'static self) -> u64 {
        self.sum_live(shard::ScopeCounters::waited)
    }

    fn sum_live(&'static self, which: Which) -> u64 {
        // Under the lock: a scope that served another group meanwhile would have that one's tasks counted.
        let index = index();
        let scopes = self.subtree_in(&index);
        let numbers: Vec<u32> = scopes.iter().map(|scope| scope.number).collect();
        live_of(&numbers, which)
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
            scope.waits.count_down();
        }
    }

    /// Begins to wait for this scope and all below it to be empty.
    pub(crate) fn watch(&'static self) -> Watch {
        let number = self.waits.enter();
        let index = index();
        for scope in self.subtree_in(&index) {
            scope.watched.fetch_add(1, Ordering::SeqCst);
        }
        Watch {
            scope: self,
            number,
        }
    }

    /// The handle is gone: once its tasks are too, the scope may serve another group.
    pub(crate) fn release(&self) {
        index().gone.push_back(self.number);
    }
}

// === impl Watch ===

impl Watch {
    /// The live tasks; unless there are none, `waker` is woken when it is worth asking again.
    pub(crate) fn poll(&self, waker: &Waker) -> u64 {
        let scope = self.scope;
        scope.waits.poll(self.number, waker, || scope.live())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let index = index();
        for scope in self.scope.subtree_in(&index) {
            scope.watched.fetch_sub(1, Ordering::SeqCst);
        }
        drop(index);
        self.scope.waits.leave(self.number);
    }
}

// === impl Held ===

impl Held {
    fn new(scope: &'static Scope) -> Self {
        scope.held.fetch_add(1, Ordering::AcqRel);
        Self(scope)
    }

    pub(crate) fn scope(&self) -> &'static Scope {
        self.0
    }
}

impl Deref for Held {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A scope for a new group: below `parent`, or the root of a runtime of that number.
#[track_caller]
pub(crate) fn create(parent: Option<&'static Scope>, root: u64, path: u32) -> &'static Scope {
    let depth = parent.map_or(0, |parent| parent.depth.load(Ordering::Relaxed) + 1);
    let mut index = index();
    let taken = if depth <= DEPTH { index.take() } else { None };
    let Some((scope, watchers)) = taken else {
        drop(index);
        Warning::Groups.note();
        tracing::warn!(
            target: "headcount",
            "more than {SCOPES} groups at once, or {DEPTH} in each other: the group made at {} shares its parent",
            Location::caller()
        );
        return parent.unwrap_or_else(|| at(0));
    };
    index.created += 1;
    scope.attach(parent);
    scope.depth.store(depth, Ordering::Relaxed);
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
    let hooked = inherited(|scope| &scope.hooked);
    scope.hooked.store(hooked, Ordering::Relaxed);
    drop(index);
    for watched in watchers {
        watched.waits.wake_all();
    }
    scope
}

/// Sorts scopes of one parent, the last created first, so that each comes after those that it drains after.
fn declared_order(mut waiting: Vec<&'static Scope>) -> Vec<&'static Scope> {
    let mut order: Vec<&'static Scope> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = waiting.iter().position(|scope| {
            let after = lock(&scope.drains_after);
            !waiting.iter().any(|other| after.contains(&other.number))
        });
        // `drain_after` refuses a cycle; if groups were made anew meanwhile, the last created goes first.
        order.push(waiting.remove(free.unwrap_or(0)));
    }
    order
}

pub(crate) fn at(number: u32) -> &'static Scope {
    let number = number as usize;
    &TABLE[number / CHUNK]
        .get()
        .expect("a scope's number is given out after the scope is made")[number % CHUNK]
}

fn link(number: &AtomicU32) -> Option<&'static Scope> {
    match number.load(Ordering::Relaxed) {
        NONE => None,
        number => Some(at(number)),
    }
}

type Which = fn(&shard::ScopeCounters) -> &shard::StartedEnded;

/// The tasks that live in these scopes. All ends are read before the first start, so 0 means that there was a moment
/// without any.
fn live_of(scopes: &[u32], which: Which) -> u64 {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Index ===

impl Index {
    /// A scope that serves nobody, and those above where it was that somebody waits for. They are to be woken: a task
    /// that ended there may count down only after the scope has gone elsewhere.
    fn take(&mut self) -> Option<(&'static Scope, Vec<&'static Scope>)> {
        for _ in 0..self.gone.len().min(LOOKED_AT) {
            let scope = at(self.gone.pop_front()?);
            if scope.is_vacant() {
                let above = scope.lineage().skip(1);
                let awaited = above.filter(|above| above.waits.is_awaited()).collect();
                scope.detach();
                return Some((scope, awaited));
            }
            self.gone.push_back(scope.number);
        }
        if self.made == SCOPES {
            return None;
        }
        let chunk = TABLE[self.made / CHUNK].get_or_init(|| {
            let first = self.made / CHUNK * CHUNK;
            Box::new(std::array::from_fn(|at| {
                Scope::new(u32::try_from(first + at).expect("SCOPES fits u32"))
            }))
        });
        self.made += 1;
        Some((&chunk[(self.made - 1) % CHUNK], Vec::new()))
    }
}
