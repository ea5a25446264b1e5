//! Counters of the warnings that were given, by what they warn of. A warning is counted where it is
//! given.
//!
//! The counters belong to the process, not to a root, because some warnings are given where no root
//! is known.
//!
//! They show how often headcount has warned even if the log is filtered or rate-limited. One cache
//! line is shared by all reasons, which is no matter at their rate.

use std::sync::atomic::{AtomicU64, Ordering};

/// A reason for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warning {
    /// The first untracked task of a spawn site.
    Untracked,
    /// Tasks of one kind that did not drain in time.
    OverBudget,
    /// Tasks of one kind, a thread or a child process that should be gone.
    Lingering,
    /// Too many kinds of task: new ones are named `_other`.
    TaskNames,
    /// Too many groups: new ones share the scope of their parent.
    Groups,
}

/// The counters, in the order of the reasons.
///
/// They start at 0 with the process and are never reset.
static COUNTS: [AtomicU64; Warning::ALL.len()] = [const { AtomicU64::new(0) }; Warning::ALL.len()];

// === impl Warning ===

impl Warning {
    /// The name of each reason in metrics, in the order of the reasons.
    pub(crate) const ALL: [&str; 5] = [
        "untracked",
        "over_budget",
        "lingering",
        "task_names",
        "groups",
    ];

    /// Counts one warning.
    pub(crate) fn note(self) {
        self.note_many(1);
    }

    /// Counts several warnings.
    ///
    /// For several threads or child processes that one message names together.
    pub(crate) fn note_many(self, warnings: usize) {
        COUNTS[self as usize].fetch_add(warnings as u64, Ordering::Relaxed);
    }
}

/// Returns the name of every reason, with the number of warnings given for it.
#[cfg(feature = "admin")]
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    let counts = COUNTS.iter().map(|count| count.load(Ordering::Relaxed));
    Warning::ALL.into_iter().zip(counts)
}
