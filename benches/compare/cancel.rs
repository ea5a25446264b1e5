//! Time to cancel a million parked tasks and wait until all have ended.

use crate::{
    harness::{Scale, Variant, interleave},
    headcount,
    peers::{self, BARE, Bare, Cancel, JOIN_SET, Set, TOKEN, TrackerAndToken, drive, park},
    table::{Limit, Row, Section, Unit},
};
use std::time::{Duration, Instant};

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let total = scale.parked;
    let mut variants = vec![
        Variant::new(BARE, move || cancel(|| Bare, total)),
        Variant::new(TOKEN, move || cancel(TrackerAndToken::new, total)),
        Variant::new(JOIN_SET, move || cancel(Set::new, total)),
    ];
    if headcount::IS_COMPLETE {
        let ours = Variant::new(headcount::NAME, move || cancel(headcount::attached, total));
        variants.insert(1, ours);
    }
    let rows = interleave(&mut variants, scale.long_repetitions);
    let mut rows: Vec<Row> = rows.into_iter().map(Row::new).collect();
    if !headcount::IS_COMPLETE {
        rows.insert(1, Row::missing(headcount::NAME));
    }
    let section = Section {
        title: "Cancel 1,000,000 parked tasks to empty".to_owned(),
        unit: Unit::Milliseconds,
        note: "On 2 workers, a fresh runtime each time. Bare: a loop of `abort`, then every handle awaited. JoinSet: `abort_all`, then \
               `join_next`. Token: a child token for each task, cancelled through the parent, then `TaskTracker::wait`.",
        rows,
    };
    let limits = [
        Limit::Ratio(1.5),
        Limit::Below(JOIN_SET),
        Limit::Below(TOKEN),
    ];
    vec![section.limit(headcount::NAME, &limits)]
}

fn cancel<P: Cancel>(peer: impl FnOnce() -> P, total: usize) -> Duration {
    let runtime = peers::pool(2);
    let guard = runtime.enter();
    let mut peer = peer();
    drop(guard);
    drive(&runtime, async move {
        let mut handles = park(&mut peer, total).await;
        if !P::THROUGH_HANDLES {
            handles.clear();
        }
        let began = Instant::now();
        peer.cancel(handles).await;
        began.elapsed()
    })
}
