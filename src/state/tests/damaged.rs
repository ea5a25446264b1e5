use super::*;

/// Opens a folder in which one file is not as it should be, and returns the warning and the next run.
#[track_caller]
fn warned(folder: &Path) -> (String, Arc<State>) {
    let opened = open(folder);
    let [warning] = &*opened.warnings else {
        panic!("not one warning: {opened:?}")
    };
    let warning = warning.replace(&folder.display().to_string(), "FOLDER");
    (warning, opened.state.expect("it goes on"))
}

#[test]
fn a_marker_that_was_cut_off_is_kept_aside_and_its_run_did_not_end_well() {
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
        @"FOLDER/run.json is not understood: EOF while parsing a value at line 1 column 10; kept as FOLDER/run.json.damaged"
    );
    let kept = fs::read(folder.path().join("run.json.damaged"));
    assert_eq!(kept.expect("kept"), cut);
    assert_eq!(previous(&next).cause, Some(Cause::Unknown));
    let counted = exits(&[(Ended::Clean, 1), (Ended::Unclean, 1)]);
    assert_eq!(next.exits(), counted);
    insta::assert_snapshot!(
        words(previous(&next)),
        @"the previous run ended without a report: it was killed, aborted, or called exit"
    );
}

#[test]
fn no_marker_of_whatever_length_stops_the_next_run() {
    let folder = folder();
    let path = folder.path().join("run.json");
    kill(start(folder.path()));
    let bytes = fs::read(&path).expect("it is there");
    for length in (0..bytes.len() - 2).step_by(17) {
        fs::write(&path, &bytes[..length]).expect("the folder is ours");
        let (warning, next) = warned(folder.path());
        assert!(warning.contains("is not understood"), "{warning}");
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
        @"FOLDER/report.json is not understood: expected value at line 1 column 1; kept as FOLDER/report.json.damaged"
    );
    assert_eq!(next.previous(), None);
    end(&next);
    assert_eq!(
        previous(&start(folder.path())).shutdown.outcome,
        Ended::Clean
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
        @"FOLDER/run.json is not understood: its schema is 2, of a later version; kept as FOLDER/run.json.damaged"
    );
}

#[test]
fn a_folder_or_a_pipe_in_the_place_of_a_file_is_put_aside() {
    let folder = folder();
    let path = folder.path().join("run.json");
    fs::create_dir_all(path.join("full")).expect("the folder is ours");
    let (warning, next) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"FOLDER/run.json is not understood: it is not a file; kept as FOLDER/run.json.damaged"
    );
    next.release();
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("it runs").success());
    let (warning, next) = warned(folder.path());
    assert!(warning.contains("it is not a file"), "{warning}");
    end(&next);
}

#[test]
fn a_file_in_the_place_of_the_folder_is_a_warning() {
    let folder = folder();
    let path = folder.path().join("state");
    fs::write(&path, "").expect("the folder is ours");
    let opened = open(&path);
    assert!(opened.state.is_none());
    let warning = opened.warnings.concat();
    let warning = warning.replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(
        warning,
        @"the state folder FOLDER/state cannot be used: File exists (os error 17); how this run ends will not be remembered"
    );
}

#[test]
fn a_folder_that_takes_no_marker_is_a_warning_and_the_report_is_saved_if_it_can_be() {
    let folder = folder();
    let new = folder.path().join("run.json.new");
    fs::create_dir(&new).expect("the folder is ours");
    let (warning, run) = warned(folder.path());
    insta::assert_snapshot!(
        warning,
        @"the state folder FOLDER cannot be written: Is a directory (os error 21); if this run is killed, the next will not know"
    );
    end(&run);
    fs::remove_dir(&new).expect("the folder is ours");
    assert_eq!(
        previous(&start(folder.path())).shutdown.outcome,
        Ended::Clean
    );
}
