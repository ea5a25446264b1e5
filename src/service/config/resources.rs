//! The keys of a `resources` task.

use std::time::Duration;

use crate::service::resources::ResourcesSettings;

use super::problem::quoted;
use super::reader::Table;
use super::value::{DAY, Value};

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

/// A share of a limit, or "off".
fn share(value: &Value<'_>) -> Option<Option<f64>> {
    match value.as_text() {
        Some("off") => Some(None),
        Some(other) => value.refuse(
            format!("{} is not known", quoted(other)),
            "allowed: 0.01 to 1, \"off\"",
        ),
        None => value.number_or(0.01..=1.0, ", \"off\"").map(Some),
    }
}
