//! A library that starts a tokio runtime of its own, in a static, when it is first called.

use headcount::TaskGroup;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system has threads")
});

/// The call of the library, which waits for a task of its own runtime, and for a file that this reads.
async fn settings() -> String {
    let read = async { tokio::fs::read_to_string("/proc/self/comm").await };
    let read = RUNTIME.spawn(read);
    let text = read.await.expect("it does not panic");
    text.expect("every process has a name")
}

/// Its runtime has nothing to do when the service stops.
pub(crate) async fn in_a_static(_tasks: TaskGroup) {
    assert!(!settings().await.is_empty());
}

/// A task of its runtime holds a worker when the service stops.
pub(crate) async fn at_work(_tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    RUNTIME.spawn(refresh(begun));
    begins.await.expect("it begins");
}

async fn refresh(begun: tokio::sync::oneshot::Sender<()>) {
    begun.send(()).expect("somebody waits");
    std::thread::sleep(Duration::from_secs(24 * 60 * 60)); // mark: at work in another runtime
}
