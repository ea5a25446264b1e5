//! Exit hooks: work to do with the final report before the process may exit, such as saving and
//! pushing it.
//!
//! The modules that implement [`ExitHook`] use this one, not the reverse. The shutdown runs them.
//!
//! ```text
//! begun          control thread      the shutdown begins
//! second_signal  control thread      at most once
//! account        control thread      before and after run
//! run            a thread of its own the report is complete, apart from the hooks' rows
//! seal           the same thread     all hooks have returned or timed out
//! forced         watchdog thread     instead of the rest, at the deadline
//! ```
//!
//! The parts of a runtime add their hooks while they open, and the list does not change afterwards.

use super::scrapes::Scrapes;
use crate::report::{Flush, Reason, Report};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An action on the final report. All hooks run at the same time, each on a thread of its own.
pub(crate) trait ExitHook: Debug + Send + Sync {
    /// Returns the name used in the report if it has no result of its own, because it timed out or
    /// panicked. For example `state` or `traces`.
    fn name(&self) -> &'static str;

    /// Returns the time that it may take. It gets less if the deadline is near.
    fn budget(&self) -> Duration;

    /// Called when the shutdown begins. Must not block, because the shutdown waits for it. The
    /// deadline counts already.
    fn begun(&self, _reason: &Reason) {}

    /// Called at a second signal. It is the last chance to record anything, because the next signal
    /// ends the process at once. Must not block.
    ///
    /// It may come before or after `run`, or during it.
    fn second_signal(&self, _signal: &Reason) {}

    /// Adds to the report what only this hook knows of the run. Called on the control thread before
    /// [`ExitHook::run`] and again after it. Must not block.
    fn account(&self, _report: &mut Report) {}

    /// Does the work. May block, but is not waited for after `until`. Returns one row for each
    /// result that a reader of the report will ask about. `until` may already have passed if the
    /// deadline is near. A panic becomes a row of its own.
    fn run(&self, report: &Report, until: Instant) -> Vec<Flush>;

    /// Called with the report that contains the results of all hooks, after [`ExitHook::run`] and
    /// on the same thread. May block. Not called if no hook returned a row. Not called either if
    /// `run` panicked. The process may end during the call.
    fn seal(&self, _report: &Report) {}

    /// Called when the watchdog is about to end the process without a report. Must take no lock and
    /// allocate nothing. It may run while any other method does, on another thread. If it blocked,
    /// the process would not end.
    fn forced(&self) {}
}

/// The actions after the report is final: the hooks, and the wait for a final scrape.
///
/// A clone shares the hooks; the watchdog holds one of the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExitHooks {
    /// The hooks in the order of their parts, in which their rows appear.
    pub(crate) list: Vec<Arc<dyn ExitHook>>,
    /// The record that the admin server writes and the last step of the shutdown reads.
    pub(crate) scrapes: Arc<Scrapes>,
}

// === impl ExitHooks ===

impl ExitHooks {
    /// Notifies all hooks of a second signal.
    pub(crate) fn second_signal(&self, signal: &Reason) {
        for hook in &self.list {
            hook.second_signal(signal);
        }
    }

    /// Notifies all hooks that the shutdown begins.
    pub(crate) fn begun(&self, reason: &Reason) {
        for hook in &self.list {
            hook.begun(reason);
        }
    }
}
