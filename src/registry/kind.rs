//! Kinds: what tasks have in common, interned. A task's slot holds the number of its kind.
//!
//! A kind is the path of a group, a name, a spawn site and the spawn's options. All of them come
//! from code, so there are few. A name that contains an id would make many, so the table is
//! bounded: after 4,096 kinds, further ones become `_other`. A kind is never freed.
//!
//! A spawn finds its kind in a cache of its thread, without a lock. A miss takes the lock of the
//! index.
//!
//! The way of a spawn to its kind:
//!
//! | step | cost | when |
//! |---|---|---|
//! | the entry of the site in the thread's cache | a few loads and a comparison | almost always |
//! | the map, under the index's lock | a hash of the four properties | a new thread, or changing names |
//! | a new kind | allocations that are never freed | once for each kind |
//!
//! A kind has nothing about one task. Its counters are in the shards, by its number.

mod index;
pub(crate) mod order;

use super::bounds::{GIVEN_BYTES, GROUP_LABELS, KINDS, NAME_BYTES, NAMED_KINDS, PATHS};
use super::count::counter;
use super::count::shard::{self, KindCounters};
use super::count::warnings::Warning;
use crate::recorder;
use crate::task::TaskKind;
use index::Index;
use std::borrow::Cow;
use std::cell::Cell;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The path of every root: empty.
pub(crate) const ROOT_PATH: u32 = 0;
/// The name of what exceeds a bound.
pub(crate) const OTHER: &str = "_other";

/// All kinds, by number. An entry is set once, under the lock of the index.
///
/// Indexed by number without the lock: a number is handed out after its entry is set.
static TABLE: [OnceLock<Kind>; KINDS] = [const { OnceLock::new() }; KINDS];
/// The names of all paths, by number. An entry is set once, under the lock of the index.
///
/// The names are leaked, and bounded in number and length.
static PATH_TABLE: [OnceLock<&'static str>; PATHS] = [const { OnceLock::new() }; PATHS];
/// The lock of the tables, and the maps into them.
static INDEX: Mutex<Option<Index>> = Mutex::new(None);

/// The number of kinds that a thread's cache holds.
///
/// A thread that spawns at more sites than that, or at two with the same entry, takes the lock more
/// often.
const CACHED: usize = 64;

thread_local! {
    /// The kinds that this thread spawned last, by spawn site: a spawn in a loop looks at one
    /// entry.
    ///
    /// The entries hold references to counters of this thread's shard, and are emptied before the
    /// shard moves on.
    static CACHE: [Cell<Option<Cached>>; CACHED] = const { [const { Cell::new(None) }; CACHED] };
}

/// The address of a spawn site, and the kind of the last spawn there.
///
/// A place in the code may have several addresses, one for each copy of it that the compiler made.
/// Each then has its own entry. Comparing the places themselves would cost 30 ns.
type Cached = (&'static Location<'static>, Found);

/// A kind, as a spawn finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// The kind.
    pub(crate) kind: &'static Kind,
    /// The counters of the kind on this thread's shard; `None` on a thread without a shard.
    counters: Option<&'static KindCounters>,
}

/// The options of a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    /// The kind of work: a future, a blocking closure, or `main`.
    pub(crate) runs: TaskKind,
    /// True for tasks spawned with plain `tokio::spawn` on a runtime that headcount owns.
    pub(crate) untracked: bool,
    /// True if the task's end begins a shutdown.
    pub(crate) required: bool,
    /// True if a drain does not wait for the task.
    pub(crate) daemon: bool,
    /// True if the task's iterations have traces of their own.
    pub(crate) long_lived: bool,
    /// The task's own drain budget.
    pub(crate) drain_budget: Option<Duration>,
}

/// All options in two words, which are quick to compare. The first word has the flags, eight bits
/// apart; the second the drain budget, with `u64::MAX` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u64, u64);

/// One kind of task.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The kind's index in the table.
    pub(crate) number: u32,
    /// The number of the group's path.
    pub(crate) path: u32,
    /// The label of the group, which selects a histogram.
    pub(crate) label: usize,
    /// The name as it was given, for comparison. At most 256 bytes, leaked once for each kind.
    given: &'static str,
    /// The name as it is shown, made safe for reports and labels.
    ///
    /// At most 64 bytes, without control characters and `/`.
    pub(crate) name: &'static str,
    /// The place in the code where the tasks are spawned.
    pub(crate) site: &'static Location<'static>,
    /// The options of the spawn. They are those of every task of the kind.
    pub(crate) options: Options,
    /// The type of the future or closure of the first task, shortened. Tasks of generic code may
    /// have other types. Empty for untracked and `_other` kinds.
    pub(crate) future: &'static str,
    /// The options, for comparison.
    key: Key,
    /// True once an untracked task of this kind was spawned for the current root. The hook of ends
    /// also looks kinds up, and may do so before any spawn.
    pub(crate) seen: AtomicBool,
    /// The root that counts its untracked tasks here. [`NOBODY`] for tracked kinds, and after that
    /// root is gone: the kind then serves the next root with an untracked task from the same site.
    root: AtomicU64,
    /// The number of started and of live tasks when the kind was given to its root. Counters are
    /// never reset, so these are subtracted.
    before: [AtomicU64; 2],
}

/// A number that no root has.
///
/// Roots count from 1.
const NOBODY: u64 = 0;

// === impl Options ===

impl Options {
    /// Returns the options of an ordinary spawn.
    pub(crate) const fn of(runs: TaskKind) -> Self {
        Self {
            runs,
            untracked: false,
            required: false,
            daemon: false,
            long_lived: false,
            drain_budget: None,
        }
    }

    /// Returns the options in two words. Equal keys mean equal options.
    #[inline(always)]
    fn key(&self) -> Key {
        let Self {
            runs,
            untracked,
            required,
            daemon,
            long_lived,
            drain_budget,
        } = *self;
        let flags = (runs as u64)
            | u64::from(untracked) << 8
            | u64::from(required) << 16
            | u64::from(daemon) << 24
            | u64::from(long_lived) << 32;
        // Budgets are bounded to five years, which a word of nanoseconds holds.
        let nanos = drain_budget.map_or(u64::MAX, |budget| {
            budget.as_secs() * 1_000_000_000 + u64::from(budget.subsec_nanos())
        });
        Key(flags, nanos)
    }
}

// === impl Found ===

impl Found {
    /// Returns the kind, with the counters of this thread's shard.
    fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            counters: shard::own().map(|shard| shard.kind(kind.number)),
        }
    }

    /// Adds one to a counter of the kind, on this thread's shard, or on shard 0 under its lock.
    #[inline]
    pub(crate) fn bump(self, counter: impl FnOnce(&KindCounters) -> &AtomicU64) {
        match self.counters {
            Some(counters) => counter::bump(counter(counters)),
            None => {
                let number = self.kind.number;
                shard::with(move |shard| counter::bump(counter(shard.kind(number))));
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    /// Returns whether the kind has this path, name and options. The site is compared by the
    /// caller.
    #[inline]
    fn is(&self, path: u32, name: &str, key: Key) -> bool {
        self.path == path && self.key == key && self.given == name
    }

    /// Returns whether untracked tasks of the root's runtime are counted here. The acquire load
    /// pairs with the release store in `give_to`, which makes `before` visible.
    pub(crate) fn serves(&self, root: u64) -> bool {
        self.root.load(Ordering::Acquire) == root
    }

    /// Returns how many untracked tasks its root has started, and how many of them are live.
    pub(crate) fn untracked(&self) -> (u64, u64) {
        let [started, live] = self.totals();
        let [started_before, live_before] = &self.before;
        (
            started.saturating_sub(started_before.load(Ordering::Relaxed)),
            live.saturating_sub(live_before.load(Ordering::Relaxed)),
        )
    }

    /// Returns how many tasks of this kind ever started, and how many are live.
    ///
    /// Sums over all shards, under the lock of the pool for a moment.
    fn totals(&self) -> [u64; 2] {
        let counts = super::counts(self);
        [counts.started, counts.live()]
    }

    /// Makes the kind count the untracked tasks of a root. The caller holds the lock of the index.
    ///
    /// The baseline is taken before the root is stored, with release, so that a thread that finds
    /// its root here never subtracts an older baseline.
    fn give_to(&self, root: u64) {
        for (before, total) in self.before.iter().zip(self.totals()) {
            before.store(total, Ordering::Relaxed);
        }
        self.seen.store(false, Ordering::Relaxed);
        self.root.store(root, Ordering::Release);
    }

    /// Returns the names of the groups from the root down, joined by `/`; empty for the root.
    pub(crate) fn group(&self) -> &'static str {
        path_name(self.path)
    }
}

/// Returns the kind of a spawn. Takes no lock if the last spawn of this thread at this site was of
/// the same kind. Never fails: if the table is full, the kind is an `_other` kind.
///
/// `type_name` returns the type of the task's future. It is called for a kind that does not exist.
// Inlined: the options of most spawns are constants, and so is their key. The name is mostly a
// constant too, and is then compared in one or two words instead of by a call.
#[inline(always)]
pub(crate) fn intern(
    path: u32,
    name: &str,
    site: &'static Location<'static>,
    options: &Options,
    type_name: fn() -> &'static str,
) -> Found {
    match cached(place(path, site), site) {
        Some(found) if found.kind.is(path, name, options.key()) => found,
        _ => intern_slowly(path, name, site, options, type_name),
    }
}

/// Returns the cache's entry for a site. For the path of a root it depends on the site alone, as
/// for untracked tasks.
///
/// The multiplication spreads the paths, so that one function used by several groups has an entry
/// for each.
#[inline]
fn place(path: u32, site: &'static Location<'static>) -> usize {
    (std::ptr::from_ref(site).addr() >> 3) ^ (path as usize).wrapping_mul(0x9E37_79B9)
}

/// Returns the kind of an untracked spawn on the runtime of a root.
#[cfg_attr(
    not(tokio_unstable),
    expect(dead_code, reason = "no hook reports untracked tasks")
)]
#[inline]
pub(crate) fn intern_untracked(root: u64, site: &'static Location<'static>) -> Found {
    let place = place(ROOT_PATH, site);
    match cached(place, site) {
        Some(found) if found.kind.serves(root) => found,
        _ => {
            let kind = index_of(|index| index.untracked_kind(root, site));
            cache(place, site, kind)
        }
    }
}

/// Returns the kind in the cache's entry, if it is of this site.
///
/// Compares addresses only; the caller compares the rest.
#[inline]
fn cached(place: usize, site: &'static Location<'static>) -> Option<Found> {
    let (at, found) = CACHE.try_with(|cache| cache[place % CACHED].get()).ok()??;
    std::ptr::eq(at, site).then_some(found)
}

/// Puts a kind into this thread's cache, unless the thread has no shard.
#[cold]
fn cache(place: usize, site: &'static Location<'static>, kind: &'static Kind) -> Found {
    let found = Found::new(kind);
    if found.counters.is_some() {
        shard::before_return(forget_cached);
        // If the thread-local storage is destroyed, each spawn looks the kind up under the lock.
        CACHE
            .try_with(|cache| cache[place % CACHED].set(Some((site, found))))
            .ok();
    }
    found
}

/// Empties this thread's cache. Called before the thread's shard goes to another thread, because
/// the cached counters are the shard's.
///
/// Called on the thread itself, from the destructor of its lease.
fn forget_cached() {
    CACHE
        .try_with(|cache| cache.iter().for_each(|cell| cell.set(None)))
        .ok();
}

/// Marks the kinds of a root's untracked tasks as free for another root. Called when the root and
/// its runtime are gone.
///
/// Walks over all untracked kinds under the lock of the index; it happens once for each runtime.
pub(crate) fn release(root: u64) {
    index_of(|index| {
        let kinds = index.untracked.values().flatten();
        for kind in kinds.filter(|kind| kind.serves(root)) {
            kind.root.store(NOBODY, Ordering::Release);
        }
    });
}

/// Looks a kind up under the lock, makes it if it does not exist, and puts it into the cache. Logs
/// the warning if the table has just become full.
#[cold]
fn intern_slowly(
    path: u32,
    name: &str,
    site: &'static Location<'static>,
    options: &Options,
    type_name: fn() -> &'static str,
) -> Found {
    // A given name is leaked, so its length is bounded.
    let name = start_of(name, GIVEN_BYTES);
    let place = place(path, site);
    let (kind, full) = index_of(|index| {
        let kind = index.kind(path, name, site, options, type_name);
        (kind, std::mem::take(&mut index.full))
    });
    if full {
        Warning::TaskNames.note();
        // Outside of the lock: this calls the user's subscriber, which may spawn.
        tracing::warn!(
            target: "headcount",
            "too many kinds of task (at most {NAMED_KINDS}): '{name}', spawned at {site}, and all \
             further kinds are reported as {OTHER}; \
             leave ids out of task names"
        );
    }
    cache(place, site, kind)
}

/// Returns the kind of that number.
///
/// # Panics
///
/// If no kind of that number was made.
#[inline]
pub(crate) fn at(number: u32) -> &'static Kind {
    TABLE[number as usize]
        .get()
        .expect("a kind's number is given out after the kind is made")
}

/// Notes a kind in the black box.
fn note(kind: &Kind) {
    recorder::kind(
        kind.number,
        kind.path,
        kind.name,
        kind.site,
        kind.options.runs,
    );
}

/// Notes the paths and kinds that were made before there was a black box.
pub(crate) fn note_all() {
    for (number, name) in (0..).zip(PATH_TABLE.iter().map(OnceLock::get)) {
        if let Some(name) = name {
            recorder::path(number, name);
        }
    }
    all().for_each(note);
}

/// Returns every kind that was ever made, in the order of their numbers.
///
/// Takes no lock, and ends at the first number without a kind; numbers have no gaps.
pub(crate) fn all() -> impl Iterator<Item = &'static Kind> {
    TABLE.iter().map_while(OnceLock::get)
}

/// Returns how many kinds were made.
#[cfg(feature = "admin")]
pub(crate) fn made() -> usize {
    index_of(|index| index.made)
}

/// Returns the names of the labels in use. The ninth label, for all other groups, is named
/// `_other`.
///
/// Allocates, and takes the lock of the index; called for each scrape.
#[cfg_attr(
    not(feature = "admin"),
    expect(dead_code, reason = "metrics alone show it")
)]
pub(crate) fn labels() -> Vec<&'static str> {
    let labels = index_of(|index| index.labels.clone());
    let mut names = vec![OTHER; labels.values().max().map_or(0, |last| last + 1)];
    for (path, label) in labels {
        if label < GROUP_LABELS - 1 {
            names[label] = path_name(path);
        }
    }
    names
}

/// Returns the number of the path of a group below `parent`.
///
/// Allocates the joined path, even if it is known. Called once for each group.
pub(crate) fn intern_path(parent: u32, name: &str) -> u32 {
    let name = clean(name);
    let path = match path_name(parent) {
        "" => name.into_owned(),
        parent => format!("{parent}/{name}"),
    };
    index_of(|index| index.path(&path))
}

/// Returns the name of a path; empty for a root.
///
/// # Panics
///
/// If no path of that number was made.
pub(crate) fn path_name(path: u32) -> &'static str {
    if path == ROOT_PATH {
        return "";
    }
    PATH_TABLE[path as usize]
        .get()
        .expect("a path's number is given out after the path is made")
}

/// Returns the longest start of a name that has at most `bytes` bytes.
///
/// Cuts at a character's boundary, at most three bytes before the limit.
fn start_of(name: &str, bytes: usize) -> &str {
    // `str::floor_char_boundary` requires Rust 1.91.
    let mut end = bytes.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Returns a name as it may appear in a report or a label: not empty, of bounded length, and
/// without control characters and `/`.
///
/// `/` separates groups in a path, so it may not be in a name.
fn clean(name: &str) -> Cow<'_, str> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES;
    if fits && !name.contains(|c: char| c.is_control() || c == '/') {
        return name.into();
    }
    if name.is_empty() {
        return "unnamed".into();
    }
    start_of(name, NAME_BYTES)
        .replace(|c: char| c.is_control() || c == '/', "_")
        .into()
}

/// Calls `f` under the lock of the index. `f` must not spawn or log: that could call this function
/// again.
fn index_of<R>(f: impl FnOnce(&mut Index) -> R) -> R {
    let mut index: MutexGuard<'_, Option<Index>> =
        INDEX.lock().unwrap_or_else(PoisonError::into_inner);
    f(index.get_or_insert_with(Index::new))
}
