//! Running the exit hooks, all at the same time, each on a thread of its own.
//!
//! None can delay the exit beyond the deadline: one that exceeds its budget is left behind and
//! reported.
//!
//! ```text
//! control thread                              thread of a hook
//! start                      ───────────────► run(report, until)
//! rows, or the end of until  ◄───────────────
//! publish the report with all rows
//! try_send(report)           ───────────────► seal(report)
//! end, or 250 ms             ◄───────────────
//! ```
//!
//! The control thread awaits one hook after the other, but their budgets began together: the sum is
//! that of the longest. A hook that is late keeps its thread, and the report in its channel, for as
//! long as the process lives; it is never joined.

use super::context::Context;
use crate::control::exit_hook::ExitHook;
use crate::report::{self, Flush, FlushResult, Report};
use crate::threads::{self, ThreadHandle};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// The part of the deadline that is reserved for printing the report. It is kept from the end of
/// `run` as well as of `seal`.
const RESERVE: Duration = Duration::from_millis(300);
/// The longest wait for all calls of [`ExitHook::seal`] together. Sealing rewrites a small file; a
/// disk that is slower keeps the report that `run` wrote.
const SEAL: Duration = Duration::from_millis(250);

/// A hook that was started.
struct Running {
    /// The name for a row of the hook's own making, if it returned none.
    name: &'static str,
    /// Taken before the thread starts.
    begun: Instant,
    /// The end of the budget or of the deadline's share. The hook knows it.
    until: Instant,
    /// Receives the result of [`ExitHook::run`]. Closed without a result if the hook panicked.
    said: oneshot::Receiver<Vec<Flush>>,
    /// Sends the report for [`ExitHook::seal`]. Dropping it unsent ends the thread without a call
    /// of `seal`.
    sealing: SyncSender<Arc<Report>>,
    /// Receives a message when the thread is done. A panic in `seal` closes it, which ends the wait
    /// too.
    sealed: oneshot::Receiver<()>,
}

/// Runs all hooks, and returns the report with their results.
///
/// All hooks are started before any is awaited, so their budgets run at the same time. The report is
/// published once before they run, and again with their results. If none has a result, no hook is
/// sealed.
///
/// If the deadline has already been used up, hooks are started all the same, so that a fast one may
/// still do its work, and are reported as timed out. The rows are in the order of the parts, those
/// of hooks that could not be started first.
pub(super) async fn run(cx: &Context, mut report: Report) -> Arc<Report> {
    let deadline = cx.deadline().into_std();
    let last = deadline.checked_sub(RESERVE).unwrap_or(deadline);
    account(cx, &mut report);
    let first = Arc::new(report);
    cx.progress.publish(&first);
    let mut running = Vec::new();
    let mut flush = Vec::new();
    for hook in &cx.hooks.list {
        match start(cx.root.number, hook, &first, last) {
            Ok(one) => running.push(one),
            Err(failed) => flush.push(failed),
        }
    }
    for one in &mut running {
        let said = timeout_at(one.until.into(), &mut one.said).await;
        match said.ok().and_then(Result::ok) {
            Some(rows) => flush.extend(rows),
            None => flush.push(one.not_done()),
        }
    }
    if flush.is_empty() {
        return first;
    }
    let mut report = Report {
        flush,
        ..Report::clone(&first)
    };
    account(cx, &mut report);
    let report = Arc::new(report);
    cx.progress.publish(&report);
    seal(running, &report, last).await;
    report
}

/// Has every hook add to the report what it knows of the run.
fn account(cx: &Context, report: &mut Report) {
    for hook in &cx.hooks.list {
        hook.account(report);
    }
}

/// Starts a hook on a thread. It may use its budget, but not beyond `last`. The hook's `Arc` lives
/// as long as the thread, so a runtime may be dropped meanwhile.
fn start(
    root: u64,
    hook: &Arc<dyn ExitHook>,
    report: &Arc<Report>,
    last: Instant,
) -> Result<Running, Flush> {
    let begun = Instant::now();
    let until = last.min(begun + hook.budget());
    let (tell, said) = oneshot::channel();
    let (sealing, seals) = sync_channel::<Arc<Report>>(1);
    let (done, sealed) = oneshot::channel();
    let (name, report, hook) = (hook.name(), Arc::clone(report), Arc::clone(hook));
    let work = move || {
        // Fails if the hook has timed out.
        tell.send(hook.run(&report, until)).ok();
        if let Ok(report) = seals.recv() {
            hook.seal(&report);
        }
        done.send(()).ok();
    };
    // Never joined: it may be blocked forever.
    let started: std::io::Result<ThreadHandle<()>> =
        threads::start_own(root, "headcount-exit", work);
    match started {
        Ok(_detached) => Ok(Running {
            name,
            begun,
            until,
            said,
            sealing,
            sealed,
        }),
        Err(error) => {
            let text = format!("{name} not done: could not start a thread: {error}");
            Err(Flush::new(name, FlushResult::Failed, text, begun.elapsed()))
        }
    }
}

/// Sends the report with all results to the hooks, and waits for them for at most [`SEAL`].
async fn seal(running: Vec<Running>, report: &Arc<Report>, last: Instant) {
    let until = last.min(Instant::now() + SEAL);
    let mut sealed = Vec::new();
    for one in running {
        // The channel keeps it for a hook that is still busy. It may arrive too late, or never.
        one.sealing.try_send(Arc::clone(report)).ok();
        sealed.push(one.sealed);
    }
    for one in sealed {
        // A timeout needs no handling: the hook has had its time.
        timeout_at(until.into(), one).await.ok();
    }
}

// === impl Running ===

impl Running {
    /// Returns the row for a hook that returned nothing.
    fn not_done(&self) -> Flush {
        let took = self.begun.elapsed();
        // A thread that panics drops its sender, so the wait ends before the budget does.
        let (result, text) = if Instant::now() < self.until {
            (
                FlushResult::Failed,
                format!("{} not done: its thread panicked", self.name),
            )
        } else {
            let text = format!("{} not done within {}", self.name, report::brief(took));
            (FlushResult::TimedOut, text)
        };
        Flush::new(self.name, result, text, took)
    }
}

#[cfg(test)]
mod tests;
