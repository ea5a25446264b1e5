//! Starting one task, with its options.

use super::{TaskGroup, TaskHandle};
use crate::registry::clock;
use crate::registry::kind::{self, Options};
use crate::registry::tracked::{Any, Entered, Judge, OkOrErr, Row, Span, Tracked, Turn};
use crate::registry::untracked;
#[cfg(feature = "otel")]
use crate::task::Traceparent;
use crate::task::{TaskError, TaskKind, TaskOutcome};
use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

/// Options of one spawn, made by [`TaskGroup::task`].
///
/// ```
/// # use std::time::Duration;
/// # headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
/// tasks.task("accept").required().drain_budget(Duration::from_secs(2)).spawn(async {});
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

    /// It is a part of a trace that another process began: of the request that it answers, say.
    #[cfg(feature = "otel")]
    pub fn traceparent(mut self, parent: Traceparent) -> Self {
        self.parent = Some(parent);
        self
    }

    /// The service cannot do without it: its end before a shutdown begins one, and the service is not ready from then
    /// on. The exit code is 1 unless it completed.
    pub fn required(mut self) -> Self {
        self.options.required = true;
        self
    }

    /// Nobody waits for it: it is told to drain, and cancelled, without being named in the report. It is reported only
    /// when it cannot be cancelled.
    pub fn daemon(mut self) -> Self {
        self.options.daemon = true;
        self
    }

    /// It lives about as long as the service: its trace is its own, not a part of its spawner's.
    pub fn long_lived(mut self) -> Self {
        self.options.long_lived = true;
        self
    }

    /// How long it may drain, from the moment when its group is told to; then it is cancelled. Never longer than the
    /// drain layer.
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.options.drain_budget = Some(budget.min(clock::LONGEST));
        self
    }

    /// It calls [`TaskGroup::beat`] at least so often, or it is *stalled*: warned of by a `tracing` event of the target
    /// `headcount::task`, once until it beats again, and shown so in snapshots, dumps and counters. While a
    /// [`required`](Self::required) task is stalled the service is not ready.
    ///
    /// A poll is no beat: a task that is polled for ever may get nowhere. It is looked at ten times a second, so a
    /// heartbeat is late by a tenth more. A task that drains need not beat.
    ///
    /// ```
    /// # use headcount::TaskGroup;
    /// # use std::time::Duration;
    /// # headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
    /// # let group = tasks.clone();
    /// tasks.task("ticker").heartbeat(Duration::from_secs(5)).spawn(async move {
    ///     let mut tick = tokio::time::interval(Duration::from_secs(1));
    ///     while group.until_draining(tick.tick()).await.is_some() {
    ///         TaskGroup::beat();
    ///     }
    /// });
    /// # });
    /// ```
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = Some(every);
        self
    }

    /// As [`TaskGroup::spawn`].
    #[track_caller]
    #[inline]
    pub fn spawn<F>(self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.start(Any, future)
    }

    /// As [`TaskGroup::try_spawn`].
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
        let (entered, span) = self.enter(Location::caller());
        let _mark = untracked::mark_tracked();
        let handle = self.group.handle();
        // Made where it is handed over, and at one place: a copy more of what was just written in words would wait for
        // the writes.
        #[cfg(all(tokio_unstable, feature = "console"))]
        let spawned = {
            let name = entered.name_for_tokio();
            let builder = match &name {
                None => tokio::task::Builder::new(),
                Some(name) => tokio::task::Builder::new().name(name),
            };
            let spawned = builder.spawn_on(Tracked::new(entered, span, judge, future), handle);
            spawned.expect("a task needs nothing of the system")
        };
        #[cfg(not(all(tokio_unstable, feature = "console")))]
        #[expect(clippy::disallowed_methods, reason = "this is what tracks it")]
        let spawned = handle.spawn(Tracked::new(entered, span, judge, future));
        TaskHandle::new(spawned)
    }

    /// As [`TaskGroup::spawn_local`].
    ///
    /// # Panics
    ///
    /// Outside of a [`tokio::task::LocalSet`].
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
        let (entered, span) = self.enter(site);
        let _mark = untracked::mark_tracked();
        TaskHandle::new(tokio::task::spawn_local(Tracked::new(
            entered, span, Any, future,
        )))
    }

    /// As [`TaskGroup::spawn_blocking`].
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
        let (entered, span) = self.enter(Location::caller());
        let row = Row::new(entered, span);
        let work = move || run(work, row);
        TaskHandle::new(self.group.handle().spawn_blocking(work))
    }

    // Inlined: what it gives is in registers then, and not in memory from which it would be copied.
    #[inline(always)]
    fn enter(&self, site: &'static Location<'static>) -> (Entered, Span) {
        let entered = self.entered(site);
        #[cfg(feature = "otel")]
        if let Some(observer) = self.group.registry_root().observer() {
            return entered.observed(&**observer, self.parent);
        }
        (entered, Span::default())
    }

    #[inline]
    fn entered(&self, site: &'static Location<'static>) -> Entered {
        let scope = self.group.scope();
        let found = kind::intern(scope.path(), self.name, site, &self.options);
        let entered = Entered::start(found, scope);
        if let Some(every) = self.heartbeat {
            entered.expect_beats(every);
        }
        entered
    }

    /// The future of `main`, which runs on no worker.
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
        let (entered, span) = main.enter(site);
        Tracked::new(entered, span, OkOrErr, future)
    }
}

/// Unless it runs the arguments are dropped in their order: the row ends when the closure is gone.
fn run<T>(work: impl FnOnce() -> T, mut row: Row) -> Result<T, TaskError> {
    if row.turn() == Turn::End {
        let dropped = row.poll(|| drop(work));
        return Err(row.end_dropped(dropped).unwrap_or(TaskError::Cancelled));
    }
    match row.poll(work) {
        Ok(output) => {
            row.end(TaskOutcome::Completed);
            Ok(output)
        }
        Err(payload) => Err(row.end_panicked(payload)),
    }
}
