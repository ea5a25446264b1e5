//! Tests of checks by a command. The command itself is replaced; `tests/process` runs real ones.

use super::{AMPLE, outcome};
use crate::service::endpoint::{Check, Checker, CommandFailure};
use std::{sync::Arc, time::Duration};

/// Makes one check by a command that ends so.
async fn ending(end: Result<(), CommandFailure>) -> String {
    let check = Check::Command(vec!["check".to_owned(), "-v".to_owned()]);
    let checker = Checker::new(&check, AMPLE);
    let mut checker = checker.running(Arc::new(move |words, limit: Duration| {
        assert_eq!(words, ["check", "-v"]);
        assert_eq!(limit, AMPLE);
        let end = end.clone();
        Box::pin(async move { end })
    }));
    outcome(&mut checker).await
}

#[tokio::test]
async fn the_last_line_of_a_failed_command_is_the_reason() {
    let failed = |last_line: &str| CommandFailure::Failed {
        why: "exited with code 1".to_owned(),
        last_line: last_line.to_owned(),
    };
    assert_eq!(ending(Ok(())).await, "up");
    assert_eq!(ending(Err(failed(""))).await, "exited with code 1");
    assert_eq!(
        ending(Err(failed(
            "cannot reach postgres://me:s3cret@db/x\u{1b}[2J"
        )))
        .await,
        "exited with code 1: cannot reach postgres://…@db/x\u{fffd}[2J"
    );
}
