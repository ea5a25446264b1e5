//! The names of all metrics: this file is the one that holds them. `/metrics`, `docs/metrics.md`, dashboards and rules are
//! tested against it.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for counters.

/// One metric.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
    /// When it is there; where nothing is said, always.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "the documentation shows it, which a test compares"
        )
    )]
    pub(crate) when: &'static str,
}

/// What a metric's value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// When it is there, and everything with it.
const ALWAYS: &str = "";
const UNSTABLE: &str = "on an own runtime, built with tokio_unstable";
const TOKIO: &str = "built with tokio_unstable";
const OWN: &str = "on an own runtime";
const ANSWERED: &str = "once a worker has answered";
const CHILDREN: &str = "for child processes that were registered";
const ENDPOINTS: &str = "for endpoints that were registered";
const PREVIOUS: &str = "when the end of a run is known: a previous one's, or this one's";
const STATE: &str = "with a state folder";
const EXPORTS: &str = "for signals that are exported";

const fn metric(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Name {
    Name {
        name,
        kind,
        labels,
        help,
        when: ALWAYS,
    }
}

impl Name {
    const fn when(self, when: &'static str) -> Self {
        Self { when, ..self }
    }
}

macro_rules! names {
    ($($id:ident = $kind:ident $name:literal $labels:tt $help:literal $($when:ident)?;)*) => {
        $(pub(crate) const $id: Name =
            metric(Kind::$kind, $name, &$labels, $help)$(.when($when))?;)*
        /// Every metric, in the order of the documentation.
        pub(crate) const ALL: &[&Name] = &[$(&$id),*];
    };
}

names! {
    TASK_LIVE = Gauge "headcount_task_live" ["group", "task", "state"]
        "Tracked tasks that have not ended, by state: created, running, stalled, draining or cancelling.";
    TASK_STARTED = Counter "headcount_task_started_total" ["group", "task"]
        "Tracked tasks that were ever spawned.";
    TASK_FINISHED = Counter "headcount_task_finished_total" ["group", "task", "outcome"]
        "Tracked tasks that have ended, by outcome: completed, failed, panicked or cancelled.";
    TASK_DURATION = Histogram "headcount_task_duration_seconds" ["group"]
        "From the spawn of a tracked task to its end.";
    TASK_POLL = Histogram "headcount_task_poll_duration_seconds" ["group"]
        "How long a poll of a tracked task took: a sample.";
    TASK_OLDEST = Gauge "headcount_task_oldest_age_seconds" ["group"]
        "Age of the oldest live tracked task; 0 without one.";
    TASK_UNTRACKED = Gauge "headcount_task_untracked_live" []
        "Live tasks that were spawned past headcount." UNSTABLE;
    TASK_UNTRACKED_SITE = Gauge "headcount_task_untracked_site_live" ["site"]
        "Live tasks that were spawned past headcount, by spawn site." UNSTABLE;
    TASK_UNTRACKED_SITE_STARTED = Counter "headcount_task_untracked_site_started_total" ["site"]
        "Tasks that were ever spawned past headcount, by spawn site." UNSTABLE;
    TASK_LINGERING = Gauge "headcount_task_lingering" ["layer", "group"]
        "Tracked tasks that were alive when a layer of the shutdown had ended.";
    THREAD_LIVE = Gauge "headcount_thread_live" ["class"]
        "Threads of the process, by what they were registered as.";
    THREAD_LINGERING = Gauge "headcount_thread_lingering" ["class"]
        "Threads that were alive at the end of the shutdown and should not have been.";
    CHILD_LIVE = Gauge "headcount_child_live" ["child"]
        "Whether the child process runs: 1 or 0." CHILDREN;
    CHILD_RESTARTS = Counter "headcount_child_restarts_total" ["child"]
        "How often the child process was started again." CHILDREN;
    SHUTDOWN_PHASE = Gauge "headcount_shutdown_phase" ["phase"]
        "Where the shutdown stands: 1 for one of running, draining, cancelling, closing and done, 0 for the others.";
    SHUTDOWN_STARTED = Gauge "headcount_shutdown_started_timestamp_seconds" []
        "When the shutdown began, in Unix time; 0 while none has.";
    SHUTDOWN_LAYER_DURATION = Gauge "headcount_shutdown_layer_duration_seconds" ["layer"]
        "How long a layer of the shutdown has taken so far.";
    SHUTDOWN_LAYER_BUDGET = Gauge "headcount_shutdown_layer_budget_seconds" ["layer"]
        "How long a layer of the shutdown may take.";
    SHUTDOWN_REQUESTED = Counter "headcount_shutdown_requested_total" ["reason"]
        "How often the shutdown was asked for, by the kind of reason.";
    SHUTDOWN_FORCED = Counter "headcount_shutdown_forced_total" ["action"]
        "How often the shutdown did not wait: cancel, a second signal cut the drain short; exit, the process was ended.";
    LAST_INFO = Gauge "headcount_last_shutdown_info" ["outcome", "reason", "version"]
        "How the last run ended that has: always 1." PREVIOUS;
    LAST_TIMESTAMP = Gauge "headcount_last_shutdown_timestamp_seconds" []
        "When that was known, in Unix time." PREVIOUS;
    LAST_DURATION = Gauge "headcount_last_shutdown_duration_seconds" []
        "From the beginning of that shutdown to the end of its last layer." PREVIOUS;
    LAST_LAYER_DURATION = Gauge "headcount_last_shutdown_layer_duration_seconds" ["layer"]
        "How long a layer of that shutdown took." PREVIOUS;
    LAST_LAYER_BUDGET = Gauge "headcount_last_shutdown_layer_budget_seconds" ["layer"]
        "How long a layer of that shutdown might have taken." PREVIOUS;
    LAST_THREAD_LINGERING = Gauge "headcount_last_shutdown_thread_lingering" ["class"]
        "Threads that were alive at its end and should not have been." PREVIOUS;
    LAST_TASK_LINGERING = Gauge "headcount_last_shutdown_task_lingering" ["layer"]
        "Tracked tasks that were alive when a layer of it had ended." PREVIOUS;
    LAST_FLUSH = Gauge "headcount_last_shutdown_flush_info" ["signal", "result"]
        "What became of the telemetry that was sent at its end: always 1." PREVIOUS;
    EXITS = Counter "headcount_exits_total" ["outcome"]
        "Runs of the service on this machine that have ended, by outcome." STATE;
    WARNINGS = Counter "headcount_warnings_total" ["kind"]
        "Warnings that were given, by kind.";
    RUNTIME_WORKERS = Gauge "headcount_runtime_workers" []
        "Worker threads of the runtime.";
    RUNTIME_BUSY = Counter "headcount_runtime_worker_busy_seconds_total" ["worker"]
        "Time that a worker was not parked.";
    RUNTIME_QUEUE = Gauge "headcount_runtime_global_queue_depth" []
        "Tasks that wait in the runtime's global queue for a worker.";
    RUNTIME_BLOCKING_THREADS = Gauge "headcount_runtime_blocking_threads" []
        "Threads of the runtime's blocking pool." OWN;
    RUNTIME_BLOCKING_QUEUE = Gauge "headcount_runtime_blocking_queue_depth" []
        "Closures that wait for a thread of the blocking pool." TOKIO;
    RUNTIME_TASKS = Gauge "headcount_runtime_task_live" []
        "Tasks that the runtime counts as alive, tracked or not.";
    RUNTIME_HEARTBEAT = Gauge "headcount_runtime_heartbeat_age_seconds" []
        "Time since a worker of the runtime last answered; with a free worker, 1 s at most." ANSWERED;
    ENDPOINT_UP = Gauge "headcount_endpoint_up" ["endpoint"]
        "Whether the endpoint is up: 1 or 0; 0 while that is not known." ENDPOINTS;
    ENDPOINT_CHECK = Histogram "headcount_endpoint_check_duration_seconds" ["endpoint"]
        "How long a check of the endpoint took, whatever it found." ENDPOINTS;
    ENDPOINT_TRANSITIONS = Counter "headcount_endpoint_transitions_total" ["endpoint"]
        "How often the endpoint came up or went down." ENDPOINTS;
    EXPORTS_TOTAL = Counter "headcount_telemetry_exports_total" ["signal", "result"]
        "Exports of telemetry, by result: ok or failed." EXPORTS;
    DROPPED = Counter "headcount_telemetry_dropped_total" ["signal", "reason"]
        "Records that were not delivered, by reason: queue_full, refused or shutdown." EXPORTS;
    QUEUE = Gauge "headcount_telemetry_queue_length" ["signal"]
        "Records that wait to be exported." EXPORTS;
    LAST_SUCCESS = Gauge "headcount_telemetry_last_success_timestamp_seconds" ["signal"]
        "When the last export was delivered, in Unix time; 0 before the first." EXPORTS;
    BUILD = Gauge "headcount_build_info" ["version", "revision", "rustc", "tokio_unstable"]
        "What the program was built with: always 1.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory of the process.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory of the process.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "File descriptors that the process has open.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "File descriptors that the process may have open.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads of the process, as the system counts them.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "When the process began, in Unix time.";
}

// === impl Kind ===

#[cfg(test)]
impl Kind {
    /// The word in the documentation.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
