//! Panics of tasks during the shutdown, collected for the report.
//!
//! The root passes panics on only once a shutdown has begun; earlier ones are logged and counted
//! where they happen. They arrive as messages on the control thread, so no lock is needed.

use crate::registry::kind::Kind;
use crate::registry::root::PanicText;
use crate::report::PanicRow;

/// The most distinct panics of one layer. Further ones are left out. Messages can contain ids, so a
/// loop of panics would otherwise fill the report and the memory.
const ROWS: usize = 100;

/// The panics of the current layer. Identical ones share a row. In the order of the first panic of
/// each row.
#[derive(Debug, Default)]
pub(super) struct Panics(Vec<PanicRow>);

// === impl Panics ===

impl Panics {
    /// Adds a panic, or counts it in the row of an identical one. All fields but the count must be
    /// equal. Compares with each row, at most [`ROWS`].
    pub(super) fn note(&mut self, kind: &Kind, text: PanicText) {
        let PanicText { message, location } = text;
        let row = PanicRow {
            group: kind.group(),
            name: kind.name,
            spawned: kind.site,
            message,
            location,
            count: 1,
        };
        let same = |known: &PanicRow| {
            let count = known.count;
            PanicRow {
                count,
                ..row.clone()
            } == *known
        };
        if let Some(at) = self.0.iter().position(same) {
            self.0[at].count += 1;
        } else if self.0.len() < ROWS {
            self.0.push(row);
        }
    }

    /// Returns the panics so far, and begins anew. Called at the end of the drain, and once more
    /// after the close layer.
    pub(super) fn take(&mut self) -> Vec<PanicRow> {
        std::mem::take(&mut self.0)
    }
}
