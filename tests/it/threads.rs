//! Tests of threads: counts by class, the list, foreign pools, and how threads are made to end.

mod counts;
mod pools;
mod stop;

use headcount::report::{Reason, Report};
use headcount::{Builder, TaskGroup};

/// Runs `main` and fails if it panics, which would otherwise only be in the report.
#[track_caller]
fn run(builder: Builder, main: impl AsyncFnOnce(TaskGroup)) -> Report {
    let report = builder.build().expect("it builds").run(main);
    assert_eq!(report.reason, Reason::MainEnded);
    report
}

/// Runs `main` and fails unless everything ended by itself.
#[track_caller]
fn run_clean(main: impl AsyncFnOnce(TaskGroup)) {
    let report = run(crate::scenario::quiet(), main);
    assert!(report.is_clean(), "{report}");
}
