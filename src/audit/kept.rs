//! Functions that were looked up, by address: to find one again takes no debug information.

use super::frame::Frame;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many addresses are kept.
const KEPT: usize = 4096;

/// Of stacks: threads have most of their addresses in common.
pub(super) static CALLS: Kept = Kept::new();
/// Of what tasks await.
pub(super) static AWAITS: Kept = Kept::new();

/// A bounded table.
#[derive(Debug)]
pub(super) struct Kept(Mutex<Option<HashMap<usize, Vec<Frame>>>>);

/// Forgets all: something was unloaded, and something else may be in its place.
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(super) fn forget() {
    for kept in [&CALLS, &AWAITS] {
        *kept.table() = None;
    }
}

// === impl Kept ===

impl Kept {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What is at the address, by `look_up` if it is not known.
    pub(super) fn frames(
        &self,
        address: usize,
        look_up: impl FnOnce(usize) -> Vec<Frame>,
    ) -> Vec<Frame> {
        let table = self.table();
        if let Some(known) = table.as_ref().and_then(|known| known.get(&address)) {
            return known.clone();
        }
        // Not under the lock: it may take long.
        drop(table);
        let found = look_up(address);
        if found.is_empty() {
            // Without a descriptor or memory to spare nothing is found, and a moment later all.
            return found;
        }
        let mut table = self.table();
        let known = table.get_or_insert_default();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(address, found.clone());
        found
    }

    fn table(&self) -> MutexGuard<'_, Option<HashMap<usize, Vec<Frame>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Kept};
    use crate::audit::frame::Frame;

    fn frame(address: usize) -> Frame {
        Frame {
            function: address.to_string(),
            file: None,
            line: None,
        }
    }

    #[test]
    fn an_address_is_looked_up_once_while_there_is_room() {
        let kept = Kept::new();
        let mut lookups = 0;
        let mut find = |address: usize| {
            let frames = kept.frames(address, |address| {
                lookups += 1;
                vec![frame(address)]
            });
            assert_eq!(frames[0].function, address.to_string());
            lookups
        };
        assert_eq!((find(0), find(0), find(1), find(0)), (1, 1, 2, 2));
        let full = (2..KEPT).map(&mut find).last();
        assert_eq!((full, find(0)), (Some(KEPT), KEPT));
        // One more than there is room for: the others are given up.
        assert_eq!((find(KEPT), find(0)), (KEPT + 1, KEPT + 2));
        let before = kept.frames(KEPT + 1, |_| Vec::new());
        let after = kept.frames(KEPT + 1, |_| vec![frame(0)]);
        assert_eq!(
            (before.len(), after.len()),
            (0, 1),
            "what was not found is looked for again"
        );
    }
}
