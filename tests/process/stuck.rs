//! Culprits, each a program of its own: the report names them, says why, and leads a stranger to the line.

mod tasks;
mod threads;
mod workers;

use crate::program::{Ended, Program, example};
use crate::text::{marked, without_digits};
use rustix::process::Signal;
use std::time::Duration;

/// The layers of these programs take less than a second where something lingers, and names at most five.
const DEADLINE: Duration = Duration::from_secs(20);

/// Starts a culprit, stops it, and has its end.
#[track_caller]
fn stopped(name: &str, code: i32) -> Ended {
    let mut program = Program::start(example("hangs", &["headcount", name]));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(code).assert_took_at_most(DEADLINE);
    ended
}

/// The report, steady, of a culprit for whose line it gives function, file and number.
#[track_caller]
fn report(name: &str, code: i32) -> String {
    let ended = stopped(name, code);
    ended.assert_leads_to(name);
    ended.steady()
}

/// The same of a culprit that holds a worker, which is known as one when it has had nothing to do for the first time.
#[track_caller]
fn report_of_worker(name: &str) -> String {
    let ended = stopped(name, 3);
    ended.assert_leads_to(name);
    ended.steady_of_worker()
}

impl Ended {
    /// Function, file and line of the mark stand together in the report.
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

    /// The report, without numbers of files, ports, threads and processes.
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

/// Whoever adds a culprit adds its test, and runs the table again.
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
