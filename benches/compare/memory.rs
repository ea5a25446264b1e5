//! Resident memory of a parked task.

use crate::{
    child::{self, resident},
    harness::{Samples, Scale},
    headcount,
    peers::{
        self, BARE, Bare, JOIN_SET, MONITOR, Monitor, Peer, Set, TOKEN, TRACKER, Tracker,
        TrackerAndToken, drive,
    },
    rounds::{BATCH, Parking},
    table::{Limit, Row, Section, Unit},
};

pub(crate) const NAME: &str = "memory";

/// Three are enough: fresh processes agree to a byte or two.
const TURNS: usize = 3;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let variants = [BARE, headcount::NAME, TRACKER, TOKEN, JOIN_SET, MONITOR];
    let mut samples = vec![Vec::new(); variants.len()];
    for _ in 0..scale.long_repetitions.min(TURNS) {
        for (variant, samples) in variants.iter().zip(&mut samples) {
            samples.push(child::run(NAME, variant, scale.parked));
        }
    }
    let samples = samples.into_iter().map(Samples::new);
    let section = Section {
        title: "Memory of a parked task".to_owned(),
        unit: Unit::Bytes,
        note: "Resident memory per task of a process that parks 1,000,000 tasks on 2 workers and keeps no handles. \
               tokio aligns a task to 128 bytes; small allocations (an entry of a JoinSet) fit into the resulting \
               gaps at no cost.",
        rows: variants.into_iter().zip(samples).map(Row::new).collect(),
    };
    vec![section.limit(headcount::NAME, &[Limit::Added(64.0)])]
}

/// Returns the bytes per task, over `count` tasks.
pub(crate) fn child(variant: &str, count: usize) -> f64 {
    match variant {
        BARE => bytes(|| Bare, count),
        headcount::NAME => bytes(headcount::attached, count),
        TRACKER => bytes(Tracker::new, count),
        TOKEN => bytes(TrackerAndToken::new, count),
        JOIN_SET => bytes(Set::new, count),
        MONITOR => bytes(Monitor::new, count),
        other => panic!("no variant is called {other}"),
    }
}

fn bytes<P: Peer>(peer: impl FnOnce() -> P, count: usize) -> f64 {
    let runtime = peers::pool(2);
    let guard = runtime.enter();
    let mut peer = peer();
    drop(guard);
    let measured = async move {
        let parking = Parking::default();
        // The first batch pays the fixed costs: stacks, arenas, queues.
        grow(&mut peer, &parking, 0, BATCH).await;
        let before = resident();
        grow(&mut peer, &parking, BATCH, count).await;
        let after = resident();
        // The process ends next; dropping a million tasks would only take time.
        (after - before) / (count - BATCH) as f64
    };
    drive(&runtime, measured)
}

/// Parks tasks until their number grows from `from` to `to`.
async fn grow<P: Peer>(peer: &mut P, parking: &Parking, from: usize, to: usize) {
    for batch in (from..to).step_by(BATCH) {
        let size = BATCH.min(to - batch);
        for _ in 0..size {
            drop(peer.spawn(parking.task()));
        }
        parking.full(batch + size).await;
    }
}
