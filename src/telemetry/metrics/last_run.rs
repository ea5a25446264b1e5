//! Metrics of how runs ended: `last_shutdown_*` and `exits_total`.
//!
//! They describe the previous run, as the state folder has it, until the report of this run is
//! final. From then on they describe this run.
//!
//! The change is one from scrape to scrape, without a moment in which both or none are shown. The
//! timestamp says which run it is. The same families are pushed by the exporter, and written to the
//! textfile by `state`.

use super::family::Families;
use super::names;
use crate::control::progress::Progress;
use crate::report::Outcome;
use crate::state::{LastShutdown, State};
use crate::threads::ThreadClass;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The names of the layers of a shutdown, in order.
pub(crate) const LAYERS: [&str; 3] = ["drain", "cancel", "close"];

/// The source of the last run that ended: the state folder, or the report of this run.
#[derive(Debug, Default)]
pub(crate) struct LastRun {
    /// The state folder; `None` if the service has none.
    pub(crate) state: Option<Arc<State>>,
    /// The version of the service, as the last shutdown of this run will report it.
    pub(crate) version: String,
}

/// Adds `last_shutdown_*`, and `exits_total` if there is a state folder.
///
/// On a first run without a report there is no `last_shutdown_*` at all. `exits_total` has every
/// word in every scrape.
pub(super) fn read(last_run: &LastRun, progress: &Progress, families: &mut Families) {
    let state = last_run.state.as_deref();
    let seen = progress.timeline();
    let own = seen.report.zip(seen.ended);
    let own = own.map(|(report, at)| LastShutdown::of(&report, &last_run.version, at));
    let previous = state.and_then(State::previous);
    if let Some(last) = own.as_ref().or(previous.map(|run| &run.shutdown)) {
        write(last, families);
    }
    let Some(state) = state else { return };
    let exits = state.exits();
    for ended in Outcome::ALL {
        let word = ended.as_str();
        let count = exits.get(word).copied().unwrap_or_default();
        families.add(&names::EXITS, &[word], count as f64);
    }
}

/// Adds the metrics `last_shutdown_*` of one run.
///
/// A run that left no report has only its outcome and the time at which it was last seen alive.
///
/// Called by a scrape, and by the exporter for its own families.
pub(crate) fn write(last: &LastShutdown, families: &mut Families) {
    let info = [last.outcome.as_str(), &*last.reason, &*last.version];
    families.add(&names::LAST_INFO, &info, 1.0);
    families.add(&names::LAST_TIMESTAMP, &[], unix(last.at));
    // A run without a report left no layers, and no other numbers.
    if last.layers.is_empty() {
        return;
    }
    families.add(&names::LAST_DURATION, &[], last.took.as_secs_f64());
    let layers = LAYERS.into_iter();
    for (name, layer) in layers.filter_map(|name| Some((name, last.layers.get(name)?))) {
        families.add(
            &names::LAST_LAYER_DURATION,
            &[name],
            layer.took.as_secs_f64(),
        );
        families.add(
            &names::LAST_LAYER_BUDGET,
            &[name],
            layer.budget.as_secs_f64(),
        );
    }
    for (layer, tasks) in &last.lingering_tasks {
        families.add(&names::LAST_TASK_LINGERING, &[layer], *tasks as f64);
    }
    for class in ThreadClass::ALL {
        let word = class.as_str();
        let threads = last.lingering_threads.get(word).copied();
        let threads = threads.unwrap_or_default();
        families.add(&names::LAST_THREAD_LINGERING, &[word], threads as f64);
    }
    for (signal, result) in &last.flush {
        families.add(&names::LAST_FLUSH, &[signal, result], 1.0);
    }
}

/// Returns the Unix time in seconds; 0 for a time before 1970. An `f64` has a resolution of about a
/// quarter of a microsecond at present times.
pub(crate) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
