//! From SIGTERM to the end of the process, without telemetry and with, whatever the collector does.

use crate::{
    child, collector,
    harness::{Scale, Variant, interleave},
    headcount,
    table::{Limit, Row, Section, Unit},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

pub(crate) const NAME: &str = "exit";

const PLAIN: &str = "headcount, no telemetry";
const HEALTHY: &str = "headcount, a healthy collector";
const HOLE: &str = "headcount, a black hole, pushed for 1 s";
const SHORT_HOLE: &str = "headcount, a black hole, pushed for 500 ms";

const TASKS: usize = 6;
/// A push at the end may take so long, and until so long before the deadline; neither has a setting.
const PUSH: Duration = Duration::from_secs(1);
const BEFORE_THE_DEADLINE: Duration = Duration::from_millis(300);
/// How long the child of [`SHORT_HOLE`] lets it take, by its deadline.
const SHORT_PUSH: Duration = Duration::from_millis(500);
/// What all else may take.
const BESIDE: Duration = Duration::from_millis(100);
const ALONE: Duration = Duration::from_millis(150);
/// From the line of a child that it is ready until all its threads wait.
const SETTLE: Duration = Duration::from_millis(100);

const READY: &str = "ready";

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let mut variants = [
        (PLAIN, collector::healthy()),
        (HEALTHY, collector::healthy()),
        (HOLE, collector::black_hole()),
        (SHORT_HOLE, collector::black_hole()),
    ]
    .map(|(variant, collector)| Variant::new(variant, move || stop(variant, collector)));
    let rows = interleave(&mut variants, scale.long_repetitions);
    let section = Section {
        title: "From SIGTERM to the end of the process".to_owned(),
        unit: Unit::Milliseconds,
        note: "A service of six idle tasks on 2 workers, in a process of its own, which does nothing when the signal comes; its parent \
               waits for it. The black hole accepts and never answers. What is left is pushed for one second at most, and until 300 ms \
               before the deadline: the last row sets that to 800 ms. Nobody waits for a last scrape.",
        rows: rows.into_iter().map(Row::new).collect(),
    };
    let limits = [
        (PLAIN, ALONE),
        (HEALTHY, ALONE),
        (HOLE, PUSH + BESIDE),
        (SHORT_HOLE, SHORT_PUSH + BESIDE),
    ];
    let section = limits.into_iter().fold(section, |section, (row, most)| {
        section.limit(row, &[Limit::Total(most.as_nanos() as f64)])
    });
    vec![section]
}

/// Starts a service, and stops it when it is ready.
fn stop(variant: &str, collector: SocketAddr) -> Duration {
    let mut child = child::command(NAME, variant, TASKS)
        .env(headcount::COLLECTOR, format!("http://{collector}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program that runs can be run again");
    // It is kept until the child has ended: what it says last needs a reader.
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("text");
    let is_ready = line.trim() == READY;
    if is_ready {
        thread::sleep(SETTLE);
    }
    let began = Instant::now();
    if is_ready {
        kill_process(Pid::from_child(&child), Signal::TERM).expect("nobody has awaited it");
    }
    let status = child.wait().expect("nobody else awaits it");
    let took = began.elapsed();
    if !is_ready || !status.success() {
        let errors = child.stderr.map(std::io::read_to_string);
        panic!("{variant}: {status}, {errors:?}");
    }
    took
}

/// A service that says when it is ready, and ends when it is told to.
pub(crate) fn child(variant: &str, tasks: usize) {
    let deadline = (variant == SHORT_HOLE).then_some(SHORT_PUSH + BEFORE_THE_DEADLINE);
    let telemetry = (variant != PLAIN).then(headcount::telemetry);
    let ready = || println!("{READY}");
    let delivered = headcount::idle_until_signal(tasks, (deadline, telemetry.as_ref()), ready);
    let expected = match variant {
        PLAIN => None,
        HEALTHY => Some(true),
        HOLE | SHORT_HOLE => Some(false),
        other => panic!("no variant is called {other}"),
    };
    assert_eq!(delivered, expected, "{variant}");
}
