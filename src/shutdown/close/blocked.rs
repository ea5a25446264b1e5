//! Expected threads that are blocked in a call that is not a wait for work, such as a write to a
//! full pipe.
//!
//! They may be alive, and do not make the layer fail. The report shows them all the same, because
//! what such a thread has in hand is lost with the process. A thread whose rule holds only while it
//! is idle is not among them: it lingers.

use crate::audit::waits::{self, Wait};
use crate::audit::{Audited, ThreadKey};
use crate::report::ThreadRow;
use crate::shutdown::thread_rules::ThreadRules;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// The time for which a thread must be seen blocked. A write that makes progress is over by then.
pub(super) const SETTLE: Duration = Duration::from_millis(50);

/// The blocked threads of the last look.
#[derive(Debug, Default)]
pub(super) struct Blocked(HashMap<ThreadKey, Seen>);

/// A thread that was blocked at each look.
#[derive(Debug)]
struct Seen {
    since: Instant,
    last: Instant,
    wait: Wait,
}

// === impl Blocked ===

impl Blocked {
    /// Looks at the expected threads. Returns whether another look is needed, because a thread has
    /// not been blocked for long enough to tell.
    ///
    /// Reads what the kernel says of each unknown thread: a few files.
    pub(super) fn look(&mut self, expected: &[Audited], rules: &ThreadRules) -> bool {
        let now = Instant::now();
        let before = std::mem::take(&mut self.0);
        for thread in expected {
            let Some(idle) = rules.idle_calls(thread) else {
                continue;
            };
            let (key, wait) = (thread.os.key, waits::read(thread.os.key.tid).wait);
            if wait.is_blocked(idle) {
                let since = before.get(&key).map_or(now, |seen| seen.since);
                let last = now;
                self.0.insert(key, Seen { since, last, wait });
            }
        }
        !self.0.values().all(Seen::is_settled)
    }

    /// Leaves out the threads that were not blocked for long enough at the last look: each may be in a
    /// write that makes progress.
    pub(super) fn settle(&mut self) {
        self.0.retain(|_, seen| seen.is_settled());
    }

    /// Returns the rows of the blocked threads, in the order of `expected`. `root`: the number of
    /// the shutdown's root.
    pub(super) fn rows(&self, expected: &[Audited], root: u64) -> Vec<ThreadRow> {
        let row = |thread: &Audited| {
            let seen = self.0.get(&thread.os.key)?;
            Some(ThreadRow {
                waits: Some(seen.wait.to_string()),
                ..ThreadRow::new(thread, root)
            })
        };
        expected.iter().filter_map(row).collect()
    }
}

// === impl Seen ===

impl Seen {
    /// Returns whether the thread was blocked for long enough to tell.
    fn is_settled(&self) -> bool {
        self.last - self.since >= SETTLE
    }
}
