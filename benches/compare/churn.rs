//! Growth of memory over a large number of short tasks.

use crate::{
    child::{self, resident},
    harness::{Samples, Scale},
    headcount,
    peers::{self, BARE, Bare, Peer, TRACKER, Tracker, drive, spawn_and_join},
    rounds::BATCH,
    table::{Limit, Row, Section, Unit},
};

pub(crate) const NAME: &str = "churn";

/// Bytes that an allocator may keep without any growth per task.
const SLACK: f64 = 4.0 * 1024.0 * 1024.0;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let rows = [BARE, headcount::NAME, TRACKER].map(|variant| {
        let grown = child::run(NAME, variant, scale.churned);
        Row::new((variant, Samples::new(vec![grown])))
    });
    let section = Section {
        title: "Memory after ten million short tasks".to_owned(),
        unit: Unit::Mebibytes,
        note: "Growth of resident memory after the first 10,000 tasks.",
        rows: rows.into(),
    };
    vec![section.limit(headcount::NAME, &[Limit::Total(SLACK)])]
}

/// Returns the bytes by which `count` tasks made the process grow.
pub(crate) fn child(variant: &str, count: usize) -> f64 {
    match variant {
        BARE => growth(|| Bare, count),
        headcount::NAME => growth(headcount::attached, count),
        TRACKER => growth(Tracker::new, count),
        other => panic!("no variant is called {other}"),
    }
}

fn growth<P: Peer>(peer: impl Fn() -> P, count: usize) -> f64 {
    let runtime = peers::pool(2);
    let run = |count| {
        let guard = runtime.enter();
        let peer = peer();
        drop(guard);
        drive(&runtime, spawn_and_join(peer, count, 0));
        resident()
    };
    let before = run(BATCH * 10);
    run(count) - before
}
