//! Time from SIGTERM to the end of the process, without telemetry, with a healthy collector, and
//! with one that never answers.

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
/// Maximum time for the push at exit. It also ends this long before the deadline. Neither limit is
/// configurable.
const PUSH: Duration = Duration::from_secs(1);
const BEFORE_THE_DEADLINE: Duration = Duration::from_millis(300);
/// Time that the deadline of [`SHORT_HOLE`]'s child leaves for the push.
const SHORT_PUSH: Duration = Duration::from_millis(500);
/// Allowance for everything except the push.
const BESIDE: Duration = Duration::from_millis(100);
const ALONE: Duration = Duration::from_millis(150);
/// Time from the child's ready line until all its threads are idle.
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
        note: "A service of six idle tasks on 2 workers, in its own process, which is idle when the signal arrives; \
               its parent waits for it. The black hole accepts connections and never answers. The final push takes \
               at most one second, and ends 300 ms before the deadline; the last row sets the deadline to 800 ms. \
               There is no wait for a final scrape.",
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

/// Starts a service, and stops it once it is ready.
fn stop(variant: &str, collector: SocketAddr) -> Duration {
    let mut child = child::command(NAME, variant, TASKS)
        .env(headcount::COLLECTOR, format!("http://{collector}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program that runs can be run again");
    // Kept open until the child has ended, because its last output needs a reader.
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("text");
    let is_ready = line.trim() == READY;
    if is_ready {
        thread::sleep(SETTLE);
    }
    let began = Instant::now();
    if is_ready {
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it has not been awaited");
    }
    let status = child.wait().expect("it is awaited only here");
    let took = began.elapsed();
    if !is_ready || !status.success() {
        let errors = child.stderr.map(std::io::read_to_string);
        panic!("{variant}: {status}, {errors:?}");
    }
    took
}

/// Runs a service that prints a line when it is ready, and ends on SIGTERM.
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
