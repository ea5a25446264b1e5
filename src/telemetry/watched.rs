//! What metrics and the admin server look at: one runtime, from outside.

use super::exports::Exports;
use super::heartbeat::Heartbeat;
use super::past::Past;
use super::process::{Facts, Process};
use crate::registry::root::Root;
use crate::shutdown::Standing;
use crate::state::PreviousRun;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// One runtime.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) service: String,
    pub(crate) root: Arc<Root>,
    pub(crate) standing: Arc<Standing>,
    /// The work runtime.
    pub(crate) work: Handle,
    pub(crate) owns_runtime: bool,
    /// Of drain, cancel and close.
    pub(crate) budgets: [Duration; 3],
    pub(crate) begun: Instant,
    pub(crate) heartbeat: Heartbeat,
    /// How earlier runs ended.
    pub(crate) past: Past,
    pub(crate) exports: Arc<Exports>,
    pub(super) process: Process,
}

/// Why untracked tasks are not seen.
pub(crate) const NO_HOOKS: &str = "untracked tasks: built without tokio_unstable";
/// The same, on a runtime of somebody else.
pub(crate) const NOT_OURS: &str = "untracked tasks: headcount does not own the runtime";

// === impl Watched ===

impl Watched {
    /// Why the service should get no work; empty when it should.
    pub(crate) fn reasons_not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(reason) = self.standing.course().seen().reason {
            reasons.push(format!("stopping: {reason}"));
        } else if self.root.has_lost_required() {
            reasons.push("a required task has ended".to_owned());
        } else if self.root.is_stopping() {
            reasons.push("stopping".to_owned());
        } else if self.root.has_stalled_required() {
            reasons.push("a required task has missed its heartbeat".to_owned());
        }
        reasons
    }

    /// What the system knows of this process.
    pub(crate) fn process(&self) -> Facts {
        self.process.look()
    }

    /// The run before this one.
    pub(crate) fn previous(&self) -> Option<&PreviousRun> {
        self.past.state.as_deref()?.previous()
    }

    /// What cannot be seen, and why.
    pub(crate) fn not_observed(&self) -> Vec<&'static str> {
        match (self.root.sees_untracked(), self.owns_runtime) {
            (true, _) => Vec::new(),
            (false, true) => vec![NO_HOOKS],
            (false, false) => vec![NOT_OURS],
        }
    }
}
