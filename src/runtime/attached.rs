//! Tracking on a tokio runtime that headcount does not own, such as that of `#[tokio::main]`.
//!
//! It starts the same control side as an owned runtime, but sets none of the hooks, so whatever
//! depends on them is reported as not observed. It never closes the runtime and never ends the
//! process.

use super::phases::{Bound, Started};
#[cfg(feature = "admin")]
use crate::admin::AdminPart;
use crate::audit::ownership::UnknownThreads;
use crate::control::build_error::BuildError;
use crate::control::builder::Builder;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::part::Parts;
use crate::dump::Dumper;
use crate::group::TaskGroup;
use crate::report::{Dump, Reason, Report};
use crate::shutdown::Control;
#[cfg(feature = "admin")]
use crate::telemetry::{Metrics, TelemetryPart};
use std::fmt;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Tracking on a tokio runtime that headcount does not own, made by [`attach`].
///
/// Tracking, listing, draining and cancelling of tracked tasks, and the audit of the threads that
/// headcount started, work as on an owned [`Runtime`](crate::Runtime). The report lists as not
/// observed what needs ownership: untracked tasks, and which of the other threads belong to the
/// runtime.
///
/// It handles no signals, prints nothing, and never ends the process: call [`Attached::shutdown`].
/// The settings are the defaults of [`Builder`], and there is no state folder.
///
/// Dropping it without a shutdown leaves all tasks running and tracked, and stops the admin server.
///
/// # Examples
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), headcount::BuildError> {
/// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
/// let answer = headcount.tasks().spawn("answer", async { 42 });
/// assert_eq!(answer.await.ok(), Some(42));
///
/// let report = headcount.shutdown("done").await;
/// assert_eq!(report.exit_code(), 0);
/// # Ok(())
/// # }
/// ```
pub struct Attached {
    /// The root group.
    tasks: TaskGroup,
    /// The control side, which groups keep alive too.
    control: Arc<Control>,
    /// The parts; without the feature `admin` they are only held.
    #[cfg_attr(
        not(feature = "admin"),
        expect(dead_code, reason = "the parts run until they are dropped")
    )]
    parts: Parts,
}

/// Attaches to a tokio runtime that headcount does not own, such as that of `#[tokio::main]`.
///
/// Only tasks that are started through [`Attached::tasks`] from here on are tracked.
///
/// # Errors
///
/// Returns [`BuildError::System`] if the operating system fails to create a thread.
///
/// # Examples
///
/// ```
/// #[tokio::main]
/// async fn main() -> Result<(), headcount::BuildError> {
///     let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
///     headcount.tasks().spawn("hello", async { println!("hello") });
///     let report = headcount.shutdown("done").await;
///     assert!(report.is_clean());
///     Ok(())
/// }
/// ```
pub fn attach(handle: &Handle) -> Result<Attached, BuildError> {
    let Builder {
        mut plan, parts, ..
    } = Builder::new().print(false).signals(false);
    plan.may_exit = false;
    plan.unknown_threads = UnknownThreads::Expect;
    let owned = Arc::new(OwnedRuntime::new(None));
    let Started {
        tasks,
        control,
        parts,
    } = Bound::new(plan, None, parts)?
        .open()?
        .start(&owned, handle)?;
    Ok(Attached {
        tasks,
        control,
        parts,
    })
}

// === impl Attached ===

impl Attached {
    /// Returns the root group, which contains all other groups.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// let jobs = headcount.tasks().group("jobs");
    /// jobs.spawn("import", async {}).await.ok();
    /// assert_eq!(jobs.counters()[0].completed, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// Returns a handle on the metrics of the tasks and threads, which keeps working after this
    /// value is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// # use headcount::telemetry::Format;
    /// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// headcount.tasks().spawn("hello", async {}).await.ok();
    /// let text = headcount.metrics().read(Format::Text);
    /// assert!(text.contains("headcount_task_started_total"));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.parts.get::<TelemetryPart>().metrics().clone()
    }

    /// Serves a page, metrics, health checks and JSON on this address, and returns the address.
    ///
    /// With port 0 the returned address has the port that the system assigned. The server runs
    /// until the shutdown has ended or this value is dropped. A second call replaces the first
    /// server. See [`Builder::admin`](crate::Builder::admin) for what is served, and for its access
    /// rules.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Admin`] if the address is in use or not available, and
    /// [`BuildError::System`] if the operating system fails to create a thread.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// let mut headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// let address = headcount.serve_admin(([127, 0, 0, 1], 0).into())?;
    /// assert_ne!(address.port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "admin")]
    #[track_caller]
    pub fn serve_admin(&mut self, address: SocketAddr) -> Result<SocketAddr, BuildError> {
        self.parts.get_mut::<AdminPart>().serve_on(address)
    }

    /// Returns a handle that takes dumps, which keeps working after this value is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// let dumper = headcount.dumper();
    /// headcount.shutdown("done").await;
    /// assert_eq!(dumper.dump().tasks, 0);
    /// # Ok(())
    /// # }
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
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// headcount.tasks().spawn("accept", std::future::pending::<()>());
    /// assert!(headcount.dump().to_text().contains("accept"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.control.dumper().dump()
    }

    /// Drains the tasks, cancels what is left, audits the threads, and returns the report.
    ///
    /// It takes at most 8 s, and about one second more if stacks must be symbolized. `reason` is
    /// shown in the report, unless [`TaskGroup::stop`] or a required task has begun the shutdown
    /// before: the first reason is kept.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the shutdown, but the report is lost.
    ///
    /// # Panics
    ///
    /// Panics if the control thread has ended without a report, which only a bug in headcount can
    /// cause.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), headcount::BuildError> {
    /// let headcount = headcount::attach(&tokio::runtime::Handle::current())?;
    /// let report = headcount.shutdown("sold out").await;
    /// assert!(report.is_clean());
    /// assert!(report.to_text(false).contains("sold out"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(self, reason: &str) -> Report {
        self.control.stop(Reason::Requested(reason.to_owned()));
        let report = self.control.report();
        let report = report.expect("only this call takes the report, once");
        report
            .await
            .expect("the control thread reports before it ends")
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached")
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}
