//! Tests of symbolic links that another user has planted in a folder.

use super::*;
use crate::state::textfile::Textfile;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A folder with links, and a file elsewhere to which they lead.
struct Planted {
    folder: tempfile::TempDir,
    _elsewhere: tempfile::TempDir,
    victim: PathBuf,
}

// === impl Planted ===

impl Planted {
    fn links(names: &[&str]) -> Self {
        let (folder, elsewhere) = (folder(), folder());
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "precious").expect("the folder is ours");
        for name in names {
            symlink(&victim, folder.path().join(name)).expect("the folder is ours");
        }
        Self {
            folder,
            _elsewhere: elsewhere,
            victim,
        }
    }

    #[track_caller]
    fn assert_unharmed(&self) {
        let content = fs::read_to_string(&self.victim);
        assert_eq!(content.expect("it is there"), "precious");
    }
}

#[test]
fn a_link_at_the_name_of_a_new_file_is_not_followed() {
    let planted = Planted::links(&["run.json.new", "report.json.new"]);
    end(&start(planted.folder.path()));
    planted.assert_unharmed();
    assert!(planted.folder.path().join("report.json").is_file());
}

#[test]
fn a_link_at_the_name_of_a_record_is_moved_aside_and_not_read() {
    let planted = Planted::links(&["run.json", "report.json"]);
    let opened = open(planted.folder.path());
    let place = planted.folder.path().display().to_string();
    let warnings = opened.warnings.join("\n").replace(&place, "FOLDER");
    insta::assert_snapshot!(warnings, @r"
    FOLDER/run.json cannot be read: a symbolic link; kept as FOLDER/run.json.damaged
    FOLDER/report.json cannot be read: a symbolic link; kept as FOLDER/report.json.damaged
    ");
    end(&opened.state.expect("the run continues"));
    planted.assert_unharmed();
}

#[test]
fn a_link_at_the_name_of_the_lock_is_refused() {
    let planted = Planted::links(&["lock"]);
    let opened = open(planted.folder.path());
    assert!(opened.state.is_none());
    let place = planted.folder.path().display().to_string();
    let warnings = opened.warnings.join("\n").replace(&place, "FOLDER");
    insta::assert_snapshot!(
        warnings,
        @"the state folder FOLDER cannot be used: `lock` is a symbolic link; how this run ends will not be recorded"
    );
}

#[test]
fn a_link_in_the_folder_of_the_textfile_is_not_followed() {
    let planted = Planted::links(&["orders.prom", "orders.prom.new"]);
    let path = planted.folder.path().join("orders.prom");
    let textfile = Textfile::new(path.clone(), "orders", "1", None);
    let until = Instant::now() + Duration::from_secs(60);
    let [written] = &*textfile.run(&report(), until) else {
        panic!("not one row")
    };
    assert_eq!(written.text, "textfile written");
    planted.assert_unharmed();
    let found = fs::symlink_metadata(&path).expect("it is there");
    assert!(!found.is_symlink(), "the link is replaced");
}

#[test]
fn files_that_a_killed_run_left_unfinished_are_removed() {
    let folder = folder();
    let left = folder.path().join("report.json.0123.new");
    fs::write(&left, "{").expect("the folder is ours");
    start(folder.path()).release();
    assert!(!left.exists());
}
