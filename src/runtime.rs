//! The runtime of a service: one that headcount owns, or one that it attaches to.
//!
//! A start takes the baseline of threads and children, creates the root of the registry, builds the
//! work runtime with headcount's hooks, and starts the control side. The end of `main`'s future is
//! one of the reasons for a shutdown; the shutdown itself runs on the control side, and hands the
//! report back to the thread of `main`.
//!
//! The settings are in [`Builder`]. Several runtimes can run in one process: each has a root of its
//! own and sees only its own tasks. They share the panic hook and the signal handlers, of which a
//! process has one each.

mod attached;
mod build;
mod builder;
mod parts;
mod phases;
mod trial;

#[cfg(target_os = "linux")]
pub use crate::audit::parent_death::end_with_parent;
pub use crate::control::build_error::BuildError;
pub use crate::control::builder::Builder;
pub use crate::control::signals::{hold_signals, release_signals};
pub use crate::dump::Dumper;
pub use attached::{Attached, attach};

#[cfg(feature = "admin")]
pub use crate::admin::control_sockets;

#[cfg(feature = "admin")]
use crate::admin::{AdminPart, SocketPart};
use crate::control::output::{self, Stream};
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::part::Parts;
use crate::group::TaskGroup;
use crate::report::{Dump, Reason, Report};
use crate::shutdown::Control;
use crate::state::{PreviousRun, StatePart};
use crate::task::{Panic, TaskError};
#[cfg(feature = "admin")]
use crate::telemetry::{Metrics, TelemetryPart};
use crate::threads::{Registration, ThreadClass};
use std::error::Error as _;
use std::fmt::{self, Display};
use std::future::Future;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
#[cfg(feature = "admin")]
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The exit code of a service that could not start. 71 is `EX_OSERR`, "system error", of
/// sysexits(3).
const NOT_STARTED: i32 = 71;

/// A tokio runtime with named tasks and threads, and a shutdown in three layers that ends with a
/// report.
///
/// The runtime starts when it is built; [`Runtime::run`] runs `main` on it.
///
/// headcount adds a few threads of its own, which do not use the runtime's workers:
/// `headcount-control`, `headcount-print` and `headcount-watchdog`, also `headcount-signal` unless
/// [`Builder::signals`] is off, and `headcount-state` if there is a state folder. Others start when
/// they are needed: for the admin server, exporters, the log, dumps and the end of the shutdown.
/// The control thread wakes ten times a second, or more often if [`Builder::hold_limit`] is below 1
/// s; the others sleep until they are needed.
///
/// Dropping a runtime without calling [`Runtime::run`] drops its tasks and ends its threads without
/// waiting for either, and without a report.
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
    owned: Arc<OwnedRuntime>,
    handle: Handle,
    root: u64,
    is_current_thread: bool,
    /// The last field, so that the state folder is released after everything else has been dropped.
    parts: Parts,
}

/// The output of a `main` future: `()`, or a `Result<(), E>` with an error that can be displayed.
///
/// # Examples
///
/// ```
/// use headcount::runtime::MainOutput;
///
/// assert_eq!(().failure(), None);
/// let failed: Result<(), &str> = Err("the port is taken");
/// assert_eq!(failed.failure().as_deref(), Some("the port is taken"));
/// ```
pub trait MainOutput {
    /// Returns the text of the error, or `None` if `main` succeeded.
    fn failure(&self) -> Option<String>;
}

/// Runs a service with the default settings until it has stopped, and returns the report.
///
/// It builds a [`Runtime`], runs `main` on the calling thread, and begins the shutdown when `main`
/// returns, when SIGTERM, SIGINT or SIGHUP arrives, when a [`required`](crate::Spawn::required) task ends,
/// or when [`TaskGroup::stop`] is called. The shutdown takes at most 9.5 s.
///
/// The report is printed on standard error and returned. Return it from `main` to set the exit
/// code.
///
/// A `main` that has started its tasks and has nothing more to do waits for the shutdown with
/// `tasks.draining().await`.
///
/// If the runtime cannot be built, for example because the operating system fails to create a
/// thread, the reason is printed on standard error and the process exits with code 71. Use
/// [`Builder::build`] to get an error instead. A panic of `main` is caught and reported.
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
        Err(error) => refuse(service, &error),
    }
}

/// Prints the reason why a service cannot start, and ends the process.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing has run, so there is no report to return"
)]
fn refuse(service: &str, error: &BuildError) -> ! {
    let cause = error.source().map(|cause| format!(": {cause}"));
    let cause = cause.unwrap_or_default();
    let text = format!("headcount {service}: failed to {error}{cause}\n");
    // If standard error cannot be written, the exit code still says it.
    output::write(Stream::Stderr, text.as_bytes()).ok();
    std::process::exit(NOT_STARTED)
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
    /// Returns the settings of a new runtime, all with their defaults.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = headcount::Runtime::builder();
    /// let report = builder.print(false).build()?.run(async |_tasks| {});
    /// assert!(report.is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Returns the root group, which contains all other groups.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let answer = runtime.tasks().spawn("answer", async { 42 });
    /// let report = runtime.run(async |_tasks| assert_eq!(answer.await.ok(), Some(42)));
    /// assert_eq!(report.exit_code(), 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// Returns a handle that takes dumps while the runtime runs. [`Runtime::run`] consumes the
    /// runtime itself.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let dumper = runtime.dumper();
    /// runtime.run(async |_tasks| {});
    /// assert_eq!(dumper.dump().tasks, 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub fn dumper(&self) -> Dumper {
        self.control.dumper().clone()
    }

    /// Returns everything that is alive at the moment. See [`Dumper::dump`], also for how long it
    /// may block.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().name("orders").print(false).build()?;
    /// assert!(runtime.dump().to_text().contains("orders"));
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.control.dumper().dump()
    }

    /// Returns a handle on the metrics of the runtime, which works while it runs and afterwards.
    /// [`Runtime::run`] consumes the runtime itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Format;
    ///
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let metrics = runtime.metrics();
    /// runtime.run(async |_tasks| {});
    /// assert!(metrics.read(Format::Text).contains("headcount_task_started_total"));
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.parts.get::<TelemetryPart>().metrics().clone()
    }

    /// Returns the address on which the admin server listens, or `None` if [`Builder::admin`] was
    /// not called. If it was called with port 0, this has the port that the system assigned.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().admin(([127, 0, 0, 1], 0).into()).build()?;
    /// let address = runtime.admin_address().expect("there is a server");
    /// assert_ne!(address.port(), 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.parts.get::<AdminPart>().address()
    }

    /// Returns the path of the control socket, or `None` if there is none:
    /// [`Builder::control_socket`] was not called, or a warning has said why it could not be made.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("orders.sock");
    /// let runtime = headcount::Runtime::builder().control_socket(&path).print(false).build()?;
    /// assert_eq!(runtime.control_socket(), Some(&*path));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn control_socket(&self) -> Option<&Path> {
        self.parts.get::<SocketPart>().path()
    }

    /// Returns how the previous run ended.
    ///
    /// It is `None` for the first run in a state folder, if there is no state folder, and if the
    /// folder cannot be used.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let orders = || headcount::Runtime::builder().name("orders").state_folder(folder).print(false);
    /// let first = orders().build()?;
    /// assert!(first.previous_run().is_none());
    /// first.run(async |_| {});
    ///
    /// let second = orders().build()?;
    /// let previous = second.previous_run().expect("there was one");
    /// assert_eq!(previous.shutdown.outcome.as_str(), "clean");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn previous_run(&self) -> Option<&PreviousRun> {
        self.parts.get::<StatePart>().previous()
    }

    /// Runs `main` on the calling thread until the service has stopped, and returns the report.
    ///
    /// The shutdown begins when `main` returns or panics, on a signal, when a required task ends,
    /// or when [`TaskGroup::stop`] is called. `main` is then a task like any other: it is expected
    /// to return during the drain, and is cancelled at its next await in the cancel layer.
    ///
    /// This returns within the deadline, by default 9.5 s after the shutdown began. If `main`
    /// blocks the calling thread beyond that (a busy loop, a blocking call), the process exits with
    /// code 70, because the report cannot be returned.
    ///
    /// # Panics
    ///
    /// Panics if it is called from within a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |_tasks| Err::<(), _>("the port is taken"));
    /// assert_eq!(report.exit_code(), 1);
    /// assert!(report.to_text(false).contains("the port is taken"));
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[track_caller]
    pub fn run<F, T>(self, main: F) -> Report
    where
        F: AsyncFnOnce(TaskGroup) -> T,
        T: MainOutput,
    {
        self.run_to_end(main).0
    }

    /// Runs `main` and the shutdown, and returns the report and the panic of `main`, if it
    /// panicked.
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
                // Cancelled by the shutdown, which already has a reason, so this one is ignored.
                Err(_) => Reason::MainEnded,
            });
        });
        self.owned.main_runs.send_replace(false);
        (self.report(), panicked)
    }

    /// Drives `main` to its end on the calling thread. On a current-thread runtime it also drives
    /// all other tasks, until the shutdown has cancelled them.
    fn block_on(&self, main: impl Future<Output = ()>) {
        let runtime = if self.is_current_thread {
            self.owned.take()
        } else {
            None
        };
        let Some(runtime) = runtime else {
            // The runtime stays with the control side, which can then close it even while this
            // thread is blocked.
            return self.handle.block_on(main);
        };
        // The tasks of a current-thread runtime run only inside this call, so the drain needs it
        // even after `main`.
        let mut released = self.owned.released.subscribe();
        runtime.block_on(async {
            main.await;
            // The sender belongs to `self.owned`, so this returns only when the cancel layer has
            // released the runtime.
            released.wait_for(|released| *released).await.ok();
        });
        self.owned.put(runtime);
    }

    /// Waits for the report, then disarms the watchdog and gives signals their default effect
    /// again.
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
        // It does nothing if the runtime has run: the shutdown has closed it. Otherwise its tasks
        // may hold groups, and those keep the control side alive, so the runtime must be shut down
        // here.
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
