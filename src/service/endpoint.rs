//! The `endpoint` task kind: is a server there, and since when?
//!
//! Each endpoint is one task that opens a connection (TCP) or makes a GET request (HTTP, HTTPS) at
//! an interval, and turns successes and failures into `up` and `down` with thresholds, so that one
//! lost packet wakes nobody. A transition is logged once; a check that changes nothing is a debug
//! record.
//!
//! What it does not do: it does not restart anything, and an endpoint that is down does not end the
//! service, `required` or not (dependants read [`Endpoint::up`] and decide). A TCP check says that
//! something accepts connections, no more: a proxy accepts also when its backend is gone. Checks of
//! an endpoint never overlap, so at most one connection and one lookup of it are open.

mod check;
mod dial;
mod failure;
mod http;
mod hysteresis;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use hysteresis::Status;

use crate::{TaskGroup, telemetry};
use check::{Checker, Probe, Target};
use failure::Failure;
use hysteresis::Hysteresis;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How an endpoint is checked, and what its checks mean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndpointSettings {
    pub(crate) check: Check,
    /// From the start of one check to the start of the next, before jitter.
    pub(crate) interval: Duration,
    /// The share of `interval` by which each wait may be shorter or longer, so that many instances
    /// do not check in step. Held to `0.0..=0.5`.
    pub(crate) jitter: f64,
    /// Bounds a whole check: name lookup, connection, TLS and response head.
    pub(crate) timeout: Duration,
    /// Successes in a row that make the endpoint up.
    pub(crate) up_after: u32,
    /// Failures in a row that make it down.
    pub(crate) down_after: u32,
    /// Whether the end of the monitoring task (a panic, nothing else ends it) ends the service.
    pub(crate) required: bool,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Check {
    /// Connects, and closes.
    Tcp {
        /// `host:port`; IPv6 in brackets.
        address: String,
    },
    /// Makes a GET request.
    Http {
        /// `http://` or `https://`.
        url: String,
        /// Empty for 200..=399.
        expect_status: Vec<u16>,
        /// Sent besides (or instead of) `host`, `user-agent` and `accept`.
        headers: BTreeMap<String, String>,
    },
}

/// Why a [`Check`] cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCheck {
    #[error("the address is not host:port")]
    Address,
    #[error("the URL {problem}")]
    Url { problem: &'static str },
    #[error("the header `{name}` {problem}")]
    Header { name: String, problem: &'static str },
    #[error("{status} is not an HTTP status (100 to 599)")]
    Status { status: u16 },
}

/// A monitored endpoint. Both channels keep their last value, and close, when its task ends.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Changes with each check.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "nothing shows it yet; the tests read it")
    )]
    pub(crate) state: watch::Receiver<State>,
    /// Changes with transitions alone; `false` while unknown.
    pub(crate) up: watch::Receiver<bool>,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) status: Status,
    /// When the status began.
    pub(crate) since: Instant,
    /// Changes of the status, the first one included.
    pub(crate) transitions: u64,
    pub(crate) checks: u64,
    pub(crate) failed_checks: u64,
    /// How long the last check took.
    pub(crate) last_check: Option<Duration>,
    /// Why the last failed check failed; it stays when later ones succeed.
    pub(crate) last_failure: Option<Arc<str>>,
}

/// Turns the outcomes of checks into state and log records.
struct Monitor {
    name: String,
    hysteresis: Hysteresis,
    state: watch::Sender<State>,
    up: watch::Sender<bool>,
    /// The same as metrics.
    series: telemetry::Endpoint,
}

/// Monitors an endpoint in a task called `name`, until `tasks` is told to drain; a check under way
/// is then dropped. The first check begins at once.
pub(crate) fn start(name: String, settings: EndpointSettings, tasks: &TaskGroup) -> Endpoint {
    let checker = Checker::new(&settings.check, settings.timeout);
    monitor(name, &settings, checker, tasks)
}

/// One GET request, on a thread of the caller's.
///
/// # Errors
///
/// Why it did not succeed.
pub(crate) fn probe(url: &str, timeout: Duration) -> Result<(), String> {
    let check = Check::Http {
        url: url.to_owned(),
        expect_status: Vec::new(),
        headers: BTreeMap::new(),
    };
    check.validate().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(Checker::new(&check, timeout).check());
    // A lookup that hangs is not worth waiting for.
    runtime.shutdown_background();
    outcome.map_err(|failure| failure.to_string())
}

fn monitor<P: Probe + 'static>(
    name: String,
    settings: &EndpointSettings,
    probe: P,
    tasks: &TaskGroup,
) -> Endpoint {
    let (state, state_out) = watch::channel(State::unknown());
    let (up, up_out) = watch::channel(false);
    let monitor = Monitor {
        name: name.clone(),
        hysteresis: Hysteresis::new(settings.up_after, settings.down_after),
        state,
        up,
        series: telemetry::Endpoint::register(tasks, &name),
    };
    let mut spawn = tasks.task(&name).long_lived();
    if settings.required {
        spawn = spawn.required();
    }
    let pace = (settings.interval, settings.jitter);
    spawn.spawn(run(monitor, probe, pace, tasks.clone()));
    Endpoint {
        state: state_out,
        up: up_out,
    }
}

async fn run<P: Probe>(
    mut monitor: Monitor,
    mut probe: P,
    (interval, jitter): (Duration, f64),
    tasks: TaskGroup,
) {
    loop {
        let began = Instant::now();
        let Some(outcome) = tasks.until_draining(probe.check()).await else {
            return;
        };
        monitor.record(outcome, began.elapsed());
        // From the start of the check, and never more than one at once: slow checks are not made up
        // for.
        let next = began + wait(interval, jitter, fastrand::f64());
        if tasks.until_draining(sleep_until(next)).await.is_none() {
            return;
        }
    }
}

/// The interval with jitter; `roll` is in `0.0..1.0`.
fn wait(interval: Duration, jitter: f64, roll: f64) -> Duration {
    interval.mul_f64(1.0 + jitter.clamp(0.0, 0.5) * (2.0 * roll - 1.0))
}

// === impl Check ===

impl Check {
    /// Finds what would make every check fail, without touching the network.
    ///
    /// # Errors
    /// The first problem; [`InvalidCheck::key`] says of which setting.
    pub(crate) fn validate(&self) -> Result<(), InvalidCheck> {
        Target::new(self).map(drop)
    }
}

// === impl InvalidCheck ===

impl InvalidCheck {
    /// The setting at fault, by its name in [`Check`].
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Url { .. } => "url",
            Self::Header { .. } => "headers",
            Self::Status { .. } => "expect_status",
        }
    }
}

// === impl State ===

impl State {
    fn unknown() -> Self {
        Self {
            status: Status::Unknown,
            since: Instant::now(),
            transitions: 0,
            checks: 0,
            failed_checks: 0,
            last_check: None,
            last_failure: None,
        }
    }

    fn take(&mut self, failure: Option<&Arc<str>>, took: Duration) {
        self.checks += 1;
        self.last_check = Some(took);
        if let Some(reason) = failure {
            self.failed_checks += 1;
            self.last_failure = Some(reason.clone());
        }
    }
}

// === impl Monitor ===

impl Monitor {
    fn record(&mut self, outcome: Result<(), Failure>, took: Duration) {
        let failure: Option<Arc<str>> = outcome.err().map(|failure| failure.to_string().into());
        let transition = self.hysteresis.observe(failure.is_none());
        let (streak, threshold) = self.hysteresis.progress();
        tracing::debug!(
            endpoint = self.name,
            took_ms = took.as_secs_f64() * 1e3,
            failure = failure.as_deref(),
            streak,
            threshold,
            "endpoint checked"
        );
        self.series.checked(took);
        let before = self.state.borrow().clone();
        self.state.send_modify(|state| {
            state.take(failure.as_ref(), took);
            if let Some(status) = transition {
                state.status = status;
                state.since = Instant::now();
                state.transitions += 1;
            }
        });
        if let Some(status) = transition {
            self.up.send_replace(status == Status::Up);
            self.series.turned(status == Status::Up);
            let last_failure = self.state.borrow().last_failure.clone();
            log(&self.name, &before, status, last_failure.as_deref());
        }
    }
}

/// Tells of a transition from `before` to `status`.
fn log(endpoint: &str, before: &State, status: Status, last_failure: Option<&str>) {
    let previous = before.status;
    let lasted = Duration::from_millis(
        u64::try_from(before.since.elapsed().as_millis()).unwrap_or(u64::MAX),
    );
    if status == Status::Up {
        tracing::info!(endpoint, %previous, ?lasted, last_failure, "endpoint up");
    } else {
        let reason = last_failure;
        tracing::warn!(endpoint, %previous, ?lasted, reason, "endpoint down");
    }
}
