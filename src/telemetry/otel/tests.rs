//! What cannot be planted from outside.

use super::Telemetry;
use crate::Runtime;

/// A name that the resolver of the tests never answers.
pub(super) const HANGS: &str = "hangs.test";

#[test]
fn a_resolver_that_hangs_does_not_hold_the_shutdown() {
    let telemetry = Telemetry::builder().endpoint(&format!("http://{HANGS}:4318"));
    let telemetry = telemetry.build().expect("the address is one");
    let runtime = Runtime::builder()
        .print(false)
        .signals(false)
        .telemetry(&telemetry)
        .build();
    let report = runtime.expect("threads can be had").run(async |_| {});
    let said: Vec<String> = report.flush.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "6 spans not delivered: no answer in time",
            "7 metrics not delivered: no answer in time"
        ]
    );
}
