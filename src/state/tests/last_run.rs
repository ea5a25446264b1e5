//! Tests of the last run as another process reads it.

use super::{end, folder, forge, kill, start};
use crate::state::LastRun;
use std::fs;
use std::path::Path;

/// Returns the text, or the error.
fn last(folder: &Path) -> String {
    let text = match LastRun::in_folder(folder) {
        Ok(last) => last.to_string(),
        Err(error) => error.to_string(),
    };
    let text = text.replace(&folder.display().to_string(), "FOLDER");
    let text = text.replace(&std::process::id().to_string(), "N");
    // The time varies.
    let (head, _) = text.split_once("; last seen alive").unwrap_or((&text, ""));
    head.lines().next().unwrap_or("").to_owned()
}

/// Makes the marker that of a process that is dead.
fn bury(folder: &Path) {
    forge(folder, |marker| marker["pid_start"] = 1.into());
}

const KILLED: &str =
    "the run (pid N) ended without a report: it was killed, aborted, or called exit";
const ENDED: &str = "headcount orders: stopping (main ended)";

#[test]
fn a_run_that_goes_on_is_not_the_last_one() {
    let folder = folder();
    let none = "no run has ended in the state folder FOLDER";
    assert_eq!(last(folder.path()), none);
    let run = start(folder.path());
    assert_eq!(last(folder.path()), none);
    end(&run);
    assert_eq!(last(folder.path()), ENDED);
    let _next = start(folder.path());
    assert_eq!(last(folder.path()), ENDED);
}

#[test]
fn a_killed_run_is_the_last_one_before_and_after_the_next_start() {
    let folder = folder();
    end(&start(folder.path()));
    kill(start(folder.path()));
    bury(folder.path());
    assert_eq!(last(folder.path()), KILLED);
    let next = start(folder.path());
    assert_eq!(last(folder.path()), KILLED);
    end(&next);
    assert_eq!(last(folder.path()), ENDED);
}

#[test]
fn a_run_that_saved_its_report_is_not_taken_for_killed() {
    let folder = folder();
    let run = start(folder.path());
    let marker = fs::read(folder.path().join("run.json")).expect("it is there");
    end(&run);
    fs::write(folder.path().join("run.json"), marker).expect("the folder is ours");
    bury(folder.path());
    assert_eq!(last(folder.path()), ENDED);
}

#[test]
fn what_an_interrupted_start_has_kept_stays() {
    let folder = folder();
    kill(start(folder.path()));
    let marker = fs::read(folder.path().join("run.json")).expect("it is there");
    kill(start(folder.path()));
    let kept = folder.path().join("killed.json");
    let text = fs::read_to_string(&kept).expect("the second start has kept it");
    let text = text.replace("\"moments\":null", "\"moments\":{\"live_tasks\":3}");
    fs::write(&kept, &text).expect("the folder is ours");
    // As if the second start had not come to its own marker.
    fs::write(folder.path().join("run.json"), marker).expect("the folder is ours");
    let _third = start(folder.path());
    assert_eq!(fs::read_to_string(&kept).expect("it is there"), text);
    let file = LastRun::in_file(&kept).expect("it is whole");
    assert_eq!(file.json()["moments"]["live_tasks"], 3);
}

#[test]
fn a_report_that_cannot_be_read_is_named() {
    let folder = folder();
    let report = folder.path().join("report.json");
    fs::write(&report, "{").expect("the folder is ours");
    let words =
        "FOLDER/report.json is not a saved report: EOF while parsing an object at line 1 column 1";
    assert_eq!(last(folder.path()), words);
    let error = LastRun::in_file(&report)
        .expect_err("it is damaged")
        .to_string();
    assert!(
        error.ends_with("is not a saved report: EOF while parsing an object at line 1 column 1")
    );
    let missing = LastRun::in_file(&folder.path().join("x")).expect_err("there is none");
    let missing = std::error::Error::source(&missing)
        .expect("it cannot be opened")
        .to_string();
    assert_eq!(missing, "No such file or directory (os error 2)");
}
