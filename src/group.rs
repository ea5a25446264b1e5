//! [`TaskGroup`]: what users hold to start tasks, and to drain, cancel and await them together.

mod counters;
mod drain;
mod handle;
mod snapshot;
mod spawn;
mod thread;

pub use counters::{GroupDurations, TaskCounters};
pub use drain::Drained;
pub(crate) use drain::{Drain, cancel_all};
pub use handle::TaskHandle;
pub use snapshot::{Snapshot, TaskRow, UntrackedRow};
pub use spawn::Spawn;
#[cfg(feature = "admin")]
pub(crate) use thread::thread_infos;
pub use thread::{SpawnThread, ThreadSpawner};

use crate::registry::kind;
use crate::registry::root::{Event, Root};
use crate::registry::scope::{self, Scope, Watch};
use crate::threads::{self, ThreadHandle, ThreadKind};
use std::fmt::{self, Display};
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::coop;

/// Tasks that are drained, cancelled and awaited together. Groups nest; clones are the same group.
///
/// Every task started here is counted, named, and listed until its future is dropped, however that happens. A task's
/// name is a *kind* ("accept", "connection"), never an id: kinds are interned for the life of the process and bounded
/// at 4,096; what comes after is `_other`. Names are cut at 64 bytes.
///
/// # Guarantee, and its limit
///
/// A row ends when the task's future has been dropped. While a group is awaited no end is missed. A task that holds
/// its thread (a busy loop, a blocking call) cannot be cancelled by anybody; it is then reported, not ended.
///
/// # Comparison to `TaskTracker`, `JoinSet` and `CancellationToken`
///
/// `spawn` takes a plain future, so it stands in for `tokio::spawn`, `TaskTracker::spawn` and `JoinSet::spawn`.
/// Use a `JoinSet` where you need the results in the order in which the tasks end, or where dropping the set must
/// abort its tasks: dropping a group leaves them running. Use a `CancellationToken` where one task has several reasons
/// to stop: a group knows only "drain" and "cancel".
///
/// # Examples
///
/// ```
/// # fn main() {
/// # let report = headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
/// let http = tasks.group("http");
/// let answer = http.spawn("handler", async { 42 });
/// assert_eq!(answer.await.unwrap(), 42);
///
/// let worker = http.clone();
/// http.spawn("worker", async move { worker.draining().await });
/// assert_eq!(http.drain().await.left(), 0);
/// # });
/// # assert_eq!(report.exit_code(), 0);
/// # }
/// ```
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    scope: &'static Scope,
    root: Arc<Root>,
    /// The work runtime.
    handle: Handle,
    /// The control runtime, whose clock runs when no worker does.
    control: ControlSide,
    budgets: Budgets,
    /// Whether this handle's end is the end of the scope.
    owns_scope: bool,
}

/// How long a group's drain and cancel may take when nothing else is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budgets {
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
}

/// The control runtime, and what keeps its thread alive as long as a group lives.
#[derive(Debug, Clone)]
pub(crate) struct ControlSide {
    pub(crate) handle: Handle,
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) keep: Arc<dyn std::any::Any + Send + Sync>,
}

// === impl TaskGroup ===

impl TaskGroup {
    pub(crate) fn root(
        root: Arc<Root>,
        handle: Handle,
        control: ControlSide,
        budgets: Budgets,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                scope: root.scope,
                root,
                handle,
                control,
                budgets,
                owns_scope: false,
            }),
        }
    }

    /// Starts a task. Works from any thread.
    ///
    /// While the group drains the task is accepted and counted; after the shutdown has cancelled all tasks it is
    /// refused: the future is dropped unpolled and the handle gives [`TaskError::Refused`](crate::TaskError::Refused).
    #[track_caller]
    pub fn spawn<F>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.task(name).spawn(future)
    }

    /// Starts a task whose `Err` counts as `failed`, and is logged.
    #[track_caller]
    pub fn try_spawn<F, T, E>(&self, name: &str, future: F) -> TaskHandle<Result<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        self.task(name).try_spawn(future)
    }

    /// Runs a closure on the runtime's blocking pool.
    ///
    /// Once it runs nothing can end it but itself: ask [`TaskGroup::is_draining`] in it. One that has not started is
    /// cancelled like any task.
    #[track_caller]
    pub fn spawn_blocking<F, T>(&self, name: &str, work: F) -> TaskHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.task(name).spawn_blocking(work)
    }

    /// Starts a task that stays on this thread.
    ///
    /// # Panics
    ///
    /// Outside of a [`tokio::task::LocalSet`], as `tokio::task::spawn_local` does.
    #[track_caller]
    pub fn spawn_local<F>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.task(name).spawn_local(future)
    }

    /// Starts a thread that is known by its full name and spawn site.
    ///
    /// A [`ThreadKind::Tracked`] thread is waited for in the last layer of the shutdown, and reported as lingering when
    /// it does not end: let it ask [`TaskGroup::is_draining`]. A [`ThreadKind::Daemon`] may die with the process.
    /// [`TaskGroup::thread`] starts one that can be told to stop, and helped out of what it waits for.
    ///
    /// # Panics
    ///
    /// When the system refuses a thread, as `std::thread::spawn` does.
    #[track_caller]
    pub fn spawn_thread<F, T>(&self, name: &str, kind: ThreadKind, work: F) -> ThreadHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let root = self.inner.root.number;
        threads::start(root, name, kind.class(), Location::caller(), work)
            .unwrap_or_else(|error| panic!("failed to start thread '{name}': {error}"))
    }

    /// A task with options: `tasks.task("accept").required().spawn(future)`.
    #[must_use = "a task starts when it is spawned"]
    pub fn task<'a>(&'a self, name: &'a str) -> Spawn<'a> {
        Spawn::new(self, name)
    }

    /// A new group in this one. It drains before this group's own tasks do, and before the groups made earlier.
    ///
    /// Every call makes a group of its own, also under a name that another has; they share counters, not fate. A group
    /// costs no thread and no task, and its memory is used again.
    #[must_use]
    #[track_caller]
    pub fn group(&self, name: &str) -> Self {
        let inner = &*self.inner;
        let path = kind::intern_path(inner.scope.path(), name);
        let scope = scope::create(Some(inner.scope), inner.root.number, path);
        Self {
            inner: Arc::new(Inner {
                scope,
                root: Arc::clone(&inner.root),
                handle: inner.handle.clone(),
                control: inner.control.clone(),
                budgets: inner.budgets,
                owns_scope: scope.number != inner.scope.number,
            }),
        }
    }

    /// How long this group may drain. Tasks left then are cancelled, and the groups after it get their turn.
    ///
    /// Without it a group may use what the drain layer has left, and others wait for it at most their fair share.
    #[must_use = "it gives the group back"]
    pub fn drain_budget(self, budget: Duration) -> Self {
        self.inner.scope.set_drain_budget(budget);
        self
    }

    /// Declares that this group drains only when `other`, a group of the same parent, has.
    ///
    /// # Panics
    ///
    /// When that would be a cycle, or when the two have not the same parent.
    #[must_use = "it gives the group back"]
    pub fn drain_after(self, other: &Self) -> Self {
        assert!(
            self.inner.scope.drain_after(other.inner.scope),
            "group '{}' cannot drain after '{}': they need the same parent, and no cycle",
            self.name(),
            other.name(),
        );
        self
    }

    /// The names of the groups from the root down, joined by `/`; empty for the root.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.scope.name()
    }

    /// Whether the group was told to drain. One load: fit for loops of threads and blocking closures.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.scope.is_draining()
    }

    /// Waits until the group is told to drain.
    ///
    /// A task that awaits it again and again after that gives its thread back from time to time, as with what tokio has
    /// to await ([`tokio::task::coop`]), so it can be cancelled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn draining(&self) {
        let scope = self.inner.scope;
        // Made before the look at the flag, so that a call in between completes it; and it is enough: the group may work
        // again before a task that nobody waits for has looked.
        let mut told = pin!(scope.told_to_drain().notified());
        poll_fn(|cx| {
            let turn = ready!(coop::poll_proceed(cx));
            if !scope.is_draining() {
                ready!(told.as_mut().poll(cx));
            }
            turn.made_progress();
            Poll::Ready(())
        })
        .await;
    }

    /// The future's output, or `None` when the group is told to drain first; then the future is dropped.
    ///
    /// # Cancel safety
    ///
    /// As safe as `future`.
    pub async fn until_draining<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut draining = pin!(self.draining());
        let mut future = pin!(future);
        poll_fn(|cx| {
            if draining.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Tells the group, and those in it, to drain, and waits for their tasks, at most the group's drain budget or the
    /// drain layer's. Groups in it drain first, the last created first.
    ///
    /// With nothing left the group works again, for new tasks. Tasks left at the end of a budget set by
    /// [`TaskGroup::drain_budget`] are cancelled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the drain; it goes on, on headcount's control thread.
    pub async fn drain(&self) -> Drained {
        let group = self.clone();
        let budget = self
            .inner
            .scope
            .drain_budget()
            .unwrap_or(self.inner.budgets.drain);
        self.on_control(async move { Drain::new(budget).group(&group).await })
            .await
    }

    /// Cancels every task of the group, and of those in it, at its next await, and waits for their ends, at most the
    /// cancel layer's budget. With nothing left the group works again. The thread that polls it asks them, at about 0.1 µs
    /// a task; the control side does what that one could not.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not undo the cancel.
    pub async fn cancel(&self) -> Drained {
        let group = self.clone();
        let budget = self.inner.budgets.cancel;
        // Here, because a worker that wakes a task puts it into its own queue, and every other thread into one that all
        // share, at twice the cost. The control side goes on when nobody can here.
        let walked = drain::ask_to_end(self.scope());
        self.on_control(async move { drain::cancel_group(&group, budget, walked).await })
            .await
    }

    /// Waits until no task lives in the group or those in it. It does not tell them to end, and does not wait for
    /// daemons, blocked threads, or untracked tasks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(&self) {
        empty(&self.inner.scope.watch()).await;
    }

    /// Begins the shutdown of the whole service, with a reason for the report. The first reason is kept.
    pub fn stop(&self, reason: &str) {
        self.inner.root.tell(Event::Requested(reason.to_owned()));
    }

    /// Whether the service should get work: no shutdown has begun, no required task has ended, and none misses its
    /// heartbeat. This is what a readiness probe answers; it fails before the first group is told to drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let root = &self.inner.root;
        !root.is_stopping() && !root.has_lost_required() && !root.has_stalled_required()
    }

    /// Says that the task that runs on this thread is well: its heartbeat, if it has declared one by
    /// [`Spawn::heartbeat`]. Fit for loops: it counts under a lock that few share. It does nothing outside of a tracked
    /// task, and in one that has declared none.
    pub fn beat() {
        crate::registry::heartbeats::beat();
    }

    /// Every live task of the group and those in it, and for the root the untracked ones.
    ///
    /// Stops nobody. Tasks that start or end meanwhile may be missed or listed; each is listed once at most.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(self)
    }

    async fn on_control(&self, work: impl Future<Output = Drained> + Send + 'static) -> Drained {
        #[expect(
            clippy::disallowed_methods,
            reason = "on our own control runtime, not on the work runtime"
        )]
        let done = self.inner.control.handle.spawn(work);
        // It fails only when the control runtime is gone: then the shutdown is over.
        done.await
            .unwrap_or_else(|_| Drained::new(self.inner.scope.live()))
    }

    pub(crate) fn scope(&self) -> &'static Scope {
        self.inner.scope
    }

    pub(crate) fn registry_root(&self) -> &Arc<Root> {
        &self.inner.root
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// A row for the future of `main`, which runs on no worker.
    #[track_caller]
    pub(crate) fn track_main<F, T, E>(
        &self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, crate::TaskError>> + use<F, T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: Display,
    {
        Spawn::main(self, Location::caller(), future)
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("name", &self.name())
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.owns_scope {
            self.scope.release();
        }
    }
}

/// Waits until the watched scope, and all below it, are empty.
pub(crate) async fn empty(watch: &Watch) {
    poll_fn(|cx| match watch.poll(cx.waker()) {
        0 => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
}
