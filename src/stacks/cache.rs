//! Bounded caches of symbolized addresses.
//!
//! Looking an address up again needs no debug information, so the next dump of the same stacks is
//! fast even after the debug information was freed. An address keeps its meaning until a module is
//! unloaded; [`forget`] then empties the caches.
//!
//! Both caches hang on process-wide statics, since addresses mean the same for every runtime. A hit
//! costs an uncontended lock, a hash look-up and a copy of the frames. The lock is never held
//! during a look-up, so a symbolizer that hangs in the loader's lock cannot block a thread that
//! only needs known addresses.

use super::frame::Frame;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most addresses a cache keeps. When one more is found, all others are dropped.
///
/// Dropping all instead of the oldest needs no order of use. At some hundred bytes a frame this
/// bounds a cache to a few megabytes.
const ENTRIES: usize = 4096;

/// Addresses of threads' stacks: threads have most of them in common.
pub(super) static CALLS: Cache = Cache::new();
/// Addresses of the await chains of tasks.
pub(super) static AWAITS: Cache = Cache::new();

/// One cache. The table is made at the first entry, so that the static needs no memory before. The
/// key is the address as it is given to the look-up. `None` and an empty table mean the same.
#[derive(Debug)]
pub(super) struct Cache(Mutex<Option<HashMap<usize, Vec<Frame>>>>);

/// Empties both caches: the loaded modules have changed, and an address may now be another
/// function.
///
/// Called by the reader, under its lock, before it reads the first stack after a change of the
/// executable mappings, and at its first read. A look-up that runs meanwhile may still insert a
/// result for the old mapping.
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(super) fn forget() {
    for cache in [&CALLS, &AWAITS] {
        *cache.table() = None;
    }
}

// === impl Cache ===

impl Cache {
    /// Creates an empty cache, which allocates nothing.
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns the frames at `address`, from the cache, or from `look_up`, which runs without the
    /// lock. Two threads may look up one address at the same time. An empty result is not kept.
    ///
    /// Blocks for as long as `look_up` does, if the address is not known.
    pub(super) fn frames(
        &self,
        address: usize,
        look_up: impl FnOnce(usize) -> Vec<Frame>,
    ) -> Vec<Frame> {
        let table = self.table();
        if let Some(known) = table.as_ref().and_then(|known| known.get(&address)) {
            return known.clone();
        }
        // Not under the lock, because a look-up may take seconds.
        drop(table);
        let found = look_up(address);
        if found.is_empty() {
            // A look-up may fail for want of a file descriptor or of memory, and succeed a moment
            // later.
            return found;
        }
        let mut table = self.table();
        let known = table.get_or_insert_default();
        if known.len() >= ENTRIES {
            known.clear();
        }
        known.insert(address, found.clone());
        found
    }

    /// Locks the table. Lock poisoning is ignored: no look-up runs under the lock.
    fn table(&self) -> MutexGuard<'_, Option<HashMap<usize, Vec<Frame>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, ENTRIES};
    use crate::stacks::frame::Frame;

    fn frame(address: usize) -> Frame {
        Frame::bare(address.to_string())
    }

    #[test]
    fn an_address_is_looked_up_once_while_there_is_room() {
        let cache = Cache::new();
        let mut lookups = 0;
        let mut find = |address: usize| {
            let frames = cache.frames(address, |address| {
                lookups += 1;
                vec![frame(address)]
            });
            assert_eq!(frames[0].function, address.to_string());
            lookups
        };
        assert_eq!((find(0), find(0), find(1), find(0)), (1, 1, 2, 2));
        let full = (2..ENTRIES).map(&mut find).last();
        assert_eq!((full, find(0)), (Some(ENTRIES), ENTRIES));
        // One more than there is room for drops the others.
        assert_eq!((find(ENTRIES), find(0)), (ENTRIES + 1, ENTRIES + 2));
        let before = cache.frames(ENTRIES + 1, |_| Vec::new());
        let after = cache.frames(ENTRIES + 1, |_| vec![frame(0)]);
        assert_eq!(
            (before.len(), after.len()),
            (0, 1),
            "what was not found is looked for again"
        );
    }
}
