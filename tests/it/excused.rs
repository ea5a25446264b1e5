//! Threads of other libraries, which a rule expects, and others, which none does.

use crate::scenario::{Gate, alone, hasty, quiet};
use headcount::report::{Outcome, Report};
use headcount::threads::ThreadRule;
use headcount::{Builder, ThreadKind};
use std::thread;

const POOL: &str = "the pool has no end";

/// A service in which threads of those names live until its end is reported.
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
    rows.map(|row| (row.count, &*row.reason)).collect()
}

#[test]
fn a_thread_that_a_rule_names_is_excused_with_its_reason_and_another_is_accused() {
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
        #[cfg(feature = "json")]
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

#[test]
fn no_rule_excuses_a_thread_that_is_tracked() {
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
