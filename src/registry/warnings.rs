//! How often people were warned, by what of: counted where the warning is given.
//!
//! A number of the process, not of a root: some warnings are given where no root is known.

use std::sync::atomic::{AtomicU64, Ordering};

/// What people are warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warning {
    /// The first untracked task of a spawn site.
    Untracked,
    /// Tasks of one kind that did not drain in time.
    OverBudget,
    /// Tasks of one kind, a thread or a child that should be gone.
    Lingering,
    /// Too many kinds of task: their names are `_other` from here on.
    TaskNames,
    /// Too many groups: they share their parent from here on.
    Groups,
}

static COUNTS: [AtomicU64; Warning::ALL.len()] = [const { AtomicU64::new(0) }; Warning::ALL.len()];

// === impl Warning ===

impl Warning {
    /// The word for each, in the order of the kinds.
    pub(crate) const ALL: [&str; 5] = [
        "untracked",
        "over_budget",
        "lingering",
        "task_names",
        "groups",
    ];

    pub(crate) fn note(self) {
        self.note_many(1);
    }

    pub(crate) fn note_many(self, warnings: usize) {
        COUNTS[self as usize].fetch_add(warnings as u64, Ordering::Relaxed);
    }
}

/// Every kind of warning, with how many were given.
#[cfg(feature = "admin")]
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    let counts = COUNTS.iter().map(|count| count.load(Ordering::Relaxed));
    Warning::ALL.into_iter().zip(counts)
}
