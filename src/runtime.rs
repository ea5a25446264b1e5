//! Owning a tokio runtime, or attaching to one: hooks, baseline, `main`, and the way from its end to the report.

mod attached;
mod builder;
#[cfg(feature = "admin")]
mod exporting;
#[cfg(feature = "json")]
mod remembering;

pub use crate::shutdown::dump::Dumper;
pub use attached::{Attached, attach};
pub use builder::{BuildError, Builder};

use crate::audit::{Baseline, stack};
#[cfg(feature = "admin")]
use crate::control::Admin;
use crate::group::{Budgets, TaskGroup};
use crate::registry::root::Root;
use crate::registry::{clock, panics};
use crate::report::{Dump, Reason, Report};
use crate::shutdown::ending::Endings;
use crate::shutdown::{Control, Owned, Plan};
use crate::task::{Panic, TaskError};
#[cfg(feature = "console")]
use crate::telemetry::Serving;
#[cfg(feature = "admin")]
use crate::telemetry::{Metrics, Past, Watched};
use crate::threads::{Registration, ThreadClass};
use std::fmt::{self, Display};
use std::future::Future;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::sync::Arc;
#[cfg(feature = "admin")]
use std::time::Duration;
use tokio::runtime::Handle;

/// A tokio runtime whose tasks and threads are known by name, and a shutdown in three layers for it.
///
/// Its own threads are `headcount-control`, `-signal`, `-voice` and `-watchdog`, and `-state` where it has a state folder;
/// they use nothing of the runtime's workers, and sleep until they are needed. The first wakes ten times a second: see
/// [`Builder::hold_limit`].
///
/// Dropped without [`Runtime::run`] it drops its tasks and ends its threads, and waits for neither.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let runtime = headcount::Runtime::builder()
///     .name("orders")
///     .drain_budget(Duration::from_secs(3))
///     .print(false)
///     .build()?;
/// let report = runtime.run(async |tasks| {
///     let ticker = tasks.clone();
///     tasks.spawn("ticker", async move { ticker.draining().await });
/// });
/// assert!(report.is_clean());
/// # Ok::<(), headcount::BuildError>(())
/// ```
pub struct Runtime {
    tasks: TaskGroup,
    control: Arc<Control>,
    owned: Arc<Owned>,
    handle: Handle,
    root: u64,
    is_current_thread: bool,
    /// Served as long as this is there.
    #[cfg(feature = "console")]
    _console: Option<Serving>,
    #[cfg(feature = "admin")]
    metrics: Metrics,
    #[cfg(feature = "admin")]
    admin: Option<Admin>,
    /// The last field: the folder is given back when all else is over.
    #[cfg(feature = "json")]
    remembered: remembering::Remembered,
}

/// What `main`'s future may return.
pub trait MainOutput {
    /// The error's text, when it is one.
    fn failure(&self) -> Option<String>;
}

/// Runs a service to its end: builds a runtime with the default settings, runs `main` on it, and stops everything when
/// `main` returns, a signal comes, or a task that is [`required`](crate::Spawn::required) ends. Prints the report on
/// standard error and returns it; as the result of `main` it sets the exit code.
///
/// A service whose `main` has nothing more to do waits: `tasks.draining().await`.
///
/// # Panics
///
/// When the system refuses the threads of the runtime. [`Builder::build`] returns that as an error.
///
/// # Examples
///
/// ```no_run
/// fn main() -> headcount::Report {
///     headcount::run("orders", async |tasks| {
///         let ticker = tasks.clone();
///         tasks.spawn("ticker", async move {
///             let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
///             while ticker.until_draining(tick.tick()).await.is_some() {
///                 println!("tick");
///             }
///         });
///         tasks.draining().await;
///     })
/// }
/// ```
#[track_caller]
pub fn run<F, T>(service: &str, main: F) -> Report
where
    F: AsyncFnOnce(TaskGroup) -> T,
    T: MainOutput,
{
    match Runtime::builder().name(service).build() {
        Ok(runtime) => runtime.run(main),
        Err(error) => panic!("failed to start '{service}': {error}"),
    }
}

// === impl MainOutput ===

impl MainOutput for () {
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<E: Display> MainOutput for Result<(), E> {
    fn failure(&self) -> Option<String> {
        self.as_ref().err().map(ToString::to_string)
    }
}

// === impl Runtime ===

impl Runtime {
    /// Settings, all with defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The root of all groups.
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// Takes dumps, also while the runtime runs: [`Runtime::run`] takes the runtime itself.
    #[must_use]
    pub fn dumper(&self) -> Dumper {
        self.control.dumper().clone()
    }

    /// What lives at this moment. See [`Dumper::dump`].
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.control.dumper().dump()
    }

    /// What the runtime, its tasks and threads are in numbers, also while it runs: [`Runtime::run`] takes the runtime
    /// itself.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Where the admin server listens, if it was asked for: the port that it got when it was asked for port 0.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Runs `main` on this thread, stops everything when it ends or something else says so, and returns the report.
    ///
    /// Returns within the deadline, by default 9.5 s after the shutdown began; if `main` holds this thread for longer
    /// (a busy loop, a blocking call), the process is ended with code 70, since nobody could return the report.
    #[track_caller]
    pub fn run<F, T>(self, main: F) -> Report
    where
        F: AsyncFnOnce(TaskGroup) -> T,
        T: MainOutput,
    {
        self.run_to_end(main).0
    }

    /// The report, and the panic of `main`.
    #[track_caller]
    pub(crate) fn run_to_end<F, T>(self, main: F) -> (Report, Option<Panic>)
    where
        F: AsyncFnOnce(TaskGroup) -> T,
        T: MainOutput,
    {
        let _registered = Registration::new(self.root, ThreadClass::Main, None);
        let future = main(self.tasks.clone());
        let tracked = self.tasks.track_main(async {
            let output = future.await;
            output.failure().map_or(Ok(()), Err)
        });
        let mut panicked = None;
        self.owned.main_runs.send_replace(true);
        self.block_on(async {
            self.control.stop(match tracked.await {
                Ok(Ok(())) => Reason::MainEnded,
                Ok(Err(error)) => Reason::MainFailed(error),
                Err(TaskError::Panicked(panic)) => {
                    let text = panic.to_string();
                    panicked = Some(panic);
                    Reason::MainPanicked(text)
                }
                // Cancelled by the shutdown, which has its reason.
                Err(_) => Reason::MainEnded,
            });
        });
        self.owned.main_runs.send_replace(false);
        (self.report(), panicked)
    }

    fn block_on(&self, main: impl Future<Output = ()>) {
        let runtime = if self.is_current_thread {
            self.owned.take()
        } else {
            None
        };
        let Some(runtime) = runtime else {
            // The control side keeps the runtime, so that it can close it even while this thread is stuck.
            return self.handle.block_on(main);
        };
        // Tasks of a current-thread runtime run only in here, so the drain needs this thread after `main` too.
        let mut released = self.owned.released.subscribe();
        runtime.block_on(async {
            main.await;
            // The control side lives as long as this call, so it says so in the end.
            released.wait_for(|released| *released).await.ok();
        });
        self.owned.put(runtime);
    }

    fn report(&self) -> Report {
        let report = self
            .control
            .report()
            .and_then(|report| report.blocking_recv().ok());
        self.control.release();
        report.expect(
            "the control thread reports before it ends, and only this call takes the report",
        )
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Unless it ran: then the shutdown has it. Its tasks may hold groups, which keep the control side.
        self.owned.shutdown_background();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

/// What is there before a runtime is watched.
struct Start {
    plan: Plan,
    baseline: Baseline,
    root: Arc<Root>,
}

// === impl Start ===

impl Start {
    fn new(plan: Plan) -> Self {
        panics::install();
        // The clock's calibration, which takes some milliseconds, is not for the first task to pay.
        clock::raw();
        if cfg!(feature = "stacks") {
            // Before the baseline: it may start threads.
            stack::prepare();
        }
        Self {
            plan,
            baseline: Baseline::take(),
            root: Root::new(),
        }
    }

    /// Starts the control side, for the runtime of that handle.
    fn control(
        self,
        owned: &Arc<Owned>,
        handle: &Handle,
        endings: Endings,
    ) -> Result<(TaskGroup, Arc<Control>), BuildError> {
        let budgets = Budgets {
            drain: self.plan.drain,
            cancel: self.plan.cancel,
        };
        let control = Control::start(
            self.plan,
            &self.root,
            self.baseline,
            owned,
            handle.clone(),
            endings,
        )
        .map(Arc::new)
        .map_err(BuildError::System)?;
        let tasks = TaskGroup::root(self.root, handle.clone(), control.side(), budgets);
        Ok((tasks, control))
    }
}

/// What metrics and the admin server look at.
#[cfg(feature = "admin")]
fn watched_of(
    (service, budgets): (&str, [Duration; 3]),
    tasks: &TaskGroup,
    control: &Control,
    (owns_runtime, past): (bool, Past),
) -> Watched {
    let work = (tasks.handle().clone(), owns_runtime);
    let (root, standing) = (tasks.registry_root(), control.standing());
    let mut watched = Watched::new(service, root, standing, work, budgets);
    watched.past = past;
    watched
}

fn threads_of(builder: &mut tokio::runtime::Builder, root: u64) {
    builder
        .on_thread_start(move || crate::threads::register_pooled(root, ThreadClass::Blocking))
        .on_thread_stop(crate::threads::forget_own)
        .on_thread_park(move || {
            if tokio::runtime::worker_index().is_some() {
                crate::threads::note_worker(root);
            }
        });
}
