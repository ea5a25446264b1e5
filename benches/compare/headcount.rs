//! headcount as a variant. All that touches its interface is here.

use crate::peers::{Cancel, Peer};
use headcount::{TaskGroup, TaskHandle};
use std::{future::Future, sync::mpsc, time::Duration};

pub(crate) const NAME: &str = "headcount";
/// What the reader must know before believing a figure of ours.
pub(crate) const CAVEAT: Option<&str> = None;
/// Whether groups can cancel.
pub(crate) const IS_COMPLETE: bool = true;

/// Tasks through a group of headcount.
pub(crate) struct Headcount(TaskGroup);

/// A runtime that headcount owns, with its hooks.
pub(crate) struct Owned(headcount::Runtime);

/// Tracking on the runtime that the caller is in.
pub(crate) fn attached() -> Headcount {
    let attached = headcount::attach(&tokio::runtime::Handle::current());
    let attached = attached.expect("the system has threads");
    Headcount(attached.tasks().clone())
}

/// How many live tasks a snapshot lists; `None` while there is no snapshot.
pub(crate) fn listed(tasks: &Headcount) -> Option<usize> {
    Some(tasks.0.snapshot().tasks().len())
}

/// Reads every counter once; how many names they belong to, or `None` while there are none.
pub(crate) fn read_counters(tasks: &Headcount) -> Option<usize> {
    Some(tasks.0.counters().len())
}

/// From the end of `main` to the end of the third layer, with `tasks` idle tasks that end when they
/// are told to drain.
pub(crate) fn three_layers(tasks: usize) -> Duration {
    let runtime = runtime(2);
    let report = runtime.run(async |group| {
        for _ in 0..tasks {
            let idle = group.clone();
            group.spawn("idle", async move { idle.draining().await });
        }
    });
    assert!(report.is_clean(), "{report}");
    report.total
}

fn runtime(workers: usize) -> headcount::Runtime {
    headcount::Runtime::builder()
        .worker_threads(workers)
        .print(false)
        .signals(false)
        .build()
        .expect("the system has threads")
}

// === impl Owned ===

impl Owned {
    pub(crate) fn new(workers: usize) -> Self {
        Self(runtime(workers))
    }

    /// The same, with spans of its tasks.
    #[cfg(feature = "otel")]
    pub(crate) fn with_telemetry(
        workers: usize,
        telemetry: Option<&headcount::telemetry::Telemetry>,
    ) -> Self {
        let builder = headcount::Runtime::builder()
            .worker_threads(workers)
            .print(false)
            .signals(false);
        let builder = match telemetry {
            Some(telemetry) => builder.telemetry(telemetry),
            None => builder,
        };
        Self(builder.build().expect("the system has threads"))
    }

    pub(crate) fn tasks(&self) -> Headcount {
        Headcount(self.0.tasks().clone())
    }

    /// Runs `driver` as a task of this runtime.
    pub(crate) fn drive<F>(&self, driver: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (send, receive) = mpsc::channel();
        self.0.tasks().spawn("driver", async move {
            send.send(driver.await).expect("somebody waits for it");
        });
        receive.recv().expect("the driver runs to its end")
    }
}

// === impl Headcount ===

impl Peer for Headcount {
    type Handle = TaskHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        self.0.spawn("task", task)
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        for handle in handles {
            handle.await.ok();
        }
    }
}

impl Cancel for Headcount {
    async fn cancel(&mut self, _: Vec<Self::Handle>) {
        self.0.cancel().await;
    }
}
