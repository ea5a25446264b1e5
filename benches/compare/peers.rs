//! The spawn APIs that headcount is compared with, behind one small trait.
#![expect(clippy::disallowed_methods, reason = "bare spawns are measured")]

use crate::rounds::{BATCH, Parking, short};
use std::{
    convert::Infallible,
    future::Future,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinHandle, JoinSet},
};
use tokio_metrics::TaskMonitor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) const BARE: &str = "bare tokio";
/// A second measurement of [`BARE`], on another runtime. The distance of its ratio from 1 is the
/// error of any ratio.
pub(crate) const BARE_AGAIN: &str = "bare tokio, again";
pub(crate) const TRACKER: &str = "TaskTracker";
pub(crate) const TOKEN: &str = "TaskTracker + token";
pub(crate) const JOIN_SET: &str = "JoinSet";
pub(crate) const MONITOR: &str = "TaskMonitor";
pub(crate) const SUBSYSTEMS: &str = "tokio-graceful-shutdown";

/// Batches before the measurement starts: at the beginning of a round, the workers sleep and the
/// caches hold another variant's data.
const WARM_UP: usize = 4;

/// A way to spawn tasks.
pub(crate) trait Peer: Send + 'static {
    /// A handle to wait for one task; `()` if only all tasks can be awaited.
    type Handle: Send;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle;

    /// Waits for the tasks behind `handles`, which are all live tasks.
    fn join(&mut self, handles: Vec<Self::Handle>) -> impl Future<Output = ()> + Send;
}

/// A peer that can cancel tasks.
pub(crate) trait Cancel: Peer {
    /// True if it cancels tasks through their handles. Otherwise the handles are dropped before the
    /// measurement starts.
    const THROUGH_HANDLES: bool = false;

    /// Cancels all live tasks, and waits until they have ended.
    fn cancel(&mut self, handles: Vec<Self::Handle>) -> impl Future<Output = ()> + Send;
}

/// `tokio::spawn`, cancelled by a loop of `abort`.
pub(crate) struct Bare;

/// tokio-util's tracker alone.
pub(crate) struct Tracker(TaskTracker);

/// tokio-util's tracker with a child token for each task, as its documentation shows.
pub(crate) struct TrackerAndToken(TaskTracker, CancellationToken);

/// tokio's `JoinSet`.
pub(crate) struct Set(JoinSet<()>);

/// tokio-metrics' monitor around each task.
pub(crate) struct Monitor(TaskMonitor);

/// Creates a runtime on the thread that drives it.
pub(crate) fn current_thread() -> Runtime {
    build(&mut Builder::new_current_thread())
}

/// Creates a runtime with a pool of workers.
pub(crate) fn pool(workers: usize) -> Runtime {
    build(Builder::new_multi_thread().worker_threads(workers))
}

fn build(builder: &mut Builder) -> Runtime {
    builder.enable_all().build().expect("threads are available")
}

/// Runs `driver` as a task: a spawn from `block_on` takes a different path than one from a worker.
pub(crate) fn drive<F>(runtime: &Runtime, driver: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let driver = runtime.spawn(driver);
    runtime.block_on(driver).expect("the driver does not panic")
}

/// Returns the time for `total` short tasks, spawned and joined batch by batch.
pub(crate) async fn spawn_and_join<P: Peer>(mut peer: P, total: usize, yields: usize) -> Duration {
    let mut began = Instant::now();
    for batch in 0..WARM_UP + total / BATCH {
        if batch == WARM_UP {
            began = Instant::now();
        }
        let handles = (0..BATCH).map(|_| peer.spawn(short(yields))).collect();
        peer.join(handles).await;
    }
    began.elapsed()
}

/// Spawns `total` tasks that stay parked.
pub(crate) async fn park<P: Peer>(peer: &mut P, total: usize) -> Vec<P::Handle> {
    let parking = Parking::default();
    let mut handles = Vec::with_capacity(total);
    while handles.len() < total {
        let batch = BATCH.min(total - handles.len());
        handles.extend((0..batch).map(|_| peer.spawn(parking.task())));
        parking.full(handles.len()).await;
    }
    handles
}

async fn join_all(handles: Vec<JoinHandle<()>>) {
    for handle in handles {
        handle.await.ok();
    }
}

/// Runs subsystems of tokio-graceful-shutdown in batches, and returns the time that they took.
pub(crate) async fn subsystems(total: usize, yields: usize) -> Duration {
    use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
    let (send, receive) = tokio::sync::oneshot::channel();
    let toplevel = Toplevel::new(async move |root: &mut SubsystemHandle| {
        let mut began = Instant::now();
        for batch in 0..WARM_UP + total / BATCH {
            if batch == WARM_UP {
                began = Instant::now();
            }
            let task = async move |_: &mut SubsystemHandle| {
                short(yields).await;
                Ok::<(), Infallible>(())
            };
            let start = |_| root.start(SubsystemBuilder::new("task", task));
            let batch: Vec<_> = (0..BATCH).map(start).collect();
            for subsystem in batch {
                subsystem.join().await.ok();
            }
        }
        send.send(began.elapsed()).ok();
        root.request_shutdown();
    });
    toplevel
        .handle_shutdown_requests(Duration::from_secs(10))
        .await
        .expect("subsystems that end");
    receive.await.expect("the root ran to its end")
}

// === impl Bare ===

impl Peer for Bare {
    type Handle = JoinHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        tokio::spawn(task)
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        join_all(handles).await;
    }
}

impl Cancel for Bare {
    const THROUGH_HANDLES: bool = true;

    async fn cancel(&mut self, handles: Vec<Self::Handle>) {
        for handle in &handles {
            handle.abort();
        }
        join_all(handles).await;
    }
}

// === impl Tracker ===

impl Tracker {
    pub(crate) fn new() -> Self {
        Self(TaskTracker::new())
    }
}

impl Peer for Tracker {
    type Handle = JoinHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        self.0.spawn(task)
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        join_all(handles).await;
    }
}

// === impl TrackerAndToken ===

impl TrackerAndToken {
    pub(crate) fn new() -> Self {
        Self(TaskTracker::new(), CancellationToken::new())
    }
}

impl Peer for TrackerAndToken {
    type Handle = JoinHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        let token = self.1.child_token();
        self.0.spawn(async move {
            token.run_until_cancelled_owned(task).await;
        })
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        join_all(handles).await;
    }
}

impl Cancel for TrackerAndToken {
    async fn cancel(&mut self, _: Vec<Self::Handle>) {
        self.0.close();
        self.1.cancel();
        self.0.wait().await;
    }
}

// === impl Set ===

impl Set {
    pub(crate) fn new() -> Self {
        Self(JoinSet::new())
    }
}

impl Peer for Set {
    type Handle = ();

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    async fn join(&mut self, _: Vec<()>) {
        while self.0.join_next().await.is_some() {}
    }
}

impl Cancel for Set {
    async fn cancel(&mut self, _: Vec<()>) {
        self.0.abort_all();
        while self.0.join_next().await.is_some() {}
    }
}

// === impl Monitor ===

impl Monitor {
    pub(crate) fn new() -> Self {
        Self(TaskMonitor::new())
    }
}

impl Peer for Monitor {
    type Handle = JoinHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        tokio::spawn(self.0.instrument(task))
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        join_all(handles).await;
    }
}
