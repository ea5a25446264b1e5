//! The view of one runtime that metrics and the admin server read from outside.
//!
//! It has only handles and settings of the start, and owns no thread. The API of the admin server
//! reads the same view as `/metrics`, so both agree about readiness and about what is not observed.

use super::exports::Exports;
use super::heartbeat::Heartbeat;
use super::last_run::LastRun;
use super::process::{Facts, Process};
use crate::control::progress::Progress;
use crate::dump::untracked::Describing;
use crate::inspect::subject::Subject;
use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::report::{UntrackedRow, UntrackedTasks};
use crate::state::PreviousRun;
use crate::task::TaskId;
use crate::telemetry::supervised::{self, CHILDREN, ChildState, ENDPOINTS, EndpointState, Usages};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A runtime, its shutdown, and the state that readings keep between scrapes.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name of the service.
    pub(crate) service: String,
    /// The root of the runtime's groups and tasks in the registry. Kept alive here, after the
    /// runtime too.
    pub(crate) root: Arc<Root>,
    /// The phase and the course of the shutdown.
    pub(crate) progress: Arc<Progress>,
    /// The handle of the work runtime. It may outlive its runtime; the metrics of tokio still
    /// answer then.
    pub(crate) work: Handle,
    /// True if headcount built the runtime, false if it attached to one.
    pub(crate) owns_runtime: bool,
    /// The budgets of drain, cancel and close, in this order.
    pub(crate) budgets: [Duration; 3],
    /// The moment at which the runtime was built or attached to.
    pub(crate) begun: Instant,
    /// The heartbeat that the admin server and the scrapes share.
    pub(crate) heartbeat: Heartbeat,
    /// The default has no state folder; the part of the runtime sets it before the first scrape.
    pub(crate) last_run: LastRun,
    /// Counters of pushed telemetry; of all runtimes that share one exporter. The default counts
    /// nothing and has no series.
    pub(crate) exports: Arc<Exports>,
    /// The reader of `process_*`, which keeps its handles between scrapes.
    pub(super) process: Process,
    /// The last look at the untracked tasks.
    looked: Mutex<Option<Arc<Looked>>>,
    /// The last look at the process trees of the children.
    usages: Usages,
}

/// The untracked tasks at one look.
#[derive(Debug)]
pub(crate) struct Looked {
    at: Instant,
    took: Duration,
    /// The rows, or the reason why the tasks are not observed.
    pub(crate) rows: Result<Vec<UntrackedRow>, String>,
    /// The tracked tasks that can never wake.
    pub(crate) unwakeable: Vec<(TaskId, &'static Kind)>,
    /// The untracked tasks by type.
    subjects: Vec<Subject>,
}

/// The age of the heartbeat from which the service is not ready. One is sent each second, and runs
/// at once if a worker is free; the rest is for a busy machine.
const LATE: Duration = Duration::from_secs(3);

/// The time for which a look at the untracked tasks that took long serves.
const LOOK: Duration = Duration::from_secs(10);
/// The most tasks of a runtime at which a scrape looks. A look takes half a microsecond a task.
const LOOKED: usize = 100_000;
/// The time of a look that may be repeated at once.
const SHORT: Duration = Duration::from_millis(1);

// === impl Source ===

impl Source {
    pub(crate) fn new(
        service: &str,
        root: &Arc<Root>,
        progress: &Arc<Progress>,
        (work, owns_runtime): (Handle, bool),
        budgets: [Duration; 3],
    ) -> Self {
        Self {
            service: service.to_owned(),
            root: Arc::clone(root),
            progress: Arc::clone(progress),
            work,
            owns_runtime,
            budgets,
            begun: Instant::now(),
            heartbeat: Heartbeat::default(),
            last_run: LastRun::default(),
            exports: Arc::default(),
            process: Process::new(),
            looked: Mutex::default(),
            usages: Usages::default(),
        }
    }

    /// Returns the reasons why the service is not ready for traffic; empty if it is ready.
    ///
    /// A shutdown that has begun hides the other reasons.
    ///
    /// `/readyz` and the API show the texts to users. There is at most one reason: the first that
    /// applies, in the order of the checks.
    pub(crate) fn reasons_not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(reason) = self.progress.timeline().reason {
            reasons.push(format!("stopping: {reason}"));
        } else if self.root.has_lost_required() {
            reasons.push("a required task has ended".to_owned());
        } else if self.root.is_stopping() {
            reasons.push("stopping".to_owned());
        } else if self.root.has_stalled_required() {
            reasons.push("a required task has missed its heartbeat".to_owned());
        } else if let Some(late) = self.late_heartbeat() {
            let late = late.as_secs_f64();
            reasons.push(format!("no worker has been free for {late:.0}s"));
        } else {
            reasons.extend(self.root.unready.first());
        }
        reasons
    }

    /// Returns the time since a worker was last free to run the heartbeat, if that is longer than
    /// [`LATE`].
    ///
    /// The admin server sends the heartbeats, so it is meaningful only with one.
    fn late_heartbeat(&self) -> Option<Duration> {
        let age = self.heartbeat.age().unwrap_or_else(|| self.begun.elapsed());
        (age > LATE).then_some(age)
    }

    /// Reads the CPU time, memory and open files of this process from the operating system.
    ///
    /// Reads several files of `/proc`; see [`Process::look`].
    pub(crate) fn process(&self) -> Facts {
        self.process.look()
    }

    /// Returns the previous run; `None` without a state folder or on the first run.
    pub(crate) fn previous(&self) -> Option<&PreviousRun> {
        self.last_run.state.as_deref()?.previous()
    }

    /// Returns the registered child processes, in the order in which they were registered.
    pub(crate) fn children(&self) -> Vec<Arc<ChildState>> {
        CHILDREN.all(self.root.number)
    }

    /// Returns the child processes, after a look at what their trees use. A look serves for two
    /// seconds.
    pub(crate) fn children_with_usage(&self) -> Vec<Arc<ChildState>> {
        let children = self.children();
        let live = children.iter().filter_map(|child| child.measured());
        self.usages.look(&Vec::from_iter(live));
        children
    }

    /// Returns the registered endpoints, in the order in which they were registered.
    pub(crate) fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        ENDPOINTS.all(self.root.number)
    }

    /// Looks at the untracked tasks. A look that took long serves for [`LOOK`].
    pub(crate) fn untracked(&self) -> Arc<Looked> {
        let mut last = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last
            .as_ref()
            .filter(|look| look.took > SHORT && look.at.elapsed() < LOOK);
        if let Some(look) = recent {
            return Arc::clone(look);
        }
        let at = Instant::now();
        let seen = UntrackedTasks::look(&self.root, &self.work);
        let unwakeable = seen.as_ref().map(|seen| seen.unwakeable.clone());
        let subjects = seen.as_ref().map(UntrackedTasks::subjects);
        let look = Arc::new(Looked {
            at,
            took: at.elapsed(),
            unwakeable: unwakeable.unwrap_or_default(),
            subjects: subjects.unwrap_or_default(),
            rows: seen.map(UntrackedTasks::into_rows),
        });
        *last = Some(Arc::clone(&look));
        look
    }

    /// Looks at the untracked tasks, unless the runtime has too many tasks for a scrape.
    pub(super) fn untracked_for_scrape(&self) -> Option<Arc<Looked>> {
        let tasks = self.work.metrics().num_alive_tasks();
        (tasks <= LOOKED).then(|| self.untracked())
    }
}

impl Drop for Source {
    /// Nothing reads the children and endpoints of the runtime any longer.
    fn drop(&mut self) {
        supervised::forget(self.root.number);
    }
}

// === impl Looked ===

impl Looked {
    /// Begins to read the types that are not known, for a person: a later look has them. Each is read
    /// once.
    pub(crate) fn read_types(&self, root: &Root) {
        Describing::begin_new(root.number, self.subjects.clone());
    }

    /// Returns the reason why the tasks are not observed.
    pub(crate) fn not_observed(&self) -> Option<String> {
        self.rows.as_ref().err().cloned()
    }

    /// Returns the number of live tasks; `None` if they are not observed.
    pub(crate) fn live(&self) -> Option<u64> {
        let rows = self.rows.as_ref().ok()?;
        Some(rows.iter().map(|row| row.live).sum())
    }

    /// Returns the number of tasks that can never wake, tracked and untracked; `None` if they are not
    /// observed.
    pub(crate) fn unwakeable(&self) -> Option<u64> {
        let rows = self.rows.as_ref().ok()?;
        let untracked: u64 = rows.iter().map(|row| row.unwakeable).sum();
        Some(untracked + self.unwakeable.len() as u64)
    }
}
