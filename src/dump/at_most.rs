//! A limit on the threads that wait for something that may hang.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit on the number of simultaneous uses.
pub(super) struct AtMost {
    limit: usize,
    begun: AtomicUsize,
}

/// One use, until it is dropped.
pub(super) struct One(&'static AtMost);

// === impl AtMost ===

impl AtMost {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            begun: AtomicUsize::new(0),
        }
    }

    /// Begins a use. Returns `None` at the limit.
    pub(super) fn begin(&'static self) -> Option<One> {
        let one = One(self);
        (self.begun.fetch_add(1, Ordering::AcqRel) < self.limit).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::AcqRel);
    }
}
