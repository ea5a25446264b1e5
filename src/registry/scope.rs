//! Scopes: the state that the tasks of one group share. A scope says whether the group drains or is
//! cancelled, and wakes those that wait for its end.
//!
//! A scope's memory is never freed, only reused, so a slot may hold a scope's number. A scope is
//! reused when its group's handle is gone, nothing holds or awaits it, and no task of it and no
//! scope below it is left ([`Scope::is_vacant`]).
//!
//! The tree of scopes is read and written under one lock, the index. Tasks do not take it: a spawn
//! and an end only load words of their scope. Only while the scope is awaited does an end write a
//! shared word ([`Scope::after_end`]). How many tasks are live is not stored: it is a sum over all
//! shards.

mod handle;
mod live;
pub(crate) mod waits;

pub(crate) use handle::{Held, Owned};
pub(crate) use live::Watch;

use super::bounds::{DEPTH, SCOPES};
use super::count::shard;
use super::count::warnings::Warning;
use super::kind;
use crate::recorder;
use live::{live_of, sum_of};
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use waits::Waits;

/// The number that stands for "no scope" in a link.
const NONE: u32 = u32::MAX;
/// The number of scopes that are made together.
///
/// It keeps the first group of a process from making all of them.
const CHUNK: usize = 256;
/// The number of released scopes that a new group checks for reuse before it takes a new one.
///
/// A check sums over all shards, so the number bounds the cost of creating a group.
const LOOKED_AT: usize = 16;

/// All scopes, in chunks. A chunk is set once and never changes.
///
/// A chunk is made when the first scope in it is needed.
static TABLE: [OnceLock<Box<[Scope; CHUNK]>>; SCOPES / CHUNK] =
    [const { OnceLock::new() }; SCOPES / CHUNK];
/// The lock of the tree.
static INDEX: Mutex<Index> = Mutex::new(Index {
    made: 0,
    gone: VecDeque::new(),
    created: 0,
});

/// The parts of the tree that belong to no single scope.
#[derive(Debug)]
struct Index {
    /// The number of scopes that were made.
    made: usize,
    /// Scopes without a handle. They may be reused once their tasks have ended.
    gone: VecDeque<u32>,
    /// The number of groups that were ever created.
    created: u64,
}

/// The shared state of one group's tasks.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The scope's index in the table.
    pub(crate) number: u32,
    /// The scope above, or [`NONE`]. Written under the lock of the index, read without it.
    parent: AtomicU32,
    /// The number of scopes above.
    depth: AtomicU32,
    /// The links to the scopes below this one and to its siblings. Read and written under the lock
    /// of the index only.
    first_child: AtomicU32,
    /// The next older sibling.
    next: AtomicU32,
    /// The next younger sibling.
    previous: AtomicU32,
    /// The number of [`Held`] guards, which keep the scope from being reused.
    held: AtomicU32,
    /// The number of the group's path.
    path: AtomicU32,
    /// The number of the root.
    root: AtomicU64,
    /// The rank in the order of creation, which decides the order of draining.
    created: AtomicU64,
    /// True once the group was told to drain. Released after `drain_requested_at` is stored.
    draining: AtomicBool,
    /// The clock's reading when the group was told to drain.
    drain_requested_at: AtomicU64,
    /// True while the group is being cancelled: tasks that start are cancelled at once.
    cancelling: AtomicBool,
    /// Notifies the tasks that wait to be told to drain.
    drain_requested: Notify,
    /// The group's own drain budget in nanoseconds; `u64::MAX` for none.
    drain_nanos: AtomicU64,
    /// The siblings after which this scope drains.
    drains_after: Mutex<Vec<u32>>,
    /// The sum of the counters of starts when the group took the scope. Counters are never reset,
    /// because only their own shard's thread writes them.
    base: AtomicU64,
    /// The number of starts in scopes that were once below this one and have been reused.
    folded: AtomicU64,
    /// The number of [`Watch`]es of this scope and of those above it. Read by every end of a task.
    watched: AtomicU32,
    /// True if the runtime has hooks that report untracked tasks.
    hooked: AtomicBool,
    /// The waiters for this scope, and the countdown of ends that wakes them.
    waits: Waits,
}

// === impl Scope ===

impl Scope {
    /// Returns a scope that no group uses.
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
            drain_requested_at: AtomicU64::new(0),
            cancelling: AtomicBool::new(false),
            drain_requested: Notify::new(),
            drain_nanos: AtomicU64::new(u64::MAX),
            drains_after: Mutex::new(Vec::new()),
            base: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            watched: AtomicU32::new(0),
            hooked: AtomicBool::new(false),
            waits: Waits::new(),
        }
    }

    /// Returns the number of the scope's root.
    pub(crate) fn root(&self) -> u64 {
        self.root.load(Ordering::Relaxed)
    }

    /// Returns whether the runtime has hooks, which must learn which tasks are tracked.
    #[inline]
    pub(crate) fn is_hooked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    /// Notes that the runtime has hooks. Must be called before the scope has tasks, or groups below
    /// it.
    #[cfg(tokio_unstable)]
    pub(crate) fn set_hooked(&self) {
        self.hooked.store(true, Ordering::Relaxed);
    }

    /// Returns the number of the group's path.
    pub(crate) fn path(&self) -> u32 {
        self.path.load(Ordering::Relaxed)
    }

    /// Returns the group's path; empty for a root.
    pub(crate) fn name(&self) -> &'static str {
        kind::path_name(self.path())
    }

    /// Returns the scope above.
    ///
    /// A stored number is always that of a scope that was made.
    fn parent(&self) -> Option<&'static Self> {
        link(&self.parent)
    }

    /// Returns this scope and all scopes above it, up to the root's.
    pub(crate) fn lineage(&'static self) -> impl Iterator<Item = &'static Self> {
        std::iter::successors(Some(self), |scope| scope.parent())
    }

    /// Returns whether this scope is `above` or below it. Takes no lock. The answer is reliable
    /// while a task of this scope is live, because the scope is not reused until then.
    pub(crate) fn is_below(&'static self, above: &Self) -> bool {
        self.lineage().any(|scope| scope.number == above.number)
    }

    /// Returns this scope and all scopes below it, in the order of their creation.
    pub(crate) fn subtree(&'static self) -> Vec<&'static Self> {
        let index = index();
        self.subtree_in(&index)
    }

    /// Returns this scope and all scopes below it, in the order of their creation, under the lock
    /// of the index.
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

    /// Returns the scopes below this one that have this name, in the order of their creation. They are
    /// shared, so they serve no other group meanwhile.
    #[cfg(feature = "admin")]
    pub(crate) fn named(&'static self, name: &str) -> Vec<Owned> {
        let index = index();
        let mut below = self.subtree_in(&index);
        below.retain(|scope| scope.number != self.number && scope.name() == name);
        let share = |scope| Owned {
            scope,
            shared: Some(Held::new(scope)),
        };
        below.into_iter().map(share).collect()
    }

    /// Returns the scopes directly below this one, the last created first. The index is proof that
    /// its lock is held.
    fn children_in(&self, _: &Index) -> impl Iterator<Item = &'static Self> + use<> {
        std::iter::successors(link(&self.first_child), |child| link(&child.next))
    }

    /// Returns the scopes directly below this one in the order in which they drain: the last
    /// created first, unless one was declared to drain after another. They are held, so they serve
    /// no other group during the drain.
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

    /// Declares that this scope drains after `other` has drained. Returns false if the two have
    /// different parents, or if that would be a cycle.
    pub(crate) fn drain_after(&'static self, other: &'static Self) -> bool {
        let _index = index();
        let siblings = self.parent.load(Ordering::Relaxed) == other.parent.load(Ordering::Relaxed);
        if !siblings || other.reaches(self) {
            return false;
        }
        lock(&self.drains_after).push(other.number);
        true
    }

    /// Returns whether this scope drains after `target`, directly or through others, or is
    /// `target`.
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

    /// Returns whether the group was told to drain.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Returns how long ago the group was told to drain; `None` if it was not.
    pub(crate) fn draining_for(&self) -> Option<Duration> {
        self.is_draining()
            .then(|| super::clock::since(self.drain_requested_at.load(Ordering::Relaxed)))
    }

    /// Returns the clock's reading when the group was told to drain; `None` if it was not.
    pub(crate) fn drain_requested_at(&self) -> Option<u64> {
        self.is_draining()
            .then(|| self.drain_requested_at.load(Ordering::Relaxed))
    }

    /// Returns the notification that the group was told to drain. A waiter must be registered
    /// before it checks [`Scope::is_draining`], or it may miss the notification.
    pub(crate) fn drain_requested(&self) -> &Notify {
        &self.drain_requested
    }

    /// Tells this scope and all scopes below it to drain. Scopes that are created below them later
    /// start out draining, because creation takes the same lock.
    ///
    /// Gives a pulse between the flags and the notifications: a poll that begins after a task was
    /// told therefore notes a later time than that of the request.
    pub(crate) fn request_drain(&'static self) {
        let index = index();
        let scopes = self.subtree_in(&index);
        for scope in &scopes {
            if !scope.draining.load(Ordering::Relaxed) {
                scope
                    .drain_requested_at
                    .store(super::clock::raw(), Ordering::Relaxed);
                scope.draining.store(true, Ordering::Release);
                recorder::draining(scope.number, true);
            }
        }
        drop(index);
        super::clock::pulse();
        for scope in scopes {
            scope.drain_requested.notify_waiters();
        }
    }

    /// Makes a drained or cancelled scope, and all scopes below it, accept tasks as before.
    pub(crate) fn reopen(&'static self) {
        let index = index();
        for scope in self.subtree_in(&index) {
            scope.cancelling.store(false, Ordering::Release);
            scope.draining.store(false, Ordering::Release);
            recorder::draining(scope.number, false);
        }
    }

    /// Returns whether a task that starts in this scope is cancelled at once. The load is relaxed
    /// and has no fence: see [`Scope::start_cancelling`].
    #[inline]
    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancelling.load(Ordering::Relaxed)
    }

    /// Cancels at once every task that starts in this scope or below it from here on.
    ///
    /// A task that starts at this moment may miss the flag, and may also be missed by a walk over
    /// the slots. A spawn has no fence to prevent that. The canceller therefore walks again until
    /// no task is left.
    pub(crate) fn start_cancelling(&'static self) {
        let index = index();
        for scope in self.subtree_in(&index) {
            scope.cancelling.store(true, Ordering::SeqCst);
        }
    }

    /// Returns the group's own drain budget, if it has one.
    pub(crate) fn drain_budget(&self) -> Option<Duration> {
        match self.drain_nanos.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Sets the group's own drain budget, at most [`LONGEST`](super::clock::LONGEST).
    pub(crate) fn set_drain_budget(&self, budget: Duration) {
        let budget = budget.min(super::clock::LONGEST);
        let nanos = u64::try_from(budget.as_nanos()).expect("LONGEST fits u64");
        self.drain_nanos.store(nanos, Ordering::Relaxed);
    }

    /// Links this scope below `parent`, as its youngest child. The caller holds the lock of the
    /// index.
    ///
    /// Four links at most are written, whatever the number of siblings.
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

    /// Unlinks this scope from its parent, which keeps the number of its starts. The caller holds
    /// the lock of the index.
    ///
    /// The scope's own links are left as they are, and overwritten by the next `attach`.
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

    /// Returns whether the scope may be reused. The caller holds the lock of the index.
    ///
    /// Only released scopes are checked. Their groups have no handle any more, so no task starts in
    /// them, and a live count of 0 stays 0.
    fn is_vacant(&self) -> bool {
        let numbers = [self.number];
        self.first_child.load(Ordering::Relaxed) == NONE
            && self.held.load(Ordering::Acquire) == 0
            && !self.waits.is_awaited()
            && live_of(&numbers, shard::ScopeCounters::waited) == 0
            && live_of(&numbers, shard::ScopeCounters::daemons) == 0
    }
}

/// Returns a scope for a new root with this number.
///
/// If no scope is left, it logs a warning and shares the first scope of the process.
pub(crate) fn create_root(root: u64) -> Owned {
    create(None, root, kind::ROOT_PATH).unwrap_or_else(|| {
        let _index = index();
        let first = at(0);
        Owned {
            scope: first,
            shared: Some(Held::new(first)),
        }
    })
}

/// Returns a scope for a new group below `parent`. If no scope is left or the nesting is too deep,
/// it logs a warning and returns `None`: the group must share all of its parent.
#[track_caller]
pub(crate) fn create_below(parent: &'static Scope, path: u32) -> Option<Owned> {
    create(Some(parent), parent.root(), path)
}

/// Returns a new scope below `parent`, or for a root.
///
/// It inherits the flags of its parent, under the lock of the index, so it cannot miss a drain or a
/// cancel of the whole tree. If no scope is left or the nesting is too deep, it logs a warning and
/// returns `None`.
#[track_caller]
fn create(parent: Option<&'static Scope>, root: u64, path: u32) -> Option<Owned> {
    let depth = parent.map_or(0, |parent| parent.depth.load(Ordering::Relaxed) + 1);
    let mut index = index();
    let taken = if depth <= DEPTH { index.take() } else { None };
    let Some((scope, watchers)) = taken else {
        drop(index);
        Warning::Groups.note();
        tracing::warn!(
            target: "headcount",
            "too many groups (at most {SCOPES} at once, nested at most {DEPTH} deep): the group created at {} \
             is merged into its parent; drop groups that are no longer in use",
            Location::caller()
        );
        return None;
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
    scope
        .drain_requested_at
        .store(super::clock::raw(), Ordering::Relaxed);
    scope.draining.store(draining, Ordering::Release);
    recorder::draining(scope.number, draining);
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
    Some(Owned {
        scope,
        shared: None,
    })
}

/// Sorts siblings, the last created first, so that each comes after those that it was declared to
/// drain after. The siblings come in with the last created first; the order is kept where no
/// declaration changes it.
fn declared_order(mut waiting: Vec<&'static Scope>) -> Vec<&'static Scope> {
    let mut order: Vec<&'static Scope> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = waiting.iter().position(|scope| {
            let after = lock(&scope.drains_after);
            !waiting.iter().any(|other| after.contains(&other.number))
        });
        // `drain_after` refuses cycles. One may still appear if a scope in the list was reused for
        // a new group: then the last created drains first.
        order.push(waiting.remove(free.unwrap_or(0)));
    }
    order
}

/// Returns the scope of that number.
///
/// # Panics
///
/// If no scope of that number was made.
pub(crate) fn at(number: u32) -> &'static Scope {
    let number = number as usize;
    &TABLE[number / CHUNK]
        .get()
        .expect("a scope's number is given out after the scope is made")[number % CHUNK]
}

/// Returns the scope that a link names.
fn link(number: &AtomicU32) -> Option<&'static Scope> {
    match number.load(Ordering::Relaxed) {
        NONE => None,
        number => Some(at(number)),
    }
}

/// Locks the index.
fn index() -> MutexGuard<'static, Index> {
    lock(&INDEX)
}

/// Locks a mutex. Ignores lock poisoning.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Index ===

impl Index {
    /// Returns a scope that no group uses, and the awaited scopes above its previous place. The
    /// caller must wake their waiters: a task that ended in the scope may count down only after the
    /// scope was moved, and would then count down in its new place.
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
