//! What a thread waits for on a futex, and for whom: the kernel knows an address, the stack tells what lock is there.
//!
//! A lock of the standard library does not know who holds it; a POSIX mutex does.

use super::facts::{Facts, Waits};
use super::frame::Frame;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The innermost frames, of which one tells.
const LOOKED_AT: usize = 16;
/// The most threads that a sentence names.
const NAMED: usize = 8;

/// What is at a futex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    Mutex,
    /// One that knows who holds it.
    PosixMutex,
    ReadWrite,
    /// Of a `Once`, `OnceLock` or `LazyLock`.
    Once,
    Semaphore,
    Condition,
    Park,
}

/// A thread, with what is known of its wait.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) lock: Option<Lock>,
    pub(crate) name: &'a str,
}

// === impl Lock ===

impl Lock {
    /// What the stack of a thread says that it waits for, the innermost frame first.
    pub(crate) fn of(frames: &[Frame]) -> Option<Self> {
        frames.iter().take(LOOKED_AT).find_map(Self::of_frame)
    }

    /// By the file, because an optimised program names inlined functions without their paths; by the name where the
    /// file does not tell, as in glibc.
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

    /// Whether somebody keeps those who wait from what they need. Where they wait to be told, as pools do, it is nobody.
    const fn is_held_by_one(self) -> bool {
        matches!(
            self,
            Self::Mutex | Self::PosixMutex | Self::ReadWrite | Self::Once
        )
    }

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

/// One sentence a thread, in their order; of those that wait on one futex it says how many there are. `locks` are in
/// the same order, and may be fewer.
pub(crate) fn sentences(facts: &[&Facts], locks: &[Option<Lock>]) -> Vec<String> {
    let mut on_futex: HashMap<u64, usize> = HashMap::new();
    for thread in facts {
        if let Waits::Futex { address, .. } = thread.waits {
            *on_futex.entry(address).or_default() += 1;
        }
    }
    let sentence = |(at, thread): (usize, &&Facts)| {
        let Waits::Futex { address, timed } = thread.waits else {
            return thread.waits.to_string();
        };
        let limit = if timed { " for a limited time" } else { "" };
        let others = match on_futex.get(&address).map_or(0, |all| all - 1) {
            0 => String::new(),
            1 => ", with 1 other".to_owned(),
            n => format!(", with {n} others"),
        };
        match locks.get(at).copied().flatten() {
            None => format!("{}{others}", thread.waits),
            Some(Lock::Park) => format!("parked{limit}"),
            Some(Lock::Condition) => format!("waiting for a condition{limit}{others}"),
            Some(lock) => {
                let article = if lock == Lock::Once { "an" } else { "a" };
                let noun = lock.noun();
                format!("waiting for {article} {noun} (futex {address:#x}){limit}{others}")
            }
        }
    };
    facts.iter().enumerate().map(sentence).collect()
}

/// What the waits of threads say together: who waits for one lock, who holds it where the lock knows, and who waits in
/// a circle.
///
/// `owner_of` tells who holds the POSIX mutex at an address, `name_of` the name of a thread of this process.
pub(crate) fn hints(
    waiters: &[Waiter<'_>],
    owner_of: impl Fn(u64) -> Option<u32>,
    name_of: impl Fn(u32) -> Option<String>,
) -> Vec<String> {
    let mut locks: BTreeMap<(u64, Lock), Vec<&Waiter<'_>>> = BTreeMap::new();
    let mut edges: BTreeMap<u32, u32> = BTreeMap::new();
    for waiter in waiters {
        match (&waiter.facts.waits, waiter.lock) {
            (Waits::Thread(other), _) => {
                edges.insert(waiter.facts.tid, *other);
            }
            (Waits::Futex { address, .. }, Some(lock)) if lock.is_held_by_one() => {
                locks.entry((*address, lock)).or_default().push(waiter);
            }
            _ => {}
        }
    }
    // In the order of the threads, as the rows above: addresses differ from run to run.
    let mut locks: Vec<_> = locks.into_iter().collect();
    locks.sort_by_key(|(_, waiters)| waiters.first().map(|waiter| waiter.facts.tid));
    let mut hints = Vec::new();
    for ((address, lock), waiters) in locks {
        let owner = (lock == Lock::PosixMutex).then(|| owner_of(address));
        let owner = owner.flatten().and_then(|tid| Some((tid, name_of(tid)?)));
        if let Some((owner, _)) = owner {
            edges.extend(waiters.iter().map(|waiter| (waiter.facts.tid, owner)));
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

fn quoted(name: &str, tid: u32) -> String {
    format!("\"{name}\" (tid {tid})")
}

/// `2 threads wait for one mutex (futex 0x7f12ab00), which "x" (tid 7) holds: "a" (tid 5), "b" (tid 6)`.
fn together(address: u64, lock: Lock, waiters: &[&Waiter<'_>], owner: Option<String>) -> String {
    let who = match waiters.len() {
        1 => "1 thread waits".to_owned(),
        n => format!("{n} threads wait"),
    };
    let noun = lock.noun();
    let held = owner.map_or_else(String::new, |owner| format!(", which {owner} holds"));
    let names = waiters.iter().take(NAMED);
    let mut names: Vec<_> = names
        .map(|waiter| quoted(waiter.name, waiter.facts.tid))
        .collect();
    if waiters.len() > NAMED {
        names.push(format!("and {} more", waiters.len() - NAMED));
    }
    let names = names.join(", ");
    format!("{who} for one {noun} (futex {address:#x}){held}: {names}")
}

/// The circles of a graph in which each has one edge at most.
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
        // A path that comes back to itself, not to one walked before.
        if let Some(begin) = path.iter().position(|tid| *tid == at)
            && edges.contains_key(&at)
        {
            circles.push(path.split_off(begin));
        }
    }
    circles
}

/// Who holds the POSIX mutex at an address: glibc keeps the thread's number behind the lock word and a count
/// (sysdeps/nptl/bits/struct_mutex.h).
pub(crate) fn posix_owner(address: u64) -> Option<u32> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::fs::FileExt;
        const OWNER: u64 = 8;
        let mut owner = [0; 4];
        let memory = std::fs::File::open("/proc/self/mem").ok()?;
        let place = address.checked_add(OWNER)?;
        memory.read_exact_at(&mut owner, place).ok()?;
        let owner = u32::from_ne_bytes(owner);
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
