//! Without `--cfg tokio_unstable`.

use super::bare;
use crate::scenario::{alone, in_time, quiet, told};
use std::future::pending;

fn sentence(estimate: u32) -> String {
    format!(
        "untracked tasks: spawn sites not observed, built without tokio_unstable (estimated: {estimate})"
    )
}

#[test]
fn untracked_tasks_are_estimated_and_it_is_said() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            for _ in 0..3 {
                drop(bare(pending::<()>()));
            }
            let member = tasks.clone();
            drop(tasks.spawn("member", async move { member.draining().await }));
            assert!(tasks.snapshot().untracked().is_none());
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 1 of 1 ended; 0 cancelled; untracked ×3 +0"
        );
        assert_eq!(report.not_observed, [sentence(3)]);
        let sites = report.cancel.untracked.unwrap();
        assert_eq!(sites[0].spawned, "");
    });
}

#[test]
fn no_untracked_task_is_no_finding_and_it_is_said() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            for _ in 0..1_000 {
                drop(tasks.spawn("member", async {}));
            }
            in_time(bare(async {}).1).await.unwrap();
        });
        assert_eq!(report.exit_code(), 0, "{report}");
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.not_observed, [sentence(0)]);
        assert_eq!(report.cancel.untracked, Some(Vec::new()));
    });
}
