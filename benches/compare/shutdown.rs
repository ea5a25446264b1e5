//! Time from the stop request until a service of six idle tasks has ended.

use crate::{
    child,
    harness::{Scale, Variant, interleave},
    headcount,
    peers::{self, BARE, JOIN_SET, SUBSYSTEMS, TOKEN},
    rounds::Parking,
    table::{Limit, Row, Section, Unit},
};
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) const NAME: &str = "shutdown";

const TASKS: usize = 6;

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let mut variants = [BARE, TOKEN, JOIN_SET, SUBSYSTEMS, headcount::NAME].map(|variant| {
        Variant::new(variant, move || {
            Duration::from_nanos(child::run(NAME, variant, TASKS) as u64)
        })
    });
    let rows = interleave(&mut variants, scale.repetitions);
    let section = Section {
        title: "Stop a service of six idle tasks".to_owned(),
        unit: Unit::Milliseconds,
        note: "Time from the stop request until the runtime of 2 workers is gone, in a process that does nothing \
               else. Bare tokio only drops the runtime, without a notification or a wait. headcount runs all three \
               layers, including the audit of the threads.",
        rows: rows.into_iter().map(Row::new).collect(),
    };
    vec![section.limit(headcount::NAME, &[Limit::Total(20e6)])]
}

/// Returns the nanoseconds that a variant takes.
pub(crate) fn child(variant: &str) -> f64 {
    let took = match variant {
        BARE => bare(),
        TOKEN => token(),
        JOIN_SET => join_set(),
        SUBSYSTEMS => subsystems(),
        headcount::NAME => headcount::three_layers(TASKS),
        other => panic!("no variant is called {other}"),
    };
    took.as_nanos() as f64
}

fn bare() -> Duration {
    let runtime = peers::pool(2);
    let parking = Parking::default();
    for _ in 0..TASKS {
        drop(runtime.spawn(parking.task()));
    }
    runtime.block_on(parking.full(TASKS));
    let began = Instant::now();
    drop(runtime);
    began.elapsed()
}

fn token() -> Duration {
    let runtime = peers::pool(2);
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let parking = Parking::default();
    for _ in 0..TASKS {
        let (token, task) = (token.child_token(), parking.task());
        let task = async move { token.run_until_cancelled_owned(task).await };
        tracker.spawn_on(task, runtime.handle());
    }
    runtime.block_on(parking.full(TASKS));
    let began = Instant::now();
    token.cancel();
    tracker.close();
    runtime.block_on(tracker.wait());
    drop(runtime);
    began.elapsed()
}

fn join_set() -> Duration {
    let runtime = peers::pool(2);
    let parking = Parking::default();
    let mut set = JoinSet::new();
    for _ in 0..TASKS {
        set.spawn_on(parking.task(), runtime.handle());
    }
    runtime.block_on(parking.full(TASKS));
    let began = Instant::now();
    runtime.block_on(set.shutdown());
    drop(runtime);
    began.elapsed()
}

fn subsystems() -> Duration {
    use tokio_graceful_shutdown::{FutureExt, SubsystemBuilder, SubsystemHandle, Toplevel};
    let runtime = peers::pool(2);
    let began = runtime.block_on(async {
        let (send, receive) = tokio::sync::oneshot::channel();
        let toplevel = Toplevel::new(async move |root: &mut SubsystemHandle| {
            let parking = Parking::default();
            for _ in 0..TASKS {
                let task = parking.task();
                let idle = async move |subsystem: &mut SubsystemHandle| {
                    task.cancel_on_shutdown(subsystem).await.ok();
                    Ok::<(), Infallible>(())
                };
                root.start(SubsystemBuilder::new("idle", idle));
            }
            parking.full(TASKS).await;
            send.send(Instant::now()).ok();
            root.request_shutdown();
        });
        toplevel
            .handle_shutdown_requests(Duration::from_secs(10))
            .await
            .expect("subsystems that end");
        receive.await.expect("the root ran to its end")
    });
    drop(runtime);
    began.elapsed()
}
