//! Cost of a poll of a tracked task compared with a bare one, and the part of it that is the pulse.

use crate::{
    harness::{Scale, Variant, interleave},
    headcount::Owned,
    peers::{self, BARE, BARE_AGAIN, drive},
    table::{Limit, Row, Section, Unit},
};
use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

const HEADCOUNT: &str = "headcount";
const NO_PULSE: &str = "headcount, without the pulse";
/// Polls of the task for each spawned task of the other measures.
const POLLS: usize = 5;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let polls = scale.spawned * POLLS;
    let mut variants = [
        Variant::new(BARE, move || bare(polls)),
        Variant::new(BARE_AGAIN, move || bare(polls)),
        Variant::new(HEADCOUNT, move || Owned::new(1).drive(yields(polls))),
        Variant::new(NO_PULSE, move || Owned::unwatched(1).drive(yields(polls))),
    ];
    let rows = interleave(&mut variants, scale.repetitions)
        .into_iter()
        .map(|(name, samples)| Row::new((name, samples.per(polls))));
    let section = Section {
        title: "A poll".to_owned(),
        unit: Unit::Nanoseconds,
        note: "One task that yields all the time on 1 worker. The two rows of headcount differ by the pulse, which \
               records which task blocks a worker and when each task was last polled.",
        rows: rows.collect(),
    };
    vec![section.limit(HEADCOUNT, &[Limit::AddedTo(NO_PULSE, 3.0)])]
}

fn bare(polls: usize) -> Duration {
    let runtime = peers::pool(1);
    drive(&runtime, yields(polls))
}

async fn yields(polls: usize) -> Duration {
    let began = Instant::now();
    let mut left = polls;
    // Not `yield_now`, after which the worker polls the driver for events each time.
    poll_fn(|cx| {
        left -= 1;
        if left == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    began.elapsed()
}
