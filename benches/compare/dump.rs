//! Dumps a hundred thousand live tasks, and asks what that does to tasks that work meanwhile.

use crate::{
    harness::{Samples, Scale},
    headcount::Owned,
    latency::{self, WORK, WORKERS},
    table::{Limit, Row, Section, Unit},
};
use std::time::Instant;

/// Of the tasks that are parked in other measures.
const SHARE: usize = 10;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let runtime = Owned::new(WORKERS);
    let parked = runtime.park(scale.parked / SHARE);
    let (mut dumps, mut without, mut during) = (Vec::new(), Vec::new(), Vec::new());
    // The first one looks up names.
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
            note: "Of one kind, parked, while a task on each of the 2 workers yields all the time. Threads, and what the \
                   listed tasks await, included. No peer has such a thing, so these are plain times.",
            rows: vec![Row::new(("headcount, dump", Samples::new(dumps)))],
        }
        .limit("headcount, dump", &[Limit::Total(50e6)]),
        Section {
            title: "The working tasks meanwhile".to_owned(),
            unit: Unit::Nanoseconds,
            note: "From one poll of a task to its next: the 99th percentile of each turn.",
            rows: vec![
                Row::new(("without a dump", Samples::new(without))),
                Row::new(("during the dump", Samples::new(during))),
            ],
        },
    ]
}
