//! Tests of faults that cannot be caused from outside the crate.

use super::Telemetry;
use crate::Runtime;
use crate::http_client::HANGS;
use crate::registry::kind::{self, Options};
use crate::registry::observer::Observer;
use crate::registry::root::Root;
use crate::registry::tracked::Spawned;
use crate::task::{TaskKind, TaskOutcome};
use std::panic::Location;
use std::sync::Arc;

/// Returns the results of the flush of a service that does nothing. Its collector has a name that
/// never resolves.
fn flushed() -> Vec<String> {
    let telemetry = Telemetry::builder().endpoint(&format!("http://{HANGS}:4318"));
    let telemetry = telemetry.build().expect("the address is one");
    let runtime = Runtime::builder()
        .print(false)
        .signals(false)
        .telemetry(&telemetry)
        .build();
    let report = runtime.expect("threads can be started").run(async |_| {});
    report.flush.iter().map(ToString::to_string).collect()
}

#[test]
fn a_hanging_resolver_does_not_delay_the_shutdown() {
    let exact = [
        "6 spans not delivered: no answer in time",
        "7 metrics not delivered: no answer in time",
    ];
    // On a busy machine the exporting thread may wake up too late to report what it has not sent.
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
    panic!("the results never name the number of records");
}

/// Ends a task of a live runtime, and one of a runtime that is gone, on a thread that has seen
/// neither root.
#[test]
fn a_task_that_outlives_its_runtime_still_leaves_a_span() {
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
        let found = kind::intern(
            kind::ROOT_PATH,
            "outlives",
            Location::caller(),
            &options,
            || "",
        );
        let spawned = Spawned::start(found, root.scope);
        let (spawned, span) = spawned.observed(&*observer, None);
        let id = spawned.id();
        let mut registration = spawned.into_registration(span);
        assert!(inner.hanging.get(id).is_some(), "it lives");
        let kept = (!is_gone).then_some(root);
        std::thread::scope(|scope| {
            scope.spawn(move || registration.end(TaskOutcome::Completed));
        });
        drop(kept);
        assert_eq!(inner.spans.len(), told, "gone: {is_gone}");
        assert!(inner.hanging.get(id).is_none(), "gone: {is_gone}");
    }
}

/// Debug output ends in logs, and the values of headers are often credentials.
#[test]
fn debug_output_names_a_header_and_hides_its_value() {
    let builder = Telemetry::builder().header("authorization", "Bearer secret");
    let builder = builder.endpoint("http://127.0.0.1:4318");
    let before = format!("{builder:?}");
    let after = format!("{:?}", builder.build().expect("the address is one"));
    for shown in [before, after] {
        assert!(shown.contains("authorization"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
