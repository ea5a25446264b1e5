//! Tests of the three ways into a service of headcount, by `headcount ps` and `headcount tree`, and of
//! the list of services.

use crate::program::{Program, until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const TASKS: &str = "[tasks.resources]\nkind = \"resources\"\n\
                     [tasks.sleeps]\nkind = \"process\"\ncommand = [\"sleep\", \"1000\"]\n";

/// A running service with a control socket and a black box.
pub(crate) struct Service {
    pub(crate) program: Program,
    pub(crate) folder: TempDir,
}

/// Starts a service with two tasks, and waits until both run.
#[track_caller]
pub(crate) fn serve() -> Service {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = folder.path().join("headcount.toml");
    let state = folder.path().join("state");
    let text = format!(
        "[service]\nname = \"orders\"\n[admin]\nlisten = \"off\"\n[state]\nfolder = {:?}\n{TASKS}",
        state.display()
    );
    fs::write(&config, text).expect("the folder is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.arg("run").arg(&config);
    command.env_remove("RUNTIME_DIRECTORY");
    command.env("XDG_RUNTIME_DIR", folder.path());
    let mut program = Program::start(command);
    program.error_line("headcount::process: ready");
    program.has_said("headcount::progress: the service is ready");
    Service { program, folder }
}

/// Runs a command, which must succeed, and returns its output.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8(output.stdout).expect("it is UTF-8")
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(arguments).stdin(Stdio::null());
    command.output().expect("it runs")
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let text = said(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text).expect("it is JSON")
}

/// Returns the ways of the rows of the tasks with these paths.
fn ways<'a>(picture: &'a Value, tasks: &[&str]) -> Vec<&'a str> {
    let groups = picture["groups"].as_array().expect("it has groups");
    let row = |task: &&str| {
        let mut rows = groups.iter().filter(|group| group["task"] == **task);
        let row = rows.next().unwrap_or_else(|| panic!("{task}: {picture}"));
        assert!(rows.next().is_none(), "{task} is there twice: {picture}");
        assert_eq!(row["count"], 1, "{picture}");
        assert!(row["oldest_seconds"].as_f64().is_some(), "{picture}");
        row["by"].as_str().expect("each row has its way")
    };
    tasks.iter().map(row).collect()
}

#[test]
fn a_service_that_answers_is_asked_and_one_that_is_stopped_is_read_by_both_other_ways() {
    let mut service = serve();
    let pid = service.program.pid().to_string();
    let tasks = ["main", "resources", "process/sleeps"];
    // With a task of the service itself, `process/starter`, and once its task `progress` has ended.
    until(|| json(&["ps", &pid])["tasks"] == 4);
    for verb in ["ps", "tree"] {
        let picture = json(&[verb, &pid]);
        assert_eq!(picture["by"], "control socket", "{picture}");
        assert_eq!(
            (&picture["service"], &picture["phase"]),
            (&"orders".into(), &"running".into())
        );
        assert_eq!(picture["tasks"], 4, "{picture}");
        assert_eq!(ways(&picture, &tasks), ["control socket"; 3]);
    }
    let tree = said(&["tree", &pid]);
    assert!(tree.contains("process/sleeps"), "{tree}");
    assert!(
        tree.contains("waiting for the next tick of an interval"),
        "{tree}"
    );
    let boxed = json(&["ps", &pid, "--by", "black-box"]);
    assert_eq!(
        (&boxed["by"], &boxed["tasks"]),
        (&"black box".into(), &4.into())
    );
    let attached = json(&["ps", &pid, "--by", "attach"]);
    assert_eq!(attached["by"], "attach");
    let groups = attached["groups"].as_array().expect("it has groups");
    assert!(
        groups.iter().all(|group| group["task"].is_null()),
        "{attached}"
    );

    service.program.signal(Signal::STOP);
    until(|| {
        said(&["ps"])
            .lines()
            .any(|line| line.contains(&pid) && line.contains(" stopped "))
    });
    for verb in ["ps", "dump"] {
        let picture = json(&[verb, &pid]);
        let both = "attach and black box";
        assert_eq!(picture["by"], both, "{picture}");
        assert_eq!(ways(&picture, &tasks), ["black box", both, both]);
        let groups = picture["groups"].as_array().expect("it has groups");
        let count: u64 = groups
            .iter()
            .filter_map(|group| group["count"].as_u64())
            .sum();
        assert_eq!(picture["tasks"], count);
    }
    let refused = run(&["dump", &pid, "--by", "socket"]);
    assert_eq!(refused.status.code(), Some(1), "it cannot answer");
    service.program.signal(Signal::CONT);
    service.program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn the_services_of_the_user_are_listed_with_their_names_and_phases() {
    let mut service = serve();
    let pid = service.program.pid();
    let row = || {
        let services = json(&["ps"]);
        let services = services.as_array().expect("a list").clone();
        services.into_iter().find(|service| service["pid"] == pid)
    };
    until(|| row().is_some_and(|seen| seen["tasks"] == 4));
    let seen = row().expect("it is listed");
    assert_eq!(
        (&seen["service"], &seen["phase"]),
        (&"orders".into(), &"running".into())
    );
    assert_eq!(seen["by"], "control socket");
    service.program.signal(Signal::STOP);
    until(|| row().is_some_and(|seen| seen["by"] == "black box" && seen["stopped"] == true));
    let text = said(&["ps"]);
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(&pid.to_string()));
    let words: Vec<&str> = line.expect("it is listed").split_whitespace().collect();
    assert_eq!(&words[1..4], ["orders", "stopped", "4"]);
    service.program.signal(Signal::CONT);
    service.program.stop(Signal::TERM).assert_code(0);
    assert_eq!(row(), None);
}

#[test]
fn a_process_that_is_no_service_has_neither_socket_nor_box() {
    for (by, why) in [
        ("socket", "has no control socket"),
        ("black-box", "has no black box that can be read"),
    ] {
        let refused = run(&["ps", &std::process::id().to_string(), "--by", by]);
        assert_eq!(refused.status.code(), Some(1));
        let error = String::from_utf8(refused.stderr).expect("it is UTF-8");
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(run(&["ps", "--by", "socket"]).status.code(), Some(2));
}

#[test]
fn init_writes_a_configuration_that_check_accepts_and_does_not_overwrite_it() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        let command = command.args(arguments).current_dir(folder.path());
        command.output().expect("it runs")
    };
    let written = run(&["init", "--name", "orders"]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    let file = folder.path().join("headcount.toml");
    let text = fs::read_to_string(&file).expect("it was written");
    assert!(text.contains("\nname = \"orders\"\n"), "{text}");
    let checked = run(&["check", "headcount.toml"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    fs::write(&file, "mine").expect("it is ours");
    let refused = run(&["init"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).expect("it is UTF-8");
    assert!(
        error.contains("headcount.toml exists, and is not overwritten"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
}

#[test]
fn completions_and_manual_pages_have_all_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&["completions", shell]);
        for command in ["top", "tree", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let pages = folder.path().join("man");
    said(&["man", pages.to_str().expect("temporary names are UTF-8")]);
    for page in ["headcount.1", "headcount-top.1", "headcount-ps.1"] {
        let text = fs::read_to_string(pages.join(page)).expect("it was written");
        assert!(text.contains(".SH NAME"), "{page}");
    }
    assert!(!pages.join("headcount-man.1").exists(), "it is hidden");
}
