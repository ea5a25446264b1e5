//! Tests of other libraries' threads, some of them expected by a rule.

use crate::scenario::{Gate, alone, hasty, quiet, wait_until};
use headcount::report::{Outcome, Report, ThreadRow};
use headcount::threads::ThreadRule;
use headcount::{Builder, ThreadKind};
use std::io::{PipeReader, Write as _};
use std::sync::mpsc::channel;
use std::thread;

const POOL: &str = "the pool has no end";

/// Runs a service in which threads with these names live until its end is reported.
fn leaves(builder: Builder, names: &[&str]) -> Report {
    let gate = Gate::default();
    let report = builder.build().expect("a runtime").run(async |_| {
        for name in names {
            let (told, held) = (Gate::default(), gate.clone());
            let inside = told.clone();
            let library = thread::Builder::new().name((*name).to_owned());
            let begin = move || {
                inside.open();
                held.wait();
            };
            drop(library.spawn(begin).expect("a thread"));
            told.wait();
        }
    });
    gate.open();
    report
}

fn excused(report: &Report) -> Vec<(u64, &str)> {
    let rows = report.close.excused.iter();
    rows.map(|(reason, count)| (*count, &**reason)).collect()
}

#[test]
fn a_thread_with_a_rule_is_expected_with_its_reason_and_another_lingers() {
    alone(|| {
        let builder = hasty().expect_threads(ThreadRule::named("pool-*", POOL));
        let names = ["pool-1", "stranger", "pool-with-a-long-name", "poo"];
        let report = leaves(builder, &names);
        let mut accused: Vec<&str> = report.close.threads.iter().map(|t| &*t.name).collect();
        accused.sort_unstable();
        assert_eq!(accused, ["poo", "stranger"]);
        assert_eq!(report.exit_code(), 3);
        assert_eq!(excused(&report), [(2, POOL)]);
        assert!(report.close.expected >= 2, "{report}");
        let row = "│  └─ · 2 threads expected: the pool has no end\n";
        assert!(report.to_text(false).contains(row), "{report}");
        {
            let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
            let row = serde_json::json!([{ "count": 2, "reason": POOL }]);
            assert_eq!(json["close"]["excused"], row);
        }
    });
}

#[test]
fn the_threads_of_known_libraries_need_no_rule_of_the_service() {
    alone(|| {
        let names = ["tracing-appender", "notify-rs inotify loop"];
        let report = leaves(quiet(), &names);
        assert_eq!(report.outcome, Outcome::Clean, "{report}");
        assert_eq!(report.close.excused.len(), 2, "{report}");
        let own = quiet().expect_threads(ThreadRule::named("tracing-*", "we log to the end"));
        let report = leaves(own, &names[..1]);
        let reasons = excused(&report);
        assert!(reasons.contains(&(1, "we log to the end")), "{reasons:?}");
    });
}

/// Starts a thread that writes to a pipe until the pipe is full, and returns when it is blocked. It
/// ends when the other end of the pipe is dropped.
fn blocked_writer(name: &str) -> PipeReader {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let (tell, told) = channel();
    let library = thread::Builder::new().name(name.to_owned());
    let write = move || {
        let own = std::fs::read_link("/proc/thread-self").expect("procfs");
        tell.send(own).expect("the test waits");
        while writer.write_all(&[0; 4096]).is_ok() {}
    };
    drop(library.spawn(write).expect("a thread"));
    let stat = std::path::Path::new("/proc").join(told.recv().expect("it begins"));
    let stat = || std::fs::read_to_string(stat.join("stat")).expect("it is blocked for ever");
    let is_asleep = || {
        stat()
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    wait_until(is_asleep, stat);
    reader
}

/// Asserts that this is the row of a thread that is blocked in a write to a pipe.
#[track_caller]
fn assert_writes(rows: &[ThreadRow], name: &str, report: &Report) {
    let [row] = rows else { panic!("{report}") };
    let waits = row.waits.as_deref().unwrap_or_default();
    let begins = waits.starts_with("blocked in write(fd ");
    assert!(begins && waits.ends_with(" → pipe)"), "{report}");
    assert_eq!(row.name, name);
}

#[test]
fn a_blocked_writer_of_the_log_lingers_wherever_it_was_started() {
    alone(|| {
        for starts_before in [true, false] {
            let mut pipe = starts_before.then(|| blocked_writer("tracing-appender"));
            let report = hasty().build().expect("a runtime").run(async |_| {
                pipe.get_or_insert_with(|| blocked_writer("tracing-appender"));
            });
            assert_eq!(
                (report.outcome, report.exit_code()),
                (Outcome::Lingering, 3)
            );
            assert_writes(&report.close.threads, "tracing-appende", &report);
            assert!(report.close.blocked.is_empty(), "{report}");
        }
    });
}

#[test]
fn an_expected_thread_that_is_blocked_in_a_write_is_shown_and_lingers_if_its_rule_says_so() {
    alone(|| {
        let _pipe = blocked_writer("audit-log");
        let report = hasty().build().expect("a runtime").run(async |_| {});
        assert_eq!((report.outcome, report.exit_code()), (Outcome::Clean, 0));
        assert_writes(&report.close.blocked, "audit-log", &report);
        let row = &report.close.blocked[0];
        let shown = format!(
            "│  └─ ! thread \"audit-log\" (tid {}, unknown)  expected, but {}, age ",
            row.tid,
            row.waits.as_deref().unwrap_or_default()
        );
        assert!(report.to_text(false).contains(&shown), "{report}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json["close"]["blocked"][0]["tid"], row.tid);

        let rule = ThreadRule::named("audit-*", "it has no end");
        let builder = hasty().expect_threads(rule.clone().only_while_idle());
        let report = builder.build().expect("a runtime").run(async |_| {});
        assert_eq!(report.exit_code(), 3);
        assert_writes(&report.close.threads, "audit-log", &report);

        let mut late = None;
        let builder = hasty().expect_threads(rule);
        let report = builder.build().expect("a runtime").run(async |_| {
            late = Some(blocked_writer("audit-late"));
        });
        assert_eq!(report.outcome, Outcome::Clean);
        assert_eq!(excused(&report), [(1, "it has no end")]);
        assert_eq!(report.close.blocked.len(), 2, "{report}");
    });
}

#[test]
fn no_rule_applies_to_a_tracked_thread() {
    alone(|| {
        let gate = Gate::default();
        let held = gate.clone();
        let rule = ThreadRule::named("pool-*", POOL);
        let runtime = hasty().expect_threads(rule).build().expect("a runtime");
        let report = runtime.run(async |tasks| {
            drop(tasks.spawn_thread("pool-1", ThreadKind::Tracked, move || held.wait()));
        });
        gate.open();
        let [thread] = &*report.close.threads else {
            panic!("{report}");
        };
        assert_eq!(thread.name, "pool-1");
        assert_eq!(excused(&report), []);
    });
}
