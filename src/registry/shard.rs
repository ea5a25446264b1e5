//! What one thread writes: its counters, its ids, and the task that it polls. One shard a thread; the shard of a
//! thread that ended is used again, so there are as many shards as threads ever ran tasks at the same time.
//!
//! A counter has one writer, so counting is a load and a store. A sum over shards is exact at quiescence and never
//! misses what happened before the reading began.

use super::histogram::Histogram;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const COUNTERS_A_CHUNK: usize = 64;
const KIND_CHUNKS: usize = super::kind::KINDS / COUNTERS_A_CHUNK;
const SCOPE_CHUNKS: usize = super::scope::SCOPES / SCOPES_A_CHUNK;
const SCOPES_A_CHUNK: usize = 256;
/// More threads than a process may have under default limits; those above it share the first shard.
const SHARDS: usize = 65_535;

/// Ids are handed to shards in blocks, so that a spawn writes no shared line.
const IDS_A_BLOCK: u64 = 256;

static TABLE: [OnceLock<Box<Shard>>; SHARDS] = [const { OnceLock::new() }; SHARDS];
static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    made: 1,
});
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Guards shard 0, which serves the threads that cannot have one of their own.
static SHARED: Mutex<()> = Mutex::new(());

thread_local! {
    static SHARD: Cell<Option<&'static Shard>> = const { Cell::new(None) };
    static LEASE: Lease = const { Lease };
}

#[derive(Debug)]
struct Pool {
    free: Vec<u16>,
    made: usize,
}

/// Gives the thread's shard back when the thread ends.
struct Lease;

/// Counters that are made when the first of a chunk is needed. Arrays: their lengths are known where they are indexed.
type Chunks<T, const A_CHUNK: usize, const CHUNKS: usize> =
    Box<[OnceLock<Box<[T; A_CHUNK]>>; CHUNKS]>;

pub(crate) struct Shard {
    number: u16,
    next_id: AtomicU64,
    last_id: AtomicU64,
    /// The place of the slot of the task that this thread polls, 0 for none.
    current: AtomicUsize,
    /// The thread that holds this shard, 0 for none.
    tid: AtomicU32,
    kinds: Chunks<KindCounters, COUNTERS_A_CHUNK, KIND_CHUNKS>,
    scopes: Chunks<ScopeCounters, SCOPES_A_CHUNK, SCOPE_CHUNKS>,
    durations: [OnceLock<Box<Histogram>>; super::kind::GROUP_LABELS],
    polls: [OnceLock<Box<Histogram>>; super::kind::GROUP_LABELS],
}

/// What happened to the tasks of one kind on one shard.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(crate) struct KindCounters {
    pub(crate) started: AtomicU64,
    /// By [`TaskOutcome`](crate::task::TaskOutcome) as a number.
    pub(crate) ended: [AtomicU64; 4],
}

/// The tasks of one group on one shard.
#[derive(Debug, Default)]
pub(crate) struct ScopeCounters {
    waited: StartedEnded,
    daemons: StartedEnded,
}

#[derive(Debug, Default)]
pub(crate) struct StartedEnded {
    pub(crate) started: AtomicU64,
    pub(crate) ended: AtomicU64,
}

/// Adds one to a counter that has no other writer.
#[inline]
pub(crate) fn bump(counter: &AtomicU64) {
    add(counter, 1);
}

/// The same, in the one order of all such operations: see [`Scope::after_end`](super::scope::Scope::after_end).
#[inline]
pub(crate) fn bump_seq_cst(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::SeqCst,
    );
}

#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Release,
    );
}

/// Calls `f` with this thread's shard.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&'static Shard) -> R) -> R {
    match SHARD.get() {
        Some(shard) => f(shard),
        None => with_new(f),
    }
}

/// This thread's shard, unless it cannot have one.
#[inline]
pub(crate) fn own() -> Option<&'static Shard> {
    SHARD.get().or_else(new)
}

/// The shard in which this thread notes what it polls: its own, or the one that is nobody's, where no note tells of
/// anything.
#[inline]
pub(crate) fn for_notes() -> &'static Shard {
    match SHARD.get() {
        Some(shard) => shard,
        None => new_for_notes(),
    }
}

#[cold]
fn new_for_notes() -> &'static Shard {
    new().unwrap_or_else(|| make(0))
}

#[cold]
fn new() -> Option<&'static Shard> {
    LEASE.try_with(|_| ()).ok()?;
    let shard = acquire()?;
    SHARD.set(Some(shard));
    Some(shard)
}

#[cold]
fn with_new<R>(f: impl FnOnce(&'static Shard) -> R) -> R {
    if let Some(shard) = new() {
        return f(shard);
    }
    // The thread is past its thread-local storage, or one of very many.
    let _guard = lock(&SHARED);
    f(make(0))
}

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
    shard
        .tid
        .store(crate::threads::own_tid(), Ordering::Relaxed);
    Some(shard)
}

fn make(number: u16) -> &'static Shard {
    TABLE[usize::from(number)].get_or_init(|| Box::new(Shard::new(number)))
}

/// Every shard that was ever made.
pub(crate) fn all() -> impl Iterator<Item = &'static Shard> + Clone {
    let made = lock(&POOL).made;
    TABLE[..made]
        .iter()
        .filter_map(|shard| shard.get().map(|shard| &**shard))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Lease ===

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shard) = SHARD.take() {
            shard.tid.store(0, Ordering::Relaxed);
            shard.current.store(0, Ordering::Relaxed);
            // From here on somebody else counts there.
            super::kind::forget_cached();
            lock(&POOL).free.push(shard.number);
        }
    }
}

// === impl ScopeCounters ===

impl ScopeCounters {
    /// Those that a drain waits for.
    pub(crate) fn waited(&self) -> &StartedEnded {
        &self.waited
    }

    /// Those that it does not wait for.
    pub(crate) fn daemons(&self) -> &StartedEnded {
        &self.daemons
    }

    #[inline]
    pub(crate) fn of(&self, daemon: bool) -> &StartedEnded {
        if daemon { &self.daemons } else { &self.waited }
    }
}

// === impl Shard ===

impl Shard {
    fn new(number: u16) -> Self {
        Self {
            number,
            next_id: AtomicU64::new(0),
            last_id: AtomicU64::new(0),
            current: AtomicUsize::new(0),
            tid: AtomicU32::new(0),
            kinds: Box::new([const { OnceLock::new() }; KIND_CHUNKS]),
            scopes: Box::new([const { OnceLock::new() }; SCOPE_CHUNKS]),
            durations: [const { OnceLock::new() }; super::kind::GROUP_LABELS],
            polls: [const { OnceLock::new() }; super::kind::GROUP_LABELS],
        }
    }

    /// An id that no other task has or had. Only for the shard's own thread.
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

    /// Notes which task this thread polls, by the place of its slot; 0 for none.
    #[inline]
    pub(crate) fn set_current(&self, place: usize) {
        self.current.store(place, Ordering::Relaxed);
    }

    /// The place of the slot of the task that this thread polls, 0 for none.
    #[inline]
    pub(crate) fn own_current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The slot of the task that the thread polls, and the thread's id.
    pub(crate) fn current(&self) -> Option<(usize, u32)> {
        let place = self.current.load(Ordering::Relaxed);
        let tid = self.tid.load(Ordering::Relaxed);
        (place != 0 && tid != 0).then_some((place, tid))
    }

    #[inline]
    pub(crate) fn kind(&self, kind: u32) -> &KindCounters {
        let at = kind as usize;
        &self.kinds[at / COUNTERS_A_CHUNK].get_or_init(zeroed)[at % COUNTERS_A_CHUNK]
    }

    /// The counters of a kind, if this shard ever counted one of its chunk.
    pub(crate) fn kind_if_any(&self, kind: u32) -> Option<&KindCounters> {
        let at = kind as usize;
        Some(&self.kinds[at / COUNTERS_A_CHUNK].get()?[at % COUNTERS_A_CHUNK])
    }

    /// The counters of all kinds below `made` that this shard may have counted, with their numbers.
    pub(crate) fn all_kinds(&self, made: usize) -> impl Iterator<Item = (usize, &KindCounters)> {
        let chunks = self.kinds[..made.div_ceil(COUNTERS_A_CHUNK)]
            .iter()
            .enumerate();
        chunks
            .filter_map(|(at, chunk)| Some((at, chunk.get()?)))
            .flat_map(|(at, chunk)| (at * COUNTERS_A_CHUNK..).zip(&**chunk))
            .take_while(move |(kind, _)| *kind < made)
    }

    #[inline]
    pub(crate) fn scope(&self, scope: u32) -> &ScopeCounters {
        let at = scope as usize;
        &self.scopes[at / SCOPES_A_CHUNK].get_or_init(zeroed)[at % SCOPES_A_CHUNK]
    }

    pub(crate) fn scope_if_any(&self, scope: u32) -> Option<&ScopeCounters> {
        let at = scope as usize;
        Some(&self.scopes[at / SCOPES_A_CHUNK].get()?[at % SCOPES_A_CHUNK])
    }

    #[inline]
    pub(crate) fn duration(&self, label: usize) -> &Histogram {
        self.durations[label].get_or_init(Box::default)
    }

    pub(crate) fn duration_if_any(&self, label: usize) -> Option<&Histogram> {
        self.durations[label].get().map(|histogram| &**histogram)
    }

    pub(crate) fn polls(&self, label: usize) -> &Histogram {
        self.polls[label].get_or_init(Box::default)
    }

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

#[cold]
fn zeroed<T: Default, const N: usize>() -> Box<[T; N]> {
    Box::new(std::array::from_fn(|_| T::default()))
}
