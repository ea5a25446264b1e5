//! A run that is dropped without having been released has been killed: its marker stays, and the lock goes.

mod damaged;
mod marks;

use super::run::{Opened, State};
use super::{Cause, Ended, Exits, PreviousRun};
use crate::report::{Outcome, Reason, Report};
use crate::runtime::Builder;
use crate::shutdown::ending::Ending;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder is to be had")
}

fn open(folder: &Path) -> Opened {
    State::open(folder, "orders", "1.2.3")
}

/// A run that finds nothing to complain of.
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
    // Other tests have threads and children in this process.
    report.outcome = Outcome::Clean;
    report
}

#[track_caller]
fn end(run: &State) {
    let until = Instant::now() + Duration::from_secs(60);
    let [saved] = &*run.end(&report(), until) else {
        panic!("not one row")
    };
    assert_eq!(saved.text, "state saved");
    run.release();
}

#[track_caller]
fn previous(run: &State) -> &PreviousRun {
    run.previous().expect("there was a run before")
}

/// Without numbers, and without the time.
fn words(run: &PreviousRun) -> String {
    let text = run.to_string();
    let (head, _) = text.split_once("; last known").unwrap_or((&text, ""));
    head.replace(&std::process::id().to_string(), "N")
}

fn exits(counts: &[(Ended, u64)]) -> Exits {
    let counts = counts.iter();
    counts
        .map(|(outcome, count)| (outcome.as_str().to_owned(), *count))
        .collect()
}

/// Changes the marker as if another had written it.
fn forge(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("run.json");
    let text = fs::read(&path).expect("there is a marker");
    let mut marker = serde_json::from_slice(&text).expect("it is JSON");
    change(&mut marker);
    fs::write(&path, marker.to_string()).expect("the folder is ours");
}

#[test]
fn the_first_run_has_none_before_it() {
    let folder = folder();
    let run = start(&folder.path().join("a/b"));
    assert_eq!(run.previous(), None);
    assert_eq!(run.exits(), Exits::new());
}

#[test]
fn a_run_that_came_to_its_end_left_its_report_and_no_marker() {
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
    assert_eq!(previous.shutdown.outcome, Ended::Clean);
    assert_eq!(previous.shutdown.reason, "main_ended");
    assert_eq!(previous.shutdown.version, "1.2.3");
    assert_eq!(
        previous.report.as_ref().expect("saved")["service"],
        "orders"
    );
    let layers = previous.shutdown.layers.iter();
    let layers: Vec<_> = layers.map(|layer| (&*layer.layer, layer.budget)).collect();
    let seconds = Duration::from_secs;
    let budgets = [
        ("drain", seconds(5)),
        ("cancel", seconds(2)),
        ("close", seconds(1)),
    ];
    assert_eq!(layers, budgets);
    assert_eq!(next.exits(), exits(&[(Ended::Clean, 1)]));
    insta::assert_snapshot!(words(previous), @"the previous run (pid N) ended clean");
}

#[test]
fn a_run_that_was_killed_left_no_report() {
    let folder = folder();
    kill(start(folder.path()));
    let next = start(folder.path());
    let previous = previous(&next);
    assert!(previous.is_unclean());
    assert_eq!(previous.shutdown.outcome, Ended::Unclean);
    assert_eq!(previous.cause, Some(Cause::Unknown));
    assert_eq!(previous.shutdown.reason, "unknown");
    assert_eq!(next.exits(), exits(&[(Ended::Unclean, 1)]));
    insta::assert_snapshot!(
        words(previous),
        @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit"
    );
}

#[test]
fn a_run_that_was_killed_after_one_that_ended_is_not_taken_for_that_one() {
    let folder = folder();
    end(&start(folder.path()));
    kill(start(folder.path()));
    let next = start(folder.path());
    assert_eq!(previous(&next).cause, Some(Cause::Unknown));
    let counted = exits(&[(Ended::Clean, 1), (Ended::Unclean, 1)]);
    assert_eq!(next.exits(), counted);
}

#[test]
fn each_start_in_a_crash_loop_sees_the_one_before() {
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
        @"the previous run (pid N) ended without a report: the machine was started anew since"
    );
}

#[test]
fn an_end_for_lack_of_memory_is_told_by_the_control_group() {
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
        @"the previous run (pid N) ended without a report: the kernel ended a process of its control group for lack of memory"
    );
}

#[test]
fn a_clock_that_was_set_does_not_change_when_the_run_ended() {
    let folder = folder();
    kill(start(folder.path()));
    forge(folder.path(), |marker| {
        // By the wall clock of that run it was 1970; by the time since the boot, a moment ago.
        let beat = marker["live"]["beat"].as_str().expect("a text");
        let (_, rest) = beat.split_once(' ').expect("four numbers");
        marker["live"]["beat"] = format!("1000 {rest}").into();
    });
    let before = std::time::SystemTime::now() - Duration::from_secs(3600);
    let next = start(folder.path());
    assert!(previous(&next).shutdown.at > before);
}

#[test]
fn a_second_instance_goes_on_without_the_folder_and_is_told_what_to_do() {
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
        @"the state folder FOLDER is in use by process N: how this run ends will not be remembered; give each instance a folder or a name of its own"
    );
    end(&first);
    let third = start(folder.path());
    assert_eq!(third.exits(), exits(&[(Ended::Clean, 1)]));
}

#[test]
fn where_locks_do_not_reach_a_process_that_lives_holds_the_folder() {
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
fn a_run_that_died_between_its_report_and_its_marker_counts_once() {
    let folder = folder();
    let run = start(folder.path());
    let marker = fs::read(folder.path().join("run.json")).expect("it is there");
    end(&run);
    fs::write(folder.path().join("run.json"), marker).expect("the folder is ours");
    let next = start(folder.path());
    assert_eq!(previous(&next).shutdown.outcome, Ended::Clean);
    assert_eq!(next.exits(), exits(&[(Ended::Clean, 1)]));
}

#[test]
fn a_report_that_cannot_be_saved_leaves_at_least_the_outcome() {
    let folder = folder();
    let run = start(folder.path());
    // In the way of the file that would be renamed.
    fs::create_dir(folder.path().join("report.json.new")).expect("the folder is ours");
    let until = Instant::now() + Duration::from_secs(60);
    let rows = run.end(&report(), until);
    let text = rows[0]
        .text
        .replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(text, @"state not saved in FOLDER: Is a directory (os error 21)");
    run.release();
    let next = start(folder.path());
    let previous = previous(&next);
    assert_eq!(previous.shutdown.outcome, Ended::Clean);
    assert_eq!(next.exits(), exits(&[(Ended::Clean, 1)]));
    insta::assert_snapshot!(
        words(previous),
        @"the previous run (pid N) ended clean, but could not save its report"
    );
}

#[test]
fn a_run_that_was_killed_while_it_was_stopping_says_so() {
    let folder = folder();
    let run = start(folder.path());
    run.start(0).expect("the system has threads");
    run.begun(&Reason::Signal(15));
    let path = folder.path().join("run.json");
    // The thread of the heartbeat writes it.
    let begun = Instant::now();
    while !fs::read_to_string(&path).is_ok_and(|text| text.contains("SIGTERM")) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nobody writes it"
        );
        std::thread::yield_now();
    }
    kill(run);
    let next = start(folder.path());
    insta::assert_snapshot!(
        words(previous(&next)),
        @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit, while it was stopping (SIGTERM): whoever stopped it may wait too short a time"
    );
}

#[test]
fn the_folder_is_where_systemd_or_the_desktop_says() {
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
