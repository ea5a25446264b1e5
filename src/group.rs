//! [`TaskGroup`], the handle through which a service starts tasks and threads, and drains, cancels
//! and awaits them together.
//!
//! A group is a thin handle on a scope of the registry. Spawning a task writes only the spawning
//! thread's own counters and one slot. Draining and cancelling run on the control runtime, so they
//! make progress even when every worker of the work runtime is blocked.
//!
//! A group collects no results: await the [`TaskHandle`] of a task for its output.

mod control_side;
mod counters;
mod drain;
mod draining;
mod handle;
mod readiness;
mod snapshot;
mod spawn;
mod thread;

pub(crate) use control_side::{ControlSide, ControlThread};
pub use counters::TaskCounters;
pub(crate) use drain::{Drain, cancel_all};
pub use handle::TaskHandle;
pub use snapshot::Snapshot;
pub use spawn::Spawn;
pub use thread::SpawnThread;

use crate::registry::kind;
use crate::registry::root::{Event, Root};
use crate::registry::scope::{self, Owned, Scope, Watch};
use std::fmt::{self, Display};
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;

/// A set of tasks that are drained, cancelled and awaited together.
///
/// Groups nest. Clones refer to the same group.
///
/// Every task started in a group is counted and listed by name until its future is dropped, whether
/// it completes, panics, is cancelled, or is dropped with the runtime.
///
/// A task's name is a *kind* ("accept", "connection"), never an id. Names are cut at 64 bytes. A
/// combination of group, name, spawn site and options is interned for the lifetime of the process.
/// At most 4,096 of them are kept; further ones are counted under the name `_other`.
///
/// # Guarantee, and its limit
///
/// A task counts as live until its future has been dropped. Waiting on a group never misses a task
/// that ends. A task that blocks its thread (a busy loop, a blocking call) cannot be cancelled: it
/// is reported, not ended.
///
/// At most 65,536 groups can exist at a time, nested at most 128 deep. A group beyond these limits
/// shares its parent's tasks and state, and headcount logs a warning.
///
/// # Comparison with `TaskTracker`, `JoinSet` and `CancellationToken`
///
/// `spawn` takes a plain future, so it replaces `tokio::spawn`, `TaskTracker::spawn` and
/// `JoinSet::spawn`. Use a `JoinSet` if you need the results in the order in which the tasks end,
/// or if dropping the set must abort its tasks: dropping a group leaves its tasks running. Use a
/// `CancellationToken` if one task has several reasons to stop: a group knows only "drain" and
/// "cancel".
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
/// assert_eq!(http.drain().await, 0);
/// # });
/// # assert_eq!(report.exit_code(), 0);
/// # }
/// ```
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

/// The state that all clones of a group share.
struct Inner {
    /// The group's node in the registry. It outlives the group, and may then serve another one.
    scope: &'static Scope,
    /// The guard of the scope; `None` for the root group, whose scope the root owns.
    #[expect(dead_code, reason = "it is held, not read")]
    own: Option<Owned>,
    root: Arc<Root>,
    /// The work runtime, on which the tasks run.
    handle: Handle,
    control: ControlSide,
    budgets: Budgets,
}

/// The default budgets of a group's drain and cancel: those of the shutdown's layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budgets {
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
}

// === impl TaskGroup ===

impl TaskGroup {
    /// Creates the root group of a watched runtime.
    pub(crate) fn root(
        root: Arc<Root>,
        handle: Handle,
        control: ControlSide,
        budgets: Budgets,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                scope: root.scope,
                own: None,
                root,
                handle,
                control,
                budgets,
            }),
        }
    }

    /// Creates a new group inside this one.
    ///
    /// It drains before this group's own tasks, and before the groups that were created here
    /// earlier; [`TaskGroup::drain_after`] changes that order. A group that is created while its
    /// parent drains or is cancelled is born in that state.
    ///
    /// Every call creates a separate group, even under a name that is already in use: groups with
    /// the same path share counters, but drain and cancel separately. A group costs no thread and
    /// no task. Its memory is reused once its last handle is dropped and its tasks have ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let http = tasks.group("http");
    /// let tls = http.group("tls");
    /// assert_eq!(tls.name(), "http/tls");
    /// # });
    /// ```
    #[must_use]
    #[track_caller]
    pub fn group(&self, name: &str) -> Self {
        let inner = &*self.inner;
        let path = kind::intern_path(inner.scope.path(), name);
        match scope::create_below(inner.scope, path) {
            Some(own) => self.with_scope(own),
            None => self.clone(),
        }
    }

    /// Returns the groups inside this one that have this path.
    #[cfg(feature = "admin")]
    pub(crate) fn named(&self, path: &str) -> Vec<Self> {
        let inner = &*self.inner;
        let owned = inner.scope.named(path).into_iter();
        owned.map(|own| self.with_scope(own)).collect()
    }

    /// Returns a handle on a scope of this group's root.
    fn with_scope(&self, own: Owned) -> Self {
        let inner = &*self.inner;
        Self {
            inner: Arc::new(Inner {
                scope: own.scope(),
                own: Some(own),
                root: Arc::clone(&inner.root),
                handle: inner.handle.clone(),
                control: inner.control.clone(),
                budgets: inner.budgets,
            }),
        }
    }

    /// Sets how long this group may drain.
    ///
    /// Tasks that are left then are cancelled, and the next group drains. In a shutdown a group
    /// never gets more than what the drain layer has left.
    ///
    /// Default: no budget of its own. The group then gets an equal share of the time that the drain
    /// layer has left. After that the next group starts to drain too, and this one keeps draining
    /// until the layer ends.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs").drain_budget(Duration::from_millis(20));
    /// let deaf = jobs.spawn("deaf", std::future::pending::<()>());
    /// assert_eq!(jobs.drain().await, 0);
    /// assert!(deaf.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    #[must_use = "it gives the group back"]
    pub fn drain_budget(self, budget: Duration) -> Self {
        self.inner.scope.set_drain_budget(budget);
        self
    }

    /// Makes this group drain after `other`, a group of the same parent.
    ///
    /// `other` gets its drain budget or its share of the drain layer first; this group does not
    /// wait longer for it.
    ///
    /// # Panics
    ///
    /// Panics if the two groups do not have the same parent, or if the order would form a cycle.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # headcount::testing::check(async |tasks| {
    /// let app = tasks.group("app");
    /// let http = app.group("http");
    /// let db = app.group("db").drain_after(&http);
    /// # let order = Arc::new(Mutex::new(Vec::new()));
    /// for group in [&db, &http] {
    ///     let (group, order) = (group.clone(), Arc::clone(&order));
    ///     group.clone().spawn("worker", async move {
    ///         group.draining().await;
    ///         order.lock().unwrap().push(group.name());
    ///     });
    /// }
    /// app.drain().await;
    /// assert_eq!(*order.lock().unwrap(), ["app/http", "app/db"]);
    /// # });
    /// ```
    #[must_use = "it gives the group back"]
    pub fn drain_after(self, other: &Self) -> Self {
        assert!(
            self.inner.scope.drain_after(other.inner.scope),
            "group '{}' cannot drain after '{}': both need the same parent, and the order must have no cycle",
            self.name(),
            other.name(),
        );
        self
    }

    /// Returns the path of the group: the group names from the root down, joined by `/`; empty for
    /// the root.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.scope.name()
    }

    /// Returns whether the group has been told to drain.
    ///
    /// It is a single atomic load, cheap enough to check in the loop of a thread or a blocking
    /// closure.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let group = jobs.clone();
    /// let busy = jobs.spawn_blocking("busy", move || {
    ///     while !group.is_draining() {
    ///         std::thread::yield_now();
    ///     }
    /// });
    /// jobs.drain().await;
    /// assert!(busy.await.is_ok());
    /// # });
    /// ```
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.scope.is_draining()
    }

    /// Waits until the group is told to drain.
    ///
    /// It completes at once if the group already drains, even if the task has used up its budget of
    /// tokio's cooperative scheduling ([`tokio::task::coop`]). A task that awaits it in a loop
    /// still yields to its worker, so it can be cancelled.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let group = jobs.clone();
    /// let worker = jobs.spawn("worker", async move {
    ///     group.draining().await;
    ///     "saved"
    /// });
    /// jobs.drain().await;
    /// assert_eq!(worker.await?, "saved");
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    pub async fn draining(&self) {
        draining::told(self.inner.scope).await;
    }

    /// Runs `future` until it completes or the group is told to drain, and returns its output, or
    /// `None` if the drain came first.
    ///
    /// The future is dropped in either case before this returns. If both are ready in the same
    /// poll, the drain wins.
    ///
    /// # Cancel safety
    ///
    /// This method is as cancel safe as `future`.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// assert_eq!(jobs.until_draining(async { 42 }).await, Some(42));
    ///
    /// let group = jobs.clone();
    /// let worker = jobs.spawn("worker", async move {
    ///     group.until_draining(std::future::pending::<()>()).await
    /// });
    /// jobs.drain().await;
    /// assert_eq!(worker.await?, None);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
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

    /// Drains the group and the groups inside it, waits for their tasks to end, and returns the
    /// number of tasks that are still alive, without daemons.
    ///
    /// Groups inside it drain first, the last created first. The wait lasts at most the group's
    /// drain budget, or the budget of the drain layer if it has none. If a budget was set with
    /// [`TaskGroup::drain_budget`], the tasks left at its end are cancelled, except those with a
    /// longer budget of their own, and this waits for them for at most the cancel layer's budget.
    /// Daemons are not waited for.
    ///
    /// If no task is left, and the service is not shutting down, the group is open again for new
    /// tasks afterwards and no longer draining.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the drain, which runs on headcount's control thread.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let group = jobs.clone();
    /// jobs.spawn("worker", async move { group.draining().await });
    /// assert_eq!(jobs.drain().await, 0);
    /// assert!(!jobs.is_draining(), "it is open again");
    /// # });
    /// ```
    pub async fn drain(&self) -> u64 {
        let group = self.clone();
        let budget = self
            .inner
            .scope
            .drain_budget()
            .unwrap_or(self.inner.budgets.drain);
        self.on_control(async move { Drain::new(budget).group(&group).await })
            .await
    }

    /// Cancels every task of the group and of the groups inside it, waits for them to end, and
    /// returns the number of tasks that are still alive, without daemons.
    ///
    /// Each task is dropped at its next await. Tasks that are spawned meanwhile are cancelled too.
    /// The wait lasts at most the budget of the cancel layer; daemons are cancelled but not waited
    /// for.
    ///
    /// If no task is left, and the service is not shutting down, the group is open again for new
    /// tasks afterwards.
    ///
    /// The first poll marks and wakes the tasks on the calling thread, at about 0.1 µs per task.
    /// The control thread repeats the walk for tasks that the first one missed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not undo the cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let deaf = jobs.spawn("deaf", std::future::pending::<()>());
    /// assert_eq!(jobs.cancel().await, 0);
    /// assert!(deaf.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    pub async fn cancel(&self) -> u64 {
        let group = self.clone();
        let budget = self.inner.budgets.cancel;
        // On the calling thread, because a worker wakes a task into its own local queue, while any
        // other thread uses the shared injection queue, at twice the cost. The control side repeats
        // the walk later.
        let walked = drain::ask_to_end(self.scope());
        self.on_control(async move { drain::cancel_group(&group, budget, walked).await })
            .await
    }

    /// Waits until no task is live in the group and the groups inside it.
    ///
    /// It does not ask the tasks to end, and it has no time limit. It does not wait for daemons,
    /// threads or untracked tasks.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// for _ in 0..3 {
    ///     jobs.spawn("job", tokio::task::yield_now());
    /// }
    /// jobs.wait().await;
    /// assert_eq!(jobs.counters()[0].completed, 3);
    /// # });
    /// ```
    pub async fn wait(&self) {
        empty(&self.inner.scope.watch()).await;
    }

    /// Begins the shutdown of the whole service, with a reason that the report shows.
    ///
    /// It returns at once. If a shutdown has already begun, its first reason is kept.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     tasks.stop("sold out");
    ///     tasks.draining().await;
    /// });
    /// assert!(report.to_text(false).contains("sold out"));
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn stop(&self, reason: &str) {
        self.inner.root.notify(Event::Requested(reason.to_owned()));
    }

    /// Records a heartbeat of the task that is running on the calling thread.
    ///
    /// The task declares its interval with [`Spawn::heartbeat`]. Outside of a tracked task, and in
    /// a task that has declared no heartbeat, this does nothing. It is cheap enough for loops: it
    /// takes one lock, which is rarely contended.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// use headcount::TaskGroup;
    ///
    /// let every = std::time::Duration::from_secs(60);
    /// let import = tasks.task("import").heartbeat(every).spawn(async {
    ///     for _row in 0..1000 {
    ///         TaskGroup::beat();
    ///     }
    /// });
    /// assert!(import.await.is_ok());
    /// # });
    /// ```
    pub fn beat() {
        crate::registry::heartbeats::beat();
    }

    /// Returns every live task of the group and of the groups inside it, and for the root group the
    /// untracked tasks by spawn site.
    ///
    /// It stops no task and no thread. A task that starts or ends meanwhile may or may not be
    /// listed; no task is listed twice.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let import = jobs.spawn("import", std::future::pending::<()>());
    /// let snapshot = tasks.snapshot();
    /// let listed = snapshot.tasks().find(|task| task.name == "import");
    /// assert_eq!(listed.map(|task| task.group), Some("jobs"));
    /// # import.cancel();
    /// # import.await.unwrap_err();
    /// # });
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(self)
    }

    /// Runs `work` on the control runtime and returns its result, the number of live tasks. Dropping the future leaves
    /// `work` running.
    async fn on_control(&self, work: impl Future<Output = u64> + Send + 'static) -> u64 {
        #[expect(
            clippy::disallowed_methods,
            reason = "on our own control runtime, not on the work runtime"
        )]
        let done = self.inner.control.handle.spawn(work);
        // It fails only if the control runtime is gone, which means that the shutdown is over.
        done.await.unwrap_or_else(|_| self.inner.scope.live())
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

    /// Wraps the future of `main` so that it is listed as a task. It runs on the calling thread,
    /// not on a worker.
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

/// Waits until the watched scope and all scopes below it have no live task, daemons excepted.
pub(crate) async fn empty(watch: &Watch) {
    poll_fn(|cx| match watch.poll(cx.waker()) {
        0 => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
}
