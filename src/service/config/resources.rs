//! The keys of a `resources` task.

use std::time::Duration;

use crate::service::resources::ResourcesSettings;

use super::problem::quoted;
use super::table::Table;
use super::value::{DAY, Value};

/// Reads the table.
pub(super) fn read(table: &mut Table<'_>) -> ResourcesSettings {
    let default = ResourcesSettings::default();
    ResourcesSettings {
        interval: table
            .or("interval", default.interval, |value| {
                value.duration(Duration::from_millis(100)..=DAY)
            })
            .value,
        warn_memory: table.or("warn_memory", default.warn_memory, share).value,
        warn_cpu: table.or("warn_cpu", default.warn_cpu, share).value,
        warn_files: table.or("warn_files", default.warn_files, share).value,
        warn_threads: table.or("warn_threads", default.warn_threads, share).value,
    }
}

/// Reads a share of a limit, or "off", for which the inner `Option` is `None`.
fn share(value: &Value<'_>) -> Option<Option<f64>> {
    match value.as_text() {
        Some("off") => Some(None),
        Some(other) => value.refuse(
            format!("unknown value {}", quoted(other)),
            "allowed: 0.01 to 1, or \"off\"",
        ),
        None => value.number_or(0.01..=1.0, ", or \"off\"").map(Some),
    }
}
