use super::*;
use std::os::unix::fs::PermissionsExt;

/// Opens a folder with one damaged file, and returns the warning and the run.
#[track_caller]
fn warned(folder: &Path) -> (String, Arc<State>) {
    let opened = open(folder);
    let [warning] = &*opened.warnings else {
        panic!("not one warning: {opened:?}")
    };
    let warning = warning.replace(&folder.display().to_string(), "FOLDER");
    (warning, opened.state.expect("the run continues"))
}

#[test]
fn a_truncated_marker_is_kept_aside_and_its_run_counts_as_unclean() {
    let folder = folder();
    end(&start(folder.path()));
    kill(start(folder.path()));
    let path = folder.path().join("run.json");
    let bytes = fs::read(&path).expect("it is there");
    let cut = &bytes[..10];
    fs::write(&path, cut).expect("the folder is ours");
    let (warning, next) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"FOLDER/run.json cannot be read: EOF while parsing a value at line 1 column 10; kept as FOLDER/run.json.damaged"
    );
    let kept = fs::read(folder.path().join("run.json.damaged"));
    assert_eq!(kept.expect("kept"), cut);
    assert_eq!(previous(&next).cause, Some(Cause::Unknown));
    let counted = exits(&[(Outcome::Clean, 1), (Outcome::Unclean, 1)]);
    assert_eq!(next.exits(), counted);
    insta::assert_snapshot!(
        words(previous(&next)),
        @"the previous run ended without a report: it was killed, aborted, or called exit"
    );
}

#[test]
fn a_marker_truncated_at_any_length_does_not_stop_the_next_run() {
    let folder = folder();
    let path = folder.path().join("run.json");
    kill(start(folder.path()));
    let bytes = fs::read(&path).expect("it is there");
    for length in (0..bytes.len() - 2).step_by(17) {
        fs::write(&path, &bytes[..length]).expect("the folder is ours");
        let (warning, next) = warned(folder.path());
        assert!(warning.contains("cannot be read"), "{warning}");
        kill(next);
    }
}

#[test]
fn a_report_that_is_not_json_is_kept_aside() {
    let folder = folder();
    end(&start(folder.path()));
    let path = folder.path().join("report.json");
    fs::write(&path, b"\xff\x00garbage").expect("the folder is ours");
    let (warning, next) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"FOLDER/report.json cannot be read: expected value at line 1 column 1; kept as FOLDER/report.json.damaged"
    );
    assert_eq!(next.previous(), None);
    end(&next);
    assert_eq!(
        previous(&start(folder.path())).shutdown.outcome,
        Outcome::Clean
    );
}

#[test]
fn a_file_of_a_later_version_is_kept_aside() {
    let folder = folder();
    kill(start(folder.path()));
    forge(folder.path(), |marker| marker["schema"] = 2.into());
    let (warning, _next) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"FOLDER/run.json cannot be read: schema 2 is newer than supported; kept as FOLDER/run.json.damaged"
    );
}

#[test]
fn a_directory_or_a_pipe_in_place_of_a_file_is_moved_aside() {
    let folder = folder();
    let path = folder.path().join("run.json");
    fs::create_dir_all(path.join("full")).expect("the folder is ours");
    let (warning, next) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"FOLDER/run.json cannot be read: not a regular file; kept as FOLDER/run.json.damaged"
    );
    next.release();
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("it runs").success());
    let (warning, next) = warned(folder.path());
    assert!(warning.contains("not a regular file"), "{warning}");
    end(&next);
}

#[test]
fn a_file_in_place_of_the_folder_is_a_warning() {
    let folder = folder();
    let path = folder.path().join("state");
    fs::write(&path, "").expect("the folder is ours");
    let opened = open(&path);
    assert!(opened.state.is_none());
    let warning = opened.warnings.concat();
    let warning = warning.replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(
        warning,
        @"the state folder FOLDER/state cannot be used: File exists (os error 17); how this run ends will not be recorded"
    );
}

/// Opens the folder as a user that may lock it and not write to it.
#[track_caller]
fn opened_read_only(folder: &Path) -> (String, Arc<State>) {
    fs::write(folder.join("lock"), "").expect("the folder is ours");
    let mode = |path: &Path, mode| {
        let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode));
        changed.expect("the folder is ours");
    };
    mode(&folder.join("lock"), 0o666);
    mode(folder, 0o555);
    let opened = std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            // Permissions do not bind root. This changes the user of this thread alone.
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).ok();
            warned(folder)
        });
        opening.join().expect("it does not panic")
    });
    mode(folder, 0o755);
    opened
}

#[test]
fn a_marker_that_cannot_be_written_is_a_warning_and_the_report_is_still_saved() {
    let folder = folder();
    let (warning, run) = opened_read_only(folder.path());
    insta::assert_snapshot!(
        warning,
        @"the state folder FOLDER cannot be written: Permission denied (os error 13); if this run is killed, the next one cannot tell"
    );
    end(&run);
    assert_eq!(
        previous(&start(folder.path())).shutdown.outcome,
        Outcome::Clean
    );
}
