//! Tests of what dumps say about waiting tasks: since when they wait, and for what.

#[cfg(feature = "stacks")]
use crate::scenario::impatient;
use crate::scenario::{alone, quiet, until};
#[cfg(feature = "stacks")]
use headcount::TaskState;
use headcount::report::{KindRow, Reason};
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

fn kind(dumper: &Dumper, name: &str) -> KindRow {
    let kinds = dumper.dump().root.kinds;
    let found = kinds.into_iter().find(|kind| kind.name == name);
    found.expect("it lives")
}

/// Runs the service, and fails if `main` does.
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
            // Both tasks have the same age; one of them is polled all the time.
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

    /// Returns the await chain without line numbers.
    fn chain(kind: &KindRow) -> Vec<String> {
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
    fn a_dump_says_what_tasks_await_and_they_continue() {
        alone(|| they_go_on(quiet()));
    }

    /// The chain omits the futures that create the span.
    #[cfg(feature = "otel")]
    #[test]
    fn a_dump_says_what_tasks_with_spans_await() {
        alone(|| {
            let telemetry = headcount::telemetry::Telemetry::builder();
            let telemetry = telemetry.sample_ratio(1.0).discard().build().unwrap();
            they_go_on(quiet().telemetry(&telemetry));
        });
    }

    /// Returns whether a dump has the text. The output is shown if the test fails.
    fn is_shown(dumper: &Dumper, text: &str) -> bool {
        let dump = dumper.dump().to_text();
        let row = dump.lines().find(|line| line.contains(", waiting for "));
        println!("{}", row.unwrap_or(&dump));
        dump.contains(text)
    }

    #[test]
    fn a_task_that_waits_for_a_socket_is_shown_with_its_peer() {
        alone(|| {
            run(quiet(), async |tasks, dumper| {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                drop(tasks.spawn("reader", async move {
                    let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
                    tokio::io::AsyncReadExt::read(&mut peer, &mut [0])
                        .await
                        .unwrap();
                }));
                let accepted = listener.accept().await.unwrap();
                let expected = format!(", waiting for tcp {address} to be readable ← ");
                // The task may still be connecting.
                until(|| is_shown(&dumper, &expected)).await;
                let accepting = async move { listener.accept().await.map(drop) };
                drop(tasks.spawn("server", accepting));
                let expected = format!(", waiting for a tcp connection to accept on {address} ← ");
                until(|| is_shown(&dumper, &expected)).await;
                drop(accepted);
                tasks.cancel().await;
            });
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
            let awaits = ", waiting for a oneshot channel ← ";
            assert!(text.contains(awaits), "{text}");
            ask.send(()).unwrap();
            server.await.unwrap();
        });
    }

    /// A task that is polled again at once waits for nothing, whatever its last await was.
    #[test]
    fn a_task_that_is_always_ready_is_told_from_one_that_waits() {
        alone(|| {
            let mut dump = None;
            let runtime = impatient().build().unwrap();
            let dumper = runtime.dumper();
            let report = runtime.run(async |tasks| {
                drop(tasks.spawn("waits", std::future::pending::<()>()));
                drop(tasks.spawn("wakes", wakes_itself()));
                drop(tasks.spawn("yields", yields()));
                drop(tasks.spawn("spends", spends_its_budget()));
                until(|| {
                    let taken = dumper.dump();
                    let mut kinds = taken.root.kinds.iter().filter(|kind| kind.name != "main");
                    let have_answered = kinds.all(|kind| kind.awaits().is_some());
                    dump = have_answered.then_some(taken);
                    have_answered
                })
                .await;
            });
            let dump = dump.expect("all have answered");
            for kind in dump.root.kinds.iter().filter(|kind| kind.name != "main") {
                let expected = (kind.name != "waits").then_some(0);
                assert_eq!(kind.always_ready(), expected, "{}", kind.name);
            }
            let text = dump.to_text();
            assert!(
                text.contains(", always ready when it was asked, yields in "),
                "{text}"
            );
            assert_eq!(report.drain.ignored.len(), 4, "{report}");
            for task in &report.drain.ignored {
                let polls = task.always_ready();
                match task.name {
                    "waits" => assert_eq!(polls, None),
                    name => assert!(polls > Some(100), "{name}: {polls:?}"),
                }
                assert!(task.stack.is_empty(), "{report}");
            }
            let text = report.to_text(false);
            let row = |name: &str| {
                let mut lines = text.lines();
                let found = lines.find(|line| line.contains(&format!("✗ {name} ")));
                found.unwrap_or_else(|| panic!("no {name}: {text}"))
            };
            assert!(row("waits").contains(", awaiting a future that registered no waker"));
            for name in ["wakes", "yields", "spends"] {
                let row = row(name);
                let (before, after) = row
                    .split_once(", always ready: polled ")
                    .unwrap_or_else(|| panic!("{text}"));
                assert!(!before.contains("on thread"), "{row}");
                assert!(
                    after.contains(" times while draining, never waits, yields in "),
                    "{row}"
                );
                assert!(after.contains("(tests/it/awaits.rs:"), "{row}");
                assert!(!after.contains("poll_budget_available"), "{row}");
            }
        });
    }

    #[inline(never)]
    async fn wakes_itself() {
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        })
        .await;
    }

    #[inline(never)]
    async fn yields() {
        loop {
            tokio::task::yield_now().await;
        }
    }

    #[inline(never)]
    async fn spends_its_budget() {
        let (sender, mut closed) = tokio::sync::mpsc::unbounded_channel::<()>();
        drop(sender);
        loop {
            tokio::select! {
                _ = closed.recv() => {}
                () = std::future::pending() => {}
            }
        }
    }

    /// The dump would have to poll the tasks that it asks.
    #[test]
    fn a_dump_by_a_task_on_the_only_thread_asks_no_task() {
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
                // A task that the dump woke gets its turn here.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(polls.load(Ordering::Relaxed), 1);
                tasks.cancel().await;
            });
        });
    }
}
