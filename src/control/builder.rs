//! The settings of a runtime.
//!
//! They are up here so that each part of a runtime can add its own methods to [`Builder`]: those of
//! the admin server are in `admin`, for example, and `build` is in `runtime`.

use super::part::Parts;
use super::plan::{Plan, Print};
use crate::audit::ownership::UnknownThreads;
use crate::threads::ThreadRule;
use std::fmt;
use std::time::Duration;

const HOLD_LIMIT: Duration = Duration::from_secs(1);

type Configure = Box<dyn FnOnce(&mut tokio::runtime::Builder)>;

/// The settings of a [`Runtime`](crate::Runtime), made by
/// [`Runtime::builder`](crate::Runtime::builder).
///
/// By default the layers take at most 5 s (drain), 2 s (cancel) and 1 s (close). The deadline is
/// their sum and the pre-drain delay, plus 1.5 s for the report: 9.5 s, which is less than the 10 s
/// that Docker waits before it kills a container (`docker stop --help`).
///
/// A budget longer than five years counts as five years.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// let runtime = headcount::Runtime::builder()
///     .name("orders")
///     .version(env!("CARGO_PKG_VERSION"))
///     .worker_threads(2)
///     .drain_budget(Duration::from_secs(3))
///     .cancel_budget(Duration::from_secs(1))
///     .close_budget(Duration::from_millis(500))
///     .scrape_hold(Duration::ZERO)
///     .signals(false)
///     .print(false)
///     .build()?;
/// let report = runtime.run(async |_tasks| {});
/// let layers = [report.drain.timing, report.cancel.timing, report.close.timing];
/// assert_eq!(layers.map(|layer| layer.budget.as_millis()), [3000, 1000, 500]);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[must_use = "it builds nothing until `build`"]
pub struct Builder {
    pub(crate) plan: Plan,
    /// The deadline of the shutdown; `None` for the default, which depends on the budgets.
    pub(crate) deadline: Option<Duration>,
    pub(crate) work: WorkSettings,
    /// The parts, which hold their own settings.
    pub(crate) parts: Parts,
}

/// The settings of the work runtime.
#[derive(Default)]
pub(crate) struct WorkSettings {
    /// True for a current-thread runtime, false for one with workers.
    pub(crate) is_current_thread: bool,
    /// The number of workers; `None` for tokio's default.
    pub(crate) workers: Option<usize>,
    pub(crate) configure: Option<Configure>,
}

// === impl Builder ===

impl Builder {
    /// Returns the default settings, with parts that have their default settings too.
    pub(crate) fn with_parts(parts: Parts) -> Self {
        Self {
            plan: Plan {
                service: "service".to_owned(),
                version: String::new(),
                pre_drain: Duration::ZERO,
                drain: Duration::from_secs(5),
                cancel: Duration::from_secs(2),
                close: Duration::from_secs(1),
                deadline: Duration::ZERO,
                print: Print::Text,
                signals: true,
                hangup: true,
                strict: false,
                may_exit: true,
                unknown_threads: UnknownThreads::Linger,
                expected: Vec::new(),
                hold_limit: Some(HOLD_LIMIT),
                untracked: None,
                unready: Vec::new(),
                names: Duration::from_secs(5),
                scrape_hold: Duration::from_secs(10),
            },
            deadline: None,
            work: WorkSettings::default(),
            parts,
        }
    }

    /// Sets the name of the service, for the report, metrics, telemetry and the default state
    /// folder. Default: "service".
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().name("orders").print(false).build()?;
    /// assert_eq!(runtime.dump().service, "orders");
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.plan.service);
        self
    }

    /// Sets the version of the service, which is recorded with the end of each run. Default: empty.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let orders = || headcount::Runtime::builder().state_folder(folder).print(false);
    /// orders().version("1.2.0").build()?.run(async |_tasks| {});
    ///
    /// let upgraded = orders().version("1.3.0").build()?;
    /// let previous = upgraded.previous_run().expect("there was one");
    /// assert_eq!(previous.shutdown.version, "1.2.0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.plan.version);
        self
    }

    /// Sets how long the service keeps serving after it turned not ready and before the first layer
    /// begins, so that load balancers can stop routing to it. Default: zero.
    ///
    /// A second signal skips the rest of the delay, and the drain.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let delay = Duration::from_millis(20);
    /// let runtime = headcount::Runtime::builder().pre_drain_delay(delay).print(false).build()?;
    /// let report = runtime.run(async |_tasks| {});
    /// assert!(report.total >= delay);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn pre_drain_delay(mut self, delay: Duration) -> Self {
        self.plan.pre_drain = delay;
        self
    }

    /// Sets the budget of the first layer, in which tasks are told to drain. Default: 5 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let budget = Duration::from_millis(20);
    /// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     tasks.spawn("deaf", std::future::pending::<()>());
    /// });
    /// assert_eq!(report.drain.ignored[0].name, "deaf");
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.plan.drain = budget;
        self
    }

    /// Sets for how long the drain waits for untracked tasks, once the tracked ones have ended. It is
    /// a part of the drain's budget, and does not extend it.
    ///
    /// Default: at most 1 s, and only for as many as were spawned since the stop began. A destructor
    /// that spawns its clean-up therefore has that time, and a task that a library keeps as long as
    /// the process lives delays nothing. With a budget of your own, all untracked tasks are waited
    /// for; with zero, none. Without `tokio_unstable` their number is estimated.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = headcount::Runtime::builder().untracked_budget(Duration::from_secs(2));
    /// let report = builder.print(false).build()?.run(async |_tasks| {
    ///     tokio::spawn(tokio::time::sleep(Duration::from_millis(20)));
    /// });
    /// assert!(report.is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn untracked_budget(mut self, budget: Duration) -> Self {
        self.plan.untracked = Some(budget);
        self
    }

    /// Sets the budget of the second layer, in which the remaining tasks are cancelled. Default: 2
    /// s.
    ///
    /// It is also the time for which [`TaskGroup::cancel`](crate::TaskGroup::cancel) waits.
    pub fn cancel_budget(mut self, budget: Duration) -> Self {
        self.plan.cancel = budget;
        self
    }

    /// Sets the budget of the third layer, in which threads and child processes must end. Default:
    /// 1 s.
    pub fn close_budget(mut self, budget: Duration) -> Self {
        self.plan.close = budget;
        self
    }

    /// Sets the deadline of the whole shutdown, counted from its beginning. Default: the sum of the
    /// budgets and the pre-drain delay, plus 1.5 s; longer if the flush of telemetry may take longer
    /// than 1 s.
    ///
    /// If the report has not been returned by then, the process exits with code 70, whatever is
    /// still running. [`Builder::build`] returns an error if the deadline is shorter than the
    /// layers and the delay.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// use headcount::{BuildError, Runtime};
    ///
    /// let too_short = Runtime::builder().deadline(Duration::from_secs(1)).build();
    /// assert!(matches!(too_short, Err(BuildError::DeadlineTooShort { .. })));
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets how long the process may wait after its report for one final scrape of `/metrics`.
    /// Default: 10 s.
    ///
    /// Without that scrape the metrics of the shutdown would never be read. The wait ends before
    /// the deadline, and a signal cuts it short. It happens only if `/metrics` has been scraped
    /// before and the next scrape is due in time. A client counts as a scraper if its request says
    /// so, as that of Prometheus does, or if it has scraped twice. Zero turns the wait off.
    pub fn scrape_hold(mut self, at_most: Duration) -> Self {
        self.plan.scrape_hold = at_most;
        self
    }

    /// Makes the service not ready from the start because of `what`, until
    /// [`TaskGroup::set_ready`](crate::TaskGroup::set_ready) is called for it. Default: ready at once.
    ///
    /// The admin server answers before `main` runs, so a call of
    /// [`TaskGroup::set_unready`](crate::TaskGroup::set_unready) in `main` may come too late.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = headcount::Runtime::builder().unready("cache", "still loading");
    /// let report = builder.print(false).build()?.run(async |tasks| {
    ///     assert!(!tasks.is_ready());
    ///     tasks.set_ready("cache");
    ///     assert!(tasks.is_ready());
    /// });
    /// assert_eq!(report.exit_code(), 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn unready(mut self, what: &str, why: &str) -> Self {
        self.plan.unready.push((what.to_owned(), why.to_owned()));
        self
    }

    /// Sets whether SIGTERM, SIGINT, SIGHUP and SIGQUIT are handled. Default: true.
    ///
    /// The first SIGTERM or SIGINT begins the shutdown, the second skips the rest of the drain, and
    /// the third exits at once with 128 plus the number of the signal. SIGHUP begins the shutdown
    /// too: see [`Builder::hangup`]. SIGQUIT prints a dump, and the service keeps running.
    pub fn signals(mut self, answer: bool) -> Self {
        self.plan.signals = answer;
        self
    }

    /// Sets whether SIGHUP begins the shutdown. Default: true.
    ///
    /// A process gets SIGHUP when its terminal is closed, and by default ends at once. Turn this off
    /// in a service that uses the signal for something else, such as to reload its settings. After
    /// [`hold_signals`](crate::runtime::hold_signals), SIGHUP has no effect unless the service
    /// handles it.
    ///
    /// SIGHUP is left alone if the process was started with the signal ignored, as by nohup(1), and
    /// if [`Builder::signals`] is off. It never cuts a shutdown short that has begun.
    pub fn hangup(mut self, stops: bool) -> Self {
        self.plan.hangup = stops;
        self
    }

    /// Sets whether the exit code is 4 when something had to be cancelled, dropped or killed. Default:
    /// false, with which such a shutdown is a success.
    ///
    /// It is meant for tests, and for services that must not lose work unnoticed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = headcount::Runtime::builder().strict(true).print(false);
    /// let runtime = builder.drain_budget(Duration::from_millis(20)).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     tasks.spawn("deaf", std::future::pending::<()>());
    /// });
    /// assert_eq!(report.exit_code(), 4);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn strict(mut self, strict: bool) -> Self {
        self.plan.strict = strict;
        self
    }

    /// Sets whether the report is printed as text on standard error. Default: true.
    pub fn print(mut self, print: bool) -> Self {
        self.plan.print = if print { Print::Text } else { Print::Nowhere };
        self
    }

    /// Prints the report as one line of JSON on standard output, instead of text on standard error.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print_json().build()?;
    /// let report = runtime.run(async |_tasks| {});
    /// // The line that was printed.
    /// let line: serde_json::Value = serde_json::from_str(&report.to_json())?;
    /// assert_eq!(line["outcome"], "clean");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn print_json(mut self) -> Self {
        self.plan.print = Print::Json;
        self
    }

    /// Adds a rule for threads of other libraries that are expected to outlive the shutdown. The
    /// report gives the reason.
    ///
    /// Rules for common libraries are built in: see [`ThreadRule`]. Rules that are added here are
    /// tried first.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::threads::ThreadRule;
    ///
    /// let rule = ThreadRule::named("cache-sweep*", "the cache sweeps until the process ends");
    /// let runtime = headcount::Runtime::builder().expect_threads(rule).print(false).build()?;
    /// assert!(runtime.run(async |_tasks| {}).is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn expect_threads(mut self, rule: ThreadRule) -> Self {
        self.plan.expected.push(rule);
        self
    }

    /// Sets the number of workers, at least 1. Default: tokio's, which is the number of processors.
    ///
    /// It has no effect together with [`Builder::current_thread`].
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().worker_threads(3).print(false).build()?;
    /// let report = runtime.run(async |_tasks| {
    ///     let handle = tokio::runtime::Handle::current();
    ///     assert_eq!(handle.metrics().num_workers(), 3);
    /// });
    /// assert_eq!(report.exit_code(), 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn worker_threads(mut self, workers: usize) -> Self {
        self.work.workers = Some(workers.max(1));
        self
    }

    /// Sets how long a task may block its worker in one poll before headcount logs a warning.
    /// Default: 1 s.
    ///
    /// The warning is a `tracing` event with target `headcount::worker`. It is logged at most once
    /// while the poll lasts, and another event follows when the poll has returned. A limit below 10
    /// ms counts as 10 ms. Blocking closures have no limit.
    ///
    /// With `None` there are no such warnings, and dumps do not show when tasks were last polled.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().hold_limit(None).print(false).build()?;
    /// assert!(runtime.run(async |_tasks| {}).is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn hold_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.plan.hold_limit = limit.into();
        self
    }

    /// Runs all tasks on the thread that calls [`Runtime::run`](crate::Runtime::run), on a
    /// current-thread runtime. Default: a multi-thread runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().current_thread().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     let main = std::thread::current().id();
    ///     let task = tasks.spawn("task", async { std::thread::current().id() });
    ///     assert_eq!(task.await.ok(), Some(main));
    /// });
    /// assert_eq!(report.exit_code(), 0);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn current_thread(mut self) -> Self {
        self.work.is_current_thread = true;
        self
    }

    /// Changes settings of tokio's own builder that have no method here.
    ///
    /// headcount sets its hooks for threads and tasks afterwards. Tokio keeps one hook of each
    /// kind, so hooks for the start, stop and parking of a thread, and for the spawn and end of a
    /// task, have no effect if they are set here. A later call replaces an earlier one.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder()
    ///     .configure(|tokio| {
    ///         tokio.max_blocking_threads(4);
    ///     })
    ///     .print(false)
    ///     .build()?;
    /// assert!(runtime.run(async |_tasks| {}).is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn configure(
        mut self,
        configure: impl FnOnce(&mut tokio::runtime::Builder) + 'static,
    ) -> Self {
        self.work.configure = Some(Box::new(configure));
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
