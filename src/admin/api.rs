//! The JSON answers of `/api`, and the functions that collect their data.
//!
//! Field names are the keys of the JSON; `openapi.json` describes them. Every answer is bounded: tasks are returned in
//! pages, other lists end after 1,000 entries, and the answer says how many are left out. An answer is not a consistent
//! snapshot: tasks may start and end while it is collected.

use crate::group::TaskCounters;
use crate::registry::count::warnings;
use crate::registry::query::listing::{self, Position};
use crate::registry::{self, LiveTask};
use crate::report::dump::Phase;
use crate::report::{Reason, TaskRow, ThreadRow, UntrackedRow};
use crate::state::PreviousRun;
use crate::task::{TaskId, TaskState};
use crate::telemetry::supervised::{ChildView, EndpointView};
use crate::telemetry::{self, Source, unix};
use crate::threads;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// The maximum number of entries of a list.
const LISTED: usize = 1000;
/// The most children and endpoints in the body of `/readyz`.
const READINESS: usize = 100;
/// The number of tasks on a page, unless the request sets `limit`.
const PAGE: usize = 100;

/// The query of a request for tasks: filters, and the page.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    group: Option<String>,
    name: Option<String>,
    state: Option<TaskState>,
    limit: Option<usize>,
    after: Option<Position>,
}

/// The answer of `/api/tasks`.
#[derive(Debug, Serialize)]
pub(crate) struct Tasks {
    /// The number of live tracked tasks in all groups, regardless of the filters.
    live: u64,
    /// Oldest first.
    tasks: Vec<TaskRow>,
    /// The value of `after` for the next page; `None` on the last page.
    next: Option<String>,
}

/// The answer of `/api/groups`.
#[derive(Debug, Serialize)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// The number of groups that are left out.
    more: usize,
}

/// All groups of one path.
#[derive(Debug, Default, Serialize)]
struct Group {
    group: &'static str,
    /// The number of live groups with this path; 0 if all of them are gone but their tasks are counted.
    count: u64,
    /// The number of those groups that are draining.
    draining: u64,
    live: u64,
    /// This and the following count from the start of the process.
    started: u64,
    completed: u64,
    failed: u64,
    panicked: u64,
    cancelled: u64,
    /// The tasks by name, from all spawn sites.
    names: Vec<TaskCounters>,
    /// The number of names that are left out.
    more: usize,
}

/// The answer of `/api/untracked`.
#[derive(Debug, Serialize)]
pub(crate) struct Untracked {
    /// `None` if untracked tasks are not observed.
    live: Option<u64>,
    /// The reason why they are not observed.
    not_observed: Option<String>,
    /// The number of tasks, tracked and untracked, that wait although nothing can wake them.
    unwakeable: Option<u64>,
    /// Sorted by live tasks, most first.
    sites: Vec<UntrackedRow>,
    /// The number of sites that are left out.
    more: usize,
}

/// The answer of `/api/leaks`: the tasks that wait although nothing is left that could wake them.
#[derive(Debug, Serialize)]
pub(crate) struct Leaks {
    /// The reason why they are not observed.
    not_observed: Option<String>,
    /// The tracked ones, the oldest first.
    tasks: Vec<TaskRow>,
    /// The rows of the untracked ones.
    untracked: Vec<UntrackedRow>,
    /// The number of tasks and rows that are left out.
    more: usize,
}

/// The answer of `/api/threads`.
#[derive(Debug, Serialize)]
pub(crate) struct Threads {
    live: u64,
    /// Sorted by class; empty if threads cannot be listed on this system.
    threads: Vec<ThreadRow>,
    /// The number of threads that are left out.
    more: usize,
}

/// The answer of `/api/children`.
#[derive(Debug, Serialize)]
pub(crate) struct Children {
    /// In the order in which they were registered.
    children: Vec<ChildView>,
    /// The number of children that are left out.
    more: usize,
}

/// The answer of `/api/endpoints`.
#[derive(Debug, Serialize)]
pub(crate) struct Endpoints {
    /// In the order in which they were registered.
    endpoints: Vec<EndpointView>,
    /// The number of endpoints that are left out.
    more: usize,
}

/// The answer of `/api/report`.
#[derive(Debug, Serialize)]
pub(crate) struct ReportSoFar {
    phase: Phase,
    /// A report without the arguments of command lines, which may hold secrets. `None` until the
    /// shutdown has ended.
    report: Option<Value>,
    /// Its report is cut in the same way. `None` if there is no state folder or it knows no previous run.
    previous: Option<PreviousRun>,
}

/// The answer of `/api/runtime`.
#[derive(Debug, Serialize)]
pub(crate) struct Runtime {
    service: String,
    version: &'static str,
    pid: u32,
    uptime_seconds: f64,
    phase: Phase,
    ready: bool,
    not_ready: Vec<String>,
    shutdown: Shutdown,
    tasks_live: u64,
    untracked_live: Option<u64>,
    threads: BTreeMap<&'static str, u64>,
    runtime: Tokio,
    process: ProcessFacts,
    warnings: BTreeMap<&'static str, u64>,
    build: Build,
    not_observed: Vec<String>,
}

/// The shutdown, if it has begun.
#[derive(Debug, Serialize)]
struct Shutdown {
    reason: Option<String>,
    begun_timestamp_seconds: Option<f64>,
    outcome: Option<&'static str>,
    layers: Vec<Layer>,
}

/// A layer of the shutdown; `took_seconds` is 0 before it begins.
#[derive(Debug, Serialize)]
struct Layer {
    layer: &'static str,
    took_seconds: f64,
    budget_seconds: f64,
}

/// The work runtime.
#[derive(Debug, Serialize)]
struct Tokio {
    owned: bool,
    workers: usize,
    worker_busy_seconds: f64,
    global_queue_depth: usize,
    alive_tasks: u64,
    blocking_threads: Option<u64>,
    heartbeat_age_seconds: Option<f64>,
}

/// Figures of the process; `None` if they cannot be read.
#[derive(Debug, Serialize)]
struct ProcessFacts {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
}

/// The build of headcount.
#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    revision: &'static str,
    rustc: &'static str,
    tokio_unstable: bool,
}

// === impl Asked ===

impl Asked {
    /// Parses the parameters of a query.
    ///
    /// # Errors
    ///
    /// Returns a message for the client if a parameter is unknown, set twice or invalid.
    pub(crate) fn parse(query: &[(String, String)]) -> Result<Self, String> {
        let mut asked = Self::default();
        for (key, value) in query {
            let twice = match key.as_str() {
                "group" => asked.group.replace(value.clone()).is_some(),
                "name" => asked.name.replace(value.clone()).is_some(),
                "state" => asked.state.replace(state(value)?).is_some(),
                "limit" => asked.limit.replace(limit(value)?).is_some(),
                "after" => asked.after.replace(place(value)?).is_some(),
                _ => {
                    return Err(
                        "unknown parameter; allowed: group, name, state, limit, after".into(),
                    );
                }
            };
            if twice {
                return Err(format!("'{key}' is set twice"));
            }
        }
        Ok(asked)
    }

    /// Returns true if the task passes the filters.
    fn wants(&self, task: &LiveTask) -> bool {
        let kind = task.kind;
        self.group
            .as_deref()
            .is_none_or(|group| is_within(kind.group(), group))
            && self.name.as_deref().is_none_or(|name| kind.name == name)
            && self.state.is_none_or(|state| task.state == state)
    }
}

/// Parses the parameter `state`.
fn state(value: &str) -> Result<TaskState, String> {
    let known = TaskState::ALL
        .into_iter()
        .find(|state| state.as_str() == value);
    known.ok_or_else(|| {
        let states = TaskState::ALL.map(TaskState::as_str);
        format!("'state' must be one of {}", states.join(", "))
    })
}

/// Parses the parameter `limit`.
fn limit(value: &str) -> Result<usize, String> {
    let limit = value
        .parse()
        .ok()
        .filter(|limit| (1..=LISTED).contains(limit));
    limit.ok_or_else(|| format!("'limit' must be 1 to {LISTED}"))
}

/// Parses the position after which a page begins, in the form that [`tasks`] returns as `next`.
fn place(value: &str) -> Result<Position, String> {
    let place = value.split_once('-').and_then(|(started, id)| {
        Some(Position {
            started: u64::from_str_radix(started, 16).ok()?,
            id: u64::from_str_radix(id, 16).ok()?,
        })
    });
    place.ok_or_else(|| "'after' must be the 'next' of an earlier answer".into())
}

/// Returns true if the path is that of the group or of a group in it.
fn is_within(path: &str, group: &str) -> bool {
    let below = path.strip_prefix(group);
    below.is_some_and(|rest| rest.is_empty() || group.is_empty() || rest.starts_with('/'))
}

/// Collects a page of live tracked tasks, oldest first.
pub(crate) fn tasks(watched: &Source, asked: &Asked) -> Tasks {
    let scope = watched.root.scope;
    let limit = asked.limit.unwrap_or(PAGE);
    let page = listing::page(scope, limit, asked.after, |task| asked.wants(task));
    let on_threads = registry::on_threads();
    let row = |task| TaskRow::new(task, &on_threads);
    Tasks {
        live: live(watched),
        tasks: page.tasks.iter().map(row).collect(),
        next: page
            .next
            .map(|next| format!("{:x}-{:x}", next.started, next.id)),
    }
}

/// Counts the live tracked tasks, daemons included.
pub(crate) fn live(watched: &Source) -> u64 {
    watched.root.scope.live() + watched.root.scope.live_daemons()
}

/// Collects the groups that are live or have counters, sorted by path. The bound of names is shared by all groups.
pub(crate) fn groups(watched: &Source) -> Groups {
    let mut rows: BTreeMap<&'static str, Group> = BTreeMap::new();
    for scope in watched.root.scope.subtree() {
        let row = rows.entry(scope.name()).or_default();
        row.count += 1;
        row.draining += u64::from(scope.is_draining());
    }
    let counters = TaskCounters::all(|kind| !kind.options.untracked);
    for counters in counters.into_iter().filter(|row| row.started > 0) {
        rows.entry(counters.group).or_default().add(counters);
    }
    let mut groups: Vec<Group> = rows
        .into_iter()
        .map(|(group, row)| Group { group, ..row })
        .collect();
    let more = cut(&mut groups);
    let mut left = LISTED;
    for group in &mut groups {
        group.more = group.names.len().saturating_sub(left);
        group.names.truncate(left);
        left -= group.names.len();
    }
    Groups { groups, more }
}

impl Group {
    /// Adds the tasks of one name.
    fn add(&mut self, row: TaskCounters) {
        self.live += row.live();
        self.started += row.started;
        self.completed += row.completed;
        self.failed += row.failed;
        self.panicked += row.panicked;
        self.cancelled += row.cancelled;
        self.names.push(row);
    }
}

/// Truncates a list to [`LISTED`] entries and returns the number of removed ones.
fn cut<T>(list: &mut Vec<T>) -> usize {
    cut_to(list, LISTED)
}

/// Truncates a list and returns the number of removed entries.
fn cut_to<T>(list: &mut Vec<T>, most: usize) -> usize {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    more
}

/// Collects the untracked tasks.
pub(crate) fn untracked(watched: &Source) -> Untracked {
    let look = watched.untracked();
    look.read_types(&watched.root);
    let mut sites = look.rows.clone().unwrap_or_default();
    let more = cut(&mut sites);
    Untracked {
        live: look.live(),
        not_observed: look.not_observed(),
        unwakeable: look.unwakeable(),
        sites,
        more,
    }
}

/// Collects the tasks that wait although nothing is left that could wake them.
pub(crate) fn leaks(watched: &Source) -> Leaks {
    let look = watched.untracked();
    let mut untracked = look.rows.clone().unwrap_or_default();
    untracked.retain(|row| row.unwakeable > 0);
    let ids: HashSet<TaskId> = look.unwakeable.iter().map(|(id, _)| *id).collect();
    let of_them = |task: &LiveTask| ids.contains(&task.id);
    let page = listing::page(watched.root.scope, LISTED, None, of_them);
    let on_threads = registry::on_threads();
    let row = |task| TaskRow::new(task, &on_threads);
    Leaks {
        not_observed: look.not_observed(),
        more: cut(&mut untracked) + ids.len().saturating_sub(LISTED),
        tasks: page.tasks.iter().map(row).collect(),
        untracked,
    }
}

/// Collects the threads of the process. Reads files of every thread, which takes about 40 µs per thread.
pub(crate) fn threads(watched: &Source) -> Threads {
    let mut threads = ThreadRow::all(watched.root.number);
    threads.sort_by_key(|thread| (thread.class, thread.tid));
    let more = cut(&mut threads);
    Threads {
        live: threads::live().total(),
        threads,
        more,
    }
}

/// Collects the child processes, with the use of CPU and memory as of the last two seconds.
pub(crate) fn children(watched: &Source) -> Children {
    children_at_most(watched, LISTED)
}

/// Collects at most so many child processes.
pub(crate) fn children_at_most(watched: &Source, most: usize) -> Children {
    let mut children = watched.children_with_usage();
    let more = cut_to(&mut children, most);
    Children {
        children: children.iter().map(|child| child.view()).collect(),
        more,
    }
}

/// Collects the endpoints.
pub(crate) fn endpoints(watched: &Source) -> Endpoints {
    endpoints_at_most(watched, LISTED)
}

/// Collects at most so many endpoints.
pub(crate) fn endpoints_at_most(watched: &Source, most: usize) -> Endpoints {
    let mut endpoints = watched.endpoints();
    let more = cut_to(&mut endpoints, most);
    Endpoints {
        endpoints: endpoints.iter().map(|endpoint| endpoint.view()).collect(),
        more,
    }
}

/// Writes the body of `/readyz`: the verdict, then a line for each child and each endpoint, for
/// people. Probes look at the status.
pub(crate) fn readiness(watched: &Source, reasons: &[String]) -> String {
    let mut body = match reasons {
        [] => "ready\n".to_owned(),
        reasons => format!("not ready: {}\n", reasons.join("; ")),
    };
    let children = watched.children();
    let endpoints = watched.endpoints();
    let children = children.iter().map(|child| {
        let (path, state) = (child.path(), child.state());
        format!("child {path}: {state}\n")
    });
    let endpoints = endpoints.iter().map(|endpoint| {
        let state = match endpoint.is_up() {
            Some(true) => "up",
            Some(false) => "down",
            None => "not known yet",
        };
        format!("endpoint {}: {state}\n", endpoint.path())
    });
    let mut lines = children.chain(endpoints);
    body.extend(lines.by_ref().take(READINESS));
    match lines.count() {
        0 => {}
        more => body.push_str(&format!("and {more} more\n")),
    }
    body
}

/// Returns the report of the shutdown, if it is final, and that of the previous run.
pub(crate) fn report(watched: &Source) -> ReportSoFar {
    let seen = watched.progress.timeline();
    let report = seen.report.as_deref().map(serde_json::to_value);
    // A report is a tree of maps with texts as keys, which can always be written.
    let mut report = report.and_then(Result::ok);
    let mut previous = watched.previous().cloned();
    let earlier = previous.as_mut().and_then(|run| run.report.as_mut());
    for report in report.iter_mut().chain(earlier) {
        without_arguments(report);
    }
    ReportSoFar {
        phase: watched.progress.phase(),
        report,
        previous,
    }
}

/// Cuts the command lines of the child processes in a report to their programs.
fn without_arguments(report: &mut Value) {
    for list in ["/processes", "/close/children"] {
        let rows = report.pointer_mut(list).and_then(Value::as_array_mut);
        for row in rows.into_iter().flatten() {
            if let Some(Value::String(command)) = row.get_mut("command") {
                let program = command.find(' ').unwrap_or(command.len());
                command.truncate(program);
            }
        }
    }
}

/// Collects the overview of the process.
pub(crate) fn runtime(watched: &Source) -> Runtime {
    let untracked = watched.untracked();
    let not_ready = watched.reasons_not_ready();
    let counts = threads::live();
    let [version, revision, rustc, unstable] = telemetry::build();
    let process = watched.process();
    Runtime {
        service: watched.service.clone(),
        version,
        pid: std::process::id(),
        uptime_seconds: watched.begun.elapsed().as_secs_f64(),
        phase: watched.progress.phase(),
        ready: not_ready.is_empty(),
        not_ready,
        shutdown: shutdown(watched),
        tasks_live: live(watched),
        untracked_live: untracked.live(),
        threads: counts
            .iter()
            .map(|(class, live)| (class.as_str(), live))
            .collect(),
        runtime: tokio(watched),
        process: ProcessFacts {
            cpu_seconds: process.cpu_seconds,
            resident_bytes: process.resident_bytes,
            open_files: process.open_files,
        },
        warnings: warnings::counts().collect(),
        build: Build {
            version,
            revision,
            rustc,
            tokio_unstable: unstable == "true",
        },
        not_observed: Vec::from_iter(untracked.not_observed()),
    }
}

/// Collects the state of the shutdown. The layers are listed with their budgets even before it begins.
fn shutdown(watched: &Source) -> Shutdown {
    let seen = watched.progress.timeline();
    let layers = telemetry::LAYERS.into_iter().zip(watched.budgets);
    Shutdown {
        reason: seen.reason.as_ref().map(Reason::to_string),
        begun_timestamp_seconds: seen.begun.map(unix),
        outcome: seen.report.as_ref().map(|report| report.outcome.as_str()),
        layers: layers
            .zip(telemetry::PHASES)
            .map(|((layer, budget), phase)| Layer {
                layer,
                took_seconds: seen.took(phase).as_secs_f64(),
                budget_seconds: budget.as_secs_f64(),
            })
            .collect(),
    }
}

/// Collects the metrics of the work runtime.
fn tokio(watched: &Source) -> Tokio {
    let metrics = watched.work.metrics();
    let (alive_tasks, busy) = alive_and_busy(watched);
    Tokio {
        owned: watched.owns_runtime,
        workers: metrics.num_workers(),
        worker_busy_seconds: busy.as_secs_f64(),
        global_queue_depth: metrics.global_queue_depth(),
        alive_tasks,
        blocking_threads: telemetry::blocking_threads(watched),
        heartbeat_age_seconds: watched.heartbeat.age().map(|age| age.as_secs_f64()),
    }
}

/// Returns the number of live tasks of the work runtime, without that of headcount itself, and the time
/// for which its workers were not parked.
pub(crate) fn alive_and_busy(watched: &Source) -> (u64, Duration) {
    let metrics = watched.work.metrics();
    let workers = 0..metrics.num_workers();
    let busy = workers.map(|worker| metrics.worker_total_busy_duration(worker));
    let alive = metrics.num_alive_tasks() as u64;
    let own = watched.root.own_tasks();
    (alive.saturating_sub(own), busy.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The arguments may hold secrets, and the server has no authentication.
    #[test]
    fn a_report_is_shown_without_arguments_of_command_lines() {
        let with = |command: &str| {
            json!({
                "processes": [{"pid": 7, "command": command}],
                "close": {"children": [{"pid": 8, "command": command}], "threads": []},
            })
        };
        let mut report = with("/usr/bin/postgres -D data --password=x");
        without_arguments(&mut report);
        assert_eq!(report, with("/usr/bin/postgres"));
        without_arguments(&mut report);
        assert_eq!(report, with("/usr/bin/postgres"));
    }
}
