//! Time to dump a hundred thousand live tasks, and its effect on tasks that work in the meantime.

use crate::{
    harness::{Samples, Scale},
    headcount::Owned,
    latency::{self, WORK, WORKERS},
    table::{Limit, Row, Section, Unit},
};
use std::time::Instant;

/// Divides the number of parked tasks of the other measures.
const SHARE: usize = 10;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let runtime = Owned::new(WORKERS);
    let parked = runtime.park(scale.parked / SHARE);
    let (mut dumps, mut without, mut during) = (Vec::new(), Vec::new(), Vec::new());
    // The first dump also symbolizes.
    runtime.dump();
    for _ in 0..scale.repetitions {
        without.push(latency::percentile(&runtime, || std::thread::sleep(WORK)));
        during.push(latency::percentile(&runtime, || {
            let began = Instant::now();
            runtime.dump();
            dumps.push(began.elapsed().as_nanos() as f64);
        }));
    }
    drop(parked);
    vec![
        Section {
            title: "Dump 100,000 live tasks".to_owned(),
            unit: Unit::Milliseconds,
            note: "Parked tasks of one kind, while a task on each of the 2 workers yields all the time. Includes \
                   threads and what the listed tasks await. No peer offers this, so these are plain times.",
            rows: vec![Row::new(("headcount, dump", Samples::new(dumps)))],
        }
        .limit("headcount, dump", &[Limit::Total(50e6)]),
        Section {
            title: "The working tasks during a dump".to_owned(),
            unit: Unit::Nanoseconds,
            note: "Time from one poll of a task to its next: the 99th percentile of each turn.",
            rows: vec![
                Row::new(("without a dump", Samples::new(without))),
                Row::new(("during the dump", Samples::new(during))),
            ],
        },
    ]
}
