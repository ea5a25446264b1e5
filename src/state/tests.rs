//! Tests of the state folder. Dropping a run without releasing it stands for a kill: its marker
//! stays, and the lock is released.

mod damaged;
mod last_run;
mod links;
mod marks;

use super::run::{Opened, State};
use super::{Cause, Exits, PreviousRun};
use crate::control::exit_hook::ExitHook;
use crate::report::{Outcome, Reason, Report};
use crate::runtime::Builder;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be created")
}

fn open(folder: &Path) -> Opened {
    State::open(folder, ("orders", "1.2.3"), None)
}

/// Starts a run and asserts that it has no warnings.
#[track_caller]
fn start(folder: &Path) -> Arc<State> {
    let opened = open(folder);
    assert_eq!(opened.warnings, [""; 0]);
    opened.state.expect("the folder can be used")
}

fn kill(run: Arc<State>) {
    drop(run);
}

fn report() -> Report {
    let builder = Builder::new().name("orders").print(false).signals(false);
    let mut report = builder
        .build()
        .expect("the system has threads")
        .run(async |_| {});
    // Threads and children of other tests in this process would count as lingering.
    report.outcome = Outcome::Clean;
    report
}

#[track_caller]
fn end(run: &State) {
    let until = Instant::now() + Duration::from_secs(60);
    let [saved] = &*run.run(&report(), until) else {
        panic!("not one row")
    };
    assert_eq!(saved.text, "state saved");
    run.release();
}

#[track_caller]
fn previous(run: &State) -> &PreviousRun {
    run.previous().expect("there was a run before")
}

/// Returns the sentence about a run without the pid and the time.
fn words(run: &PreviousRun) -> String {
    let text = run.to_string();
    let (head, _) = text.split_once("; last seen alive").unwrap_or((&text, ""));
    head.replace(&std::process::id().to_string(), "N")
}

fn exits(counts: &[(Outcome, u64)]) -> Exits {
    let counts = counts.iter();
    counts
        .map(|(outcome, count)| (outcome.as_str().to_owned(), *count))
        .collect()
}

/// Changes the marker as if another process had written it.
fn forge(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("run.json");
    let text = fs::read(&path).expect("there is a marker");
    let mut marker = serde_json::from_slice(&text).expect("it is JSON");
    change(&mut marker);
    fs::write(&path, marker.to_string()).expect("the folder is ours");
}

#[test]
fn the_first_run_has_no_previous_run() {
    let folder = folder();
    let run = start(&folder.path().join("a/b"));
    assert_eq!(run.previous(), None);
    assert_eq!(run.exits(), Exits::new());
}

#[test]
fn a_run_that_ended_leaves_its_report_and_no_marker() {
    let folder = folder();
    end(&start(folder.path()));
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .expect("it is there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["lock", "report.json"]);
    let next = start(folder.path());
    let previous = previous(&next);
    assert!(!previous.is_unclean());
    assert_eq!(previous.shutdown.outcome, Outcome::Clean);
    assert_eq!(previous.shutdown.reason, "main_ended");
    assert_eq!(previous.shutdown.version, "1.2.3");
    assert_eq!(
        previous.report.as_ref().expect("saved")["service"],
        "orders"
    );
    let layers = previous.shutdown.layers.iter();
    let layers: Vec<_> = layers
        .map(|(name, layer)| (&**name, layer.budget))
        .collect();
    let seconds = Duration::from_secs;
    let budgets = [
        ("cancel", seconds(2)),
        ("close", seconds(1)),
        ("drain", seconds(5)),
    ];
    assert_eq!(layers, budgets);
    assert_eq!(next.exits(), exits(&[(Outcome::Clean, 1)]));
    insta::assert_snapshot!(words(previous), @"the previous run (pid N) ended clean");
}

#[test]
fn a_killed_run_leaves_no_report() {
    let folder = folder();
    kill(start(folder.path()));
    let next = start(folder.path());
    let previous = previous(&next);
    assert!(previous.is_unclean());
    assert_eq!(previous.shutdown.outcome, Outcome::Unclean);
    assert_eq!(previous.cause, Some(Cause::Unknown));
    assert_eq!(previous.shutdown.reason, "unknown");
    assert_eq!(next.exits(), exits(&[(Outcome::Unclean, 1)]));
    insta::assert_snapshot!(
        words(previous),
        @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit"
    );
}

#[test]
fn a_killed_run_is_not_confused_with_an_earlier_run_that_ended() {
    let folder = folder();
    end(&start(folder.path()));
    kill(start(folder.path()));
    let next = start(folder.path());
    assert_eq!(previous(&next).cause, Some(Cause::Unknown));
    let counted = exits(&[(Outcome::Clean, 1), (Outcome::Unclean, 1)]);
    assert_eq!(next.exits(), counted);
}

#[test]
fn each_start_in_a_crash_loop_sees_the_previous_one() {
    let folder = folder();
    let mut last = String::new();
    for crashes in 0..5 {
        let run = start(folder.path());
        let before = run.previous().map_or("", |previous| &*previous.run_id);
        assert_eq!(before, last);
        let counted = run.exits();
        assert_eq!(counted.get("unclean").copied().unwrap_or(0), crashes);
        let marker = fs::read(folder.path().join("run.json")).expect("it is there");
        let marker: serde_json::Value = serde_json::from_slice(&marker).expect("it is JSON");
        last = marker["run_id"].as_str().expect("a text").to_owned();
        kill(run);
    }
}

#[test]
fn another_boot_id_is_a_reboot() {
    let folder = folder();
    kill(start(folder.path()));
    forge(folder.path(), |marker| {
        marker["boot_id"] = "5d1e7a52-0000-4000-8000-000000000000".into();
    });
    let next = start(folder.path());
    let previous = previous(&next);
    assert_eq!(previous.cause, Some(Cause::Reboot));
    assert_eq!(previous.ended_ago, None);
    insta::assert_snapshot!(
        previous.to_string().replace(&std::process::id().to_string(), "N"),
        @"the previous run (pid N) ended without a report: the machine has rebooted since"
    );
}

#[test]
fn an_oom_kill_is_recognized_by_the_control_group() {
    use std::os::unix::fs::MetadataExt;
    let (folder, group) = (folder(), folder());
    let events = group.path().join("memory.events");
    fs::write(&events, "oom_kill 1\n").expect("the folder is ours");
    kill(start(folder.path()));
    let inode = fs::metadata(group.path()).expect("it is there").ino();
    forge(folder.path(), |marker| {
        marker["cgroups"] = serde_json::json!({ "own": { "file": events, "inode": inode } });
    });
    let next = start(folder.path());
    let previous = previous(&next);
    assert_eq!(previous.cause, Some(Cause::OutOfMemory));
    insta::assert_snapshot!(
        words(previous),
        @"the previous run (pid N) ended without a report: the kernel killed a process of its control group because memory ran out"
    );
}

#[test]
fn setting_the_clock_does_not_change_when_the_run_ended() {
    let folder = folder();
    kill(start(folder.path()));
    forge(folder.path(), |marker| {
        // The heartbeat is from 1970 by the wall clock, and a moment old by the time since the
        // boot.
        let beat = marker["live"]["beat"].as_str().expect("a text");
        let (_, rest) = beat.split_once(' ').expect("four numbers");
        marker["live"]["beat"] = format!("1000 {rest}").into();
    });
    let before = std::time::SystemTime::now() - Duration::from_secs(3600);
    let next = start(folder.path());
    assert!(previous(&next).shutdown.at > before);
}

#[test]
fn a_second_instance_runs_without_the_folder_and_warns_with_a_remedy() {
    let folder = folder();
    let first = start(folder.path());
    let second = open(folder.path());
    assert!(second.state.is_none());
    let [warning] = &*second.warnings else {
        panic!("{second:?}")
    };
    let warning = warning
        .replace(&folder.path().display().to_string(), "FOLDER")
        .replace(&std::process::id().to_string(), "N");
    insta::assert_snapshot!(
        warning,
        @"the state folder FOLDER is in use by process N: how this run ends will not be recorded; give each instance its own folder or name"
    );
    end(&first);
    let third = start(folder.path());
    assert_eq!(third.exits(), exits(&[(Outcome::Clean, 1)]));
}

#[test]
fn a_live_process_holds_the_folder_even_without_locks() {
    let folder = folder();
    kill(start(folder.path()));
    let mut other = Command::new("sleep").arg("1000").spawn().expect("it runs");
    let pid = other.id();
    forge(folder.path(), |marker| {
        marker["pid"] = pid.into();
        marker["pid_start"] = crate::audit::start_of(pid).expect("it lives").into();
    });
    let second = open(folder.path());
    assert!(second.state.is_none());
    assert!(second.warnings[0].contains(&format!("in use by process {pid}")));
    other.kill().expect("it is our child");
    other.wait().expect("it is our child");
    let third = start(folder.path());
    assert_eq!(previous(&third).pid, pid);
}

#[test]
fn a_run_that_never_began_leaves_no_marker() {
    let folder = folder();
    start(folder.path()).release();
    assert_eq!(start(folder.path()).previous(), None);
}

#[test]
fn a_run_that_died_before_it_removed_its_marker_counts_once() {
    let folder = folder();
    let run = start(folder.path());
    let marker = fs::read(folder.path().join("run.json")).expect("it is there");
    end(&run);
    fs::write(folder.path().join("run.json"), marker).expect("the folder is ours");
    let next = start(folder.path());
    assert_eq!(previous(&next).shutdown.outcome, Outcome::Clean);
    assert_eq!(next.exits(), exits(&[(Outcome::Clean, 1)]));
}

#[test]
fn the_outcome_is_known_even_if_the_report_cannot_be_saved() {
    let folder = folder();
    let run = start(folder.path());
    // A file cannot be renamed over a directory.
    let path = folder.path().join("report.json");
    fs::create_dir(&path).expect("the folder is ours");
    let until = Instant::now() + Duration::from_secs(60);
    let rows = run.run(&report(), until);
    let text = rows[0]
        .text
        .replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(text, @"state not saved in FOLDER: Is a directory (os error 21)");
    run.release();
    fs::remove_dir(&path).expect("the folder is ours");
    let next = start(folder.path());
    let previous = previous(&next);
    assert_eq!(previous.shutdown.outcome, Outcome::Clean);
    assert_eq!(next.exits(), exits(&[(Outcome::Clean, 1)]));
    insta::assert_snapshot!(
        words(previous),
        @"the previous run (pid N) ended clean, but could not save its report"
    );
}

#[test]
fn a_run_that_was_killed_while_stopping_is_reported_as_such() {
    let folder = folder();
    let run = start(folder.path());
    run.start(0).expect("the system has threads");
    run.begun(&Reason::Signal(15));
    let path = folder.path().join("run.json");
    // The heartbeat's thread writes the reason.
    let begun = Instant::now();
    while !fs::read_to_string(&path).is_ok_and(|text| text.contains("SIGTERM")) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the reason is not written"
        );
        std::thread::yield_now();
    }
    kill(run);
    let next = start(folder.path());
    insta::assert_snapshot!(
        words(previous(&next)),
        @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit, while it was stopping (SIGTERM): it may have been given too little time to stop"
    );
}

#[test]
fn the_default_folder_follows_systemd_and_the_xdg_specification() {
    let path = |variables: &[(&str, &str)]| {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).into())
        };
        let folder = super::folder_from("or/ders", value)?;
        Some(folder.to_str().expect("UTF-8").to_owned())
    };
    let systemd = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    let xdg = ("XDG_STATE_HOME", "/state");
    let home = ("HOME", "/home/me");
    assert_eq!(path(&[systemd, xdg, home]).as_deref(), Some("/var/lib/a"));
    assert_eq!(
        path(&[xdg, home]).as_deref(),
        Some("/state/headcount/or_ders")
    );
    let below_home = Some("/home/me/.local/state/headcount/or_ders");
    assert_eq!(path(&[home]).as_deref(), below_home);
    let relative = ("XDG_STATE_HOME", "state");
    assert_eq!(path(&[relative, home]).as_deref(), below_home);
    assert_eq!(path(&[]), None);
    assert_eq!(super::plain("..").as_str(), "service");
}
