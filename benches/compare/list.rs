//! Time to list a million live tasks, and to read the counters while they are live.

use crate::{
    harness::{Samples, Scale},
    headcount,
    peers::{self, drive, park},
    table::{Limit, Row, Section, Unit},
};
use std::time::Instant;

const SNAPSHOT: &str = "headcount, snapshot";
/// Number of counted names besides that of the live tasks.
const NAMES: usize = 64;
const COUNTERS: &str = "headcount, counters, per name";

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let runtime = peers::pool(2);
    let guard = runtime.enter();
    let mut tasks = headcount::attached();
    drop(guard);
    let (total, repetitions) = (scale.parked, scale.repetitions);
    let (snapshots, counters) = drive(&runtime, async move {
        let handles = park(&mut tasks, total).await;
        let snapshots = times(repetitions, || headcount::listed(&tasks), |_| 1);
        headcount::count_names(&tasks, NAMES).await;
        let counters = times(
            repetitions,
            || headcount::read_counters(&tasks),
            |names| names,
        );
        drop(handles);
        (snapshots, counters)
    });
    let section = |title: &str, unit, note, variant, figure: Option<Samples>, limit| {
        let row = figure.map_or_else(|| Row::missing(variant), |f| Row::new((variant, f)));
        let section = Section {
            title: title.to_owned(),
            unit,
            note,
            rows: vec![row],
        };
        section.limit(variant, &[Limit::Total(limit)])
    };
    let alone = "No peer offers this, so these are plain times.";
    vec![
        section(
            "List 1,000,000 live tasks",
            Unit::Milliseconds,
            alone,
            SNAPSHOT,
            snapshots,
            40e6,
        ),
        section(
            "Read all counters with 1,000,000 live tasks",
            Unit::Nanoseconds,
            alone,
            COUNTERS,
            counters,
            100.0,
        ),
    ]
}

/// Returns the time that `read` takes, divided by the result of `share` for its output.
fn times(
    repetitions: usize,
    mut read: impl FnMut() -> Option<usize>,
    share: fn(usize) -> usize,
) -> Option<Samples> {
    let mut sample = || {
        let began = Instant::now();
        let answer = read()?;
        let took = began.elapsed().as_nanos() as f64;
        Some(took / share(answer).max(1) as f64)
    };
    let samples: Option<Vec<f64>> = (0..repetitions).map(|_| sample()).collect();
    samples.map(Samples::new)
}
