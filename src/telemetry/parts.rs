//! Child processes and endpoints: only those who run or check them know how they are, so they tell.

use super::family::{Buckets, Families};
use super::names;
use super::watched::Watched;
use crate::TaskGroup;
use crate::registry::kind::OTHER;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Children, and endpoints, with series of their own.
const NAMES: usize = 64;
/// Seconds; of checks, whose timeouts are seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

static CHILDREN: Parts<ChildState> = Parts(Mutex::new(BTreeMap::new()));
static ENDPOINTS: Parts<EndpointState> = Parts(Mutex::new(BTreeMap::new()));

/// A child process in the metrics `headcount_child_*`, as long as this lives.
///
/// The first 64 names of a runtime have series of their own, the others share those of `_other`: how many of them run,
/// and their restarts.
///
/// # Examples
///
/// ```
/// # let report = headcount::Runtime::builder().print(false).build()?.run(async |tasks| {
/// let proxy = headcount::telemetry::Child::register(&tasks, "proxy");
/// proxy.set_live(true);
/// proxy.restarted();
/// # });
/// # assert!(report.is_clean());
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Child(Entry<ChildState>);

/// An endpoint in the metrics `headcount_endpoint_*`, as long as this lives.
///
/// The first 64 names of a runtime have series of their own, the others share those of `_other`, which is up when all
/// of them are.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # let report = headcount::Runtime::builder().print(false).build()?.run(async |tasks| {
/// let db = headcount::telemetry::Endpoint::register(&tasks, "db");
/// db.checked(Duration::from_millis(3));
/// db.turned(true);
/// # });
/// # assert!(report.is_clean());
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Endpoint(Entry<EndpointState>);

#[derive(Debug, Default)]
struct ChildState {
    live: AtomicBool,
    restarts: AtomicU64,
}

#[derive(Debug, Default)]
struct EndpointState {
    up: AtomicBool,
    transitions: AtomicU64,
    /// Not cumulative; the last has no bound.
    checks: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// By the root's number, in the order of registration.
type Registered<T> = BTreeMap<u64, Vec<(String, Arc<T>)>>;

#[derive(Debug)]
struct Parts<T: 'static>(Mutex<Registered<T>>);

#[derive(Debug)]
struct Entry<T: 'static> {
    parts: &'static Parts<T>,
    root: u64,
    state: Arc<T>,
}

// === impl Child ===

impl Child {
    /// From here on the child has series, with 0 in them.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        Self(CHILDREN.register(tasks, name))
    }

    /// Whether it runs.
    pub fn set_live(&self, live: bool) {
        self.0.state.live.store(live, Ordering::Relaxed);
    }

    /// It was started again.
    pub fn restarted(&self) {
        self.0.state.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// From here on the endpoint has series, and is not up.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        Self(ENDPOINTS.register(tasks, name))
    }

    /// A check took so long, whatever it found.
    pub fn checked(&self, took: Duration) {
        let state = &self.0.state;
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        state.checks[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        state.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// It came up, or went down.
    pub fn turned(&self, up: bool) {
        self.0.state.up.store(up, Ordering::Relaxed);
        self.0.state.transitions.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Parts ===

impl<T: Default> Parts<T> {
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

    /// What has the same labels, the first names first.
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
    fn lock(&self) -> MutexGuard<'_, Registered<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl<T> Drop for Entry<T> {
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

pub(crate) fn read(watched: &Watched, families: &mut Families) {
    let sum = |values: &mut dyn Iterator<Item = &AtomicU64>| -> u64 {
        values.map(|value| value.load(Ordering::Relaxed)).sum()
    };
    for (name, states) in CHILDREN.of(watched.root.number) {
        let live = states
            .iter()
            .filter(|child| child.live.load(Ordering::Relaxed));
        families.add(&names::CHILD_LIVE, &[&name], live.count() as f64);
        let restarts = sum(&mut states.iter().map(|child| &child.restarts));
        families.add(&names::CHILD_RESTARTS, &[&name], restarts as f64);
    }
    for (name, states) in ENDPOINTS.of(watched.root.number) {
        let up = states.iter().all(|state| state.up.load(Ordering::Relaxed));
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
        families.add_histogram(&names::ENDPOINT_CHECK, &[&name], &buckets);
    }
}
