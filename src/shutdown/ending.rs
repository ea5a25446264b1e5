//! What is done with a final report before the process may end: it is saved, pushed, written down.
//!
//! The modules that do it stand below this one and implement [`Ending`]. Nothing here may delay the end beyond the
//! deadline: each has a thread of its own, and whoever is not done in its time is left behind and reported.

use super::hold::Scrapes;
use super::pipeline::Pipeline;
use crate::report::{self, Flush, FlushResult, Reason, Report};
use crate::threads::{self, ThreadClass, ThreadHandle};
use std::fmt::Debug;
use std::panic::Location;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// What the deadline keeps for the text after all this.
const RESERVE: Duration = Duration::from_millis(300);
/// For a last look at what all endings said.
const SEAL: Duration = Duration::from_millis(250);

/// Something that is done with the final report. All of them at the same time, each on a thread of its own.
pub(crate) trait Ending: Debug + Send + Sync {
    /// How it is called where it has nothing to say itself, because its time is over: `state`, `traces`.
    fn name(&self) -> &'static str;

    /// How long it may take. It gets less when the deadline is near.
    fn budget(&self) -> Duration;

    /// The shutdown has begun. Must not block: the shutdown waits.
    fn begun(&self, _reason: &Reason) {}

    /// A second signal has come: the next one ends the process before anybody could say so.
    fn told_twice(&self, _signal: &Reason) {}

    /// Does it, and may block; what is not done at that moment is not waited for. One row for each thing of which a
    /// reader will ask whether it got through.
    fn end(&self, report: &Report, until: Instant) -> Vec<Flush>;

    /// The report, with what all endings said in it. Called after [`Ending::end`], on the same thread, and may block.
    fn seal(&self, _report: &Report) {}

    /// The watchdog ends the process, without a report. May take no lock and allocate nothing.
    fn forced(&self) {}
}

/// What the pipeline has to do after the report is final.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endings {
    pub(crate) list: Vec<Arc<dyn Ending>>,
    pub(crate) scrapes: Arc<Scrapes>,
}

/// An ending under way.
struct Running {
    name: &'static str,
    begun: Instant,
    until: Instant,
    said: oneshot::Receiver<Vec<Flush>>,
    sealing: SyncSender<Arc<Report>>,
    sealed: oneshot::Receiver<()>,
}

// === impl Endings ===

impl Endings {
    pub(super) fn told_twice(&self, signal: &Reason) {
        for ending in &self.list {
            ending.told_twice(signal);
        }
    }

    pub(super) fn begun(&self, reason: &Reason) {
        for ending in &self.list {
            ending.begun(reason);
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Does all endings, and puts what they said into the report.
    pub(super) async fn end(&self, report: Report, begun: tokio::time::Instant) -> Arc<Report> {
        let deadline = begun.into_std() + self.plan.deadline;
        let last = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        let first = Arc::new(report);
        self.phase.publish(&first);
        let mut running = Vec::new();
        let mut flush = Vec::new();
        for ending in &self.endings.list {
            match start(self.root.number, ending, &first, last) {
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
        let mut report = Report::clone(&first);
        report.flush = flush;
        let report = Arc::new(report);
        self.phase.publish(&report);
        seal(running, &report, last).await;
        report
    }
}

fn start(
    root: u64,
    ending: &Arc<dyn Ending>,
    report: &Arc<Report>,
    last: Instant,
) -> Result<Running, Flush> {
    let begun = Instant::now();
    let until = last.min(begun + ending.budget());
    let (tell, said) = oneshot::channel();
    let (sealing, seals) = sync_channel::<Arc<Report>>(1);
    let (done, sealed) = oneshot::channel();
    let (name, report, ending) = (ending.name(), Arc::clone(report), Arc::clone(ending));
    let work = move || {
        // Nobody may be waiting any more.
        tell.send(ending.end(&report, until)).ok();
        if let Ok(report) = seals.recv() {
            ending.seal(&report);
        }
        done.send(()).ok();
    };
    let class = ThreadClass::Control;
    // Nobody joins it: it may be blocked for ever.
    let started: std::io::Result<ThreadHandle<()>> =
        threads::start(root, "headcount-ending", class, Location::caller(), work);
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
            let text = format!("{name} not done: {error}");
            Err(Flush::new(name, FlushResult::Failed, text, begun.elapsed()))
        }
    }
}

async fn seal(running: Vec<Running>, report: &Arc<Report>, last: Instant) {
    let until = last.min(Instant::now() + SEAL);
    let mut sealed = Vec::new();
    for one in running {
        // Whoever is not done takes it when it is, if it ever is.
        one.sealing.try_send(Arc::clone(report)).ok();
        sealed.push(one.sealed);
    }
    for one in sealed {
        // It had its time.
        timeout_at(until.into(), one).await.ok();
    }
}

// === impl Running ===

impl Running {
    fn not_done(&self) -> Flush {
        let took = self.begun.elapsed();
        // A thread that panicked says nothing either, and before its time.
        let (result, text) = if Instant::now() < self.until {
            (
                FlushResult::Failed,
                format!("{} not done: it panicked", self.name),
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
