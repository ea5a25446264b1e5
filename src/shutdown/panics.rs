//! Tasks that panic while the service stops, for the report.

use crate::registry::kind::Kind;
use crate::registry::root::PanicText;
use crate::report::PanicFinding;

/// The most rows of a layer.
const ROWS: usize = 100;

/// Those of the layer under way.
#[derive(Debug, Default)]
pub(super) struct Panics(Vec<PanicFinding>);

// === impl Panics ===

impl Panics {
    pub(super) fn note(&mut self, kind: &Kind, text: PanicText) {
        let PanicText { message, location } = text;
        let finding = PanicFinding {
            group: kind.group().to_owned(),
            name: kind.name.to_owned(),
            spawned: kind.site.to_string(),
            message,
            location,
            count: 1,
        };
        let same = |row: &PanicFinding| {
            PanicFinding {
                count: row.count,
                ..finding.clone()
            } == *row
        };
        if let Some(at) = self.0.iter().position(same) {
            self.0[at].count += 1;
        } else if self.0.len() < ROWS {
            self.0.push(finding);
        }
    }

    pub(super) fn take(&mut self) -> Vec<PanicFinding> {
        std::mem::take(&mut self.0)
    }
}
