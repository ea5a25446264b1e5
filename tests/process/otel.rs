//! Tests of `headcount run` with telemetry: it reports the result of the flush, stops in time, and
//! leaves nothing behind.

use crate::program::{Ended, Program};
use crate::service::config;
use rustix::process::Signal;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

#[path = "../it/otel/sink.rs"]
#[expect(dead_code, reason = "the tests of spans use the rest")]
mod sink;

/// Runs a service until it has started, and stops it.
fn stopped(telemetry: &str, variables: &[(&str, &str)]) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let tasks = format!("{telemetry}\n[tasks.resources]\nkind = \"resources\"\n");
    let config = config(folder.path(), &tasks);
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command
        .args(["run", &config])
        .envs(variables.iter().copied());
    let mut program = Program::start(command);
    program.error_line("resources: resources process_memory");
    program.stop(Signal::TERM)
}

/// Returns an address without a listener.
fn nowhere() -> String {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
    format!("http://{}", address.expect("the loopback has ports"))
}

#[test]
fn a_service_without_telemetry_settings_exports_nothing() {
    let ended = stopped("", &[]);
    ended.assert_code(0);
    assert!(!ended.errors().contains("delivered"), "{ended:#?}");
}

#[test]
fn a_collector_that_is_not_there_is_named_in_the_report_and_does_not_fail_the_service() {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*nowhere())];
    let ended = stopped("", &variables);
    ended.assert_code(0);
    let report = ended.report();
    assert!(
        report.contains("spans not delivered: connection refused"),
        "{report}"
    );
    assert!(
        report.contains("metrics not delivered: connection refused"),
        "{report}"
    );
}

#[test]
fn a_collector_that_never_answers_costs_the_budget_of_the_flush() {
    let hole = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
    let address = hole.local_addr().expect("it is bound");
    let ended = stopped(
        &format!("[telemetry]\nendpoint = \"http://{address}\""),
        &[],
    );
    ended.assert_code(0);
    assert!(
        ended
            .report()
            .contains("spans not delivered: no answer in time"),
        "{ended:#?}"
    );
    // The flush takes a second; ten would be the timeout of a request, forty the deadline.
    ended.assert_took_at_most(Duration::from_secs(8));
}

#[test]
fn the_next_run_reports_a_killed_run_to_the_collector() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let sink = sink::Sink::start(sink::Answer::Taken);
    let state = folder.path().join("state");
    let config = folder.path().join("killed.toml");
    let text = format!(
        "[service]\nname = \"test\"\n[admin]\nlisten = \"off\"\n[state]\nfolder = \"{}\"\n\
         [telemetry]\nendpoint = \"{}\"\n[tasks.resources]\nkind = \"resources\"\n",
        state.display(),
        sink.endpoint()
    );
    std::fs::write(&config, text).expect("the folder is ours");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.arg("run").arg(&config);
        let mut program = Program::start(command);
        program.error_line("resources: resources process_memory");
        program
    };
    start().stop(Signal::KILL);
    start().stop(Signal::TERM).assert_code(0);
    let samples = sink.got().samples();
    let mut outcomes: Vec<_> = samples
        .iter()
        .filter_map(|line| line.strip_prefix("headcount_last_shutdown_info{outcome="))
        .filter_map(|line| line.split(',').next())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["clean", "unclean"]);
}

#[test]
fn a_wrong_variable_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["run", &config]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    let ended = Program::start(command).end();
    ended.assert_code(78);
    insta::assert_snapshot!(ended.errors(), @"headcount: failed to use OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317: the scheme is missing; allowed: http://HOST:PORT or https://HOST:PORT");
}

#[cfg(not(tokio_unstable))]
#[test]
fn a_console_without_tokio_unstable_is_a_warning_and_no_panic() {
    let ended = stopped("[console]\nlisten = \"127.0.0.1:0\"", &[]);
    ended.assert_code(0);
    let warning = "tokio-console is not served: built without --cfg tokio_unstable";
    assert!(ended.errors().contains(warning), "{ended:#?}");
}
