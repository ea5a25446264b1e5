//! Tests without `--cfg tokio_unstable`: tokio's own list has the untracked tasks, by type.

use super::bare;
use crate::scenario::{alone, in_time, quiet, told};
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};

const SENTENCE: &str =
    "untracked tasks: read from tokio's list, their spawn sites need --cfg tokio_unstable";

/// A future of a type of its own, which waits for ever.
struct Forgotten;

impl Future for Forgotten {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

#[test]
fn untracked_tasks_are_told_from_tracked_ones_and_counted_by_type() {
    alone(|| {
        let runtime = quiet().build().unwrap();
        let dumper = runtime.dumper();
        let report = runtime.run(async |tasks| {
            for _ in 0..3 {
                drop(bare(Forgotten));
                // The same type, and tracked.
                let member = tasks.spawn("member", Forgotten);
                member.cancel();
            }
            for _ in 0..2 {
                drop(bare(pending::<()>()));
            }
            let member = tasks.clone();
            drop(tasks.spawn("member", async move { member.draining().await }));
            let snapshot = tasks.snapshot();
            let rows = snapshot.untracked().unwrap();
            let counts: Vec<_> = rows.iter().map(|row| (row.live, row.started)).collect();
            assert_eq!(counts, [(3, None), (2, None)]);
            // Types that were read once are known from then on. On a busy machine that takes time.
            let has_types = || {
                let rows = dumper.dump().untracked.unwrap();
                rows.iter().all(|row| row.future.is_some())
            };
            while cfg!(feature = "stacks") && !has_types() {}
        });
        assert!(
            told(&report).ends_with("untracked ×3 +0; untracked ×2 +0"),
            "{}",
            told(&report)
        );
        assert_eq!(report.not_observed, [SENTENCE]);
        let rows = report.cancel.untracked.unwrap();
        assert!(rows.iter().all(|row| row.spawned.is_none()));
        let names: Vec<_> = rows.iter().map(|row| row.future.as_deref()).collect();
        if cfg!(feature = "stacks") {
            let [Some(forgotten), Some(pending)] = names[..] else {
                panic!("{names:?}")
            };
            assert!(forgotten.ends_with("::Forgotten"), "{forgotten}");
            assert!(pending.contains("Pending"), "{pending}");
        } else {
            assert_eq!(names, [None, None]);
        }
    });
}

#[test]
fn without_untracked_tasks_there_is_no_finding_and_no_note() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            for _ in 0..1_000 {
                drop(tasks.spawn("member", async {}));
            }
            in_time(bare(async {}).1).await.unwrap();
        });
        assert_eq!(report.exit_code(), 0, "{report}");
        assert!(report.is_clean(), "{report}");
        assert!(report.not_observed.is_empty(), "{report}");
        assert_eq!(report.cancel.untracked, Some(Vec::new()));
    });
}
