//! Shards: the words that one thread writes. A shard holds the thread's counters and its block of task
//! ids. The task that the thread is in is on its desk, which is in the black box if there is one.
//!
//! A counter has one writer at a time, the thread that holds the shard, so counting is a load and a
//! store, not an exchange. The store releases, and readers acquire: a sum over shards includes
//! every task that ended before the reading began, and is exact once no task starts or ends.
//!
//! When a thread ends, its shard goes to a pool, and the next new thread takes it with the counters
//! as they are. The lock of the pool orders the writes of the two threads. There are as many shards
//! as threads ever ran tasks at the same time.
//!
//! Shard 0 is for threads that cannot have a shard of their own: their thread-local storage is
//! destroyed, or no shard is left. Its counters are written under a lock.
//!
//! ```text
//!  thread ──► SHARD (thread-local) ──► Shard ── kinds:  72 chunks of 64 kinds
//!                                            ├─ scopes: 256 chunks of 256 scopes
//!                                            └─ durations, polls: 9 histograms each
//!  reader ──► TABLE[..made] ──► every Shard, whether a thread holds it or not
//! ```
//!
//! A thread gets a shard at its first task and keeps it until it ends. Chunks and histograms are
//! made by the thread that first counts in them, so a shard costs little until it is used.

use super::histogram::Histogram;
use crate::recorder;
use crate::recorder::sheet::Desk;
use crate::registry::bounds::{GROUP_LABELS, KINDS, SCOPES, SHARDS};
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The number of kinds in a chunk of counters.
///
/// A chunk is one page of 4 KiB, so a thread that runs a few kinds touches one or two.
const COUNTERS_A_CHUNK: usize = 64;
/// The number of chunks that hold the counters of all kinds.
const KIND_CHUNKS: usize = KINDS / COUNTERS_A_CHUNK;
/// The number of chunks that hold the counters of all scopes.
const SCOPE_CHUNKS: usize = SCOPES / SCOPES_A_CHUNK;
/// The number of scopes in a chunk of counters.
///
/// It divides [`SCOPES`] without a rest.
const SCOPES_A_CHUNK: usize = 256;
/// The number of ids that a shard takes at once, so that a spawn mostly writes no shared cache
/// line. A thread that ends keeps the rest of its block in the shard, for the next thread that
/// takes it.
const IDS_A_BLOCK: u64 = 256;

/// All shards. An entry is set once and never changes.
static TABLE: [OnceLock<Box<Shard>>; SHARDS] = [const { OnceLock::new() }; SHARDS];
/// The pool of shards that no thread holds.
///
/// Taken when a thread gets or gives back a shard, and for a moment by each reader.
static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    made: 1,
});
/// The first id of the next block.
///
/// It would take 2⁶⁴ tasks to overflow.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// The lock of shard 0.
///
/// A leaf lock, held for the few writes of one start or end.
static SHARED: Mutex<()> = Mutex::new(());

thread_local! {
    /// This thread's shard, once it has one.
    static SHARD: Cell<Option<&'static Shard>> = const { Cell::new(None) };
    /// The desk of this thread's shard. It is apart from `SHARD`, because a poll needs nothing else
    /// of the shard.
    static DESK: Cell<Option<&'static Desk>> = const { Cell::new(None) };
    /// Returns this thread's shard to the pool when the thread ends.
    static LEASE: Lease = const { Lease(Cell::new(None)) };
}

/// The shards that no thread holds, and the number of shards that were ever handed out.
#[derive(Debug)]
struct Pool {
    /// The numbers of the free shards.
    ///
    /// The last one given back is taken first.
    free: Vec<u16>,
    /// The number of shards in use or free, shard 0 included.
    made: usize,
}

/// A guard in thread-local storage that gives the thread's shard back when the thread ends. It
/// calls the function first, if there is one.
///
/// It is apart from `SHARD`, because a value with a destructor makes every access check whether it
/// was destroyed, and the hot path must not pay that.
struct Lease(Cell<Option<fn()>>);

/// Counters in chunks, each made when it is first needed: a chunk of kinds takes 4 KiB, one of
/// scopes 8 KiB. They are arrays, not slices, so that their lengths are known where they are
/// indexed.
type Chunks<T, const A_CHUNK: usize, const CHUNKS: usize> =
    Box<[OnceLock<Box<[T; A_CHUNK]>>; CHUNKS]>;

/// The words of one thread. Only the thread that holds the shard writes them.
pub(crate) struct Shard {
    /// The shard's index in the table. 0 is the shared one.
    number: u16,
    /// The next id of the shard's block. Equal to `last_id` if the block is used up.
    next_id: AtomicU64,
    /// The end of the shard's block of ids.
    last_id: AtomicU64,
    /// The task that the thread is in, and the id of the thread that holds this shard. Set by the
    /// thread itself. Desks are never freed.
    desk: &'static Desk,
    /// The counters of tasks by kind.
    kinds: Chunks<KindCounters, COUNTERS_A_CHUNK, KIND_CHUNKS>,
    /// The counters of tasks by scope.
    scopes: Chunks<ScopeCounters, SCOPES_A_CHUNK, SCOPE_CHUNKS>,
    /// The lifetimes of tasks that ended, by the label of their group.
    durations: [OnceLock<Box<Histogram>>; GROUP_LABELS],
    /// The durations of the polls that were timed, by the label of their group.
    polls: [OnceLock<Box<Histogram>>; GROUP_LABELS],
}

/// Counters of one kind on one shard, in one cache line.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(crate) struct KindCounters {
    /// The number of tasks that started.
    pub(crate) started: AtomicU64,
    /// The number of tasks that ended, by [`TaskOutcome`](crate::task::TaskOutcome) as a number.
    ///
    /// A task's end may be counted on another shard than its start.
    pub(crate) ended: [AtomicU64; 4],
}

/// Counters of one scope on one shard.
#[derive(Debug, Default)]
pub(crate) struct ScopeCounters {
    /// The tasks for which a drain waits.
    waited: StartedEnded,
    /// The tasks for which a drain does not wait.
    daemons: StartedEnded,
}

/// A pair of counters. The live tasks are the sum of all starts minus the sum of all ends; the pair
/// of one shard alone says nothing, because a task may end on another thread than it started.
#[derive(Debug, Default)]
pub(crate) struct StartedEnded {
    /// The number of tasks that started on this shard.
    pub(crate) started: AtomicU64,
    /// The number of tasks that ended on this shard.
    pub(crate) ended: AtomicU64,
}

/// Calls `f` with a shard to which this thread may write: its own, or shard 0 under its lock.
///
/// `f` must not call this function again: on a thread without a shard the lock would deadlock.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&'static Shard) -> R) -> R {
    match SHARD.get() {
        Some(shard) => f(shard),
        None => with_new(f),
    }
}

/// Returns this thread's shard; `None` if it cannot have one.
///
/// Costs a thread-local load, or the pool's lock at the first call of a thread.
#[inline]
pub(crate) fn own() -> Option<&'static Shard> {
    SHARD.get().or_else(new)
}

/// Returns the desk at which this thread notes the task that it is in: that of its shard, or of shard
/// 0. A note for shard 0 is never shown, because no thread holds that shard.
#[inline]
pub(crate) fn for_notes() -> &'static Desk {
    match DESK.get() {
        Some(desk) => desk,
        None => new_for_notes(),
    }
}

/// Calls `forget` on this thread before its shard goes to another thread, which writes the counters
/// from then on. For the one cache of references to counters; a later call replaces the function.
pub(crate) fn before_return(forget: fn()) {
    // If the thread-local storage is destroyed, the thread has no shard to give back.
    LEASE.try_with(|lease| lease.0.set(Some(forget))).ok();
}

/// Takes a shard for this thread, and returns its desk, or that of shard 0.
///
/// Makes shard 0 if it does not exist yet; its counters are not touched.
#[cold]
fn new_for_notes() -> &'static Desk {
    own().unwrap_or_else(|| make(0)).desk
}

/// Takes a shard for this thread. `None` if its thread-local storage is destroyed, so that nothing
/// would give the shard back, or if no shard is left.
///
/// The lease is touched first, so that its destructor is registered before the shard is taken.
#[cold]
fn new() -> Option<&'static Shard> {
    LEASE.try_with(|_| ()).ok()?;
    let shard = acquire()?;
    SHARD.set(Some(shard));
    DESK.set(Some(shard.desk));
    Some(shard)
}

/// Calls `f` with a new shard, or with shard 0.
///
/// A panic in `f` poisons the lock, which is ignored: counters are valid at any time.
#[cold]
fn with_new<R>(f: impl FnOnce(&'static Shard) -> R) -> R {
    if let Some(shard) = new() {
        return f(shard);
    }
    // The thread-local storage of this thread is destroyed, or all shards are taken.
    let _guard = lock(&SHARED);
    f(make(0))
}

/// Takes a shard from the pool, or makes one, and notes that this thread holds it.
///
/// The shard is made after the lock of the pool is released, since that allocates.
fn acquire() -> Option<&'static Shard> {
    let mut pool = lock(&POOL);
    let number = match pool.free.pop() {
        Some(number) => number,
        None if pool.made < SHARDS => {
            pool.made += 1;
            u16::try_from(pool.made - 1).expect("SHARDS fits u16")
        }
        None => return None,
    };
    drop(pool);
    let shard = make(number);
    let tid = crate::threads::own_tid();
    shard.desk.tid.store(tid, Ordering::Relaxed);
    Some(shard)
}

/// Returns the shard of that number, and makes it if it does not exist.
///
/// Two threads that ask for one number at once get the same shard: the cell lets one of them make
/// it.
fn make(number: u16) -> &'static Shard {
    TABLE[usize::from(number)].get_or_init(|| Box::new(Shard::new(number)))
}

/// Returns every shard that was ever made, free ones and shard 0 included. Takes the lock of the
/// pool for a moment, to learn how many there are.
pub(crate) fn all() -> impl Iterator<Item = &'static Shard> + Clone {
    let made = lock(&POOL).made;
    TABLE[..made]
        .iter()
        .filter_map(|shard| shard.get().map(|shard| &**shard))
}

/// Locks a mutex. Ignores lock poisoning.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Lease ===

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shard) = SHARD.take() {
            DESK.set(None);
            shard.desk.tid.store(0, Ordering::Relaxed);
            shard.desk.current.store(0, Ordering::Relaxed);
            if let Some(forget) = self.0.take() {
                forget();
            }
            lock(&POOL).free.push(shard.number);
        }
    }
}

// === impl ScopeCounters ===

impl ScopeCounters {
    /// Returns the counters of tasks for which a drain waits.
    pub(crate) fn waited(&self) -> &StartedEnded {
        &self.waited
    }

    /// Returns the counters of tasks for which a drain does not wait.
    pub(crate) fn daemons(&self) -> &StartedEnded {
        &self.daemons
    }

    /// Returns the counters of daemons, or those of other tasks.
    #[inline]
    pub(crate) fn of(&self, daemon: bool) -> &StartedEnded {
        if daemon { &self.daemons } else { &self.waited }
    }
}

// === impl Shard ===

impl Shard {
    /// Returns a shard with all counters at 0.
    ///
    /// Allocates the two tables of chunks, about 5 KiB together, and leaks a desk if the black box has
    /// none for this shard.
    fn new(number: u16) -> Self {
        let desk = recorder::desk(usize::from(number));
        Self {
            number,
            next_id: AtomicU64::new(0),
            last_id: AtomicU64::new(0),
            desk: desk.unwrap_or_else(|| Box::leak(Box::default())),
            kinds: Box::new([const { OnceLock::new() }; KIND_CHUNKS]),
            scopes: Box::new([const { OnceLock::new() }; SCOPE_CHUNKS]),
            durations: [const { OnceLock::new() }; GROUP_LABELS],
            polls: [const { OnceLock::new() }; GROUP_LABELS],
        }
    }

    /// Returns an id that no other task of this process has or had. Ids start at 1. They do not
    /// follow the order of spawns, because each shard takes a block of them. Only the thread that
    /// holds the shard may call this.
    #[inline]
    pub(crate) fn next_id(&self) -> u64 {
        let mut id = self.next_id.load(Ordering::Relaxed);
        if id == self.last_id.load(Ordering::Relaxed) {
            id = NEXT_ID.fetch_add(IDS_A_BLOCK, Ordering::Relaxed);
            self.last_id.store(id + IDS_A_BLOCK, Ordering::Relaxed);
        }
        self.next_id.store(id + 1, Ordering::Relaxed);
        id
    }

    /// Returns the address of the slot of the task that the thread is in, and the thread's id;
    /// `None` if it is in none.
    ///
    /// The two are loaded one after the other without synchronization, so the pair may be out of
    /// date.
    pub(crate) fn current(&self) -> Option<(usize, u32)> {
        let slot = self.desk.own_current();
        let tid = self.desk.tid.load(Ordering::Relaxed);
        (slot != 0 && tid != 0).then_some((slot, tid))
    }

    /// Returns whether a thread holds the shard, and its desk is not in the black box: the box has no
    /// room for it, or the shard was made before the box.
    pub(crate) fn is_held_outside(&self) -> bool {
        let boxed = recorder::desk(usize::from(self.number));
        let is_inside = boxed.is_some_and(|desk| std::ptr::eq(desk, self.desk));
        !is_inside && self.desk.tid.load(Ordering::Relaxed) != 0
    }

    /// Returns the counters of a kind, and makes them if they do not exist.
    #[inline]
    pub(crate) fn kind(&self, kind: u32) -> &KindCounters {
        let at = kind as usize;
        &self.kinds[at / COUNTERS_A_CHUNK].get_or_init(zeroed)[at % COUNTERS_A_CHUNK]
    }

    /// Returns the counters of a kind, if this shard ever counted a kind of its chunk.
    pub(crate) fn kind_if_any(&self, kind: u32) -> Option<&KindCounters> {
        let at = kind as usize;
        Some(&self.kinds[at / COUNTERS_A_CHUNK].get()?[at % COUNTERS_A_CHUNK])
    }

    /// Returns the counters of all kinds below `made` in the chunks that exist, with the kinds'
    /// numbers.
    ///
    /// Walks chunk by chunk, which costs less than asking for each kind.
    pub(crate) fn all_kinds(&self, made: usize) -> impl Iterator<Item = (usize, &KindCounters)> {
        let chunks = self.kinds[..made.div_ceil(COUNTERS_A_CHUNK)]
            .iter()
            .enumerate();
        chunks
            .filter_map(|(at, chunk)| Some((at, chunk.get()?)))
            .flat_map(|(at, chunk)| (at * COUNTERS_A_CHUNK..).zip(&**chunk))
            .take_while(move |(kind, _)| *kind < made)
    }

    /// Returns the counters of a scope, and makes them if they do not exist.
    #[inline]
    pub(crate) fn scope(&self, scope: u32) -> &ScopeCounters {
        let at = scope as usize;
        &self.scopes[at / SCOPES_A_CHUNK].get_or_init(zeroed)[at % SCOPES_A_CHUNK]
    }

    /// Returns the counters of a scope, if this shard ever counted a scope of its chunk.
    pub(crate) fn scope_if_any(&self, scope: u32) -> Option<&ScopeCounters> {
        let at = scope as usize;
        Some(&self.scopes[at / SCOPES_A_CHUNK].get()?[at % SCOPES_A_CHUNK])
    }

    /// Returns the histogram of lifetimes of a label. Only the thread that holds the shard records
    /// in it.
    #[inline]
    pub(crate) fn duration(&self, label: usize) -> &Histogram {
        self.durations[label].get_or_init(Box::default)
    }

    /// Returns the histogram of lifetimes of a label, if this shard ever recorded one.
    pub(crate) fn duration_if_any(&self, label: usize) -> Option<&Histogram> {
        self.durations[label].get().map(|histogram| &**histogram)
    }

    /// Returns the histogram of polls of a label. Only the thread that holds the shard records in
    /// it.
    pub(crate) fn polls(&self, label: usize) -> &Histogram {
        self.polls[label].get_or_init(Box::default)
    }

    /// Returns the histogram of polls of a label, if this shard ever recorded one.
    pub(crate) fn polls_if_any(&self, label: usize) -> Option<&Histogram> {
        self.polls[label].get().map(|histogram| &**histogram)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Returns an array of default values on the heap.
///
/// The array is built on the stack first, so its size is bounded by a chunk's.
#[cold]
fn zeroed<T: Default, const N: usize>() -> Box<[T; N]> {
    Box::new(std::array::from_fn(|_| T::default()))
}
