//! The keys of a `progress` task.

use std::time::Duration;

use crate::service::progress::ProgressSettings;

use super::table::Table;
use super::value::DAY;

/// Reads the table.
pub(super) fn read(table: &mut Table<'_>) -> ProgressSettings {
    let default = ProgressSettings::default();
    let expected = table.or("expected", default.expected, |value| {
        match value.as_text() {
            Some("off") => Some(None),
            _ => value
                .duration_or(Duration::from_millis(10)..=DAY, ", or \"off\"")
                .map(Some),
        }
    });
    ProgressSettings {
        expected: expected.value,
    }
}
