//! Names the lock behind a futex, and finds threads that wait for each other.
//!
//! The kernel knows only the address of a futex. The kind of lock is read off the innermost frames
//! of the waiting thread's stack ([`Lock::of`]). [`sentences`] says per thread what it waits for;
//! [`hints`] says what several waits mean together: threads that wait for one lock, the owner if
//! the lock stores it, and cycles, which are deadlocks.
//!
//! A lock of the standard library does not store its owner, so only joins and POSIX mutexes form
//! cycles here.
//!
//! The steps for a set of waiting threads:
//!
//! 1. `waits` has found the address of the futex, and the thread that a `pthread_join` waits for.
//! 2. [`Lock::of`] names the kind of lock by the innermost frames.
//! 3. [`hints`] groups the waiters by address and kind, asks for the owner of each POSIX mutex, and
//!    makes an edge from each waiter to the owner or to the joined thread.
//! 4. A thread waits for one thing at a time, so each node has at most one edge, and following the
//!    edges finds every cycle.
//!
//! All of it works on readings that may be some milliseconds old. A reported cycle is a real
//! deadlock if the threads do not run, which their rows in the report show.

use super::frame::Frame;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::audit::proc;
use crate::audit::waits::{ThreadWait, Wait};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The number of innermost frames that are searched for a lock. Further out, a lock may be held or
/// used by the code that started the thread.
///
/// The frames of a lock's slow path are few: the futex call, the lock's internals, and perhaps a
/// guard's constructor.
const LOOKED_AT: usize = 16;
/// The most threads that one hint names.
///
/// A pool of hundreds of threads that wait for one lock would otherwise make a line of many
/// kilobytes.
const NAMED: usize = 8;

/// The kind of lock at a futex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    /// A mutex of the standard library or of parking_lot. Neither stores its owner.
    Mutex,
    /// A `pthread_mutex_t`, which stores its owner.
    PosixMutex,
    /// A read-write lock: a waiting reader and a waiting writer look the same, and the holders are
    /// not stored.
    ReadWrite,
    /// That of a `Once`, `OnceLock` or `LazyLock`.
    Once,
    /// A POSIX semaphore, which has no owner by its nature.
    Semaphore,
    /// A condition variable. Its notifier is not known, so it is no hint.
    Condition,
    /// A thread that parked itself, as idle pools and blocking receivers do.
    Park,
}

/// A thread, and what is known of its wait.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    /// The wait as the kernel showed it, with the thread's id.
    pub(crate) thread: &'a ThreadWait,
    /// The kind of lock, if the stack shows it.
    pub(crate) lock: Option<Lock>,
    /// The thread's name, for the hints; empty if it is not known.
    pub(crate) name: &'a str,
}

// === impl Lock ===

impl Lock {
    /// Returns the lock that a thread waits for, according to its stack, the innermost frame first.
    /// `None` if no frame among the first [`LOOKED_AT`] is that of a known lock.
    pub(crate) fn of(frames: &[Frame]) -> Option<Self> {
        frames.iter().take(LOOKED_AT).find_map(Self::of_frame)
    }

    /// Recognizes a lock by the file, because an optimised program names inlined functions without
    /// their paths; by the name if the file is not known, as in glibc.
    ///
    /// The paths are those of the standard library (`library/std/src/sys/sync`) and of parking_lot
    /// 0.12. A lock of another version or crate is not recognized; the thread is then described by
    /// its futex alone, which is true but says less.
    fn of_frame(frame: &Frame) -> Option<Self> {
        const FILES: [(&str, Lock); 9] = [
            ("sys/sync/mutex/futex.rs", Lock::Mutex),
            ("sys/sync/rwlock/futex.rs", Lock::ReadWrite),
            ("sys/sync/once/futex.rs", Lock::Once),
            ("sys/sync/condvar/futex.rs", Lock::Condition),
            ("sys/sync/thread_parking/futex.rs", Lock::Park),
            // parking_lot 0.12 and its lock_api.
            ("/src/raw_mutex.rs", Lock::Mutex),
            ("/src/raw_rwlock.rs", Lock::ReadWrite),
            ("/src/once.rs", Lock::Once),
            ("/src/condvar.rs", Lock::Condition),
        ];
        const NAMES: [(&str, Lock); 10] = [
            ("pthread_mutex_", Lock::PosixMutex),
            ("pthread_rwlock_", Lock::ReadWrite),
            ("pthread_cond_", Lock::Condition),
            ("pthread_once", Lock::Once),
            ("sem_wait", Lock::Semaphore),
            ("sem_timedwait", Lock::Semaphore),
            ("std::sys::sync::mutex::", Lock::Mutex),
            ("std::sys::sync::rwlock::", Lock::ReadWrite),
            ("std::sys::sync::condvar::", Lock::Condition),
            ("std::sys::sync::thread_parking::", Lock::Park),
        ];
        let file = frame.file.as_deref().unwrap_or_default();
        let is_parking_lot = file.starts_with("parking_lot-");
        let of_file = FILES
            .into_iter()
            .find(|(end, _)| file.ends_with(end) && (end.starts_with("sys") || is_parking_lot));
        let name = frame.function.trim_start_matches(['_', '<']);
        let of_name = || NAMES.into_iter().find(|(start, _)| name.starts_with(start));
        let found = of_file.or_else(of_name);
        found.map(|(_, lock)| lock)
    }

    /// Returns whether another thread keeps the waiting ones from going on. Threads that wait for a
    /// notification, as those of an idle pool do, are not kept by any one thread, so they are no
    /// hint.
    const fn is_held_by_one(self) -> bool {
        matches!(
            self,
            Self::Mutex | Self::PosixMutex | Self::ReadWrite | Self::Once
        )
    }

    /// Returns the noun for the sentences.
    ///
    /// It follows an article that the caller chooses, and is stable, because reports are compared
    /// by text in tests.
    const fn noun(self) -> &'static str {
        match self {
            Self::Mutex | Self::PosixMutex => "mutex",
            Self::ReadWrite => "read-write lock",
            Self::Once => "initialisation by another thread",
            Self::Semaphore => "semaphore",
            Self::Condition => "condition",
            Self::Park => "unpark",
        }
    }
}

/// Returns one clause per thread, in the order of `threads`: what it waits for, and how many of the
/// others wait on the same futex. `locks` is in the same order and may be shorter; a thread without
/// a known lock is described by its futex.
///
/// Counts the waiters of each futex first, so that each clause can mention the others. Allocates a
/// string per thread; it takes no lock and makes no system call.
pub(crate) fn sentences(threads: &[&ThreadWait], locks: &[Option<Lock>]) -> Vec<String> {
    let mut on_futex: HashMap<u64, usize> = HashMap::new();
    for thread in threads {
        if let Wait::Futex { address, .. } = thread.wait {
            *on_futex.entry(address).or_default() += 1;
        }
    }
    let sentence = |(at, thread): (usize, &&ThreadWait)| {
        let Wait::Futex { address, timed } = thread.wait else {
            return thread.wait.to_string();
        };
        let limit = if timed { " with a timeout" } else { "" };
        let others = match on_futex.get(&address).map_or(0, |all| all - 1) {
            0 => String::new(),
            1 => ", along with 1 other thread".to_owned(),
            n => format!(", along with {n} other threads"),
        };
        match locks.get(at).copied().flatten() {
            None => format!("{}{others}", thread.wait),
            Some(Lock::Park) => format!("parked{limit}"),
            Some(Lock::Condition) => format!("waiting for a condition{limit}{others}"),
            Some(lock) => {
                let article = if lock == Lock::Once { "an" } else { "a" };
                let noun = lock.noun();
                format!("waiting for {article} {noun} (futex {address:#x}){limit}{others}")
            }
        }
    };
    threads.iter().enumerate().map(sentence).collect()
}

/// Returns what the waits of threads mean together: which threads wait for one lock, its owner if
/// the lock stores it, and every cycle of waiting threads.
///
/// `owner_of` returns the thread that holds the POSIX mutex at an address, `name_of` the name of a
/// thread of this process, and `None` for a thread that is not of it. Locks come in the order of
/// the first thread that waits for them, then the cycles.
///
/// A POSIX mutex held by its own waiter is a cycle of one thread, and reported as a deadlock with
/// itself. An owner that `name_of` does not know is ignored: the word was read without
/// synchronization, and may be that of a freed mutex.
pub(crate) fn hints(
    waiters: &[Waiter<'_>],
    owner_of: impl Fn(u64) -> Option<u32>,
    name_of: impl Fn(u32) -> Option<String>,
) -> Vec<String> {
    let mut locks: BTreeMap<(u64, Lock), Vec<&Waiter<'_>>> = BTreeMap::new();
    let mut edges: BTreeMap<u32, u32> = BTreeMap::new();
    for waiter in waiters {
        match (&waiter.thread.wait, waiter.lock) {
            (Wait::Thread(other), _) => {
                edges.insert(waiter.thread.tid, *other);
            }
            (Wait::Futex { address, .. }, Some(lock)) if lock.is_held_by_one() => {
                locks.entry((*address, lock)).or_default().push(waiter);
            }
            _ => {}
        }
    }
    // In the order of the threads, as the rows above it: addresses differ from run to run.
    let mut locks: Vec<_> = locks.into_iter().collect();
    locks.sort_by_key(|(_, waiters)| waiters.first().map(|waiter| waiter.thread.tid));
    let mut hints = Vec::new();
    for ((address, lock), waiters) in locks {
        let owner = (lock == Lock::PosixMutex).then(|| owner_of(address));
        let owner = owner.flatten().and_then(|tid| Some((tid, name_of(tid)?)));
        if let Some((owner, _)) = owner {
            edges.extend(waiters.iter().map(|waiter| (waiter.thread.tid, owner)));
        }
        if waiters.len() > 1 || owner.is_some() {
            let owner = owner.map(|(tid, name)| quoted(&name, tid));
            hints.push(together(address, lock, &waiters, owner));
        }
    }
    hints.extend(circles(&edges).into_iter().map(|circle| {
        let names: Vec<_> = circle
            .iter()
            .chain(circle.first())
            .map(|tid| quoted(&name_of(*tid).unwrap_or_default(), *tid))
            .collect();
        format!("deadlock: {}", names.join(" waits for "))
    }));
    hints
}

/// Names a thread: `"pg-reader" (tid 17)`.
fn quoted(name: &str, tid: u32) -> String {
    format!("\"{name}\" (tid {tid})")
}

/// Formats a hint: `2 threads wait for one mutex (futex 0x7f12ab00), held by "x" (tid 7): "a" (tid
/// 5), "b" (tid 6)`.
fn together(address: u64, lock: Lock, waiters: &[&Waiter<'_>], owner: Option<String>) -> String {
    let count = match waiters.len() {
        1 => "1 thread waits".to_owned(),
        n => format!("{n} threads wait"),
    };
    let noun = lock.noun();
    let held = owner.map_or_else(String::new, |owner| format!(", held by {owner}"));
    let names = waiters.iter().take(NAMED);
    let mut names: Vec<_> = names
        .map(|waiter| quoted(waiter.name, waiter.thread.tid))
        .collect();
    if waiters.len() > NAMED {
        names.push(format!("and {} more", waiters.len() - NAMED));
    }
    let names = names.join(", ");
    format!("{count} for one {noun} (futex {address:#x}){held}: {names}")
}

/// Returns the cycles of a graph in which each node has at most one edge. Each cycle begins at the
/// node that the walk reached first, and is found once.
///
/// Visits each node once over all starts, because `seen` is shared by the walks. The nodes are
/// tried in the order of their ids, so the result does not depend on the order of the input.
fn circles(edges: &BTreeMap<u32, u32>) -> Vec<Vec<u32>> {
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for start in edges.keys() {
        let mut path = Vec::new();
        let mut at = *start;
        while seen.insert(at) {
            path.push(at);
            match edges.get(&at) {
                Some(next) => at = *next,
                None => break,
            }
        }
        // This path returned to itself, and did not run into one that was walked before.
        if let Some(begin) = path.iter().position(|tid| *tid == at)
            && edges.contains_key(&at)
        {
            circles.push(path.split_off(begin));
        }
    }
    circles
}

/// Returns the id of the thread that holds the POSIX mutex at `address`, or `None` if it is free or
/// the memory cannot be read. glibc stores the owner's thread id after the lock word and a count
/// (sysdeps/nptl/bits/struct_mutex.h). The address may be any: it is read through the kernel.
///
/// The owner may unlock at any moment, so the answer can be out of date when it is used. The layout
/// is that of glibc; on other C libraries, such as musl, the function returns `None` always.
pub(crate) fn posix_owner(address: u64) -> Option<u32> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const OWNER: u64 = 8;
        let owner = proc::memory(address.checked_add(OWNER)?, 4)?;
        let owner = u32::from_ne_bytes(owner.try_into().ok()?);
        (owner != 0).then_some(owner)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = address;
        None
    }
}

#[cfg(test)]
mod tests;
