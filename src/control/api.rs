//! The JSON of `/api`: what each answer says, and from where.
//!
//! Bounded: tasks come a page at a time, of other things the first 1,000, and each answer says how many are left out.

use crate::group::thread_infos;
use crate::registry::kind::Kind;
use crate::registry::listing::{self, Place};
use crate::registry::{self, Counts, LiveTask, warnings};
use crate::report::dump::Phase;
use crate::report::{Reason, Report};
use crate::state::PreviousRun;
use crate::task::{TaskKind, TaskOutcome, TaskState};
use crate::telemetry::{self, Watched, short, unix};
use crate::threads::{self, ThreadInfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most entries of a list.
const LISTED: usize = 1000;
const PAGE: usize = 100;

/// What a request for tasks asks.
#[derive(Debug, Default)]
pub(super) struct Asked {
    group: Option<String>,
    name: Option<String>,
    state: Option<TaskState>,
    limit: Option<usize>,
    after: Option<Place>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tasks {
    /// How many tracked tasks live, in all groups.
    live: u64,
    tasks: Vec<Task>,
    /// What to ask for `after`, to see those that follow.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Task {
    id: u64,
    group: &'static str,
    name: &'static str,
    kind: TaskKind,
    state: TaskState,
    age_seconds: f64,
    spawned: String,
    required: bool,
    daemon: bool,
    on_thread: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Groups {
    groups: Vec<Group>,
    more: usize,
}

#[derive(Debug, Default, Serialize)]
struct Group {
    group: &'static str,
    /// Groups of this path that live, and those of them that were told to drain.
    count: u64,
    draining: u64,
    #[serde(flatten)]
    tasks: Counters,
    names: Vec<Named>,
    /// Names that are left out.
    more: usize,
}

/// The tasks of one name in a group, wherever they are spawned.
#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    #[serde(flatten)]
    tasks: Counters,
}

#[derive(Debug, Default, Serialize)]
struct Counters {
    live: u64,
    started: u64,
    completed: u64,
    failed: u64,
    panicked: u64,
    cancelled: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Untracked {
    /// `None` where they are not observed.
    live: Option<u64>,
    not_observed: Option<&'static str>,
    sites: Vec<Site>,
    more: usize,
}

#[derive(Debug, Serialize)]
struct Site {
    spawned: String,
    live: u64,
    started: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Threads {
    live: u64,
    threads: Vec<ThreadInfo>,
    more: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct ReportSoFar {
    phase: Phase,
    /// `None` before the shutdown has ended.
    report: Option<Report>,
    /// `None` without a state folder, and for its first run.
    previous: Option<PreviousRun>,
}

#[derive(Debug, Serialize)]
pub(super) struct Runtime {
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
    not_observed: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Shutdown {
    reason: Option<String>,
    begun_timestamp_seconds: Option<f64>,
    outcome: Option<&'static str>,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize)]
struct Layer {
    layer: &'static str,
    took_seconds: f64,
    budget_seconds: f64,
}

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

#[derive(Debug, Serialize)]
struct ProcessFacts {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    revision: &'static str,
    rustc: &'static str,
    tokio_unstable: bool,
}

// === impl Asked ===

impl Asked {
    const STATES: [TaskState; 5] = [
        TaskState::Created,
        TaskState::Running,
        TaskState::Stalled,
        TaskState::Draining,
        TaskState::Cancelling,
    ];

    /// What a query asks; an error says what is wrong with it.
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, String> {
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
                return Err(format!("'{key}' is given twice"));
            }
        }
        Ok(asked)
    }

    fn wants(&self, task: &LiveTask) -> bool {
        let kind = task.kind;
        self.group
            .as_deref()
            .is_none_or(|group| is_within(kind.group(), group))
            && self.name.as_deref().is_none_or(|name| kind.name == name)
            && self.state.is_none_or(|state| task.state == state)
    }
}

fn state(value: &str) -> Result<TaskState, String> {
    let known = Asked::STATES
        .into_iter()
        .find(|state| state.as_str() == value);
    known.ok_or_else(|| {
        let states = Asked::STATES.map(TaskState::as_str);
        format!("'state' is one of {}", states.join(", "))
    })
}

fn limit(value: &str) -> Result<usize, String> {
    let limit = value
        .parse()
        .ok()
        .filter(|limit| (1..=LISTED).contains(limit));
    limit.ok_or_else(|| format!("'limit' is 1 to {LISTED}"))
}

fn place(value: &str) -> Result<Place, String> {
    let place = value.split_once('-').and_then(|(started, id)| {
        Some(Place {
            started: u64::from_str_radix(started, 16).ok()?,
            id: u64::from_str_radix(id, 16).ok()?,
        })
    });
    place.ok_or_else(|| "'after' is what an answer gave as 'next'".into())
}

/// Whether a path is this group's or below it.
fn is_within(path: &str, group: &str) -> bool {
    let below = path.strip_prefix(group);
    below.is_some_and(|rest| rest.is_empty() || group.is_empty() || rest.starts_with('/'))
}

pub(super) fn tasks(watched: &Watched, asked: &Asked) -> Tasks {
    let scope = watched.root.scope;
    let limit = asked.limit.unwrap_or(PAGE);
    let page = listing::page(scope, limit, asked.after, |task| asked.wants(task));
    let on_threads = registry::on_threads();
    let row = |task: &LiveTask| Task {
        id: task.id.get(),
        group: task.kind.group(),
        name: task.kind.name,
        kind: task.kind.options.runs,
        state: task.state,
        age_seconds: task.age().as_secs_f64(),
        spawned: short(&task.kind.site.to_string()).to_owned(),
        required: task.kind.options.required,
        daemon: task.kind.options.daemon,
        on_thread: on_threads.get(&task.place()).copied(),
    };
    Tasks {
        live: live(watched),
        tasks: page.tasks.iter().map(row).collect(),
        next: page
            .next
            .map(|next| format!("{:x}-{:x}", next.started, next.id)),
    }
}

fn live(watched: &Watched) -> u64 {
    watched.root.scope.live() + watched.root.scope.live_daemons()
}

pub(super) fn groups(watched: &Watched) -> Groups {
    let mut rows: BTreeMap<&'static str, Group> = BTreeMap::new();
    for scope in watched.root.scope.subtree() {
        let row = rows.entry(scope.name()).or_default();
        row.count += 1;
        row.draining += u64::from(scope.is_draining());
    }
    let counts = registry::all_counts().into_iter();
    for (kind, counts) in counts.filter(|(kind, _)| !kind.options.untracked) {
        if counts.started > 0 {
            rows.entry(kind.group()).or_default().add(kind, &counts);
        }
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
    fn add(&mut self, kind: &Kind, counts: &Counts) {
        self.tasks.add(counts);
        // By name, however many places they are spawned at.
        let known = self.names.iter().position(|named| named.name == kind.name);
        let place = known.unwrap_or_else(|| {
            self.names.push(Named {
                name: kind.name,
                tasks: Counters::default(),
            });
            self.names.len() - 1
        });
        self.names[place].tasks.add(counts);
    }
}

impl Counters {
    fn add(&mut self, counts: &Counts) {
        let ended = |outcome: TaskOutcome| counts.ended[outcome as usize];
        self.live += counts.live();
        self.started += counts.started;
        self.completed += ended(TaskOutcome::Completed);
        self.failed += ended(TaskOutcome::Failed);
        self.panicked += ended(TaskOutcome::Panicked);
        self.cancelled += ended(TaskOutcome::Cancelled);
    }
}

/// Keeps what is listed, and says how many are not.
fn cut<T>(list: &mut Vec<T>) -> usize {
    let more = list.len().saturating_sub(LISTED);
    list.truncate(LISTED);
    more
}

pub(super) fn untracked(watched: &Watched) -> Untracked {
    let rows = registry::untracked_sites(&watched.root);
    let mut sites: Vec<Site> = rows
        .into_iter()
        .map(|(kind, live, started)| Site {
            spawned: short(&kind.site.to_string()).to_owned(),
            live,
            started,
        })
        .collect();
    sites.sort_by_key(|site| std::cmp::Reverse((site.live, site.started)));
    let more = cut(&mut sites);
    Untracked {
        live: untracked_live(watched),
        not_observed: watched.not_observed().first().copied(),
        sites,
        more,
    }
}

fn untracked_live(watched: &Watched) -> Option<u64> {
    let seen = watched.root.sees_untracked();
    seen.then(|| registry::live_untracked(&watched.root))
}

pub(super) fn threads(watched: &Watched) -> Threads {
    let mut threads = thread_infos(watched.root.number);
    threads.sort_by_key(|thread| (thread.class, thread.tid));
    let more = cut(&mut threads);
    Threads {
        live: threads::live().total(),
        threads,
        more,
    }
}

pub(super) fn report(watched: &Watched) -> ReportSoFar {
    let seen = watched.standing.course().seen();
    ReportSoFar {
        phase: watched.standing.phase(),
        report: seen.report.as_deref().cloned(),
        previous: watched.previous().cloned(),
    }
}

pub(super) fn runtime(watched: &Watched) -> Runtime {
    let not_ready = watched.reasons_not_ready();
    let counts = threads::live();
    let [version, revision, rustc, unstable] = telemetry::build();
    let process = watched.process();
    Runtime {
        service: watched.service.clone(),
        version,
        pid: std::process::id(),
        uptime_seconds: watched.begun.elapsed().as_secs_f64(),
        phase: watched.standing.phase(),
        ready: not_ready.is_empty(),
        not_ready,
        shutdown: shutdown(watched),
        tasks_live: live(watched),
        untracked_live: untracked_live(watched),
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
        not_observed: watched.not_observed(),
    }
}

fn shutdown(watched: &Watched) -> Shutdown {
    let seen = watched.standing.course().seen();
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

fn tokio(watched: &Watched) -> Tokio {
    let metrics = watched.work.metrics();
    let workers = metrics.num_workers();
    let busy: Duration = (0..workers)
        .map(|worker| metrics.worker_total_busy_duration(worker))
        .sum();
    Tokio {
        owned: watched.owns_runtime,
        workers,
        worker_busy_seconds: busy.as_secs_f64(),
        global_queue_depth: metrics.global_queue_depth(),
        alive_tasks: (metrics.num_alive_tasks() as u64).saturating_sub(watched.root.own_tasks()),
        blocking_threads: telemetry::blocking_threads(watched),
        heartbeat_age_seconds: watched.heartbeat.age().map(|age| age.as_secs_f64()),
    }
}
