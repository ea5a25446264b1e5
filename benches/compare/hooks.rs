//! Cost of headcount's hooks for a spawn that bypasses headcount.

use crate::{
    harness::{Scale, Variant, interleave},
    headcount::Owned,
    peers::{self, BARE, BARE_AGAIN, Bare, drive, spawn_and_join},
    table::{Limit, Row, Section, Unit},
};

const HOOKED: &str = "bare tokio, with headcount's hooks";

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    // Figures on one worker are steadier; real services have several.
    vec![one(scale, 2, "2 workers"), one(scale, 1, "1 worker")]
}

fn one(scale: &Scale, workers: usize, place: &str) -> Section {
    let total = scale.spawned;
    let bare = |name| {
        Variant::new(name, move || {
            let runtime = peers::pool(workers);
            drive(&runtime, spawn_and_join(Bare, total, 0))
        })
    };
    let hooked = Variant::new(HOOKED, move || {
        Owned::new(workers).drive(spawn_and_join(Bare, total, 0))
    });
    let mut variants = [bare(BARE), bare(BARE_AGAIN), hooked];
    let rows = interleave(&mut variants, scale.repetitions)
        .into_iter()
        .map(|(name, samples)| Row::new((name, samples.per(total))))
        .collect();
    let section = Section {
        title: format!("Untracked hooks, {place}"),
        unit: Unit::Nanoseconds,
        note: "A bare spawn and join, on plain runtimes and on headcount's.",
        rows,
    };
    section.limit(HOOKED, &[Limit::AddedOrRatio(15.0, 1.06)])
}
