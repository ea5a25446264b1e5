//! The settings of a shutdown: budgets, the deadline, output, and the treatment of unknown threads.
//!
//! `runtime/phases.rs` resolves the deadline and caps the durations before anything starts; the
//! plan does not change afterwards. The pipeline has a copy of its own.

use super::output::Stream;
use crate::audit::ownership::UnknownThreads;
use crate::threads::ThreadRule;
use std::time::Duration;

/// The settings of a shutdown.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The service's name, as logs, reports and dumps show it.
    pub(crate) service: String,
    /// The service's version; empty if it is unknown.
    pub(crate) version: String,
    /// The time between the failure of readiness and the drain. The service keeps serving
    /// meanwhile. At most five years, as each of the budgets.
    pub(crate) pre_drain: Duration,
    /// The budget of layer 1.
    pub(crate) drain: Duration,
    /// The budget of layer 2.
    pub(crate) cancel: Duration,
    /// The budget of layer 3.
    pub(crate) close: Duration,
    /// The time from the first reason to the end of the process. It shortens the budget of every
    /// layer, and the watchdog enforces it if `may_exit`. Zero until it is resolved; then at least
    /// the sum of the delay and the three budgets.
    pub(crate) deadline: Duration,
    /// The destination of the report.
    pub(crate) print: Print,
    /// True if the control side handles SIGTERM, SIGINT, SIGHUP and SIGQUIT.
    pub(crate) signals: bool,
    /// False if it leaves SIGHUP to the application.
    pub(crate) hangup: bool,
    /// True if it is a failure that something had to be cancelled, dropped or killed.
    pub(crate) strict: bool,
    /// True if headcount may end the process itself, at the deadline or while `main` hangs. False
    /// on a runtime that the application owns and in tests.
    pub(crate) may_exit: bool,
    /// The treatment of threads that are neither registered nor in the baseline.
    pub(crate) unknown_threads: UnknownThreads,
    /// The service's own rules for expected unknown threads, in addition to [`threads::shipped`].
    /// Tried in this order.
    pub(crate) expected: Vec<ThreadRule>,
    /// The longest time that a task may occupy its thread in one poll before a warning; `None`
    /// disables the warning. It also decides whether tasks note when they are polled.
    pub(crate) hold_limit: Option<Duration>,
    /// The part of the drain's budget in which it waits for untracked tasks, once the tracked ones
    /// have ended. `None` if it waits only for those that are spawned in the drain, briefly.
    pub(crate) untracked: Option<Duration>,
    /// The reasons for which the service is not ready from the start, and what each is about.
    pub(crate) unready: Vec<(String, String)>,
    /// The longest time for stacks and their symbols at the end, if the deadline leaves it. They take
    /// about 0.1 s, but seconds in a debug build. With the default budgets and no time saved, the
    /// deadline leaves 1.2 s.
    pub(crate) names: Duration,
    /// The longest wait for a final scrape of `/metrics`; zero disables it.
    pub(crate) scrape_hold: Duration,
}

/// The destination of the report, and of dumps that SIGQUIT requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Print {
    /// The report is not printed. Dumps go to standard error as text.
    Nowhere,
    /// Text on standard error.
    Text,
    /// One line of JSON on standard output.
    Json,
}

// === impl Print ===

impl Print {
    /// Returns the stream that reports and dumps are written to. `Nowhere` concerns reports; a dump
    /// was asked for, so it is written.
    pub(crate) fn stream(self) -> Stream {
        match self {
            Self::Json => Stream::Stdout,
            Self::Nowhere | Self::Text => Stream::Stderr,
        }
    }
}
