//! Threads: how many of which class live, who they are, other people's pools, and how they are made to end.

mod counts;
mod pools;
mod stop;

use headcount::report::{Reason, Report};
use headcount::{Builder, TaskGroup};

/// Runs `main` and fails when it panics, which the report alone would bear.
#[track_caller]
fn run(builder: Builder, main: impl AsyncFnOnce(TaskGroup)) -> Report {
    let report = builder.build().expect("it builds").run(main);
    assert_eq!(report.reason, Reason::MainEnded);
    report
}

/// Runs `main` and fails unless all ended by itself.
#[track_caller]
fn run_clean(main: impl AsyncFnOnce(TaskGroup)) {
    let report = run(crate::scenario::quiet(), main);
    assert!(report.is_clean(), "{report}");
}
