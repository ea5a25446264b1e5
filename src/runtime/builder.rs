//! The settings of a runtime.

#[cfg(feature = "admin")]
use super::exporting::Exporting;
#[cfg(feature = "admin")]
use super::watched_of;
use super::{Runtime, Start, threads_of};
#[cfg(feature = "admin")]
use crate::control::{AdminSettings, Claimed};
use crate::registry::clock;
use crate::registry::root::Root;
use crate::shutdown::ending::Endings;
use crate::shutdown::{Owned, Plan, Print, UnknownThreads};
#[cfg(feature = "console")]
use crate::telemetry::Console;
#[cfg(feature = "otel")]
use crate::telemetry::Telemetry;
use crate::threads::{self, ThreadRule};
use std::fmt;
use std::io;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What the deadline leaves for the report beyond the layers.
const FOR_THE_REPORT: Duration = Duration::from_millis(1500);
const HOLD_LIMIT: Duration = Duration::from_secs(1);

type Configure = Box<dyn FnOnce(&mut tokio::runtime::Builder)>;

/// The settings of a [`Runtime`].
///
/// Defaults: drain 5 s, cancel 2 s, close 1 s; the deadline is their sum and the pre-drain delay, plus 1.5 s for the
/// report, so 9.5 s: less than the 10 s that Docker waits before it kills (`docker stop --help`).
#[must_use = "it builds nothing until `build`"]
pub struct Builder {
    plan: Plan,
    deadline: Option<Duration>,
    current_thread: bool,
    worker_threads: Option<usize>,
    configure: Option<Configure>,
    #[cfg(feature = "console")]
    console: Option<Console>,
    #[cfg(feature = "otel")]
    telemetry: Option<Telemetry>,
    #[cfg(feature = "admin")]
    admin: Option<SocketAddr>,
    #[cfg(feature = "admin")]
    admin_hosts: Vec<String>,
    #[cfg(feature = "json")]
    pub(super) remembers: super::remembering::Remembering,
}

/// Why a runtime was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The layers may take longer than the deadline allows.
    #[error(
        "fit the layers into the deadline: pre-drain delay {pre_drain:?}, drain {drain:?}, cancel {cancel:?} and close \
         {close:?} take longer than {deadline:?}"
    )]
    DeadlineTooShort {
        /// The pre-drain delay.
        pre_drain: Duration,
        /// The first layer.
        drain: Duration,
        /// The second layer.
        cancel: Duration,
        /// The third layer.
        close: Duration,
        /// The deadline.
        deadline: Duration,
    },
    /// The address of the admin server is not to be had.
    #[cfg(feature = "admin")]
    #[error("claim {address} for the admin server{}", who_has_it(source))]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system refused threads or descriptors.
    #[error("start the runtime's threads")]
    System(#[source] io::Error),
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            plan: Plan {
                service: "service".to_owned(),
                pre_drain: Duration::ZERO,
                drain: Duration::from_secs(5),
                cancel: Duration::from_secs(2),
                close: Duration::from_secs(1),
                deadline: Duration::ZERO,
                print: Print::Text,
                signals: true,
                may_exit: true,
                unknown_threads: UnknownThreads::Linger,
                expected: Vec::new(),
                hold_limit: Some(HOLD_LIMIT),
                wait_for_untracked: false,
                scrape_hold: Duration::from_secs(10),
            },
            deadline: None,
            current_thread: false,
            worker_threads: None,
            configure: None,
            #[cfg(feature = "console")]
            console: None,
            #[cfg(feature = "otel")]
            telemetry: None,
            #[cfg(feature = "admin")]
            admin: None,
            #[cfg(feature = "admin")]
            admin_hosts: Vec::new(),
            #[cfg(feature = "json")]
            remembers: Default::default(),
        }
    }

    /// What the service is called in the report. Default: "service".
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.plan.service);
        self
    }

    /// How long the service serves on after it said that it is not ready. Default: none.
    pub fn pre_drain_delay(mut self, delay: Duration) -> Self {
        self.plan.pre_drain = delay;
        self
    }

    /// The budget of the first layer. Default: 5 s.
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.plan.drain = budget;
        self
    }

    /// The budget of the second layer. Default: 2 s.
    pub fn cancel_budget(mut self, budget: Duration) -> Self {
        self.plan.cancel = budget;
        self
    }

    /// The budget of the third layer. Default: 1 s.
    pub fn close_budget(mut self, budget: Duration) -> Self {
        self.plan.close = budget;
        self
    }

    /// When the process is ended, counted from the beginning of the shutdown, whatever still runs. Default: the sum of
    /// the budgets and the pre-drain delay, plus 1.5 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long the process may be kept after its report for one last scrape of `/metrics`, since otherwise nobody sees
    /// the metrics of its end; within the deadline, and only for a scraper that was there: one that says so, as
    /// Prometheus does, or who came twice. A signal ends it. Zero turns it off. Default: 10 s.
    pub fn scrape_hold(mut self, at_most: Duration) -> Self {
        self.plan.scrape_hold = at_most;
        self
    }

    /// Whether to answer to SIGTERM, SIGINT and SIGQUIT. Default: yes.
    pub fn signals(mut self, answer: bool) -> Self {
        self.plan.signals = answer;
        self
    }

    /// Whether to print the report, as text on standard error. Default: yes.
    pub fn print(mut self, print: bool) -> Self {
        self.plan.print = if print { Print::Text } else { Print::Nowhere };
        self
    }

    /// Prints the report as one line of JSON on standard output instead.
    #[cfg(feature = "json")]
    pub fn print_json(mut self) -> Self {
        self.plan.print = Print::Json;
        self
    }

    /// Declares threads of other libraries as expected: they may live when all else has ended, and the report says why.
    /// Rules for what many meet are there already.
    pub fn expect_threads(mut self, rule: ThreadRule) -> Self {
        self.plan.expected.push(rule);
        self
    }

    /// How many workers. Default: as many as processors.
    pub fn worker_threads(mut self, workers: usize) -> Self {
        self.worker_threads = Some(workers.max(1));
        self
    }

    /// How long a task may hold its thread, in one poll, before it is warned of by a `tracing` event of the target
    /// `headcount::worker`: once an episode, and once more when it comes back. Blocking closures may take as long as they
    /// like. With `None` nobody is watched, and dumps do not know when tasks were polled last. Default: 1 s.
    pub fn hold_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.plan.hold_limit = limit.into();
        self
    }

    /// Runs all tasks on the thread that calls [`Runtime::run`].
    pub fn current_thread(mut self) -> Self {
        self.current_thread = true;
        self
    }

    /// Serves a page, metrics, health and JSON on this address, read only: `127.0.0.1:9464` is usual, and with port 0
    /// [`Runtime::admin_address`] tells which it got. Default: no server.
    ///
    /// The address is claimed before anything else is started. It answers from a thread of its own, also when every
    /// worker is stuck and while the shutdown runs. It does not encrypt and knows no users: on another address than the
    /// loopback's, whoever reaches it can read it. Paths: `/`, `/metrics`, `/livez`, `/readyz`, `/api/openapi.json`, which
    /// describes the rest.
    #[cfg(feature = "admin")]
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = Some(address);
        self
    }

    /// A name that clients may call the admin server by, besides `localhost` and the address: without a port. Requests
    /// under other names are refused, since a web page of somebody else can make such a name lead here.
    #[cfg(feature = "admin")]
    pub fn admin_host(mut self, name: &str) -> Self {
        self.admin_hosts.push(name.to_owned());
        self
    }

    /// Sets what has no method here on tokio's own builder. The hooks for tasks and threads are set afterwards, so
    /// those set here have no effect: tokio keeps one of each.
    pub fn configure(
        mut self,
        configure: impl FnOnce(&mut tokio::runtime::Builder) + 'static,
    ) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// Makes spans of the tasks, and pushes them, the log and the report to a collector. Default: what
    /// [`telemetry::layer`](crate::telemetry::layer) made, if it was called; else nothing is pushed.
    #[cfg(feature = "otel")]
    pub fn telemetry(mut self, telemetry: &Telemetry) -> Self {
        self.telemetry = Some(telemetry.clone());
        self
    }

    /// Serves tokio-console until the runtime is gone. Default: it is not served.
    #[cfg(feature = "console")]
    pub fn console(mut self, console: Console) -> Self {
        self.console = Some(console);
        self
    }

    pub(crate) fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    pub(crate) fn into_plan(self) -> Plan {
        self.plan
    }

    /// Starts the runtime and its control side.
    ///
    /// # Errors
    ///
    /// A deadline that is shorter than the layers; threads that the system refuses; an address of the admin server that
    /// is not to be had.
    pub fn build(self) -> Result<Runtime, BuildError> {
        let plan = fit(self.plan, self.deadline)?;
        #[cfg(feature = "admin")]
        let settings = self.admin.map(|address| AdminSettings {
            address,
            hosts: self.admin_hosts,
        });
        // Before anything runs: who cannot have the address must not have started anything.
        #[cfg(feature = "admin")]
        let claimed = settings.as_ref().map(claim).transpose()?;
        #[cfg(feature = "admin")]
        let (service, budgets) = (plan.service.clone(), [plan.drain, plan.cancel, plan.close]);
        let start = Start::new(plan);
        #[cfg_attr(
            not(feature = "json"),
            expect(unused_mut, reason = "there is nothing to add")
        )]
        let mut endings = Endings::default();
        #[cfg(feature = "json")]
        let mut remembered = self.remembers.begin(&start.plan.service);
        #[cfg(feature = "json")]
        endings.list.extend(remembered.endings());
        #[cfg(feature = "otel")]
        let exporting =
            Exporting::begin(self.telemetry, (&start, remembered.version()), &mut endings)?;
        #[cfg(all(feature = "admin", not(feature = "otel")))]
        let exporting = Exporting::default();
        let root = start.root.number;
        let tokio = (self.current_thread, self.worker_threads, self.configure);
        let runtime = work_runtime(tokio, &start.root).map_err(BuildError::System)?;
        let handle = runtime.handle().clone();
        if !self.current_thread {
            threads::await_workers(root, handle.metrics().num_workers());
        }
        let owned = Arc::new(Owned::new(Some(runtime)));
        #[cfg(feature = "admin")]
        let scrapes = Arc::clone(&endings.scrapes);
        let (tasks, control) = start.control(&owned, &handle, endings)?;
        #[cfg(feature = "admin")]
        let metrics = exporting.metrics(watched_of(
            (&service, budgets),
            &tasks,
            &control,
            (true, remembered.past()),
        ));
        #[cfg(feature = "json")]
        remembered
            .start(root, &control)
            .map_err(BuildError::System)?;
        Ok(Runtime {
            #[cfg(feature = "console")]
            _console: self
                .console
                .map(|console| console.serve(root))
                .transpose()
                .map_err(BuildError::System)?
                .flatten(),
            #[cfg(feature = "admin")]
            admin: claimed
                .map(|claimed| {
                    claimed.serve(
                        metrics.clone(),
                        Arc::new(move |scrape| scrapes.note(scrape)),
                    )
                })
                .transpose()
                .map_err(BuildError::System)?,
            #[cfg(feature = "admin")]
            metrics,
            tasks,
            control,
            owned,
            handle,
            root,
            is_current_thread: self.current_thread,
            #[cfg(feature = "json")]
            remembered,
        })
    }
}

/// The runtime that the tasks run on.
fn work_runtime(
    (current_thread, workers, configure): (bool, Option<usize>, Option<Configure>),
    root: &Arc<Root>,
) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = if current_thread {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.enable_all().thread_name("headcount-work");
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    if let Some(configure) = configure {
        configure(&mut builder);
    }
    threads_of(&mut builder, root.number);
    #[cfg(tokio_unstable)]
    crate::registry::untracked::install(&mut builder, root);
    builder.build()
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "admin")]
pub(super) fn claim(settings: &AdminSettings) -> Result<Claimed, BuildError> {
    let address = settings.address;
    Claimed::new(settings).map_err(|source| BuildError::Admin { address, source })
}

#[cfg(feature = "admin")]
fn who_has_it(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ", where another process listens",
        io::ErrorKind::AddrNotAvailable => ", which is no address of this machine",
        _ => "",
    }
}

/// Puts the deadline behind the layers.
pub(super) fn fit(mut plan: Plan, deadline: Option<Duration>) -> Result<Plan, BuildError> {
    for budget in [
        &mut plan.pre_drain,
        &mut plan.drain,
        &mut plan.cancel,
        &mut plan.close,
    ] {
        *budget = clock::LONGEST.min(*budget);
    }
    let layers = [plan.pre_drain, plan.drain, plan.cancel, plan.close]
        .into_iter()
        .fold(Duration::ZERO, Duration::saturating_add);
    plan.deadline = deadline
        .unwrap_or(layers.saturating_add(FOR_THE_REPORT))
        .min(clock::LONGEST * 5);
    if layers > plan.deadline {
        return Err(BuildError::DeadlineTooShort {
            pre_drain: plan.pre_drain,
            drain: plan.drain,
            cancel: plan.cancel,
            close: plan.close,
            deadline: plan.deadline,
        });
    }
    Ok(plan)
}
