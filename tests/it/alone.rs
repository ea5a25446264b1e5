//! Runs a test in its own process; the unit tests also use it.

use std::any::type_name_of_val;
use std::process::Command;

const ALONE: &str = "HEADCOUNT_TEST_IS_ALONE";

/// Runs the test in its own process, because the audit sees every thread of the process, including
/// those of other tests.
#[track_caller]
pub(crate) fn alone<F: FnOnce()>(test: F) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let name = type_name_of_val(&test);
    let name = name.trim_end_matches("::{{closure}}");
    let (_, name) = name.split_once("::").expect("the crate comes first");
    let output = Command::new(std::env::current_exe().expect("a test has a file"))
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(ALONE, "1")
        // With a backtrace, symbolizing takes a second in a debug build, during which the panicking
        // task is still alive.
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("it runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{name} failed with {}:\n{stdout}\n{stderr}",
        output.status
    );
}
