//! The `endpoint` task kind: a health check of a server, repeated at an interval.
//!
//! Each endpoint is one task. It makes one check at an interval: it opens a connection (TCP), makes
//! a GET request (HTTP, HTTPS), calls a health service (gRPC), runs `SELECT 1` (Postgres), sends a PING (Redis), looks up a name, or
//! runs a command. Thresholds turn the successes and failures into the statuses `up` and `down`, so
//! that one lost packet causes no alarm. A change of the status is logged once, at INFO or WARN, and so
//! is an endpoint that flaps without reaching a threshold.
//! Each check is also logged at DEBUG.
//!
//! A check that fails because this process or machine has no descriptor, memory or port left says
//! nothing about the server. It is logged, and does not count.
//!
//! Checks of one endpoint never overlap, so it has at most one open connection and one name lookup.
//!
//! This module does not restart anything, and an endpoint that is down does not end the service,
//! even if it is `required`: dependents watch the receiver of [`start`] and decide. A TCP check only shows
//! that something accepts connections. A proxy may accept them even when its backend is gone.

mod check;
mod failure;
mod flapping;
mod hysteresis;
mod settings;

#[cfg(test)]
mod tests;

use crate::{TaskGroup, telemetry};
use check::{Checker, Probe};
pub(crate) use check::{CommandFailure, Run};
use failure::Failure;
use flapping::{Flapping, Turn};
use hysteresis::{Hysteresis, Status};
pub(crate) use settings::{
    Check, DnsCheck, EndpointSettings, GrpcCheck, HttpCheck, Identity, PasswordFile, PostgresCheck,
    RedisCheck, TlsSettings,
};
use std::{collections::VecDeque, io, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The status of an endpoint, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Health {
    /// False while the endpoint is down or its status is unknown.
    pub(crate) is_up: bool,
    /// The start of the first of the last `up_after` successful checks in a row; `None` if there were
    /// never so many.
    proven_since: Option<Instant>,
}

/// The consumer of the outcomes of checks: it updates the status, the metrics and the log.
struct Monitor {
    name: String,
    hysteresis: Hysteresis,
    flapping: Flapping,
    /// The time at which the status began.
    since: Instant,
    /// True if the last check could not be made because of a limit on this side.
    hindered: bool,
    /// The reason of the last failed check. Later successes do not clear it.
    last_failure: Option<String>,
    /// The starts of the latest successful checks in a row, at most as many as `up_after`.
    successes: VecDeque<Instant>,
    up_after: usize,
    health: watch::Sender<Health>,
    /// The metrics of the endpoint.
    series: telemetry::Endpoint,
}

/// Monitors an endpoint in a task called `name`, until `tasks` begins to drain. A running check is
/// then dropped, or ends by itself. The first check begins at once.
///
/// The receiver is written when the status changes and after each check that succeeds, and is closed
/// when the task ends.
///
/// `run` runs the commands of checks.
///
/// A check that is invalid is not an error here: it fails each time. Use [`Check::validate`] first.
pub(crate) fn start(
    name: String,
    settings: EndpointSettings,
    run: Run,
    tasks: &TaskGroup,
) -> watch::Receiver<Health> {
    let checker = Checker::new(&settings.check, settings.timeout).running(run);
    monitor(name, &settings, checker, tasks)
}

/// Makes one check. `limit` bounds it.
///
/// # Errors
/// The message of the failure. An invalid check fails too.
pub(crate) async fn once(check: &Check, limit: Duration) -> Result<(), String> {
    let outcome = Checker::new(check, limit).check().await;
    outcome.map_err(|failure| failure.to_string())
}

/// Makes one GET request, and blocks the calling thread until it is over. `timeout` bounds the
/// request. A status from 200 to 399 is a success.
///
/// # Errors
/// The message of the failure: an invalid URL, another status, or a failed connection.
///
/// # Panics
/// When called on a thread of a tokio runtime.
pub(crate) fn probe(url: &str, timeout: Duration) -> Result<(), String> {
    let check = Check::get(url);
    check.validate().map_err(|error| error.to_string())?;
    // Tokio panics if it lacks descriptors for its signal handling, so they are tried first.
    let tried = (|| io::Result::Ok([io::pipe()?, io::pipe()?, io::pipe()?]))();
    drop(tried.map_err(|error| error.to_string())?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(Checker::new(&check, timeout).check());
    // Does not wait for a name lookup that hangs on the blocking pool.
    runtime.shutdown_background();
    outcome.map_err(|failure| failure.to_string())
}

/// Implements [`start`], with a probe that tests can replace.
fn monitor<P: Probe + 'static>(
    name: String,
    settings: &EndpointSettings,
    probe: P,
    tasks: &TaskGroup,
) -> watch::Receiver<Health> {
    let (health, watched) = watch::channel(Health::default());
    let monitor = Monitor {
        name: name.clone(),
        hysteresis: Hysteresis::new(settings.up_after, settings.down_after),
        flapping: Flapping::default(),
        since: Instant::now(),
        hindered: false,
        last_failure: None,
        successes: VecDeque::new(),
        up_after: usize::try_from(settings.up_after).unwrap_or(usize::MAX),
        health,
        series: telemetry::Endpoint::register(tasks, &name),
    };
    let mut spawn = tasks.task(&name).long_lived();
    if settings.required {
        spawn = spawn.required();
    }
    let pace = (settings.interval, settings.jitter);
    spawn.spawn(run(monitor, probe, pace, tasks.clone()));
    watched
}

/// Checks at the interval until the group begins to drain.
async fn run<P: Probe>(
    mut monitor: Monitor,
    mut probe: P,
    (interval, jitter): (Duration, f64),
    tasks: TaskGroup,
) {
    loop {
        let began = Instant::now();
        let outcome = if probe.ends_itself() {
            let outcome = probe.check().await;
            Some(outcome).filter(|_| !tasks.is_draining())
        } else {
            tasks.until_draining(probe.check()).await
        };
        let Some(outcome) = outcome else {
            return;
        };
        monitor.record(outcome, began);
        // The next check is due one interval after the start of this one. If this one took longer,
        // the next one begins at once, and missed checks are skipped.
        let next = began + wait(interval, jitter, fastrand::f64());
        if tasks.until_draining(sleep_until(next)).await.is_none() {
            return;
        }
    }
}

/// Returns the interval with jitter. `roll` is a random number in `0.0..1.0`.
fn wait(interval: Duration, jitter: f64, roll: f64) -> Duration {
    interval.mul_f64(1.0 + jitter.clamp(0.0, 0.5) * (2.0 * roll - 1.0))
}

// === impl Health ===

impl Health {
    /// Returns true if the endpoint is up, and checks that were begun after `start` are enough to say
    /// so. Those before it may have reached another server.
    pub(crate) fn is_up_since(&self, start: Instant) -> bool {
        self.is_up && self.proven_since.is_some_and(|since| since >= start)
    }

    /// Returns the health of an endpoint that a check has just found to be up, or down.
    #[cfg(test)]
    pub(crate) fn found(is_up: bool) -> Self {
        let proven_since = is_up.then(Instant::now);
        Self {
            is_up,
            proven_since,
        }
    }
}

// === impl Monitor ===

impl Monitor {
    /// Records the outcome of one check, and logs a change of the status.
    ///
    /// A check that could not be made counts neither way. The first of them in a row is logged.
    fn record(&mut self, outcome: Result<(), Failure>, began: Instant) {
        let took = began.elapsed();
        let is_hindered = matches!(outcome, Err(Failure::OwnLimit(_)));
        let was_hindered = std::mem::replace(&mut self.hindered, is_hindered);
        if let Err(Failure::OwnLimit(reason)) = outcome {
            if !was_hindered {
                let (endpoint, status) = (&*self.name, self.hysteresis.status());
                tracing::warn!(
                    endpoint, %status, reason,
                    "endpoint not checked: a limit of this process or machine is reached"
                );
            }
            return;
        }
        let failure = outcome.err().map(|failure| failure.to_string());
        let previous = self.hysteresis.status();
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
        if let Some(why) = &failure {
            self.series.failed(why);
            self.successes.clear();
        } else {
            self.successes.push_back(began);
        }
        let turn = self.flapping.observe(failure.is_none());
        self.last_failure = failure.or(self.last_failure.take());
        self.tell(transition.is_some());
        if let Some(status) = transition {
            self.series.turned(status == Status::Up);
            self.log(previous, status);
            self.since = Instant::now();
        }
        self.log_turn(turn);
    }

    /// Tells dependents of a change, and of each success.
    fn tell(&mut self, has_turned: bool) {
        if self.successes.len() > self.up_after {
            self.successes.pop_front();
        }
        let is_proven = self.successes.len() == self.up_after;
        let proven_since = self.successes.front().copied().filter(|_| is_proven);
        let is_up = self.hysteresis.status() == Status::Up;
        self.health.send_if_modified(|health| {
            let told = *health;
            health.is_up = is_up;
            health.proven_since = proven_since.or(told.proven_since);
            has_turned || *health != told
        });
    }

    /// Logs that the endpoint flaps, or no longer does.
    fn log_turn(&self, turn: Option<Turn>) {
        let (endpoint, reason) = (&*self.name, self.last_failure.as_deref());
        match turn {
            Some(Turn::Begins { failed, of }) => tracing::warn!(
                endpoint,
                reason,
                "endpoint flapping: {failed} of the last {of} checks failed"
            ),
            Some(Turn::Ends { of }) => tracing::info!(
                endpoint,
                "endpoint no longer flapping, after the last {of} checks"
            ),
            None => {}
        }
    }

    /// Logs a transition, with the duration of the previous status in whole milliseconds.
    fn log(&self, previous: Status, status: Status) {
        let (endpoint, last_failure) = (&*self.name, self.last_failure.as_deref());
        let lasted = Duration::from_millis(
            u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        if status == Status::Up {
            tracing::info!(endpoint, %previous, ?lasted, last_failure, "endpoint up");
        } else {
            let reason = last_failure;
            tracing::warn!(endpoint, %previous, ?lasted, reason, "endpoint down");
        }
    }
}
