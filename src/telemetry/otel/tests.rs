//! What cannot be planted from outside.

use super::Telemetry;
use crate::Runtime;

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
