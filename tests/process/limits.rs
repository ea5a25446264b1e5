//! Tests of `headcount` on a system that refuses threads or descriptors.
//!
//! The shell's `ulimit` sets the limits: of memory, so that the stacks of threads do not fit, and of
//! open files.

use crate::program::{Ended, Program};
use crate::service::config;
use rustix::process::Signal;
use std::process::Command;

/// Starts a service with a shell that has set a limit.
fn limited(limit: &str, tasks: &str) -> (Program, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = config(folder.path(), tasks);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" run \"$1\"")])
        .args([env!("CARGO_BIN_EXE_headcount"), &config]);
    (Program::start(command), folder)
}

/// Asserts that the program did not start, and said why in a sentence of its own.
#[track_caller]
fn assert_refused(ended: &Ended) {
    ended.assert_code(71);
    let first = ended.stderr.first().map_or("", String::as_str);
    let names_the_reason = first.starts_with("headcount: failed to ")
        || first.ends_with("headcount.toml: cannot be read: too many open files");
    assert!(names_the_reason, "{ended:#?}");
    assert_eq!(ended.stdout, [""; 0]);
}

#[test]
fn a_service_with_more_workers_than_threads_is_refused() {
    // A thousand stacks of 2 MiB do not fit into 1 GB, and some hundred do.
    let tasks = "[runtime]\nworker_threads = 1000\n[tasks.watch]\nkind = \"resources\"\n";
    let (program, _folder) = limited("-v 1000000", tasks);
    let ended = program.end();
    assert_refused(&ended);
    insta::assert_snapshot!(ended.stderr.join("\n"), @"
    headcount: failed to start the runtime's threads: Cannot allocate memory (os error 12)
      raise the limit of threads or memory: pids.max and memory.max of the control group, `ulimit -u` or `ulimit -v`,
      or start fewer threads with [runtime] worker_threads
    ");
}

#[test]
fn a_service_with_too_few_descriptors_is_refused_or_runs() {
    let tasks = "[tasks.watch]\nkind = \"resources\"\n";
    // With fewer than four, the program itself cannot be loaded.
    for (refused, files) in (4..64).enumerate() {
        let (mut program, _folder) = limited(&format!("-n {files}"), tasks);
        let first = program.error_line("");
        if first.contains(": running 1 task as \"test\"") {
            program.stop(Signal::TERM).assert_code(0);
            assert!(refused > 0, "{files} are enough");
            return;
        }
        assert_refused(&program.end());
    }
    panic!("64 descriptors are not enough");
}
