//! Cost of headcount besides the workers while a service does ordinary work, and the memory of that
//! process.

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

/// Each turn is a process that works for a fixed time.
const TURNS: usize = 3;
/// Share of the time before the measurement starts, which excludes one-time costs.
const WARM_UP: usize = 10;
/// The interval between batches: a thousand tasks per second in total.
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
            "Percent of one core: CPU time of headcount's threads other than workers, over 18 s of a service with \
             default settings, an idle admin server, and every task exported to a healthy collector in another \
             process.",
            busy,
            1.0,
        ),
        section(
            "Memory at 1,000 tasks a second",
            Unit::Mebibytes,
            "Resident memory of the same process at its end. The program contains all measures and all peers.",
            resident,
            40.0 * f64::from(1 << 20),
        ),
    ]
}

/// Runs a service for `time` milliseconds, and returns the control side's share of a core in
/// percent, and the resident memory.
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

/// Returns the nanoseconds of CPU time of headcount's live threads other than workers.
fn control_side() -> f64 {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let own = threads.flatten().map(|thread| thread.path());
    let own = own.filter(|thread| {
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        name.starts_with("headcount-") && name.trim() != "headcount-work"
    });
    let run = own.filter_map(|thread| {
        // The first field is the time on the CPU: Documentation/scheduler/sched-stats.rst.
        let stat = fs::read_to_string(thread.join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    });
    run.sum()
}
