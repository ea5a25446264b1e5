//! Tests that the process ends within its deadline and with the right exit code, whatever blocks.

use crate::program::{Ended, Program, command, ready, start, until};
use rustix::process::Signal;
use std::io::BufRead;
use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

/// The deadline of these scenarios is 2 s, plus half a second for the last words.
const DEADLINE: Duration = Duration::from_secs(6);

#[track_caller]
fn forced(scenario: &[&str]) -> Ended {
    let ended = ready(scenario).stop(Signal::TERM);
    ended.assert_code(70).assert_took_at_most(DEADLINE);
    ended
}

#[test]
fn a_main_that_holds_its_thread_is_named_and_the_process_ended() {
    insta::assert_snapshot!(forced(&["main-wedged"]).errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  0 of 1 task ended
    │  └─ ✗ main  ignored drain for T, on thread "main" (tid N) for T, spawned <main>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ main  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <main>
    ├─ 3 close  T of 200ms  no thread lingers (2 ended)
    └─ forced: 1 task  total T
    "#);
}

#[test]
fn a_main_that_holds_the_lock_of_stderr_blocks_no_output() {
    insta::assert_snapshot!(forced(&["main-wedged-holding-stderr"]).errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  0 of 1 task ended
    │  └─ ✗ main  ignored drain for T, on thread "main" (tid N) for T, spawned <main>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ main  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <main>
    ├─ 3 close  T of 200ms  no thread lingers (2 ended)
    └─ forced: 1 task  total T
    "#);
}

/// Removes the thread that finds tokio's layout from a list of threads. It ends as soon as it has found
/// it, so it is listed on a busy machine only.
fn without_reader(said: &str) -> String {
    let is_reader = |line: &&str| line.contains("\"headcount-inspect\"");
    let readers = said.lines().filter(is_reader).count();
    assert!(readers <= 1, "{said}");
    if readers == 0 {
        return said.to_owned();
    }
    let kept: Vec<_> = said.lines().filter(|line| !is_reader(line)).collect();
    let mut kept = kept.join("\n").replace("9 threads", "8 threads") + "\n";
    if let Some(last) = kept.rfind("├─ \"").filter(|_| !kept.contains("└─ \"")) {
        kept.replace_range(last..last + "├─".len(), "└─");
    }
    kept
}

#[test]
fn the_watchdog_ends_a_process_whose_control_side_hangs() {
    let said = forced(&["control-wedged"]).errors();
    // The last words are repeated with symbols if there is time.
    let (said, _) = said
        .split_once("headcount test: the same threads with function names:")
        .unwrap_or((&said, ""));
    // A worker is known as one only after it was idle once. The time of `main`'s last poll is
    // unknown before the first pulse.
    let said = said
        .replace("running,", "sleeping,")
        .replace(" last poll T ago,", "")
        .replace("(tid N, blocking)", "(tid N, worker)");
    let said = without_reader(&said);
    insta::assert_snapshot!(said, @r#"
    headcount test: forced: the deadline of 2.0s passed in layer 'drain'; still alive:
    ├─ 1 tracked task
    │  └─ main  draining, age T, spawned <main>
    └─ 8 threads
      ├─ "main" (tid N, main)  waits, age T, cpu T
      ├─ "headcount-work" (tid N, worker)  waits, age T, cpu T
      ├─ "headcount-work" (tid N, worker)  waits, age T, cpu T
      ├─ "headcount-print" (tid N, control)  waits, age T, cpu T
      ├─ "headcount-watchdog" (tid N, control)  waits, age T, cpu T
      ├─ "headcount-signal" (tid N, control)  waits, age T, cpu T
      ├─ "headcount-control" (tid N, control)  waits, age T, cpu T
      └─ "headcount-last" (tid N, control)  waits, age T, cpu T
    "#);
}

#[test]
fn a_process_suspended_past_its_deadline_says_so() {
    let mut program = ready(&["control-wedged-for-long"]);
    program.signal(Signal::TERM);
    // The process is in the first layer.
    assert_eq!(program.line(), "woken");
    // The thread is created when the deadline begins.
    until(|| program.files_of("headcount-last", "comm").count() == 1);
    program.signal(Signal::STOP);
    // This test needs real time: the deadline plus one and a half seconds.
    std::thread::sleep(Duration::from_millis(6500));
    program.signal(Signal::CONT);
    let ended = program.end();
    ended.assert_code(70);
    let head = "headcount test: forced: the deadline of 5.0s passed in layer 'drain' ";
    let tail = " ago, while the process was stopped or got no CPU time; still alive:";
    let said = ended.stderr.iter();
    let mut said = said.filter(|line| line.starts_with(head) && line.ends_with(tail));
    assert!(said.next().is_some(), "{ended:#?}");
}

#[test]
fn a_task_that_holds_the_only_thread_is_named_and_the_process_ended() {
    insta::assert_snapshot!(forced(&["one-thread-stuck"]).errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  0 of 2 tasks ended
    │  ├─ ✗ sleeper  ignored drain for T, on thread "main" (tid N) for T, spawned <sleeper on one thread>
    │  └─ · 1 task was not polled since the stop began: sleeper holds the only worker
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  ├─ ✗ sleeper  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <sleeper on one thread>
    │  └─ · no worker free to drop 1 task: sleeper holds the only worker
    ├─ 3 close  T of 200ms  no thread lingers (0 ended)
    └─ forced: 1 task  total T
    "#);
}

#[test]
fn on_one_thread_tasks_drain_after_main_has_ended() {
    let ended = start(&["one-thread-drains"]).end();
    ended.assert_code(0);
    assert_eq!(ended.stdout, ["ready", "drained"]);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (main ended)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (0 ended)
    └─ clean  total T
    ");
}

#[test]
fn on_one_thread_a_service_stops_cleanly() {
    let ended = ready(&["one-thread-waits"]).stop(Signal::TERM);
    ended.assert_code(0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (0 ended)
    └─ clean  total T
    ");
}

#[test]
fn a_log_that_blocks_at_the_end_delays_neither_the_exit_nor_the_report() {
    let ended = ready(&["subscriber-blocks"]).stop(Signal::TERM);
    ended.assert_code(3).assert_took_at_most(DEADLINE);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 200ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "a-very-long-watcher" (tid N, tracked)  waiting on futex A, age T, cpu T, started <watcher>
    └─ lingering: 1 thread  total T
    "#);
}

/// Without `tokio_unstable`, no warning is logged that early.
#[cfg(tokio_unstable)]
#[test]
fn a_log_that_has_blocked_for_long_delays_neither_the_exit_nor_the_report() {
    let ended = ready(&["subscriber-blocks-early"]).stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(DEADLINE);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  0 tracked cancelled, 3 untracked dropped
    │  └─ ! untracked ×3  spawned <untracked>
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

/// Runs the scenario with a full pipe without a reader as its standard error.
fn unheard(scenario: &str) -> Ended {
    let (unread, mut stderr) = io::pipe().expect("pipes are available");
    let size = rustix::pipe::fcntl_setpipe_size(&stderr, 4096).expect("pipes may be small");
    stderr.write_all(&vec![b'.'; size]).expect("so much fits");
    let mut program = Program::start_with_stderr(command(&[scenario]), stderr);
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    drop(unread);
    ended
}

#[test]
fn a_full_pipe_without_a_reader_does_not_delay_the_exit() {
    unheard("waits")
        .assert_code(0)
        .assert_took_at_most(DEADLINE);
    unheard("thread-lingers")
        .assert_code(3)
        .assert_took_at_most(DEADLINE);
    unheard("main-wedged")
        .assert_code(70)
        .assert_took_at_most(DEADLINE);
    unheard("control-wedged")
        .assert_code(70)
        .assert_took_at_most(DEADLINE);
}

#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    for (scenario, code) in [("waits", 0), ("thread-lingers", 3), ("main-wedged", 70)] {
        let (reader, stderr) = io::pipe().expect("pipes are available");
        let mut program = Program::start_with_stderr(command(&[scenario]), stderr);
        assert_eq!(program.line(), "ready");
        drop(reader);
        program
            .stop(Signal::TERM)
            .assert_code(code)
            .assert_took_at_most(DEADLINE);
    }
}

#[test]
fn a_closed_standard_output_changes_no_exit_code() {
    for (scenario, code) in [("waits-as-json", 0), ("thread-lingers-as-json", 3)] {
        let (reader, stdout) = io::pipe().expect("pipes are available");
        let program = Program::start_with_stdout(command(&[scenario]), stdout);
        let mut line = String::new();
        io::BufReader::new(reader)
            .read_line(&mut line)
            .expect("it is text");
        assert_eq!(line, "ready\n");
        program
            .stop(Signal::TERM)
            .assert_code(code)
            .assert_took_at_most(DEADLINE);
    }
}

#[test]
fn without_any_standard_stream_the_exit_code_is_right() {
    let scenario = command(&["main-ends"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$0\" main-ends <&- >&- 2>&-"])
        .arg(scenario.get_program());
    let ended = Program::start(shell).end();
    ended.assert_code(0);
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (0, 0));
}
