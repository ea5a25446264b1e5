//! An endpoint in the metrics and the API.

use super::{Ago, ENDPOINTS, Entry, locked};
use crate::group::TaskGroup;
use crate::recorder::{self, What};
use crate::text::{without_secrets, without_user_info};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The upper bounds of the buckets of check durations, in seconds. Checks have timeouts of a few
/// seconds.
pub(crate) const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The status of an endpoint is 0 before its first transition.
const UP: u8 = 1;
const DOWN: u8 = 2;
/// The most characters of a failure that are kept.
const FAILURE: usize = 200;

/// An endpoint in the metrics `headcount_endpoint_*`, and in `/api/endpoints` of the admin server
/// with its page and `/readyz`. Dropping it removes it from all of them.
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
/// db.checked(Duration::from_secs(1));
/// db.failed("timed out after 1s");
/// let text = runtime.metrics().read(Format::Text);
/// assert!(text.contains("headcount_endpoint_up{endpoint=\"db\"} 1"), "{text}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Endpoint {
    entry: Entry<EndpointState>,
}

/// The state of one endpoint, shared with its readers. A scrape may see a check in the buckets before
/// it is in the sum.
#[derive(Debug, Default)]
pub(crate) struct EndpointState {
    /// The path of the task that checks it.
    path: String,
    /// [`UP`] or [`DOWN`]; 0 before the first transition.
    status: AtomicU8,
    pub(crate) transitions: AtomicU64,
    /// Counts of checks by bucket, not cumulative. The last bucket has no upper bound.
    pub(crate) checks: [AtomicU64; BOUNDS.len() + 1],
    /// The number of checks that failed.
    pub(crate) failed: AtomicU64,
    /// The total duration of all checks, in nanoseconds.
    pub(crate) nanos: AtomicU64,
    told: Mutex<Told>,
}

/// The information about an endpoint that only the API shows.
#[derive(Debug, Default)]
struct Told {
    /// The time of the last transition.
    since: Option<Instant>,
    /// The end of the last check, and its duration.
    last_check: Option<(Instant, Duration)>,
    last_failure: Option<(String, Instant)>,
}

/// An endpoint as the API shows it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct EndpointView {
    /// The path of the task that checks it.
    name: String,
    /// `None` before the first transition.
    pub(crate) up: Option<bool>,
    /// The time since the last transition.
    since_seconds: Option<f64>,
    transitions: u64,
    checks: u64,
    failed: u64,
    last_check: Option<Checked>,
    last_failure: Option<Ago>,
}

/// The last check of an endpoint.
#[derive(Debug, serde::Serialize)]
struct Checked {
    seconds_ago: f64,
    took_seconds: f64,
}

// === impl Endpoint ===

impl Endpoint {
    /// Adds an endpoint to the metrics of the runtime of `tasks`, the group of the task that checks it.
    /// `name` is the name of that task. Its status is unknown, and shown as
    /// not up, until the first call of [`turned`](Self::turned).
    ///
    /// Control characters in the name are replaced by `_`.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        let shown = name.replace(char::is_control, "_");
        let state = EndpointState {
            path: crate::report::path(tasks.name(), &shown),
            ..EndpointState::default()
        };
        Self {
            entry: ENDPOINTS.register(tasks, name, state),
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
        locked(&state.told).last_check = Some((Instant::now(), took));
    }

    /// Counts the check whose duration was just recorded as failed, and records why. Of the reason at
    /// most 200 characters are kept, without the user info of URLs and the values after words such as
    /// `password=`.
    pub fn failed(&self, why: &str) {
        let state = &self.entry.state;
        state.failed.fetch_add(1, Ordering::Relaxed);
        let why = without_user_info(why);
        let why = without_secrets(&why).chars().take(FAILURE).collect();
        locked(&state.told).last_failure = Some((why, Instant::now()));
    }

    /// Sets whether the endpoint is up.
    ///
    /// It counts as a transition if that is a change. The first call always is: before it, the
    /// status is unknown.
    pub fn turned(&self, up: bool) {
        let status = if up { UP } else { DOWN };
        let state = &self.entry.state;
        if state.status.swap(status, Ordering::Relaxed) != status {
            let what = if up {
                What::EndpointUp
            } else {
                What::EndpointDown
            };
            recorder::note(what, None, &state.path);
            state.transitions.fetch_add(1, Ordering::Relaxed);
            locked(&state.told).since = Some(Instant::now());
        }
    }
}

// === impl EndpointState ===

impl EndpointState {
    /// Returns the path of the task that checks it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns whether it is up; `None` before the first transition.
    pub(crate) fn is_up(&self) -> Option<bool> {
        match self.status.load(Ordering::Relaxed) {
            0 => None,
            status => Some(status == UP),
        }
    }

    /// Returns everything that the API shows.
    pub(crate) fn view(&self) -> EndpointView {
        let told = locked(&self.told);
        let seconds = |at: Instant| at.elapsed().as_secs_f64();
        let failure = told.last_failure.as_ref();
        EndpointView {
            name: self.path.clone(),
            up: self.is_up(),
            since_seconds: told.since.map(seconds),
            transitions: self.transitions.load(Ordering::Relaxed),
            checks: self
                .checks
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .sum(),
            failed: self.failed.load(Ordering::Relaxed),
            last_check: told.last_check.map(|(at, took)| Checked {
                seconds_ago: seconds(at),
                took_seconds: took.as_secs_f64(),
            }),
            last_failure: failure.map(|(why, at)| Ago::new(why, *at)),
        }
    }
}
