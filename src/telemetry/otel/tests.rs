//! What cannot be planted from outside.

use super::Telemetry;
use crate::Runtime;
use crate::registry::kind::{self, Options};
use crate::registry::observer::Observer;
use crate::registry::root::Root;
use crate::registry::tracked::{Entered, Row};
use crate::task::{TaskKind, TaskOutcome};
use std::panic::Location;
use std::sync::Arc;

/// A name that the resolver of the tests never answers.
pub(super) const HANGS: &str = "hangs.test";

/// What a flush says of the telemetry of a service that does nothing.
fn flushed() -> Vec<String> {
    let telemetry = Telemetry::builder().endpoint(&format!("http://{HANGS}:4318"));
    let telemetry = telemetry.build().expect("the address is one");
    let runtime = Runtime::builder()
        .print(false)
        .signals(false)
        .telemetry(&telemetry)
        .build();
    let report = runtime.expect("threads can be had").run(async |_| {});
    report.flush.iter().map(ToString::to_string).collect()
}

#[test]
fn a_resolver_that_hangs_does_not_hold_the_shutdown() {
    let exact = [
        "6 spans not delivered: no answer in time",
        "7 metrics not delivered: no answer in time",
    ];
    // On a busy machine the exporting thread may not be woken in time to say what it has not sent.
    for _ in 0..20 {
        let said = flushed();
        if said == exact {
            return;
        }
        let is_late = |line: &String| {
            line.ends_with(" not delivered: no answer in time")
                || line.contains(" not done within ")
        };
        assert!(!said.is_empty() && said.iter().all(is_late), "{said:?}");
    }
    panic!("it is never known of each record");
}

/// The end of a task whose runtime is gone, and of one whose runtime lives: on a thread that knows of neither.
#[test]
fn a_task_that_outlives_its_runtime_is_told_of_all_the_same() {
    let telemetry = Telemetry::builder().endpoint("http://127.0.0.1:9");
    let telemetry = telemetry.build().expect("the address is one");
    let inner = &telemetry.0;
    for (is_gone, told) in [(false, 1), (true, 2)] {
        let root = Root::new();
        let observer: Arc<dyn Observer> = Arc::new(Arc::clone(inner));
        root.observe(Arc::clone(&observer));
        let options = Options {
            long_lived: true,
            ..Options::of(TaskKind::Async)
        };
        let found = kind::intern(kind::ROOT_PATH, "outlives", Location::caller(), &options);
        let entered = Entered::start(found, root.scope);
        let (entered, span) = entered.observed(&*observer, None);
        let id = entered.id();
        let mut row = Row::new(entered, span);
        assert!(inner.hanging.get(id).is_some(), "it lives");
        let kept = (!is_gone).then_some(root);
        std::thread::scope(|scope| {
            scope.spawn(move || row.end(TaskOutcome::Completed));
        });
        drop(kept);
        assert_eq!(inner.spans.len(), told, "gone: {is_gone}");
        assert!(inner.hanging.get(id).is_none(), "gone: {is_gone}");
    }
}
