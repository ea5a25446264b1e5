//! The order of kinds of tracked tasks by group and name.
//!
//! Comparing names takes longer than reading counters, so the order is kept and computed again only
//! after a new kind was made, which is rare.
//!
//! The order is shared by reference count: a caller keeps using its own while another one computes
//! a newer. Kinds are never removed, so an old order is incomplete but never wrong.

use super::Kind;
use crate::registry::kind;
use std::sync::{Arc, Mutex, PoisonError};

/// The last order that was computed.
///
/// Held during a sort of at most 4,608 kinds.
static ORDER: Mutex<Option<Arc<Order>>> = Mutex::new(None);

/// An order of the first `made` kinds.
#[derive(Debug)]
pub(crate) struct Order {
    /// The number of kinds that existed when the order was computed. It tells whether the order is
    /// out of date.
    made: usize,
    /// The tracked kinds, sorted by group and name.
    kinds: Vec<RankedKind>,
}

/// A kind, and the rank of its group and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RankedKind {
    /// The number of the kind.
    pub(crate) kind: u32,
    /// The rank of the kind's group and name among all distinct pairs. Kinds that differ only in
    /// spawn site or options share it.
    pub(crate) rank: usize,
}

/// Returns an order of at least the first `made` kinds. Holds a lock while it sorts, so that
/// concurrent callers do not sort twice.
pub(crate) fn of(made: usize) -> Arc<Order> {
    let mut order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    match &*order {
        Some(known) if known.made >= made => Arc::clone(known),
        _ => Arc::clone(order.insert(Arc::new(Order::new()))),
    }
}

// === impl Order ===

impl Order {
    /// Sorts all kinds that exist. Kinds of untracked tasks are left out.
    ///
    /// Costs a comparison of names for each step of the sort, and allocates two lists.
    fn new() -> Self {
        let kinds: Vec<&Kind> = kind::all().collect();
        let made = kinds.len();
        let tracked = kinds.into_iter().filter(|kind| !kind.options.untracked);
        let mut named: Vec<_> = tracked
            .map(|kind| ((kind.group(), kind.name), kind.number))
            .collect();
        named.sort_unstable();
        let mut kinds: Vec<RankedKind> = Vec::with_capacity(named.len());
        for same in named.chunk_by(|(a, _), (b, _)| a == b) {
            let rank = kinds.last().map_or(0, |last| last.rank + 1);
            kinds.extend(
                same.iter()
                    .map(|(_, kind)| RankedKind { kind: *kind, rank }),
            );
        }
        Self { made, kinds }
    }

    /// Returns the tracked kinds, sorted by group and name.
    pub(crate) fn kinds(&self) -> &[RankedKind] {
        &self.kinds
    }
}
