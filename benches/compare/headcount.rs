//! headcount as a variant. All that touches its interface is here.

use crate::peers::{Cancel, Peer};
#[cfg(feature = "admin")]
use crate::rounds::Parking;
#[cfg(feature = "otel")]
use headcount::telemetry::Telemetry;
use headcount::{TaskGroup, TaskHandle};
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::{future::Future, sync::mpsc, time::Duration};
use tokio::sync::oneshot;

pub(crate) const NAME: &str = "headcount";
/// What the reader must know before believing a figure of ours.
pub(crate) const CAVEAT: Option<&str> = None;
/// Whether groups can cancel.
pub(crate) const IS_COMPLETE: bool = true;

/// The variable that says where the collector is: the parent of a process sets it.
#[cfg(feature = "otel")]
pub(crate) const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[cfg(feature = "otel")]
const DROPPED: &str = "headcount_telemetry_dropped_total{";

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

/// Has so many names counted: a task of each ran.
pub(crate) async fn count_names(tasks: &Headcount, names: usize) {
    for at in 0..names {
        let named = tasks.0.spawn(&format!("name-{at}"), std::future::ready(()));
        named.await.expect("it returns");
    }
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

/// Takes a dump of the process each time it is called.
pub(crate) fn dumps() -> impl Fn() {
    let runtime = runtime(2);
    let dumper = runtime.dumper();
    move || {
        // The runtime lives as long as its dumps are taken.
        let _runtime = &runtime;
        drop(std::hint::black_box(dumper.dump().to_text()));
    }
}

/// Telemetry to the collector that [`COLLECTOR`] names, with the log: a layer of the process's subscriber.
#[cfg(feature = "otel")]
pub(crate) fn telemetry() -> Telemetry {
    use tracing_subscriber::layer::SubscriberExt as _;
    let telemetry = Telemetry::builder().build();
    let telemetry = telemetry.expect("the address is one");
    let subscriber = tracing_subscriber::registry().with(telemetry.layer());
    tracing::subscriber::set_global_default(subscriber).expect("it is the first");
    telemetry
}

/// A service of so many idle tasks that ends by a signal, from when on it is `ready` for one. With a deadline, its layers
/// have little time. Whether all that it had to push was delivered; `None` when there was nothing.
#[cfg(feature = "otel")]
pub(crate) fn idle_until_signal(
    tasks: usize,
    (deadline, telemetry): (Option<Duration>, Option<&Telemetry>),
    ready: impl FnOnce(),
) -> Option<bool> {
    let mut builder = headcount::Runtime::builder()
        .worker_threads(2)
        .scrape_hold(Duration::ZERO);
    if let Some(deadline) = deadline {
        let layer = deadline / 4;
        builder = builder
            .drain_budget(layer)
            .cancel_budget(layer)
            .close_budget(layer)
            .deadline(deadline);
    }
    if let Some(telemetry) = telemetry {
        builder = builder.telemetry(telemetry);
    }
    let runtime = builder.build().expect("the system has threads");
    let report = runtime.run(async |group| {
        for _ in 0..tasks {
            let idle = group.clone();
            group.spawn("idle", async move { idle.draining().await });
        }
        ready();
        group.draining().await;
    });
    assert!(report.is_clean(), "{report}");
    let mut pushed = report.flush.iter().map(|flush| flush.is_delivered());
    (!report.flush.is_empty()).then(|| pushed.all(|delivered| delivered))
}

/// What `work` gives, which is `main` of a service with default settings, an admin server and telemetry.
///
/// # Panics
/// When not everything was delivered.
#[cfg(feature = "otel")]
pub(crate) fn serve<T>(work: impl AsyncFnOnce(Headcount) -> T) -> T {
    let runtime = headcount::Runtime::builder()
        .admin(loopback())
        .telemetry(&telemetry())
        .build()
        .expect("the system has threads and ports");
    let metrics = runtime.metrics();
    let mut given = None;
    let report = runtime.run(async |group| given = Some(work(Headcount(group)).await));
    assert!(report.is_clean(), "{report}");
    let is_delivered = |flush: &headcount::report::Flush| flush.is_delivered();
    assert!(report.flush.iter().all(is_delivered), "{report}");
    let text = metrics.read(headcount::telemetry::Format::Text);
    let mut dropped = text.lines().filter(|line| line.starts_with(DROPPED));
    assert!(dropped.all(|line| line.ends_with(" 0")), "{text}");
    given.expect("it ran")
}

/// Any port of it.
#[cfg(feature = "admin")]
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn runtime(workers: usize) -> headcount::Runtime {
    let runtime = builder(workers).build();
    runtime.expect("the system has threads")
}

fn builder(workers: usize) -> headcount::Builder {
    headcount::Runtime::builder()
        .worker_threads(workers)
        .print(false)
        .signals(false)
}

// === impl Owned ===

impl Owned {
    pub(crate) fn new(workers: usize) -> Self {
        Self(runtime(workers))
    }

    /// One that warns of nobody, and does not know when tasks were polled.
    pub(crate) fn unwatched(workers: usize) -> Self {
        let runtime = builder(workers).hold_limit(None).build();
        Self(runtime.expect("the system has threads"))
    }

    /// One with an admin server, and where that listens.
    #[cfg(feature = "admin")]
    pub(crate) fn with_admin(workers: usize) -> (Self, SocketAddr) {
        let runtime = builder(workers).admin(loopback()).build();
        let runtime = runtime.expect("the system has threads and ports");
        let address = runtime.admin_address().expect("it was asked for");
        (Self(runtime), address)
    }

    /// The same, with spans of its tasks.
    #[cfg(feature = "otel")]
    pub(crate) fn with_telemetry(workers: usize, telemetry: Option<&Telemetry>) -> Self {
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

    /// Tasks that live until the handles are dropped.
    pub(crate) fn park(&self, tasks: usize) -> Vec<oneshot::Sender<()>> {
        let park = |_| {
            let (keep, gone) = oneshot::channel();
            let task = async move { drop(gone.await) };
            self.0.tasks().spawn("parked", task);
            keep
        };
        (0..tasks).map(park).collect()
    }

    /// Tasks of so many names that live as long as the runtime, and are all parked when this returns.
    #[cfg(feature = "admin")]
    pub(crate) fn park_named(&self, tasks: usize, names: usize) {
        let names: Vec<String> = (0..names).map(|at| format!("parked-{at}")).collect();
        let parking = Parking::default();
        for name in names.iter().cycle().take(tasks) {
            self.0.tasks().spawn(name, parking.task());
        }
        self.drive(async move { parking.full(tasks).await });
    }

    /// A task, and where its result arrives.
    pub(crate) fn spawn<F>(&self, task: F) -> oneshot::Receiver<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        // The receiver may be gone.
        let task = async move { drop(send.send(task.await)) };
        self.0.tasks().spawn("working", task);
        receive
    }

    pub(crate) fn dump(&self) {
        assert!(self.0.dump().tasks > 0);
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
