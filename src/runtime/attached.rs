//! Watching tasks on a runtime that somebody else owns.

use super::Start;
#[cfg(feature = "admin")]
use super::builder::claim;
use super::builder::{BuildError, Builder, fit};
#[cfg(feature = "admin")]
use super::exporting::Exporting;
#[cfg(feature = "admin")]
use super::watched_of;
#[cfg(feature = "admin")]
use crate::control::{Admin, AdminSettings};
use crate::group::TaskGroup;
use crate::report::{Dump, Reason, Report};
use crate::shutdown::dump::Dumper;
use crate::shutdown::ending::Endings;
#[cfg(feature = "admin")]
use crate::shutdown::hold::Scrapes;
use crate::shutdown::{Control, Owned, UnknownThreads};
#[cfg(feature = "admin")]
use crate::telemetry::{Metrics, Past};
use std::fmt;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Tracked tasks on somebody else's runtime.
///
/// Tracking, listing, drain, cancel of tracked tasks and the audit of the threads that headcount started work as on an
/// own [`Runtime`](crate::Runtime). What needs ownership is reported as not observed: untracked tasks, and which of the
/// other threads are the runtime's. It answers to no signal, prints nothing, and never ends the process.
pub struct Attached {
    tasks: TaskGroup,
    control: Arc<Control>,
    #[cfg(feature = "admin")]
    metrics: Metrics,
    #[cfg(feature = "admin")]
    scrapes: Arc<Scrapes>,
    #[cfg(feature = "admin")]
    admin: Option<Admin>,
}

/// Begins to track tasks on a runtime that somebody else owns: of `#[tokio::main]`, say.
///
/// # Errors
///
/// [`BuildError::System`] when the system refuses a thread.
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
    let mut plan = fit(Builder::new().print(false).signals(false).into_plan(), None)?;
    plan.may_exit = false;
    plan.unknown_threads = UnknownThreads::Expect;
    #[cfg(feature = "admin")]
    let (service, budgets) = (plan.service.clone(), [plan.drain, plan.cancel, plan.close]);
    let start = Start::new(plan);
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_mut, reason = "there is nothing to add")
    )]
    let mut endings = Endings::default();
    #[cfg(feature = "otel")]
    let exporting = Exporting::begin(None, (&start, ""), &mut endings)?;
    #[cfg(all(feature = "admin", not(feature = "otel")))]
    let exporting = Exporting::default();
    #[cfg(feature = "admin")]
    let scrapes = Arc::clone(&endings.scrapes);
    let (tasks, control) = start.control(&Arc::new(Owned::new(None)), handle, endings)?;
    #[cfg(feature = "admin")]
    let metrics = exporting.metrics(watched_of(
        (&service, budgets),
        &tasks,
        &control,
        (false, Past::default()),
    ));
    Ok(Attached {
        #[cfg(feature = "admin")]
        metrics,
        #[cfg(feature = "admin")]
        scrapes,
        #[cfg(feature = "admin")]
        admin: None,
        tasks,
        control,
    })
}

// === impl Attached ===

impl Attached {
    /// The root of all groups.
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// What the tasks and threads are in numbers, also after this is gone.
    #[cfg(feature = "admin")]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Serves a page, metrics, health and JSON on this address until the shutdown has ended, and returns the address:
    /// with port 0 the port that it got. See [`Builder::admin`](crate::Builder::admin). One that was served before is
    /// served no more.
    ///
    /// # Errors
    ///
    /// An address that is not to be had; a thread that the system refuses.
    #[cfg(feature = "admin")]
    #[track_caller]
    pub fn serve_admin(&mut self, address: SocketAddr) -> Result<SocketAddr, BuildError> {
        let settings = AdminSettings {
            address,
            hosts: Vec::new(),
        };
        let claimed = claim(&settings)?;
        let scrapes = Arc::clone(&self.scrapes);
        let admin = claimed.serve(
            self.metrics.clone(),
            Arc::new(move |scrape| scrapes.note(scrape)),
        );
        let admin = self.admin.insert(admin.map_err(BuildError::System)?);
        Ok(admin.address())
    }

    /// Takes dumps, also after this is gone.
    #[must_use]
    pub fn dumper(&self) -> Dumper {
        self.control.dumper().clone()
    }

    /// What lives at this moment. See [`Dumper::dump`].
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.control.dumper().dump()
    }

    /// Drains, cancels what is left, looks at the threads, and returns the report: at most 8 s, and a second more where
    /// stacks must be named.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the shutdown; its report is lost.
    ///
    /// # Panics
    ///
    /// When the control thread is gone without a report, which only a bug of headcount does.
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
