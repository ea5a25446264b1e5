//! Watching tasks on a runtime that somebody else owns.

use super::Start;
use super::builder::{BuildError, Builder, fit};
use crate::group::TaskGroup;
use crate::report::{Dump, Reason, Report};
use crate::shutdown::dump::Dumper;
use crate::shutdown::ending::Endings;
use crate::shutdown::{Control, Owned, UnknownThreads};
use std::fmt;
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
    let (tasks, control) =
        Start::new(plan).control(&Arc::new(Owned::new(None)), handle, Endings::default())?;
    Ok(Attached { tasks, control })
}

// === impl Attached ===

impl Attached {
    /// The root of all groups.
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
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
