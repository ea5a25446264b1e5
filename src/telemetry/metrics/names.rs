//! The names, types, labels and help texts of all metrics.
//!
//! This file lists all of them. `/metrics`, `docs/metrics.md`, the dashboards and the alerting rules
//! are tested against it. Names follow <https://prometheus.io/docs/practices/naming/>: base units,
//! `_total` for counters.

pub(crate) use crate::state::names::{
    EXITS, Kind, LAST_DURATION, LAST_FLUSH, LAST_INFO, LAST_LAYER_BUDGET, LAST_LAYER_DURATION,
    LAST_TASK_LINGERING, LAST_THREAD_LINGERING, LAST_TIMESTAMP, Name,
};

macro_rules! names {
    ($($id:ident $(= $kind:ident $name:literal $labels:tt $help:literal)?;)*) => {
        $($(pub(crate) const $id: Name = Name {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
        };)?)*
        /// All metrics, in the order of the documentation.
        #[cfg(test)]
        pub(crate) const ALL: &[&Name] = &[$(&$id),*];
    };
}

names! {
    TASK_LIVE = Gauge "headcount_task_live" ["group", "task", "state"]
        "Live tracked tasks, by state: created, running, stalled, draining or cancelling.";
    TASK_STARTED = Counter "headcount_task_started_total" ["group", "task"]
        "Tracked tasks spawned.";
    TASK_FINISHED = Counter "headcount_task_finished_total" ["group", "task", "outcome"]
        "Tracked tasks that ended, by outcome: completed, failed, panicked or cancelled.";
    TASK_DURATION = Histogram "headcount_task_duration_seconds" ["group"]
        "Lifetime of a tracked task, from spawn to end.";
    TASK_POLL = Histogram "headcount_task_poll_duration_seconds" ["group"]
        "Duration of one poll of a tracked task (sampled).";
    TASK_OLDEST = Gauge "headcount_task_oldest_age_seconds" ["group"]
        "Age of the oldest live tracked task; 0 if there is none.";
    TASK_UNTRACKED = Gauge "headcount_task_untracked_live" []
        "Live untracked tasks: spawned with tokio directly, not through headcount.";
    TASK_UNWAKEABLE = Gauge "headcount_task_unwakeable" []
        "Live tasks that wait although no waker of them is left.";
    TASK_UNTRACKED_SITE = Gauge "headcount_task_untracked_site_live" ["site"]
        "Live untracked tasks, by spawn site.";
    TASK_UNTRACKED_SITE_STARTED = Counter "headcount_task_untracked_site_started_total" ["site"]
        "Untracked tasks spawned, by spawn site.";
    TASK_LINGERING = Gauge "headcount_task_lingering" ["layer", "group"]
        "Tracked tasks that a shutdown layer left alive, without those that had no turn or ended late.";
    THREAD_LIVE = Gauge "headcount_thread_live" ["class"]
        "Live threads of the process, by class.";
    THREAD_LINGERING = Gauge "headcount_thread_lingering" ["class"]
        "Threads still alive at the end of the shutdown that should have ended, by class.";
    CHILD_LIVE = Gauge "headcount_child_live" ["child"]
        "1 if the child process is running, otherwise 0; for _other, the number of them running.";
    CHILD_RESTARTS = Counter "headcount_child_restarts_total" ["child"]
        "Restarts of the child process.";
    CHILD_CPU = Counter "headcount_child_cpu_seconds_total" ["child"]
        "CPU time of the child process and all that it has started, as far as scrapes saw it: what ended between two is not counted.";
    CHILD_RESIDENT = Gauge "headcount_child_resident_bytes" ["child"]
        "Resident memory of the child process and all that it has started. Memory that they share counts for each.";
    SHUTDOWN_PHASE = Gauge "headcount_shutdown_phase" ["phase"]
        "Phase of the shutdown: 1 for the current one of running, draining, cancelling, closing and done, 0 for the others.";
    SHUTDOWN_STARTED = Gauge "headcount_shutdown_started_timestamp_seconds" []
        "Unix time at which the shutdown began; 0 before that.";
    SHUTDOWN_LAYER_DURATION = Gauge "headcount_shutdown_layer_duration_seconds" ["layer"]
        "Time that the shutdown layer has taken so far.";
    SHUTDOWN_LAYER_BUDGET = Gauge "headcount_shutdown_layer_budget_seconds" ["layer"]
        "Time budget of the shutdown layer.";
    SHUTDOWN_REQUESTED = Counter "headcount_shutdown_requested_total" ["reason"]
        "Triggers of a shutdown, by reason. Those that come while it is under way are counted too.";
    SHUTDOWN_FORCED = Counter "headcount_shutdown_forced_total" ["action"]
        "Forced steps of the shutdown: cancel if a second signal cut the drain short, exit if the process was ended.";
    // Defined in `state`, because the textfile has them too.
    LAST_INFO;
    LAST_TIMESTAMP;
    LAST_DURATION;
    LAST_LAYER_DURATION;
    LAST_LAYER_BUDGET;
    LAST_THREAD_LINGERING;
    LAST_TASK_LINGERING;
    LAST_FLUSH;
    EXITS;
    WARNINGS = Counter "headcount_warnings_total" ["kind"]
        "Warnings given, by kind.";
    LOG_DROPPED = Counter "headcount_log_dropped_total" ["reason"]
        "Lines of the log not written, by reason: queue_full, failed or limit.";
    RUNTIME_WORKERS = Gauge "headcount_runtime_workers" []
        "Worker threads of the runtime.";
    RUNTIME_BUSY = Counter "headcount_runtime_worker_busy_seconds_total" ["worker"]
        "Time that the worker was not parked.";
    RUNTIME_QUEUE = Gauge "headcount_runtime_global_queue_depth" []
        "Tasks waiting for a worker in the runtime's global queue.";
    RUNTIME_BLOCKING_THREADS = Gauge "headcount_runtime_blocking_threads" []
        "Threads of the runtime's blocking pool.";
    RUNTIME_BLOCKING_QUEUE = Gauge "headcount_runtime_blocking_queue_depth" []
        "Closures waiting for a thread of the blocking pool.";
    RUNTIME_TASKS = Gauge "headcount_runtime_task_live" []
        "Live tasks of the runtime, tracked or not.";
    RUNTIME_HEARTBEAT = Gauge "headcount_runtime_heartbeat_age_seconds" []
        "Time since a worker last ran the heartbeat task; about 1 s at most if a worker is free and the admin server is on.";
    ENDPOINT_UP = Gauge "headcount_endpoint_up" ["endpoint"]
        "1 if the endpoint is up; 0 if it is down or its state is not known yet.";
    ENDPOINT_CHECK = Histogram "headcount_endpoint_check_duration_seconds" ["endpoint"]
        "Duration of a check of the endpoint, successful or not.";
    ENDPOINT_CHECKS = Counter "headcount_endpoint_checks_total" ["endpoint", "result"]
        "Checks of the endpoint, by result: ok or failed.";
    ENDPOINT_TRANSITIONS = Counter "headcount_endpoint_transitions_total" ["endpoint"]
        "Times that the endpoint came up or went down.";
    EXPORTS_TOTAL = Counter "headcount_telemetry_exports_total" ["signal", "result"]
        "Attempts to export telemetry, by result: ok or failed.";
    DROPPED = Counter "headcount_telemetry_dropped_total" ["signal", "reason"]
        "Records not delivered, by reason: queue_full, refused or shutdown.";
    QUEUE = Gauge "headcount_telemetry_queue_length" ["signal"]
        "Records waiting to be exported, as of the last export.";
    LAST_SUCCESS = Gauge "headcount_telemetry_last_success_timestamp_seconds" ["signal"]
        "Unix time of the last successful export; 0 before the first.";
    BUILD = Gauge "headcount_build_info" ["version", "revision", "rustc", "tokio_unstable"]
        "Version, revision, compiler and tokio_unstable flag of the build; always 1.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "User and system CPU time of the process.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory of the process.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory of the process.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors of the process.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Largest number of file descriptors that the process may have open.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads of the process.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "Unix time at which the process started.";
}
