//! What headcount takes beside the workers while a service does its ordinary work, and how large that process is.

use crate::{
    child::{self, resident},
    collector,
    harness::{Samples, Scale},
    headcount::{self, Headcount},
    peers::Peer,
    rounds::short,
    table::{Limit, Row, Section, Unit},
};
use std::{
    fs,
    time::{Duration, Instant},
};
use tokio::time::{Interval, interval};

pub(crate) const NAME: &str = "steady";

/// Each is a process that works for its time.
const TURNS: usize = 3;
/// Of the time, before anything is measured: what happens once is no part of steady work.
const WARM_UP: usize = 10;
/// A thousand tasks a second.
const EVERY: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 10;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let collector = format!("http://{}", collector::healthy());
    let turns = 0..scale.long_repetitions.min(TURNS);
    let figures = turns.map(|_| {
        let mut command = child::command(NAME, headcount::NAME, scale.steady);
        let [busy, resident] = child::figures(command.env(headcount::COLLECTOR, &collector));
        (busy, resident)
    });
    let (busy, resident) = figures.unzip();
    let section = |title: &str, unit, note, figures, limit| {
        let section = Section {
            title: title.to_owned(),
            unit,
            note,
            rows: vec![Row::new((headcount::NAME, Samples::new(figures)))],
        };
        section.limit(headcount::NAME, &[Limit::Total(limit)])
    };
    vec![
        section(
            "The control side at 1,000 tasks a second",
            Unit::Percent,
            "Of one core: what the kernel counts for headcount's threads that are no workers, in 18 s of a service with default \
             settings, an admin server that nobody asks, and every task exported to a healthy collector in another process.",
            busy,
            1.0,
        ),
        section(
            "Memory at 1,000 tasks a second",
            Unit::Mebibytes,
            "Resident, of the same process in the end. Its program holds all measures and their peers.",
            resident,
            40.0 * f64::from(1 << 20),
        ),
    ]
}

/// The control side in percent of a core, and the resident memory, of a service that works for some milliseconds.
pub(crate) fn child(time: usize) -> [f64; 2] {
    headcount::serve(async move |mut tasks| {
        let ticks = time / EVERY.as_millis() as usize;
        let mut tick = interval(EVERY);
        work(&mut tasks, &mut tick, ticks / WARM_UP).await;
        let (began, before) = (Instant::now(), control_side());
        work(&mut tasks, &mut tick, ticks - ticks / WARM_UP).await;
        let busy = control_side() - before;
        [busy / began.elapsed().as_nanos() as f64 * 100.0, resident()]
    })
}

async fn work(tasks: &mut Headcount, tick: &mut Interval, ticks: usize) {
    for _ in 0..ticks {
        tick.tick().await;
        let started = (0..AT_ONCE).map(|_| tasks.spawn(short(1))).collect();
        tasks.join(started).await;
    }
}

/// Nanoseconds that headcount's threads have run which are no workers, of those that live.
fn control_side() -> f64 {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let own = threads.flatten().map(|thread| thread.path());
    let own = own.filter(|thread| {
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        name.starts_with("headcount-") && name.trim() != "headcount-work"
    });
    let run = own.filter_map(|thread| {
        // The time on the processor comes first: Documentation/scheduler/sched-stats.rst.
        let stat = fs::read_to_string(thread.join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    });
    run.sum()
}
