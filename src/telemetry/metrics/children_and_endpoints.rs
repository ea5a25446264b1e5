//! The metrics `child_*` and `endpoint_*`.
//!
//! The code that runs a child process or checks an endpoint registers it here and reports what
//! happens to it. The registrations of all runtimes are in two global tables, keyed by the number
//! of the root; a scrape reads those of its own root. The handles update atomics without a lock.

use super::family::{Buckets, Families};
use super::names;
use crate::group::TaskGroup;
use crate::recorder::{self, What};
use crate::registry::kind::OTHER;
use crate::registry::root::{Process, ProcessState, Root};
use crate::text::without_user_info;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most children, and the most endpoints, with series of their own.
const NAMES: usize = 64;
/// The upper bounds of the buckets of check durations, in seconds. Checks have timeouts of a few
/// seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The status of an endpoint is 0 before its first transition.
const UP: u8 = 1;
const DOWN: u8 = 2;

static CHILDREN: Parts<ChildState> = Parts(Mutex::new(BTreeMap::new()));
static ENDPOINTS: Parts<EndpointState> = Parts(Mutex::new(BTreeMap::new()));

/// A child process in the metrics `headcount_child_*` and in the report. Dropping it removes its
/// series.
///
/// The code that runs the process tells what happens to it. A process that runs when the shutdown
/// begins has a row in [`Report::processes`](crate::Report::processes).
///
/// The first 64 names of a runtime have series of their own. The others share the series of
/// `_other`, which show how many of them are running and the sum of their restarts. The same holds
/// for children that are registered under one name.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::{Child, Format};
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let proxy = Child::register(runtime.tasks(), "proxy");
/// proxy.started(4711, "proxy --port 5432");
/// proxy.restarted();
/// let text = runtime.metrics().read(Format::Text);
/// assert!(text.contains("headcount_child_restarts_total{child=\"proxy\"} 1"), "{text}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Child {
    entry: Entry<ChildState>,
    /// The root, which the process is registered with too, for the report.
    root: Arc<Root>,
    process: Arc<Process>,
}

/// An endpoint in the metrics `headcount_endpoint_*`. Dropping it removes its series.
///
/// The first 64 names of a runtime have series of their own. The others share the series of
/// `_other`, which is up if all of them are. The same holds for endpoints that are registered under
/// one name.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::{Endpoint, Format};
/// # use std::time::{Duration, Instant};
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let db = Endpoint::register(runtime.tasks(), "db");
/// db.checked(Duration::from_millis(3));
/// db.turned(true);
/// let text = runtime.metrics().read(Format::Text);
/// assert!(text.contains("headcount_endpoint_up{endpoint=\"db\"} 1"), "{text}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Endpoint {
    entry: Entry<EndpointState>,
    name: String,
}

/// The figures of one child. Each is relaxed: they stand alone.
#[derive(Debug, Default)]
struct ChildState {
    /// True while the child runs, as its supervisor says.
    live: AtomicBool,
    restarts: AtomicU64,
}

/// The figures of one endpoint. A scrape may see a check in the buckets before it is in the sum.
#[derive(Debug, Default)]
struct EndpointState {
    /// [`UP`] or [`DOWN`]; 0 before the first transition.
    status: AtomicU8,
    transitions: AtomicU64,
    /// Counts of checks by bucket, not cumulative. The last bucket has no upper bound.
    checks: [AtomicU64; BOUNDS.len() + 1],
    /// The number of checks that failed.
    failed: AtomicU64,
    /// The total duration of all checks, in nanoseconds.
    nanos: AtomicU64,
}

/// The entries of each root, keyed by its number, in the order of registration.
type Registered<T> = BTreeMap<u64, Vec<(String, Arc<T>)>>;

/// A table of registered children or endpoints.
#[derive(Debug)]
struct Parts<T: 'static>(Mutex<Registered<T>>);

/// A registration, which is removed from its table on drop.
#[derive(Debug)]
struct Entry<T: 'static> {
    /// The table that has the entry.
    parts: &'static Parts<T>,
    root: u64,
    /// The figures, shared with the table.
    state: Arc<T>,
}

// === impl Child ===

impl Child {
    /// Adds a child process to the metrics and the report of the runtime of `tasks`, the group of
    /// the task that runs it. It starts as not running, with no restarts. `name` is the name of that
    /// task.
    ///
    /// Control characters in the name are replaced by `_`.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        let entry = CHILDREN.register(tasks, name);
        let root = Arc::clone(tasks.registry_root());
        let name = name.replace(char::is_control, "_");
        let path = crate::report::path(tasks.name(), &name);
        Self {
            entry,
            process: root.processes.add(path),
            root,
        }
    }

    /// Sets whether the child process is running.
    pub fn set_live(&self, live: bool) {
        self.entry.state.live.store(live, Ordering::Relaxed);
    }

    /// Counts one restart.
    pub fn restarted(&self) {
        recorder::note(What::ProcessRestarted, None, &self.process.path);
        self.entry.state.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the child process has failed and is not started again. The report of the
    /// shutdown says so, under the name of the group given to [`register`](Self::register).
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Child;
    ///
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     Child::register(&tasks.group("process"), "proxy").given_up();
    /// });
    /// assert_eq!(report.given_up_processes["process/proxy"], 1);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn given_up(&self) {
        recorder::note(What::GivenUp, None, &self.process.path);
        self.root.give_up(self.process.path.clone());
    }

    /// Records that the process runs, with this pid and command line. Of the command line the
    /// report shows at most 200 characters, without the user info of URLs.
    pub fn started(&self, pid: u32, command: &str) {
        self.set_live(true);
        let words = format!("{} (pid {pid})", self.process.path);
        recorder::note(What::ProcessStarted, None, &words);
        self.process.change(|state| {
            // It may have been told to stop in the moment of its start.
            let is_same_run = state.end.is_none();
            *state = ProcessState {
                pid: Some(pid),
                command: without_user_info(command).chars().take(200).collect(),
                waits_for: std::mem::take(&mut state.waits_for),
                told: state.told.filter(|_| is_same_run),
                ..ProcessState::default()
            };
        });
    }

    /// Records that the process will be told to stop when the processes with these names have
    /// ended. The report and the status line then say so, instead of blaming it.
    pub fn waits_for(&self, names: &[String]) {
        self.process
            .change(|state| state.waits_for = names.to_vec());
    }

    /// Records that the process was just sent the signal with this number, which asks it to stop.
    /// Only the first signal of a run counts.
    pub fn told(&self, signal: i32) {
        self.process.change(|state| {
            state.told.get_or_insert((signal, Instant::now()));
        });
    }

    /// Records that the process has ended, and how, for example `exited with code 3`.
    pub fn ended(&self, how: &str) {
        self.set_live(false);
        let words = format!("{}: {how}", self.process.path);
        recorder::note(What::ProcessEnded, None, &words);
        self.process
            .change(|state| state.end = Some((how.to_owned(), Instant::now())));
    }

    /// Records that the process, or one that it had started, may still be alive, and that this cannot
    /// be found out. A shutdown then counts it as lingering, also when it begins after this value was
    /// dropped.
    pub fn lost(&self) {
        self.process.change(|state| {
            state.end = None;
            state.is_lost = true;
        });
    }

    /// Records a process that had to be killed, for example `sh (pid 17)`: this one, or one that it
    /// had started. A shutdown in which that happens is not clean.
    pub fn killed(&self, process: &str) {
        let words = format!("{}: {process}", self.process.path);
        recorder::note(What::ProcessKilled, None, &words);
        self.process
            .change(|state| state.killed.push(process.to_owned()));
    }
}

impl Drop for Child {
    /// Removes the process, unless the report of a shutdown is about to need it.
    fn drop(&mut self) {
        if !self.root.is_stopping() {
            self.root.processes.remove(&self.process);
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Adds an endpoint to the metrics of the runtime of `tasks`. Its status is unknown, and shown as
    /// not up, until the first call of [`turned`](Self::turned).
    ///
    /// Control characters in the name are replaced by `_`.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        Self {
            entry: ENDPOINTS.register(tasks, name),
            name: name.to_owned(),
        }
    }

    /// Records the duration of a check, successful or not.
    pub fn checked(&self, took: Duration) {
        let state = &self.entry.state;
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        state.checks[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        state.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts the check whose duration was just recorded as failed.
    pub fn failed(&self) {
        self.entry.state.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether the endpoint is up.
    ///
    /// It counts as a transition if that is a change. The first call always is: before it, the
    /// status is unknown.
    pub fn turned(&self, up: bool) {
        let status = if up { UP } else { DOWN };
        if self.entry.state.status.swap(status, Ordering::Relaxed) != status {
            let what = if up {
                What::EndpointUp
            } else {
                What::EndpointDown
            };
            recorder::note(what, None, &self.name);
            self.entry.state.transitions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Parts ===

impl<T: Default> Parts<T> {
    /// Adds an entry under the global lock, and allocates its figures. A name may be registered
    /// several times.
    fn register(&'static self, tasks: &TaskGroup, name: &str) -> Entry<T> {
        let root = tasks.registry_root().number;
        let state = Arc::new(T::default());
        let name = name.replace(char::is_control, "_");
        let entry = (name, Arc::clone(&state));
        self.lock().entry(root).or_default().push(entry);
        Entry {
            parts: self,
            root,
            state,
        }
    }

    /// Returns the entries of a root by label, in the order in which the names were registered.
    ///
    /// Names beyond the first [`NAMES`] are under `_other`. It holds the lock for a copy of the
    /// handles, and is linear in entries times labels. When an entry is removed, a name beyond the
    /// bound may move up to a series of its own.
    fn of(&self, root: u64) -> Vec<(String, Vec<Arc<T>>)> {
        let all = self.lock();
        let mut labels: Vec<(String, Vec<Arc<T>>)> = Vec::new();
        for (name, state) in all.get(&root).into_iter().flatten() {
            let known = labels.iter().any(|(label, _)| label == name);
            let label = if known || labels.len() < NAMES {
                name
            } else {
                OTHER
            };
            match labels.iter_mut().find(|(known, _)| known == label) {
                Some((_, states)) => states.push(Arc::clone(state)),
                None => labels.push((label.to_owned(), vec![Arc::clone(state)])),
            }
        }
        labels
    }
}

impl<T> Parts<T> {
    /// A poisoned lock is used as it is: the table is whole between the operations on it.
    fn lock(&self) -> MutexGuard<'_, Registered<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl<T> Drop for Entry<T> {
    /// Removes the entry, and the root with its last entry, so ended runtimes leave nothing behind.
    fn drop(&mut self) {
        let mut all = self.parts.lock();
        let Some(entries) = all.get_mut(&self.root) else {
            return;
        };
        entries.retain(|(_, state)| !Arc::ptr_eq(state, &self.state));
        if entries.is_empty() {
            all.remove(&self.root);
        }
    }
}

/// Adds `child_*` and `endpoint_*` of a root, which is given by its number.
pub(super) fn read(root: u64, families: &mut Families) {
    let sum = |values: &mut dyn Iterator<Item = &AtomicU64>| -> u64 {
        values.map(|value| value.load(Ordering::Relaxed)).sum()
    };
    for (name, states) in CHILDREN.of(root) {
        let live = states
            .iter()
            .filter(|child| child.live.load(Ordering::Relaxed));
        families.add(&names::CHILD_LIVE, &[&name], live.count() as f64);
        let restarts = sum(&mut states.iter().map(|child| &child.restarts));
        families.add(&names::CHILD_RESTARTS, &[&name], restarts as f64);
    }
    for (name, states) in ENDPOINTS.of(root) {
        let is_up = |state: &Arc<EndpointState>| state.status.load(Ordering::Relaxed) == UP;
        let up = states.iter().all(is_up);
        families.add(&names::ENDPOINT_UP, &[&name], f64::from(u8::from(up)));
        let transitions = sum(&mut states.iter().map(|state| &state.transitions));
        families.add(&names::ENDPOINT_TRANSITIONS, &[&name], transitions as f64);
        let nanos = sum(&mut states.iter().map(|state| &state.nanos));
        let mut buckets = Buckets {
            sum: nanos as f64 / 1e9,
            ..Buckets::default()
        };
        for (place, bound) in BOUNDS.iter().enumerate() {
            buckets.count += sum(&mut states.iter().map(|state| &state.checks[place]));
            buckets.up_to.push((*bound, buckets.count));
        }
        buckets.count += sum(&mut states.iter().map(|state| &state.checks[BOUNDS.len()]));
        let failed = sum(&mut states.iter().map(|state| &state.failed));
        // A scrape may see a failure before its check.
        let succeeded = buckets.count.saturating_sub(failed);
        families.add(&names::ENDPOINT_CHECKS, &[&name, "ok"], succeeded as f64);
        families.add(&names::ENDPOINT_CHECKS, &[&name, "failed"], failed as f64);
        families.add_histogram(&names::ENDPOINT_CHECK, &[&name], &buckets);
    }
}
