//! Measures that need a process of their own: an allocator never returns memory so completely that
//! a second variant could be measured after the first, and a shutdown ends the whole process.

use crate::{churn, memory, shutdown};
#[cfg(feature = "otel")]
use crate::{exit, steady};
use std::{env, fs, process::Command};

const FLAG: &str = "--child";

/// Runs the requested variant if this process was started by [`command`], and returns the figures
/// for the last line of its output.
pub(crate) fn run_if_asked() -> Option<Vec<f64>> {
    let arguments: Vec<String> = env::args().collect();
    let place = arguments.iter().position(|argument| argument == FLAG)?;
    let [measure, variant, count] = &arguments[place + 1..] else {
        panic!("{FLAG} takes a measure, a variant and a count");
    };
    let count = count.parse().expect("a number");
    Some(match measure.as_str() {
        memory::NAME => vec![memory::child(variant, count)],
        churn::NAME => vec![churn::child(variant, count)],
        shutdown::NAME => vec![shutdown::child(variant)],
        #[cfg(feature = "otel")]
        exit::NAME => {
            exit::child(variant, count);
            Vec::new()
        }
        #[cfg(feature = "otel")]
        steady::NAME => steady::child(count).into(),
        other => panic!("{other} has no child process"),
    })
}

/// Runs one variant of a measure in a child process.
///
/// # Panics
/// If the child fails: its figure would be missing without a reason.
pub(crate) fn run(measure: &str, variant: &str, count: usize) -> f64 {
    let [figure] = figures(&mut command(measure, variant, count));
    figure
}

/// Returns the command that runs one variant of a measure in a child process.
pub(crate) fn command(measure: &str, variant: &str, count: usize) -> Command {
    let own = env::current_exe().expect("a running program has a path");
    let mut command = Command::new(own);
    command.args([FLAG, measure, variant, &count.to_string()]);
    command
}

/// Runs a child process to its end, and returns its figures.
///
/// # Panics
/// If the child fails, or prints a different number of figures.
pub(crate) fn figures<const N: usize>(command: &mut Command) -> [f64; N] {
    let output = command
        .output()
        .expect("a program that runs can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.split_whitespace().map(|figure| figure.parse().ok());
    let figures: Option<Vec<f64>> = figures.collect();
    let figures = figures.and_then(|figures| figures.try_into().ok());
    figures.unwrap_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{command:?}: {errors}")
    })
}

/// Returns the resident memory of this process, in bytes.
pub(crate) fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: f64 = kibibytes
        .and_then(|number| number.parse().ok())
        .expect("VmRSS in kB, see proc_pid_status(5)");
    kibibytes * 1024.0
}
