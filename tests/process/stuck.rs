//! Tests of culprits, each in a separate program: the report names it, gives the reason, and leads
//! to its line of code.

mod tasks;
mod threads;
mod workers;

use crate::program::{Ended, Program, example};
use crate::text::{marked, without_digits};
use rustix::process::Signal;
use std::time::Duration;

/// The layers of these programs take less than a second if something lingers, and symbolizing at
/// most five.
const DEADLINE: Duration = Duration::from_secs(20);

/// Starts a culprit, stops it, and returns its end.
#[track_caller]
fn stopped(name: &str, code: i32) -> Ended {
    let mut program = Program::start(example("hangs", &["headcount", name]));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(code).assert_took_at_most(DEADLINE);
    ended
}

/// Returns the report of a culprit without values that vary, after checking that it contains
/// function, file and line of the mark.
#[track_caller]
fn report(name: &str, code: i32) -> String {
    let ended = stopped(name, code);
    ended.assert_leads_to(name);
    ended.steady()
}

/// Returns the report of a culprit that blocks a worker; a worker is known as one only after it was
/// idle once.
#[track_caller]
fn report_of_worker(name: &str) -> String {
    let ended = stopped(name, 3);
    ended.assert_leads_to(name);
    ended.steady_of_worker()
}

impl Ended {
    /// Asserts that function, file and line of the mark stand together in the report.
    #[track_caller]
    fn assert_leads_to(&self, mark: &str) {
        if !cfg!(feature = "stacks") {
            return;
        }
        let (function, place) = marked(mark);
        let leads = |line: &String| {
            let after = line.split(&place).nth(1);
            after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
                && line.contains(&function)
        };
        assert!(
            self.stderr.iter().any(leads),
            "nothing leads to {function} ({place}): {self:#?}"
        );
    }

    fn steady_of_worker(&self) -> String {
        self.steady()
            .replace("(tid N, blocking)", "(tid N, worker)")
    }

    /// Returns the report, without numbers of files, ports, threads and processes.
    #[track_caller]
    fn steady(&self) -> String {
        let text = self.report();
        let mut before = "";
        let steady = |word| {
            let is_number = matches!(before, "fd " | "thread " | "child ");
            before = word;
            match word.split_once("127.0.0.1:") {
                Some((_, port)) => format!("127.0.0.1:P{}", without_digits(port)),
                None if is_number && word.starts_with(|c: char| c.is_ascii_digit()) => {
                    format!("N{}", without_digits(word))
                }
                None => word.to_owned(),
            }
        };
        let words = text.split_inclusive([' ', '(', ')', ',']);
        words.map(steady).collect()
    }
}

/// Returns the last line of the report, without times.
#[cfg(feature = "stacks")]
#[track_caller]
fn verdict(name: &str, code: i32) -> String {
    let ended = stopped(name, code);
    let line = ended
        .stderr
        .iter()
        .find(|line| crate::text::is_verdict(line));
    let line = line.unwrap_or_else(|| panic!("no verdict: {ended:#?}"));
    crate::text::steady_but_locks(line.trim())
}

#[cfg(feature = "stacks")]
#[test]
fn the_report_ends_with_a_sentence_about_the_culprit() {
    let place = |mark| marked(mark).1;
    let worker = place("sleeps-on-worker");
    assert_eq!(
        verdict("sleeps-on-worker", 3),
        format!("backoff ({worker}), sleeping, held the stop for T, and is still there")
    );
    let thread = place("thread-in-channel");
    assert_eq!(
        verdict("thread-in-channel", 3),
        format!("thread \"thumbnailer\" ({thread}), blocked in a channel's recv, is still there")
    );
    let task = place("awaits-for-ever");
    assert_eq!(
        verdict("awaits-for-ever", 0),
        format!("feed ({task}), waiting for a oneshot channel, held the stop for T")
    );
}

/// A new culprit needs a test here, and a new run of the table.
#[test]
fn every_culprit_has_a_test_and_a_row_in_the_table() {
    let ended = Program::start(example("hangs", &["list"])).end();
    let tests = [
        include_str!("stuck/tasks.rs"),
        include_str!("stuck/threads.rs"),
        include_str!("stuck/workers.rs"),
    ]
    .concat();
    let table = include_str!("../../docs/culprits.md");
    assert!(ended.stdout.len() > 30, "{ended:#?}");
    for name in &ended.stdout {
        assert!(tests.contains(&format!("\"{name}\"")), "no test of {name}");
        assert!(table.contains(&format!("`{name}`")), "no row of {name}");
    }
}
