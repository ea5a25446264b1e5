//! Measures that need a process of their own: an allocator never gives back so cleanly that a
//! second variant could be measured in the first's memory, and a service that stops has its process
//! to itself.

use crate::{churn, memory, shutdown};
use std::{env, fs, process::Command};

const FLAG: &str = "--child";

/// When this process was started by [`run`]: does what is asked, and returns the figure for its one
/// line of output.
pub(crate) fn run_if_asked() -> Option<f64> {
    let arguments: Vec<String> = env::args().collect();
    let place = arguments.iter().position(|argument| argument == FLAG)?;
    let [measure, variant, count] = &arguments[place + 1..] else {
        panic!("{FLAG} takes a measure, a variant and a count");
    };
    let count = count.parse().expect("a number of tasks");
    Some(match measure.as_str() {
        memory::NAME => memory::child(variant, count),
        churn::NAME => churn::child(variant, count),
        shutdown::NAME => shutdown::child(variant),
        other => panic!("{other} has no child process"),
    })
}

/// Runs one variant of a measure in a child process.
///
/// # Panics
/// When the child does: its figure would be missing without a reason.
pub(crate) fn run(measure: &str, variant: &str, count: usize) -> f64 {
    let own = env::current_exe().expect("a running program has a path");
    let output = Command::new(own)
        .args([FLAG, measure, variant, &count.to_string()])
        .output()
        .expect("a program that runs can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = text.trim().parse();
    figure.unwrap_or_else(|_| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{measure} {variant}: {errors}")
    })
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: f64 = kibibytes
        .and_then(|number| number.parse().ok())
        .expect("VmRSS in kB, see proc_pid_status(5)");
    kibibytes * 1024.0
}
