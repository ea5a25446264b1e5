//! The `progress` task kind: says when the service is ready, and which parts a late start waits for.
//!
//! Without a declared one, it runs with its defaults. The parts are the reasons for which `/readyz`
//! fails: required processes, and prewarming. The task ends once the service has been ready; later
//! changes are for probes.
//!
//! This module decides nothing about readiness, and draws nothing: its lines are in the log.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use crate::TaskGroup;

/// The target of log events about the start.
const TARGET: &str = "headcount::progress";
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The settings of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProgressSettings {
    /// The time after which a start is late. A late start is logged each time that it has passed again;
    /// never if `None`.
    pub(crate) expected: Option<Duration>,
}

// === impl ProgressSettings ===

impl Default for ProgressSettings {
    fn default() -> Self {
        Self {
            expected: Some(Duration::from_secs(30)),
        }
    }
}

/// Watches the start until the service is ready or drains.
pub(crate) async fn run(settings: ProgressSettings, tasks: TaskGroup) {
    let began = Instant::now();
    let mut since: BTreeMap<String, Instant> = BTreeMap::new();
    let mut late = settings.expected.map(|expected| began + expected);
    loop {
        let unready = tasks.unready();
        if unready.is_empty() {
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(target: TARGET, "the service is ready, {seconds:.1}s after its start");
            return;
        }
        let now = Instant::now();
        since.retain(|what, _| unready.iter().any(|(part, _)| part == what));
        for (what, _) in &unready {
            since.entry(what.clone()).or_insert(now);
        }
        if late.is_some_and(|late| late <= now) {
            late = settings.expected.map(|expected| now + expected);
            let part = |(what, why): &(String, String)| {
                let waits = since
                    .get(what)
                    .map_or(Duration::ZERO, |since| since.elapsed());
                format!("{what}: {why}, for {:.1}s", waits.as_secs_f64())
            };
            let parts: Vec<String> = unready.iter().map(part).collect();
            let seconds = began.elapsed().as_secs_f64();
            let parts = parts.join("; ");
            tracing::warn!(target: TARGET, "not ready {seconds:.1}s after the start: {parts}");
        }
        if tasks.until_draining(sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
