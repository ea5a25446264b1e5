//! What lingers, in the log: one event for each finding of the report.

use super::voice::Voice;
use crate::report::Report;

/// So many findings; the report has them all.
const MOST: usize = 32;

pub(super) fn log(voice: &Voice, report: &Report) {
    for task in report.cancel.lingering.iter().take(MOST) {
        let (group, name, count) = (task.group.clone(), task.name.clone(), task.count);
        let (age, spawned) = (task.age.as_secs_f64(), task.spawned.clone());
        // The first of them, in whose trace the record is.
        let id = task.ids.first().map_or(0, |id| id.get());
        voice.log(move || {
            tracing::warn!(
                name: "headcount.task.lingering",
                target: "headcount::task",
                group, task = name, id, count, age_seconds = age, spawned,
                "task lingers"
            );
        });
    }
    for thread in report.close.threads.iter().take(MOST) {
        let (name, class, tid) = (thread.name.clone(), thread.class, thread.tid);
        voice.log(move || {
            tracing::warn!(
                name: "headcount.thread.lingering",
                target: "headcount::shutdown",
                thread = name, class = class.as_str(), tid,
                "thread lingers"
            );
        });
    }
}
