//! The options of one spawn, and the spawn itself.
//!
//! A spawn interns the task's kind, takes a slot in the registry, and hands tokio the user's future
//! wrapped in the registry's [`Tracked`]. This is the hot path of the crate: a spawn from a site
//! that the thread has used before takes no lock.

use super::{TaskGroup, TaskHandle};
use crate::registry::clock;
use crate::registry::kind::{self, Options};
use crate::registry::tracked::{Any, Judge, OkOrErr, Registration, Span, Spawned, Tracked, Turn};
use crate::registry::untracked;
#[cfg(feature = "otel")]
use crate::task::Traceparent;
use crate::task::{TaskError, TaskKind, TaskOutcome};
use std::any::type_name;
use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

/// The options of one task, made by [`TaskGroup::task`].
///
/// By default a task is not required, is not a daemon, has no drain budget of its own and declares
/// no heartbeat. The options take effect with one of the `spawn` methods.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # headcount::testing::check(async |tasks| {
/// let accept = tasks
///     .task("accept")
///     .drain_budget(Duration::from_secs(2))
///     .heartbeat(Duration::from_secs(60))
///     .spawn(async { 42 });
/// assert_eq!(accept.await?, 42);
///
/// let parse = tasks.task("parse").long_lived().try_spawn(async { "seven".parse::<u32>() });
/// assert!(parse.await?.is_err());
/// # Ok::<(), headcount::TaskError>(())
/// # });
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a task starts when it is spawned"]
pub struct Spawn<'a> {
    group: &'a TaskGroup,
    name: &'a str,
    options: Options,
    heartbeat: Option<Duration>,
    #[cfg(feature = "otel")]
    parent: Option<Traceparent>,
}

// === impl TaskGroup ===

impl TaskGroup {
    /// Starts a task on the runtime's workers.
    ///
    /// It can be called from any thread, inside or outside the runtime.
    ///
    /// A task that is spawned while the group drains is accepted and counted. Once the shutdown has
    /// reached the cancel layer, the task is refused: the future is dropped without being polled,
    /// and the handle yields [`TaskError::Refused`].
    ///
    /// A panic of the task is caught, logged and counted, and the handle yields it as
    /// [`TaskError::Panicked`].
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let answer = tasks.spawn("answer", async { 42 });
    /// assert_eq!(answer.await?, 42);
    ///
    /// let broken = tasks.spawn("broken", async { None::<u8>.expect("a free seat") });
    /// assert!(broken.await.unwrap_err().is_panic());
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.task(name).spawn(future)
    }

    /// Starts a task that counts as `failed` if it returns `Err`; the error is logged.
    ///
    /// The handle yields the task's `Result` inside its own. In all else it behaves like
    /// [`TaskGroup::spawn`].
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let parsed = jobs.try_spawn("parse", async { "seven".parse::<u32>() });
    /// assert!(parsed.await?.is_err());
    /// assert_eq!(jobs.counters()[0].failed, 1);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
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
    /// A running closure cannot be cancelled: check [`TaskGroup::is_draining`] in it and return. A
    /// closure that has not started yet is cancelled like any task. After the cancel layer has
    /// begun, a closure is refused as described for [`TaskGroup::spawn`].
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let sum = tasks.spawn_blocking("sum", || (1..=100).sum::<u32>());
    /// assert_eq!(sum.await?, 5050);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn_blocking<F, T>(&self, name: &str, work: F) -> TaskHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.task(name).spawn_blocking(work)
    }

    /// Starts a task that stays on the calling thread, so its future need not be `Send`.
    ///
    /// # Panics
    ///
    /// Panics outside of a [`tokio::task::LocalSet`], as `tokio::task::spawn_local` does.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let shared = std::rc::Rc::new(42);
    /// let local = tokio::task::LocalSet::new();
    /// let answer = local.run_until(async {
    ///     tasks.spawn_local("answer", async move { *shared }).await
    /// });
    /// assert_eq!(answer.await?, 42);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn_local<F>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.task(name).spawn_local(future)
    }

    /// Returns the options of a task that is about to be spawned:
    /// `tasks.task("accept").required().spawn(future)`.
    ///
    /// Nothing starts, and nothing is counted, before one of the `spawn` methods is called.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let options = jobs.task("import").long_lived();
    /// assert!(jobs.counters().is_empty(), "nothing has started");
    /// options.spawn(async {}).await?;
    /// assert_eq!(jobs.counters()[0].started, 1);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[must_use = "a task starts when it is spawned"]
    pub fn task<'a>(&'a self, name: &'a str) -> Spawn<'a> {
        Spawn::new(self, name)
    }
}

// === impl Spawn ===

impl<'a> Spawn<'a> {
    pub(super) fn new(group: &'a TaskGroup, name: &'a str) -> Self {
        Self {
            group,
            name,
            options: Options::of(TaskKind::Async),
            heartbeat: None,
            #[cfg(feature = "otel")]
            parent: None,
        }
    }

    /// Makes the task's span a child of a span in another process, such as the request that the
    /// task answers.
    ///
    /// Default: the parent is the span of the task that spawns it.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// # use headcount::task::{InvalidTraceparent, Traceparent};
    /// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let parent: Traceparent = header.parse()?;
    /// let answer = tasks.task("request").traceparent(parent).spawn(async { 42 });
    /// assert_eq!(answer.await.ok(), Some(42));
    /// # Ok::<(), InvalidTraceparent>(())
    /// # });
    /// ```
    #[cfg(feature = "otel")]
    pub fn traceparent(mut self, parent: Traceparent) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Marks the task as one that the service cannot run without.
    ///
    /// If the task ends before a shutdown has begun, its end begins one, and the service is not
    /// ready from then on. Unless the task completed, the exit code is then 1, or a higher one if
    /// something lingers.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     let accept = async { Err::<(), _>("the socket is gone") };
    ///     tasks.task("accept").required().try_spawn(accept);
    ///     tasks.draining().await;
    /// });
    /// assert_eq!(report.exit_code(), 1);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn required(mut self) -> Self {
        self.options.required = true;
        self
    }

    /// Marks the task as a daemon, which no drain, wait or shutdown layer waits for.
    ///
    /// It is told to drain, and is cancelled in the cancel layer. The report names it only if it
    /// cannot be cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// jobs.task("reload").daemon().spawn(std::future::pending::<()>());
    /// jobs.wait().await;
    /// assert_eq!(jobs.snapshot().tasks().len(), 1, "it still runs");
    /// # });
    /// ```
    pub fn daemon(mut self) -> Self {
        self.options.daemon = true;
        self
    }

    /// Marks the task as one that lives about as long as the service.
    ///
    /// It gets a trace of its own instead of a span in the trace of the task that spawns it.
    /// Without telemetry this has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let group = tasks.clone();
    /// let flusher = tasks.task("flusher").long_lived();
    /// let flusher = flusher.spawn(async move { group.draining().await });
    /// assert!(!flusher.is_finished());
    /// # });
    /// ```
    pub fn long_lived(mut self) -> Self {
        self.options.long_lived = true;
        self
    }

    /// Sets how long the task may drain before it is cancelled, counted from when its group is told
    /// to drain.
    ///
    /// The task never gets longer than the drain itself: the drain layer, or the budget of
    /// [`TaskGroup::drain`]. Default: no budget of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// let deaf = jobs.task("deaf").drain_budget(Duration::from_millis(20));
    /// let deaf = deaf.spawn(std::future::pending::<()>());
    /// jobs.drain().await;
    /// assert!(deaf.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.options.drain_budget = Some(budget.min(clock::LONGEST));
        self
    }

    /// Declares that the task calls [`TaskGroup::beat`] at least once per `every`.
    ///
    /// A task that does not is *stalled*. headcount logs at most one warning for it until it beats
    /// again, as a `tracing` event with target `headcount::task`. Snapshots, dumps and counters
    /// show the task as stalled. While a [`required`](Self::required) task is stalled, the service
    /// is not ready.
    ///
    /// A poll is not a beat, because a task can be polled forever without progress. Heartbeats are
    /// checked ten times a second, so a stall is noticed up to about 0.2 s late. A task need not
    /// beat while its group drains.
    ///
    /// Default: no heartbeat.
    ///
    /// # Examples
    ///
    /// ```
    /// # use headcount::TaskGroup;
    /// # use std::time::Duration;
    /// # headcount::testing::check(async |tasks| {
    /// let group = tasks.clone();
    /// let ticker = tasks.task("ticker").heartbeat(Duration::from_secs(5)).spawn(async move {
    ///     let mut tick = tokio::time::interval(Duration::from_secs(1));
    ///     while group.until_draining(tick.tick()).await.is_some() {
    ///         TaskGroup::beat();
    ///     }
    /// });
    /// assert!(!ticker.is_finished());
    /// # });
    /// ```
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = Some(every);
        self
    }

    /// Starts the task as [`TaskGroup::spawn`] does.
    #[track_caller]
    #[inline]
    pub fn spawn<F>(self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.start(Any, future)
    }

    /// Starts the task as [`TaskGroup::try_spawn`] does.
    #[track_caller]
    pub fn try_spawn<F, T, E>(self, future: F) -> TaskHandle<Result<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        self.start(OkOrErr, future)
    }

    #[track_caller]
    #[inline]
    fn start<F, J>(self, judge: J, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        J: Judge<F::Output> + Send + 'static,
    {
        if self.group.registry_root().is_refusing() {
            return TaskHandle::refused();
        }
        let (spawned, span) = self.enter::<F>(Location::caller());
        let _mark = untracked::mark::mark_tracked();
        let handle = self.group.handle();
        if size_of::<F>() > LARGE {
            let future = Box::pin(future);
            return hand_over(handle, spawned, span, judge, future);
        }
        hand_over(handle, spawned, span, judge, future)
    }

    /// Starts the task as [`TaskGroup::spawn_local`] does.
    ///
    /// # Panics
    ///
    /// Panics outside of a [`tokio::task::LocalSet`].
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let shared = std::rc::Rc::new(42);
    /// let local = tokio::task::LocalSet::new();
    /// let answer = local.run_until(async {
    ///     tasks.task("answer").daemon().spawn_local(async move { *shared }).await
    /// });
    /// assert_eq!(answer.await?, 42);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn_local<F>(mut self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        if self.group.registry_root().is_refusing() {
            return TaskHandle::refused();
        }
        self.options.runs = TaskKind::Local;
        let site = Location::caller();
        let (spawned, span) = self.enter::<F>(site);
        let _mark = untracked::mark::mark_tracked();
        TaskHandle::new(tokio::task::spawn_local(Tracked::new(
            spawned, span, Any, future,
        )))
    }

    /// Runs the closure as [`TaskGroup::spawn_blocking`] does.
    ///
    /// A heartbeat, a drain budget and the other options apply to it, but a closure that runs
    /// cannot be cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let budget = std::time::Duration::from_secs(2);
    /// let sum = tasks.task("sum").drain_budget(budget);
    /// let sum = sum.spawn_blocking(|| (1..=100).sum::<u32>());
    /// assert_eq!(sum.await?, 5050);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn_blocking<F, T>(mut self, work: F) -> TaskHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.group.registry_root().is_refusing() {
            return TaskHandle::refused();
        }
        self.options.runs = TaskKind::Blocking;
        let (spawned, span) = self.enter::<F>(Location::caller());
        let task = spawned.into_registration(span);
        let work = move || run(work, task);
        TaskHandle::new(self.group.handle().spawn_blocking(work))
    }

    /// Interns the kind, takes a slot, and creates the span if telemetry is set up. `F`
    /// is the type of the future or closure.
    // Inlined, so that the result stays in registers instead of being copied through memory.
    #[inline(always)]
    fn enter<F>(&self, site: &'static Location<'static>) -> (Spawned, Span) {
        let spawned = self.spawned::<F>(site);
        #[cfg(feature = "otel")]
        if let Some(observer) = self.group.registry_root().observer() {
            return spawned.observed(&**observer, self.parent);
        }
        (spawned, Span::default())
    }

    /// Counts the task as started and fills its slot. From here on it is listed.
    #[inline]
    // Generic, so that the name of the type is a constant of the cold path only.
    fn spawned<F>(&self, site: &'static Location<'static>) -> Spawned {
        let scope = self.group.scope();
        let found = kind::intern(scope.path(), self.name, site, &self.options, type_name::<F>);
        let spawned = Spawned::start(found, scope);
        if let Some(every) = self.heartbeat {
            spawned.expect_beats(every);
        }
        spawned
    }

    /// Wraps the future of `main`, which is listed as a task but runs on the calling thread.
    pub(super) fn main<F, T, E>(
        group: &'a TaskGroup,
        site: &'static Location<'static>,
        future: F,
    ) -> Tracked<F, OkOrErr>
    where
        F: Future<Output = Result<T, E>>,
        E: Display,
    {
        let mut main = Self::new(group, "main");
        main.options = Options::of(TaskKind::Main);
        let (spawned, span) = main.enter::<F>(site);
        Tracked::new(spawned, span, OkOrErr, future)
    }
}

/// The size in bytes from which on a future is spawned in a box. tokio boxes a large future anyway
/// (`BOX_FUTURE_THRESHOLD`), but all of it: then the task does not have the reference to the slot,
/// by which it is recognized before its first poll.
const LARGE: usize = if cfg!(debug_assertions) { 1920 } else { 16_256 };

/// Spawns the task on its runtime.
#[track_caller]
#[inline(always)]
fn hand_over<F, J>(
    handle: &tokio::runtime::Handle,
    spawned: Spawned,
    span: Span,
    judge: J,
    future: F,
) -> TaskHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    J: Judge<F::Output> + Send + 'static,
{
    // Constructed at the single place where it is handed over: one more copy would read back words
    // that were just written, and stall on those stores.
    #[cfg(all(tokio_unstable, feature = "console"))]
    let spawned = {
        let name = spawned.name_for_tokio();
        let builder = match &name {
            None => tokio::task::Builder::new(),
            Some(name) => tokio::task::Builder::new().name(name),
        };
        let spawned = builder.spawn_on(Tracked::new(spawned, span, judge, future), handle);
        spawned.expect("spawning a task needs no system resource")
    };
    #[cfg(not(all(tokio_unstable, feature = "console")))]
    #[expect(clippy::disallowed_methods, reason = "this is what tracks it")]
    let spawned = handle.spawn(Tracked::new(spawned, span, judge, future));
    TaskHandle::new(spawned)
}

/// Runs a blocking closure as a task.
///
/// If the runtime never runs the closure, its captures are dropped in order: first `work`, then
/// `task`. So the registration ends after the user's closure is gone.
fn run<T>(work: impl FnOnce() -> T, mut task: Registration) -> Result<T, TaskError> {
    if task.turn() == Turn::End {
        let dropped = task.drop_unused(work);
        return Err(task.end_dropped(dropped).unwrap_or(TaskError::Cancelled));
    }
    match task.poll(work) {
        Ok(output) => {
            task.end(TaskOutcome::Completed);
            Ok(output)
        }
        Err(payload) => Err(task.end_panicked(payload)),
    }
}
