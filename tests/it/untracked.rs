//! Tests of tasks spawned bypassing headcount: counted by spawn site if tokio's hooks are
//! available, read from tokio's list otherwise.

#[cfg(tokio_unstable)]
mod exact;
#[cfg(not(tokio_unstable))]
mod listed;

use crate::scenario::{GUARD, SHORT, alone, impatient, in_time, quiet, told};
use headcount::{Builder, Report};
use std::future::{Future, pending};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Spawns bypassing headcount, and returns the line as well.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
fn bare<F: Future<Output: Send> + Send + 'static>(future: F) -> (u32, JoinHandle<F::Output>) {
    (Location::caller().line(), tokio::spawn(future))
}

#[test]
fn untracked_tasks_of_a_runtime_that_is_not_ours_are_seen_and_left_alone() {
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
            assert_eq!(snapshot.untracked().map(|rows| rows[0].live), Some(1));
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

/// Spawns a clean-up when it is dropped, which takes this time.
struct Subscription(Arc<AtomicBool>, Duration);

impl Drop for Subscription {
    fn drop(&mut self) {
        let (done, takes) = (Arc::clone(&self.0), self.1);
        drop(bare(async move {
            tokio::time::sleep(takes).await;
            done.store(true, Ordering::Relaxed);
        }));
    }
}

/// Runs a service with a subscription that is dropped in the drain, beside an untracked task that
/// never ends. Returns its report, and whether the clean-up was done.
fn unsubscribes(builder: Builder, takes: Duration) -> (Report, bool) {
    let done = Arc::new(AtomicBool::new(false));
    let held = Subscription(Arc::clone(&done), takes);
    let report = builder.build().unwrap().run(async |tasks| {
        drop(bare(pending::<()>()));
        let own = tasks.clone();
        drop(tasks.spawn("listen", async move {
            own.draining().await;
            drop(held);
        }));
    });
    (report, done.load(Ordering::Relaxed))
}

#[test]
fn an_untracked_task_of_the_drain_has_time_to_end_and_one_that_never_ends_costs_none() {
    alone(|| {
        let (report, is_done) = unsubscribes(quiet(), SHORT);
        assert!(is_done, "{report}");
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 1 of 1 ended; 0 cancelled; untracked ×1 +0"
        );
        let took = report.drain.timing.took;
        assert!(SHORT <= took && took < GUARD, "{took:?}");
    });
}

#[test]
fn untracked_tasks_have_no_time_if_the_service_gives_them_none() {
    alone(|| {
        let (report, is_done) = unsubscribes(quiet().untracked_budget(Duration::ZERO), GUARD);
        assert!(!is_done, "{report}");
        let dropped = report.cancel.untracked.iter().flatten();
        assert_eq!(dropped.map(|site| site.dropped).sum::<u64>(), 2, "{report}");
    });
}

#[test]
fn with_a_share_the_drain_waits_for_all_untracked_tasks_and_no_longer() {
    alone(|| {
        let waits = || quiet().untracked_budget(GUARD);
        let report = waits().build().unwrap().run(async |_| {
            drop(bare(tokio::time::sleep(SHORT)));
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
        let builder = impatient().untracked_budget(GUARD);
        let report = builder.build().unwrap().run(async |_| {
            drop(bare(pending::<()>()));
        });
        let timing = report.drain.timing;
        assert!(
            timing.took >= SHORT,
            "the budget of the drain ends it: {timing:?}"
        );
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×1 +0"
        );
    });
}

#[test]
fn the_tasks_of_a_join_set_that_is_dropped_with_its_task_are_reported() {
    #[track_caller]
    fn add(set: &mut tokio::task::JoinSet<()>) {
        set.spawn(pending());
    }
    alone(|| {
        let report = impatient().build().unwrap().run(async |tasks| {
            let (begun, begins) = tokio::sync::oneshot::channel();
            drop(tasks.spawn("owner", async move {
                let mut set = tokio::task::JoinSet::new();
                for _ in 0..3 {
                    add(&mut set);
                }
                begun.send(()).unwrap();
                set.join_next().await;
            }));
            in_time(begins).await.unwrap();
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored owner; 1 cancelled; untracked ×3 +0"
        );
    });
}

/// Returns the numbers of untracked and of unwakeable tasks that the root group sees.
fn seen(tasks: &headcount::TaskGroup) -> (u64, u64) {
    let snapshot = tasks.snapshot();
    let rows = snapshot.untracked().unwrap();
    let sum = |of: fn(&headcount::report::UntrackedRow) -> u64| rows.iter().map(of).sum();
    (sum(|row| row.live), sum(|row| row.unwakeable))
}

/// tokio moves a future of that size into a box, so its task does not have it.
#[test]
fn a_tracked_task_with_a_large_future_is_not_taken_for_an_untracked_one() {
    alone(|| {
        let theirs = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let attached = headcount::attach(theirs.handle()).unwrap();
        let tasks = attached.tasks();
        let large = async {
            let buffer = [0_u8; 100_000];
            pending::<()>().await;
            std::hint::black_box(buffer);
        };
        // It is never polled, so it publishes no waker.
        drop(tasks.spawn("large", large));
        drop(tasks.spawn("small", async { pending::<()>().await }));
        assert_eq!(seen(tasks), (0, 0));
        drop(theirs.spawn(pending::<()>()));
        assert_eq!(seen(tasks), (1, 0));
    });
}

#[test]
fn tasks_of_a_second_attachment_to_a_runtime_are_not_untracked() {
    alone(|| {
        let theirs = tokio::runtime::Runtime::new().unwrap();
        let first = headcount::attach(theirs.handle()).unwrap();
        let second = headcount::attach(theirs.handle()).unwrap();
        drop(second.tasks().spawn("waits", pending::<()>()));
        assert_eq!(seen(first.tasks()).0, 0);
        assert_eq!(seen(second.tasks()).0, 0);
    });
}

#[test]
fn only_a_task_without_a_waker_cannot_be_woken() {
    alone(|| {
        quiet().build().unwrap().run(async |tasks| {
            let (wake, woken) = tokio::sync::oneshot::channel::<()>();
            let notify = Arc::new(tokio::sync::Notify::new());
            let notified = Arc::clone(&notify);
            drop(bare(async move { notified.notified().await }));
            drop(bare(async move { drop(woken.await) }));
            drop(bare(tokio::time::sleep(GUARD)));
            drop(bare(async {
                let mut set = tokio::task::JoinSet::new();
                set.spawn(tokio::time::sleep(GUARD));
                set.join_next().await;
            }));
            let sleeps = tasks.spawn("sleeps", tokio::time::sleep(GUARD));
            let lost = bare(pending::<()>()).1;
            let never = tasks.spawn("lost", pending::<()>());
            // One more is the task of the set.
            while seen(&tasks) != (6, 1) {
                assert!(seen(&tasks).1 <= 1, "{:?}", tasks.snapshot().untracked());
                tokio::task::yield_now().await;
            }
            lost.abort();
            sleeps.cancel();
            never.cancel();
            drop((wake, notify));
        });
    });
}
