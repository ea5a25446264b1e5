//! A library that starts its own tokio runtime in a static on first use.

use headcount::TaskGroup;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::task::LocalPoolHandle;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system has threads")
});

/// Calls the library, which waits for a task of its own runtime and for a file read.
async fn settings() -> String {
    let read = async { tokio::fs::read_to_string("/proc/self/comm").await };
    let read = RUNTIME.spawn(read);
    let text = read.await.expect("it does not panic");
    text.expect("every process has a name")
}

/// The library's runtime is idle at the shutdown.
pub(crate) async fn in_a_static(_tasks: TaskGroup) {
    assert!(!settings().await.is_empty());
}

/// A task of the library's runtime blocks a worker at the shutdown.
pub(crate) async fn at_work(_tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    RUNTIME.spawn(refresh(begun));
    begins.await.expect("it begins");
}

async fn refresh(begun: tokio::sync::oneshot::Sender<()>) {
    begun.send(()).expect("the receiver waits");
    std::thread::sleep(Duration::from_secs(24 * 60 * 60)); // mark: at work in another runtime
}

/// Two threads with a current-thread runtime each.
static POOL: LazyLock<LocalPoolHandle> = LazyLock::new(|| LocalPoolHandle::new(2));

/// The runtimes of the pool are idle at the shutdown.
pub(crate) async fn local_pool(_tasks: TaskGroup) {
    POOL.spawn_pinned(|| async {})
        .await
        .expect("it does not panic");
}

/// A task of the pool blocks its thread at the shutdown.
pub(crate) async fn local_pool_at_work(_tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    drop(POOL.spawn_pinned(|| refresh(begun)));
    begins.await.expect("it begins");
}

/// A thread of the program waits for ever on a runtime of its own.
pub(crate) async fn on_an_own_thread(_tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("cache".to_owned());
    drop(thread.spawn(move || wait_for_ever(begun)));
    begins.await.expect("it begins");
}

fn wait_for_ever(begun: tokio::sync::oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("the system has files").block_on(async {
        begun.send(()).expect("the receiver waits");
        std::future::pending::<()>().await;
    });
}
