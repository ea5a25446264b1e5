//! headcount as a variant. All uses of its API are in this file.

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
/// A note for the reader about headcount's figures, if they are not final.
pub(crate) const CAVEAT: Option<&str> = None;
/// True if groups can cancel.
pub(crate) const IS_COMPLETE: bool = true;

/// Environment variable with the address of the collector, which the parent of a process sets.
#[cfg(feature = "otel")]
pub(crate) const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[cfg(feature = "otel")]
const DROPPED: &str = "headcount_telemetry_dropped_total{";

/// Spawns tasks through a group of headcount.
pub(crate) struct Headcount(TaskGroup);

/// A runtime that headcount owns, with its hooks.
pub(crate) struct Owned(headcount::Runtime);

/// Attaches headcount to the current runtime.
pub(crate) fn attached() -> Headcount {
    let attached = headcount::attach(&tokio::runtime::Handle::current());
    let attached = attached.expect("the system has threads");
    Headcount(attached.tasks().clone())
}

/// Returns the number of live tasks in a snapshot.
pub(crate) fn listed(tasks: &Headcount) -> Option<usize> {
    Some(tasks.0.snapshot().tasks().len())
}

/// Creates this many counted names, by running one task with each.
pub(crate) async fn count_names(tasks: &Headcount, names: usize) {
    for at in 0..names {
        let named = tasks.0.spawn(&format!("name-{at}"), std::future::ready(()));
        named.await.expect("it returns");
    }
}

/// Reads every counter once, and returns the number of names.
pub(crate) fn read_counters(tasks: &Headcount) -> Option<usize> {
    Some(tasks.0.counters().len())
}

/// Returns the time from the end of `main` to the end of the third layer, with `tasks` idle tasks
/// that end at the drain.
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

/// Returns a function that takes a dump of the process.
pub(crate) fn dumps() -> impl Fn() {
    let runtime = runtime(2);
    let dumper = runtime.dumper();
    move || {
        // Moves the runtime into the closure, which keeps it alive.
        let _runtime = &runtime;
        drop(std::hint::black_box(dumper.dump().to_text()));
    }
}

/// Sets up telemetry to the collector in [`COLLECTOR`], including the log, as the subscriber of the
/// process.
#[cfg(feature = "otel")]
pub(crate) fn telemetry() -> Telemetry {
    use tracing_subscriber::layer::SubscriberExt as _;
    let telemetry = Telemetry::builder().build();
    let telemetry = telemetry.expect("the address is one");
    let subscriber = tracing_subscriber::registry().with(telemetry.layer());
    tracing::subscriber::set_global_default(subscriber).expect("it is the first");
    telemetry
}

/// Runs a service of `tasks` idle tasks that ends on a signal, and calls `ready` once a signal may
/// come. A deadline shortens its layers. Returns whether everything was pushed; `None` if there was
/// nothing to push.
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

/// Runs `work` as `main` of a service with default settings, an admin server and telemetry, and
/// returns its output.
///
/// # Panics
/// If not everything was delivered.
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

/// Returns a loopback address with any free port.
#[cfg(feature = "admin")]
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Returns a runtime with a black box, in which the slots of all later runtimes of the process are
/// too.
pub(crate) fn boxed() -> headcount::Runtime {
    let runtime = builder(1).black_box(true).build();
    runtime.expect("the system has threads")
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

    /// Creates a runtime without blocked-worker warnings, which does not record when tasks are
    /// polled.
    pub(crate) fn unwatched(workers: usize) -> Self {
        let runtime = builder(workers).hold_limit(None).build();
        Self(runtime.expect("the system has threads"))
    }

    /// Creates a runtime with an admin server, and returns it with the server's address.
    #[cfg(feature = "admin")]
    pub(crate) fn with_admin(workers: usize) -> (Self, SocketAddr) {
        let runtime = builder(workers).admin(loopback()).build();
        let runtime = runtime.expect("the system has threads and ports");
        let address = runtime.admin_address().expect("it was asked for");
        (Self(runtime), address)
    }

    /// Creates a runtime with an admin server that exports spans of its tasks.
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

    /// Spawns tasks that live until the returned handles are dropped.
    pub(crate) fn park(&self, tasks: usize) -> Vec<oneshot::Sender<()>> {
        let park = |_| {
            let (keep, gone) = oneshot::channel();
            let task = async move { drop(gone.await) };
            self.0.tasks().spawn("parked", task);
            keep
        };
        (0..tasks).map(park).collect()
    }

    /// Spawns tasks with this many names, which live as long as the runtime, and returns once all
    /// are parked.
    #[cfg(feature = "admin")]
    pub(crate) fn park_named(&self, tasks: usize, names: usize) {
        let names: Vec<String> = (0..names).map(|at| format!("parked-{at}")).collect();
        let parking = Parking::default();
        for name in names.iter().cycle().take(tasks) {
            self.0.tasks().spawn(name, parking.task());
        }
        self.drive(async move { parking.full(tasks).await });
    }

    /// Spawns a task, and returns the receiver of its result.
    pub(crate) fn spawn<F>(&self, task: F) -> oneshot::Receiver<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        // The receiver may have been dropped.
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
            send.send(driver.await).expect("the receiver waits");
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
