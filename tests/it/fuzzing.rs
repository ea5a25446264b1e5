//! Random input for what reads the text and the files of others; the unit tests also use it.
//!
//! Plain `cargo test` runs some cases, which are the same each time. `HEADCOUNT_FUZZ=60` adds other ones, for so many seconds.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::fmt::Debug;
use std::time::{Duration, Instant};

const SECONDS: &str = "HEADCOUNT_FUZZ";

/// Holds a property for values of a strategy.
#[track_caller]
pub(crate) fn fuzz<S: Strategy>(
    cases: u32,
    strategy: &S,
    holds: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let fixed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config.clone(), fixed);
    told(runner.run(strategy, &holds));
    let seconds = std::env::var(SECONDS).ok();
    let seconds = seconds.map_or(0, |seconds| seconds.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        told(TestRunner::new(config.clone()).run(strategy, &holds));
    }
}

#[track_caller]
fn told<T: Debug>(result: Result<(), TestError<T>>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}
