//! Tests of second and third signals, SIGQUIT, and process 1.

use crate::program::{Ended, Process, Program, command, ready, scenario_path};
use rustix::process::Signal;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// A limit far below the budgets: the layers of these scenarios take minutes.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends the first two signals, each after the previous one has had its effect.
#[track_caller]
fn cut_short(scenario: &[&str]) -> Program {
    let mut program = ready(scenario);
    program.signal(Signal::TERM);
    assert_eq!(program.line(), "draining");
    program.signal(Signal::TERM);
    program
}

#[test]
fn the_second_signal_cuts_the_drain_short() {
    let ended = cut_short(&["hangs-for-long"]).end();
    ended.assert_code(0).assert_took_at_most(AT_ONCE);
    insta::assert_snapshot!(after_a_cut(&ended), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ idler  ignored drain for T, spawned <idler>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn the_second_signal_may_be_another() {
    let mut program = ready(&["hangs-for-long"]);
    program.signal(Signal::INT);
    assert_eq!(program.line(), "draining");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(AT_ONCE);
    assert!(
        ended
            .errors()
            .contains("headcount test: stopping (SIGINT)\n")
    );
}

/// Returns the report, regardless of whether the poll of the task that printed "draining" has
/// returned.
fn after_a_cut(ended: &Ended) -> String {
    let report = ended.report();
    let report = report.replace(", on thread \"main\" (tid N) for T", "");
    report.replace(", on thread \"headcount-work\" (tid N) for T", "")
}

/// Returns the report of a scenario in which the cancel layer must have its full budget after a cut.
fn cancel_is_waited_for(scenario: &str) -> String {
    let mut program = cut_short(&[scenario]);
    assert_eq!(program.line(), "cancelling");
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    after_a_cut(&ended)
}

#[test]
fn after_the_second_signal_the_cancel_has_its_whole_budget() {
    insta::assert_snapshot!(cancel_is_waited_for("cancel-takes-long"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn after_the_second_signal_the_cancel_has_its_whole_budget_on_one_thread() {
    insta::assert_snapshot!(cancel_is_waited_for("cancel-takes-long-on-one-thread"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (0 ended)
    └─ cancelled  total T
    ");
}

/// Sends a first signal after another reason, and a second one during the cancel layer.
fn cut_in_cancel(scenario: &str) -> String {
    let mut program = ready(&[scenario]);
    program.signal(Signal::TERM);
    assert_eq!([program.line(), program.line()], ["draining", "cancelling"]);
    program.signal(Signal::TERM);
    // The answer shows that the signal was handled: the signal thread prints the dump.
    program.signal(Signal::QUIT);
    program.error_line("dump (SIGQUIT)");
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    after_a_cut(&ended)
}

#[test]
fn a_second_signal_in_the_cancel_layer_changes_nothing() {
    insta::assert_snapshot!(cut_in_cancel("cancel-waits"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 2s  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_second_signal_in_the_cancel_layer_changes_nothing_on_one_thread() {
    insta::assert_snapshot!(cut_in_cancel("cancel-waits-on-one-thread"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 2s  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (0 ended)
    └─ cancelled  total T
    ");
}

#[track_caller]
fn assert_third_exits(scenario: &[&str], signal: Signal, code: i32) {
    let mut program = cut_short(scenario);
    assert_eq!(program.line(), "cancelling");
    let ended = program.stop(signal);
    ended.assert_code(code).assert_took_at_most(AT_ONCE);
    assert_eq!(ended.errors(), "");
}

#[test]
fn the_third_sigterm_exits_at_once() {
    assert_third_exits(&["cancel-takes-long"], Signal::TERM, 128 + 15);
}

#[test]
fn the_third_signal_may_be_sigint() {
    assert_third_exits(&["cancel-takes-long"], Signal::INT, 128 + 2);
}

#[test]
fn the_third_signal_exits_with_every_worker_stuck() {
    assert_third_exits(&["stuck-for-long", "1"], Signal::TERM, 128 + 15);
    assert_third_exits(&["stuck-for-long", "2"], Signal::INT, 128 + 2);
}

#[test]
fn the_third_signal_exits_with_main_wedged() {
    assert_third_exits(&["main-stuck-for-long"], Signal::TERM, 128 + 15);
    assert_third_exits(&["main-stuck-for-long"], Signal::INT, 128 + 2);
}

/// Runs a command with the default effect of SIGHUP, whatever the test inherited: under nohup(1) it
/// is ignored.
fn with_hangup(command: &Command) -> Command {
    let mut env = Command::new("env");
    env.arg("--default-signal=HUP").arg(command.get_program());
    env.args(command.get_args());
    env
}

/// A terminal that was closed used to end the service at once, without a drain or a report.
#[test]
fn sighup_stops_like_sigterm() {
    let mut program = Program::start(with_hangup(&command(&["waits"])));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::HUP);
    ended.assert_code(0);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGHUP)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[test]
fn a_second_sighup_cuts_nothing_short() {
    let mut program = Program::start(with_hangup(&command(&["drain-waits"])));
    assert_eq!(program.line(), "ready");
    program.signal(Signal::HUP);
    program.error_line("waiting for");
    program.signal(Signal::HUP);
    // The answer shows that the signal before it was handled.
    program.signal(Signal::QUIT);
    program.error_line("dump (SIGQUIT)");
    writeln!(program.stdin()).expect("it reads");
    program.end().assert_code(0);
}

#[test]
fn sighup_is_still_ignored_where_nohup_ignores_it() {
    let mut ignoring = Command::new("sh");
    ignoring
        .args(["-c", "trap '' HUP; exec \"$0\" waits"])
        .arg(scenario_path());
    let mut program = Program::start(ignoring);
    assert_eq!(program.line(), "ready");
    program.signal(Signal::HUP);
    program.signal(Signal::TERM);
    let ended = program.end();
    ended.assert_code(0);
    assert!(
        ended
            .errors()
            .contains("headcount test: stopping (SIGTERM)\n"),
        "{ended:#?}"
    );
}

/// Runs a command as process 1 of a PID namespace, and stops that process with SIGTERM.
fn stop_process_1(command: &[&str], is_ready: impl FnOnce(&mut Program)) -> Ended {
    stop_unshared(&["--mount-proc"], command, is_ready)
}

fn stop_unshared(options: &[&str], command: &[&str], is_ready: impl FnOnce(&mut Program)) -> Ended {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child"])
        .args(options)
        .args(command);
    let mut program = Program::start(unshare);
    is_ready(&mut program);
    let first: Process = program.process().only_child();
    first.kill(Signal::TERM);
    program.end()
}

#[test]
#[ignore = "needs root and unshare"]
fn sigterm_stops_a_scenario_that_is_process_1() {
    let scenario = scenario_path();
    let scenario = scenario.to_str().expect("our paths are UTF-8");
    let ended = stop_process_1(&[scenario, "waits"], |program| {
        assert_eq!(program.line(), "ready");
    });
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean  total T\n"), "{ended:#?}");
}

/// In that namespace, `/proc` shows thread ids that differ from the real ones, so no thread would
/// be known.
#[test]
#[ignore = "needs root and unshare"]
fn threads_are_not_observed_where_proc_is_of_another_namespace() {
    let scenario = scenario_path();
    let scenario = scenario.to_str().expect("our paths are UTF-8");
    let ended = stop_unshared(&[], &[scenario, "waits"], |program| {
        assert_eq!(program.line(), "ready");
    });
    ended.assert_code(0);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (0 ended)
    ├─ threads and children: not observed, /proc does not show them
    └─ clean  total T
    ");
}

#[cfg(feature = "service")]
#[test]
#[ignore = "needs root and unshare"]
fn sigterm_stops_the_service_that_is_process_1() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = crate::service::config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let ended = stop_process_1(
        &[env!("CARGO_BIN_EXE_headcount"), "run", &config],
        |program| {
            program.error_line("resources process_memory_bytes=");
        },
    );
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean  total T\n"), "{ended:#?}");
}

/// 27 of 60 such signals had no effect, and the container was killed when its time to stop was over.
#[cfg(feature = "service")]
#[test]
#[ignore = "needs root and unshare"]
fn process_1_loses_no_sigterm_while_it_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = crate::service::config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let text = std::fs::read(&config).expect("just written");
    std::fs::remove_file(&config).expect("just written");
    let made = Command::new("mkfifo").arg(&config).status();
    assert!(made.expect("mkfifo runs").success());
    let mut fifo = None;
    let command = [env!("CARGO_BIN_EXE_headcount"), "run", &config];
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(command);
    let program = Program::start(unshare);
    // Opening blocks until headcount opens the pipe to read it.
    let opened = std::fs::File::options().write(true).open(&config);
    let opened = fifo.insert(opened.expect("it is a fifo"));
    let first: Process = program.process().only_child();
    first.kill(Signal::TERM);
    opened.write_all(&text).expect("it is read");
    drop(fifo);
    let ended = program.end();
    ended.assert_code(0);
    assert!(ended.report().contains("stopping (SIGTERM)"), "{ended:#?}");
}

/// It was held too, and only SIGKILL ended a service that hung before it ran.
#[cfg(feature = "service")]
#[test]
fn a_second_signal_ends_a_start_that_hangs() {
    // A signal that comes before the handler of the first has begun counts as the first.
    let (term, int) = (Some(128 + 15), Some(128 + 2));
    for (signal, codes) in [(Signal::TERM, [term, term]), (Signal::INT, [int, term])] {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let config = folder.path().join("headcount.toml");
        let made = Command::new("mkfifo").arg(&config).status();
        assert!(made.expect("mkfifo runs").success());
        let mut headcount = Command::new(env!("CARGO_BIN_EXE_headcount"));
        headcount.arg("run").arg(&config);
        let mut program = Program::start(headcount);
        // Opening blocks until headcount reads the configuration, which never comes.
        let fifo = std::fs::File::options().write(true).open(&config);
        let fifo = fifo.expect("it is a fifo");
        program.signal(Signal::TERM);
        crate::program::until(|| !program.process().is_pending(Signal::TERM));
        assert!(program.process().is_alive());
        let ended = program.stop(signal);
        assert!(codes.contains(&ended.status.code()), "{ended:#?}");
        drop(fifo);
    }
}

/// Of an orphan that process 1 adopts, as those of `docker exec`, the zombie stayed for ever.
#[cfg(feature = "service")]
#[test]
#[ignore = "needs root and unshare"]
fn process_1_reaps_orphans_and_leaves_living_ones_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = crate::service::config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([env!("CARGO_BIN_EXE_headcount"), "run", &config]);
    let mut program = Program::start(unshare);
    program.error_line("resources process_memory_bytes=");
    let first: Process = program.process().only_child();
    // A process of the same namespace, with a parent that ends at once.
    let gate = folder.path().join("gate");
    let made = Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo runs").success());
    let mut enter = Command::new("nsenter");
    enter
        .args(["--target", &first.pid().to_string(), "--pid", "--mount"])
        .args(["sh", "-c", "cat \"$0\" &"])
        .arg(&gate);
    assert!(enter.status().expect("nsenter runs").success());
    let orphan = first.only_child();
    assert!(orphan.is_alive());

    std::fs::write(&gate, "").expect("it is read");

    orphan.assert_ends();
    crate::program::until(|| first.children().is_empty());
    first.kill(Signal::TERM);
    program.end().assert_code(0);
}
