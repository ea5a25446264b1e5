//! Kinds: what tasks have in common, interned. A task's slot holds the number of its kind.
//!
//! A kind is the path of a group, a name, a spawn site and the spawn's options. All of them come from code, so there
//! are few; a name that carries an id would make many, so the table is bounded and what comes after is `_other`.

use super::shard::{self, KindCounters};
use super::warnings::Warning;
use crate::task::TaskKind;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The most kinds of a process, the overflow of each path among them.
pub(crate) const KINDS: usize = 4608;
/// From here on only `_other` kinds are made.
const NAMED_KINDS: usize = 4096;
/// The most group paths of a process.
const PATHS: usize = 256;
/// Group names with a histogram of their own; one more holds the rest.
pub(crate) const GROUP_LABELS: usize = 9;
/// The longest name that is kept, in bytes.
const NAME_BYTES: usize = 64;
/// The longest name that is kept as it was given; a longer one is looked up under a lock at each spawn.
const GIVEN_BYTES: usize = 256;
/// The longest path that is kept, in bytes.
const PATH_BYTES: usize = 256;
/// The path of every root: empty.
pub(crate) const ROOT_PATH: u32 = 0;
/// The name of what has none of its own.
pub(crate) const OTHER: &str = "_other";

static TABLE: [OnceLock<Kind>; KINDS] = [const { OnceLock::new() }; KINDS];
static PATH_TABLE: [OnceLock<&'static str>; PATHS] = [const { OnceLock::new() }; PATHS];
static INDEX: Mutex<Option<Index>> = Mutex::new(None);

const CACHED: usize = 64;

thread_local! {
    /// The kinds that this thread spawned last, by spawn site: a spawn in a loop looks at one word here.
    static CACHE: [Cell<Option<Cached>>; CACHED] = const { [const { Cell::new(None) }; CACHED] };
}

/// A spawn site by address, and the kind of the last spawn there. The same place in the code may have several addresses,
/// one for each copy that the compiler made; to compare the places themselves would cost 30 ns.
type Cached = (&'static Location<'static>, Found);

/// A kind as a spawn finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) kind: &'static Kind,
    /// Where this thread counts it, unless it is one of the few without a shard of their own.
    counters: Option<&'static KindCounters>,
}

/// How a spawn differs from an ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    pub(crate) runs: TaskKind,
    /// Spawned by a bare `tokio::spawn` on a runtime of ours.
    pub(crate) untracked: bool,
    pub(crate) required: bool,
    pub(crate) daemon: bool,
    pub(crate) long_lived: bool,
    pub(crate) drain_budget: Option<Duration>,
}

/// All options in two words, which are quickly compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u64, u64);

/// One kind of task.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) number: u32,
    pub(crate) path: u32,
    /// Which histogram its group has.
    pub(crate) label: usize,
    /// The name as it was given.
    given: &'static str,
    /// The name as it is shown.
    pub(crate) name: &'static str,
    pub(crate) site: &'static Location<'static>,
    pub(crate) options: Options,
    key: Key,
    /// Whether a task of this kind was ever started, for kinds that are looked up by those who only end them.
    pub(crate) seen: AtomicBool,
    /// The root on whose runtime untracked tasks of this kind are; [`NOBODY`] when that is gone, and always for a
    /// tracked kind. A kind without a root serves the next that needs one for its site.
    root: AtomicU64,
    /// What the counters stood at when it was given to its root.
    before: [AtomicU64; 2],
}

/// No root has this number.
const NOBODY: u64 = 0;

#[derive(Debug)]
struct Index {
    hasher: RandomState,
    /// By the hash of path, name, site and options.
    kinds: HashMap<u64, Vec<&'static Kind>>,
    /// Kinds of untracked tasks by site, at most one for each root that lives, and those that serve nobody.
    untracked: HashMap<&'static Location<'static>, Vec<&'static Kind>>,
    made: usize,
    paths: HashMap<&'static str, u32>,
    labels: HashMap<u32, usize>,
    warned: bool,
    /// Whether to warn of it.
    full: bool,
}

// === impl Options ===

impl Options {
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
        // A budget is bounded far below what a word holds.
        let nanos = drain_budget.map_or(u64::MAX, |budget| {
            budget.as_secs() * 1_000_000_000 + u64::from(budget.subsec_nanos())
        });
        Key(flags, nanos)
    }
}

// === impl Found ===

impl Found {
    fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            counters: shard::own().map(|shard| shard.kind(kind.number)),
        }
    }

    /// Counts one more.
    #[inline]
    pub(crate) fn bump(self, counter: impl FnOnce(&KindCounters) -> &AtomicU64) {
        match self.counters {
            Some(counters) => shard::bump(counter(counters)),
            None => {
                let number = self.kind.number;
                shard::with(move |shard| shard::bump(counter(shard.kind(number))));
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    #[inline]
    fn is(&self, path: u32, name: &str, key: Key) -> bool {
        self.path == path && self.key == key && self.given == name
    }

    /// Whether untracked tasks of the root's runtime are counted here.
    pub(crate) fn serves(&self, root: u64) -> bool {
        self.root.load(Ordering::Acquire) == root
    }

    /// How many of its tasks its root has started, and how many of them live.
    pub(crate) fn untracked(&self) -> (u64, u64) {
        let [started, live] = self.totals();
        let [started_before, live_before] = &self.before;
        (
            started.saturating_sub(started_before.load(Ordering::Relaxed)),
            live.saturating_sub(live_before.load(Ordering::Relaxed)),
        )
    }

    fn totals(&self) -> [u64; 2] {
        let counts = super::counts(self);
        [counts.started, counts.live()]
    }

    fn give_to(&self, root: u64) {
        for (before, total) in self.before.iter().zip(self.totals()) {
            before.store(total, Ordering::Relaxed);
        }
        self.seen.store(false, Ordering::Relaxed);
        self.root.store(root, Ordering::Release);
    }

    /// The names of the groups from the root down, joined by `/`; empty for the root.
    pub(crate) fn group(&self) -> &'static str {
        path_name(self.path)
    }
}

/// The kind of a spawn.
// Inlined: the options of most spawns are constants, and so is the key that is made of them; and the name, which is
// compared in one or two words then instead of by a call.
#[inline(always)]
pub(crate) fn intern(
    path: u32,
    name: &str,
    site: &'static Location<'static>,
    options: &Options,
) -> Found {
    match cached(place(path, site), site) {
        Some(found) if found.kind.is(path, name, options.key()) => found,
        _ => intern_slowly(path, name, site, options),
    }
}

/// Where the kind of a site is cached: under the site alone when the path is the root's, as for untracked tasks.
#[inline]
fn place(path: u32, site: &'static Location<'static>) -> usize {
    (std::ptr::from_ref(site).addr() >> 3) ^ (path as usize).wrapping_mul(0x9E37_79B9)
}

/// The kind of a bare spawn on the runtime of a root.
#[cfg_attr(
    not(tokio_unstable),
    expect(dead_code, reason = "no hook tells of any")
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

#[inline]
fn cached(place: usize, site: &'static Location<'static>) -> Option<Found> {
    let (at, found) = CACHE.try_with(|cache| cache[place % CACHED].get()).ok()??;
    std::ptr::eq(at, site).then_some(found)
}

#[cold]
fn cache(place: usize, site: &'static Location<'static>, kind: &'static Kind) -> Found {
    let found = Found::new(kind);
    if found.counters.is_some() {
        // The thread may be past its thread-local storage; then it looks up each time.
        CACHE
            .try_with(|cache| cache[place % CACHED].set(Some((site, found))))
            .ok();
    }
    found
}

/// Called when the thread's shard goes to another thread: what is cached counts there.
pub(super) fn forget_cached() {
    CACHE
        .try_with(|cache| cache.iter().for_each(|cell| cell.set(None)))
        .ok();
}

/// The root is gone, and its runtime: what counted its untracked tasks may count another's.
pub(crate) fn release(root: u64) {
    index_of(|index| {
        let kinds = index.untracked.values().flatten();
        for kind in kinds.filter(|kind| kind.serves(root)) {
            kind.root.store(NOBODY, Ordering::Release);
        }
    });
}

#[cold]
fn intern_slowly(
    path: u32,
    name: &str,
    site: &'static Location<'static>,
    options: &Options,
) -> Found {
    // A given name is kept for ever, so it may not be long.
    let name = &name[..name.floor_char_boundary(GIVEN_BYTES)];
    let place = place(path, site);
    let (kind, full) = index_of(|index| {
        let kind = index.kind(path, name, site, options);
        (kind, std::mem::take(&mut index.full))
    });
    if full {
        Warning::TaskNames.note();
        // Outside of the lock: the subscriber is the user's, and may spawn.
        tracing::warn!(
            target: "headcount",
            "more than {NAMED_KINDS} kinds of task: '{name}' at {site} and what follows is named {OTHER}; \
             a task's name should be a kind, not an id"
        );
    }
    cache(place, site, kind)
}

/// The kind of that number.
#[inline]
pub(crate) fn at(number: u32) -> &'static Kind {
    TABLE[number as usize]
        .get()
        .expect("a kind's number is given out after the kind is made")
}

/// Every kind that was ever made.
pub(crate) fn all() -> impl Iterator<Item = &'static Kind> {
    TABLE.iter().map_while(OnceLock::get)
}

/// How many kinds were made.
#[cfg(feature = "admin")]
pub(crate) fn made() -> usize {
    index_of(|index| index.made)
}

/// The groups that have a histogram of their own, and the name of the rest.
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

/// The number of a group's path.
pub(crate) fn intern_path(parent: u32, name: &str) -> u32 {
    let name = clean(name);
    let path = match path_name(parent) {
        "" => name.into_owned(),
        parent => format!("{parent}/{name}"),
    };
    index_of(|index| index.path(&path))
}

pub(crate) fn path_name(path: u32) -> &'static str {
    if path == ROOT_PATH {
        return "";
    }
    PATH_TABLE[path as usize]
        .get()
        .expect("a path's number is given out after the path is made")
}

/// A name as it may stand in a report and a label: bounded, and without characters that break a line.
fn clean(name: &str) -> Cow<'_, str> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES;
    if fits && !name.contains(|c: char| c.is_control() || c == '/') {
        return name.into();
    }
    if name.is_empty() {
        return "unnamed".into();
    }
    name[..name.floor_char_boundary(NAME_BYTES)]
        .replace(|c: char| c.is_control() || c == '/', "_")
        .into()
}

fn index_of<R>(f: impl FnOnce(&mut Index) -> R) -> R {
    let mut index: MutexGuard<'_, Option<Index>> =
        INDEX.lock().unwrap_or_else(PoisonError::into_inner);
    f(index.get_or_insert_with(Index::new))
}

// === impl Index ===

impl Index {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            kinds: HashMap::new(),
            untracked: HashMap::new(),
            made: 0,
            paths: HashMap::from([("", ROOT_PATH)]),
            labels: HashMap::new(),
            warned: false,
            full: false,
        }
    }

    fn kind(
        &mut self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
    ) -> &'static Kind {
        if let Some(kind) = self.find(path, name, site, options) {
            return kind;
        }
        if self.made < NAMED_KINDS {
            return self.make(path, name, site, options);
        }
        if !self.warned {
            self.warned = true;
            self.full = true;
        }
        self.overflow(path, options)
    }

    fn untracked_kind(&mut self, root: u64, site: &'static Location<'static>) -> &'static Kind {
        let known = self.untracked.get(site).map_or(&[][..], Vec::as_slice);
        if let Some(kind) = known.iter().find(|kind| kind.serves(root)) {
            return kind;
        }
        if let Some(kind) = known.iter().find(|kind| kind.serves(NOBODY)) {
            kind.give_to(root);
            return kind;
        }
        let options = Options {
            untracked: true,
            ..Options::of(TaskKind::Async)
        };
        let rest = Location::caller();
        let kind = if self.made < NAMED_KINDS {
            self.make(ROOT_PATH, "", site, &options)
        } else if site != rest {
            return self.untracked_kind(root, rest);
        } else if self.made < KINDS {
            self.make(ROOT_PATH, OTHER, site, &options)
        } else {
            // Not even one is left for this root: it is counted with the first that has one.
            return self.overflow(ROOT_PATH, &options);
        };
        kind.give_to(root);
        self.untracked.entry(site).or_default().push(kind);
        kind
    }

    fn find(
        &self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
    ) -> Option<&'static Kind> {
        let hash = self.hasher.hash_one((path, name, site, options));
        let same_hash = self.kinds.get(&hash)?;
        same_hash
            .iter()
            .copied()
            .find(|kind| kind.site == site && kind.is(path, name, options.key()))
    }

    /// The one kind for a path's nameless rest, and when even those are used up, the first that matches in kind.
    fn overflow(&mut self, path: u32, options: &Options) -> &'static Kind {
        let site = Location::caller();
        let plain = Options {
            drain_budget: None,
            ..*options
        };
        if let Some(kind) = self.find(path, OTHER, site, &plain) {
            return kind;
        }
        if self.made < KINDS {
            return self.make(path, OTHER, site, &plain);
        }
        all()
            .filter(|kind| kind.name == OTHER)
            .min_by_key(|kind| {
                let same = kind.options.daemon == options.daemon
                    && kind.options.untracked == options.untracked
                    && kind.options.required == options.required;
                (!same, kind.path != path)
            })
            .expect("the rows above NAMED_KINDS are all overflow")
    }

    fn make(
        &mut self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
    ) -> &'static Kind {
        let number = self.made;
        let given: &'static str = String::from(name).leak();
        let label = self.label(path);
        let kind = TABLE[number].get_or_init(|| Kind {
            number: u32::try_from(number).expect("KINDS fits u32"),
            path,
            label,
            given,
            name: match clean(given) {
                Cow::Borrowed(given) => given,
                Cow::Owned(clean) => clean.leak(),
            },
            site,
            options: *options,
            key: options.key(),
            seen: AtomicBool::new(false),
            root: AtomicU64::new(NOBODY),
            before: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        self.made += 1;
        let hash = self.hasher.hash_one((path, name, site, options));
        self.kinds.entry(hash).or_default().push(kind);
        kind
    }

    fn label(&mut self, path: u32) -> usize {
        let next = self.labels.len().min(GROUP_LABELS - 1);
        *self.labels.entry(path).or_insert(next)
    }

    fn path(&mut self, path: &str) -> u32 {
        if let Some(&number) = self.paths.get(path) {
            return number;
        }
        // The last place is kept for the overflow.
        let fits = self.paths.len() < PATHS - 1 && path.len() <= PATH_BYTES;
        let (number, name): (usize, &'static str) = if fits {
            (self.paths.len(), String::from(path).leak())
        } else {
            (PATHS - 1, OTHER)
        };
        let name = *PATH_TABLE[number].get_or_init(|| name);
        let number = u32::try_from(number).expect("PATHS fits u32");
        if fits {
            self.paths.insert(name, number);
        }
        number
    }
}
