//! Tests of the keys of log files, prewarming and progress.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{kind, parsed, refused};
use crate::service::config::Kind;
use crate::service::prewarm::PrewarmSettings;
use crate::service::process::{Condition, LogFileSettings};
use crate::service::progress::ProgressSettings;

#[test]
fn the_keys_of_files_prewarming_and_progress_are_read() {
    let config = parsed(
        "[tasks.a]\nkind = \"process\"\ncommand = [\"x\"]\nlog_file = \"a.log\"\nlog_file_size = \"2KiB\"\nlog_files_kept = 0\n\
         [tasks.w]\nkind = \"prewarm\"\nfiles = [\"f\"]\nfiles_size = \"1MiB\"\nhttp = [\"http://h/\"]\n\
         commands = [[\"c\", \"d\"]]\ndepends_on = { a = \"started\" }\nconcurrency = 2\ntimeout = \"1s\"\nrequired = true\n\
         [tasks.p]\nkind = \"progress\"\nexpected = \"off\"\n",
    );
    let Kind::Process(process) = kind(&config, "a") else {
        panic!("it is a process");
    };
    let file = LogFileSettings {
        path: "a.log".into(),
        size: 2048,
        kept: 0,
    };
    assert_eq!(process.log_file, Some(file));
    let warm = PrewarmSettings {
        files: vec!["f".into()],
        most_bytes: 1 << 20,
        http: vec!["http://h/".to_owned()],
        commands: vec![vec!["c".to_owned(), "d".to_owned()]],
        depends_on: BTreeMap::from([("a".to_owned(), Condition::Started)]),
        concurrency: 2,
        timeout: Duration::from_secs(1),
        required: true,
    };
    assert_eq!(kind(&config, "w"), Kind::Prewarm(warm));
    let off = ProgressSettings { expected: None };
    assert_eq!(kind(&config, "p"), Kind::Progress(off));
}

#[test]
fn wrong_files_and_prewarming_are_refused() {
    let process =
        |rest: &str| format!("[tasks.a]\nkind = \"process\"\ncommand = [\"x\"]\n{rest}\n");
    let prewarm = |rest: &str| format!("[tasks.a]\nkind = \"prewarm\"\n{rest}\n");
    for (text, what) in [
        (
            process("log_file = \"a\"\nlog_file_size = \"1kb\""),
            "\"1kb\" is not a size",
        ),
        (
            process("log_file = \"a\"\nlog_file_size = \"0MiB\""),
            "\"0MiB\" is out of range",
        ),
        (
            process("log_files_kept = 3"),
            "has no effect without `log_file`",
        ),
        (
            process("log_file = \"x\"")
                + "[tasks.b]\nkind = \"process\"\ncommand = [\"x\"]\nlog_file = \"x\"\n",
            "is the log file of `a` too",
        ),
        (
            prewarm(""),
            "needs at least one of `files`, `http` and `commands`",
        ),
        (
            prewarm("http = [\"ftp://h/\"]"),
            "must begin with http:// or https://",
        ),
        (
            prewarm("commands = [\"a b\"]"),
            "commands are not split by a shell",
        ),
        (
            prewarm("files = [\"a\"]\ndepends_on = [\"b\"]"),
            "there is no task named \"b\"",
        ),
    ] {
        let answer = refused(&text);
        assert!(answer.contains(what), "{text}{answer}");
    }
}
