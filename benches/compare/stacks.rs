//! Time to dump a process with a thousand threads: what each waits for, and its stack if stacks are
//! compiled in.

use crate::{
    harness::{Samples, Scale},
    headcount,
    table::{Limit, Row, Section, Unit},
};
use std::{sync::Barrier, thread, time::Instant};

const FIRST: &str = "headcount, first dump";
const LATER: &str = "headcount, later dumps";

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let threads = scale.parked.min(1000);
    let dump = headcount::dumps();
    let begun = Barrier::new(threads + 1);
    let (first, later) = thread::scope(|scope| {
        let parked: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    begun.wait();
                    thread::park();
                })
            })
            .collect();
        begun.wait();
        let time = || {
            let began = Instant::now();
            dump();
            began.elapsed().as_nanos() as f64
        };
        let first = Samples::new(vec![time()]);
        let later = (0..scale.long_repetitions).map(|_| time()).collect();
        for thread in &parked {
            thread.thread().unpark();
        }
        (first, Samples::new(later))
    });
    let section = Section {
        title: "Dump 1,000 threads".to_owned(),
        unit: Unit::Milliseconds,
        note: "No peer offers this, so these are plain times. The first dump also loads the debug information of the whole program.",
        rows: vec![Row::new((FIRST, first)), Row::new((LATER, later))],
    };
    vec![section.limit(LATER, &[Limit::Total(250e6)])]
}
