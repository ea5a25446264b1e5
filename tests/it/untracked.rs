//! Tasks that are spawned past headcount: counted by spawn site where tokio's hooks are, estimated where they are not.

#[cfg(not(tokio_unstable))]
mod estimated;
#[cfg(tokio_unstable)]
mod exact;

use crate::scenario::{alone, told};
use std::future::{Future, pending};
use std::panic::Location;
use tokio::task::JoinHandle;

/// Spawns past headcount; gives the line too.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "it is what must be found")]
fn bare<F: Future<Output: Send> + Send + 'static>(future: F) -> (u32, JoinHandle<F::Output>) {
    (Location::caller().line(), tokio::spawn(future))
}

#[test]
fn untracked_tasks_of_a_runtime_that_is_not_ours_are_not_observed() {
    alone(|| {
        let theirs = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let report = theirs.block_on(async {
            let attached = headcount::attach(theirs.handle()).unwrap();
            drop(bare(pending::<()>()));
            let tasks = attached.tasks();
            let member = tasks.clone();
            drop(tasks.spawn("member", async move { member.draining().await }));
            let snapshot = tasks.snapshot();
            assert!(snapshot.untracked().is_none());
            assert_eq!(snapshot.tasks().len(), 1);
            attached.shutdown("enough").await
        });
        assert_eq!(told(&report), "clean 0: enough; 1 of 1 ended; 0 cancelled");
        assert_eq!(report.cancel.untracked, None);
        assert_eq!(
            report.not_observed,
            ["untracked tasks: not observed, the runtime is not headcount's"]
        );
    });
}
