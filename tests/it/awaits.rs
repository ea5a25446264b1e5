//! What dumps say of tasks that wait: since when, and for what.

use crate::scenario::{alone, quiet, until};
#[cfg(feature = "stacks")]
use headcount::TaskState;
use headcount::report::Reason;
use headcount::report::dump::Kind;
use headcount::runtime::Dumper;
use headcount::{Builder, TaskGroup};
#[cfg(feature = "stacks")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;
#[cfg(feature = "stacks")]
use tokio::sync::oneshot;

fn kind(dumper: &Dumper, name: &str) -> Kind {
    let kinds = dumper.dump().root.kinds;
    let found = kinds.into_iter().find(|kind| kind.name == name);
    found.expect("it lives")
}

/// Fails where `main` does.
fn run(builder: Builder, main: impl AsyncFnOnce(TaskGroup, Dumper)) {
    let runtime = builder.build().unwrap();
    let dumper = runtime.dumper();
    let report = runtime.run(async |tasks| main(tasks, dumper).await);
    assert_eq!(report.reason, Reason::MainEnded);
}

#[test]
fn a_dump_says_when_a_task_was_polled_last() {
    alone(|| {
        let often = quiet().hold_limit(Duration::from_millis(50));
        run(often, async |tasks, dumper| {
            drop(tasks.spawn("parked", std::future::pending::<()>()));
            let ticking = tasks.clone();
            drop(tasks.spawn("ticker", async move {
                let mut tick = tokio::time::interval(Duration::from_millis(1));
                while ticking.until_draining(tick.tick()).await.is_some() {}
            }));
            let last_poll = |name| kind(&dumper, name).rows[0].last_poll;
            // Both are as old; one of them is polled all the time.
            until(|| {
                let (parked, ticker) = (last_poll("parked"), last_poll("ticker"));
                parked > ticker.map(|ago| ago * 3)
            })
            .await;
            let parked = &kind(&dumper, "parked").rows[0];
            assert!(parked.last_poll <= Some(parked.age), "{parked:?}");
            tasks.cancel().await;
        });
    });
}

#[cfg(feature = "stacks")]
mod chains {
    use super::*;

    #[inline(never)]
    async fn serve(request: oneshot::Receiver<()>) {
        answer(request).await;
    }

    #[inline(never)]
    async fn answer(request: oneshot::Receiver<()>) {
        request.await.ok();
    }

    /// The chain without its lines.
    fn chain(kind: &Kind) -> Vec<String> {
        let awaits = kind.rows[0].awaits.as_deref().expect("it has answered");
        let [chain] = awaits else {
            panic!("{awaits:?}")
        };
        let place = |frame: &headcount::report::Frame| {
            let file = frame.file.as_deref().unwrap_or("");
            let file = file.rsplit_once('/').map_or(file, |(_, name)| name);
            format!("{} {file}", frame.function)
        };
        chain.iter().map(place).collect()
    }

    #[test]
    fn a_dump_says_what_tasks_await_and_they_go_on() {
        alone(|| they_go_on(quiet()));
    }

    /// The chain says nothing of what makes the span.
    #[cfg(feature = "otel")]
    #[test]
    fn a_dump_says_what_tasks_with_spans_await() {
        alone(|| {
            let telemetry = headcount::telemetry::Telemetry::builder();
            let telemetry = telemetry.sample_ratio(1.0).discard().build().unwrap();
            they_go_on(quiet().telemetry(&telemetry));
        });
    }

    fn they_go_on(builder: Builder) {
        run(builder, async |tasks, dumper| {
            let (ask, request) = oneshot::channel();
            let server = tasks.spawn("server", serve(request));
            let is_parked = || {
                let rows = kind(&dumper, "server").rows;
                rows[0].state == TaskState::Running && rows[0].on_thread.is_none()
            };
            until(is_parked).await;
            let server_awaits = chain(&kind(&dumper, "server"));
            assert_eq!(server_awaits.len(), 3, "{server_awaits:?}");
            assert!(
                server_awaits[0].ends_with(" oneshot.rs"),
                "{server_awaits:?}"
            );
            for (frame, name) in server_awaits[1..].iter().zip(["answer", "serve"]) {
                assert!(frame.contains(name), "{server_awaits:?}");
            }
            let text = dumper.dump().to_text();
            assert!(text.contains(", awaiting "), "{text}");
            ask.send(()).unwrap();
            server.await.unwrap();
        });
    }

    /// Who is asked is polled out of turn.
    #[test]
    fn a_dump_by_a_task_on_the_only_thread_asks_nobody() {
        alone(|| {
            run(quiet().current_thread(), async |tasks, dumper| {
                let polls = Arc::new(AtomicU64::new(0));
                let counted = Arc::clone(&polls);
                let parked = std::future::poll_fn(move |cx| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    drop(cx.waker().clone());
                    std::task::Poll::<()>::Pending
                });
                drop(tasks.spawn("parked", parked));
                until(|| polls.load(Ordering::Relaxed) == 1).await;
                drop(kind(&dumper, "parked"));
                // Whoever was woken by the dump has its turn.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(polls.load(Ordering::Relaxed), 1);
                tasks.cancel().await;
            });
        });
    }
}
