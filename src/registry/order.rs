//! Kinds of tracked tasks in the order of their groups and names. To compare those takes longer than to read counters, so
//! it is done when kinds were made since, which is seldom.

use super::kind::{self, Kind};
use std::sync::{Arc, Mutex, PoisonError};

static ORDER: Mutex<Option<Arc<Order>>> = Mutex::new(None);

/// The order of the first so many kinds.
#[derive(Debug)]
pub(crate) struct Order {
    made: usize,
    places: Vec<Place>,
}

/// A kind, and the place of its group and name among all such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: u32,
    pub(crate) name: usize,
}

/// The order of so many kinds at least.
pub(crate) fn of(made: usize) -> Arc<Order> {
    let mut order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    match &*order {
        Some(known) if known.made >= made => Arc::clone(known),
        _ => Arc::clone(order.insert(Arc::new(Order::new()))),
    }
}

// === impl Order ===

impl Order {
    fn new() -> Self {
        let kinds: Vec<&Kind> = kind::all().collect();
        let made = kinds.len();
        let tracked = kinds.into_iter().filter(|kind| !kind.options.untracked);
        let mut named: Vec<_> = tracked
            .map(|kind| ((kind.group(), kind.name), kind.number))
            .collect();
        named.sort_unstable();
        let mut places: Vec<Place> = Vec::with_capacity(named.len());
        for same in named.chunk_by(|(a, _), (b, _)| a == b) {
            let name = places.last().map_or(0, |last| last.name + 1);
            places.extend(same.iter().map(|(_, kind)| Place { kind: *kind, name }));
        }
        Self { made, places }
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }
}
