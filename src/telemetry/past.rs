//! How runs ended: what a state folder knows of earlier ones, and this run's report once it is final.

use super::family::Families;
use super::names;
use super::watched::Watched;
use crate::state::{Ended, LastShutdown, State};
use crate::threads::ThreadClass;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const LAYERS: [&str; 3] = ["drain", "cancel", "close"];

/// What is known of earlier runs.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// `None` without a state folder.
    pub(crate) state: Option<Arc<State>>,
    /// The version of the service.
    pub(crate) version: String,
}

pub(crate) fn read(watched: &Watched, families: &mut Families) {
    let state = watched.past.state.as_deref();
    let seen = watched.standing.course().seen();
    let own = seen.report.zip(seen.ended);
    let own = own.map(|(report, at)| LastShutdown::of(&report, &watched.past.version, at));
    let previous = state.and_then(State::previous);
    if let Some(last) = own.as_ref().or(previous.map(|run| &run.shutdown)) {
        write(last, families);
    }
    let Some(state) = state else { return };
    let exits = state.exits();
    for ended in Ended::ALL {
        let word = ended.as_str();
        let count = exits.get(word).copied().unwrap_or_default();
        families.add(&names::EXITS, &[word], count as f64);
    }
}

pub(super) fn write(last: &LastShutdown, families: &mut Families) {
    let info = [last.outcome.as_str(), &*last.reason, &*last.version];
    families.add(&names::LAST_INFO, &info, 1.0);
    families.add(&names::LAST_TIMESTAMP, &[], unix(last.at));
    // Without a report nothing else is known.
    if last.layers.is_empty() {
        return;
    }
    families.add(&names::LAST_DURATION, &[], last.took.as_secs_f64());
    for layer in &last.layers {
        let name = &*layer.layer;
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

pub(crate) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
