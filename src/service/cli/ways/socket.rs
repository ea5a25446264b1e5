//! The tasks of a service as it tells them itself, over its control socket.

use super::black_box::path;
use super::{Detail, FIRST_ANSWER, Way, counted, empty};
use crate::inspect::other::{Group, Link, Picture, ThreadGroup};
use crate::service::cli::control::{self, Unanswered};
use crate::task::TaskState;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most pages of tasks that are read for their states: 10,000 tasks.
const PAGES: usize = 10;
/// The longest wait for a dump.
const DUMP: Duration = Duration::from_secs(5);
/// The most ids of a row.
const IDS: usize = 10;

/// The answer of `/api/runtime`, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(in crate::service::cli) struct Overview {
    pub(in crate::service::cli) service: String,
    pub(in crate::service::cli) phase: String,
    pub(in crate::service::cli) tasks_live: u64,
    untracked_live: Option<u64>,
    #[serde(default)]
    not_observed: Vec<String>,
}

/// The answer of `/api/tasks`.
#[derive(Debug, Deserialize)]
pub(in crate::service::cli) struct Page {
    pub(in crate::service::cli) live: u64,
    pub(in crate::service::cli) tasks: Vec<Task>,
    next: Option<String>,
}

/// A tracked task.
#[derive(Debug, Deserialize)]
pub(in crate::service::cli) struct Task {
    pub(in crate::service::cli) id: u64,
    pub(in crate::service::cli) group: String,
    pub(in crate::service::cli) name: String,
    spawned: String,
    future: String,
    pub(in crate::service::cli) state: String,
    pub(in crate::service::cli) age_seconds: f64,
    pub(in crate::service::cli) on_thread: Option<u32>,
}

/// The answer of `/api/untracked`.
#[derive(Debug, Deserialize)]
pub(in crate::service::cli) struct Untracked {
    pub(in crate::service::cli) sites: Vec<Site>,
}

/// Untracked tasks of one type, or of one spawn site.
#[derive(Debug, Deserialize)]
pub(in crate::service::cli) struct Site {
    pub(in crate::service::cli) spawned: String,
    pub(in crate::service::cli) future: Option<String>,
    #[serde(default)]
    awaits: BTreeMap<String, u64>,
    pub(in crate::service::cli) live: u64,
    pub(in crate::service::cli) running: u64,
    unwakeable: u64,
    pub(in crate::service::cli) age_seconds: Option<f64>,
}

/// The answer of `/api/dump`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Dump {
    service: String,
    phase: String,
    root: Scope,
    unlisted_tasks: u64,
    untracked: Option<Vec<Site>>,
    #[serde(default)]
    threads: Option<Vec<Thread>>,
    not_observed: Vec<String>,
}

/// A group of tasks in a dump.
#[derive(Debug, Deserialize)]
struct Scope {
    name: String,
    kinds: Vec<Kind>,
    groups: Vec<Self>,
}

/// Tasks of one kind in a dump.
#[derive(Debug, Deserialize)]
struct Kind {
    name: String,
    spawned: String,
    future: String,
    count: u64,
    rows: Vec<Row>,
}

/// One of them.
#[derive(Debug, Deserialize)]
struct Row {
    id: u64,
    state: String,
    age_seconds: f64,
    awaits: Option<Vec<Vec<Frame>>>,
    on_thread: Option<u32>,
}

/// A call or an await.
#[derive(Debug, Clone, Deserialize)]
struct Frame {
    function: String,
    file: Option<String>,
    line: Option<u32>,
    waits_for: Option<String>,
}

/// A thread in a dump.
#[derive(Debug, Deserialize)]
struct Thread {
    tid: u32,
    name: String,
    #[serde(default)]
    stack: Vec<Frame>,
}

/// Asks a service for an overview. Waits at most a second.
pub(in crate::service::cli) fn overview(pid: u32) -> Result<Overview, Unanswered> {
    control::read(pid, "/api/runtime", FIRST_ANSWER)
}

/// Returns a picture of the service.
pub(super) fn picture(pid: u32, detail: Detail) -> Result<Picture, Unanswered> {
    // Of a service that does not answer this in time, more is not asked.
    let overview = overview(pid)?;
    let mut picture = empty(pid, Way::Socket);
    picture.notes.clone_from(&overview.not_observed);
    let more = match detail {
        Detail::Kinds => kinds(&mut picture, overview)?,
        Detail::Chains | Detail::Stacks => {
            let dump: Dump = control::read(pid, "/api/dump", DUMP)?;
            chains(&mut picture, dump, detail == Detail::Stacks)
        }
    };
    let mut picture = counted(picture);
    for count in [&mut picture.tasks, &mut picture.fewest, &mut picture.most] {
        *count += more;
    }
    Ok(picture)
}

/// Adds a row for the tasks of each kind and state. Returns the number of tasks that have none.
fn kinds(picture: &mut Picture, overview: Overview) -> Result<u64, Unanswered> {
    let pid = picture.pid;
    let mut rows: BTreeMap<(String, &'static str, String, String), Group> = BTreeMap::new();
    let mut after = String::new();
    let (mut read, mut live) = (0, 0);
    for _ in 0..PAGES {
        let query = format!("/api/tasks?limit=1000{after}");
        let page: Page = control::read(pid, &query, FIRST_ANSWER)?;
        read += page.tasks.len() as u64;
        live = page.live;
        for task in page.tasks {
            let name = path(&task.group, &task.name);
            let key = (name, known(&task.state), task.spawned, task.future);
            let row = rows.entry(key.clone());
            row.or_insert_with(|| group(key))
                .add(task.id, task.age_seconds);
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => {
                (read, live) = (0, 0);
                break;
            }
        }
    }
    picture.groups.extend(rows.into_values());
    let more = live.saturating_sub(read);
    if more > 0 {
        picture.notes.push(format!(
            "{more} younger tracked tasks are not told apart; `--by attach` reads all"
        ));
    }
    if overview.untracked_live != Some(0) {
        let untracked: Untracked = control::read(pid, "/api/untracked", FIRST_ANSWER)?;
        picture.groups.extend(untracked.sites.iter().flat_map(site));
    }
    picture.service = Some(overview.service);
    picture.phase = Some(overview.phase);
    Ok(more)
}

/// Adds the tasks of a dump, those with equal chains as one row. Returns the number of tasks that have
/// no row.
fn chains(picture: &mut Picture, dump: Dump, with_stacks: bool) -> u64 {
    add(&mut picture.groups, &dump.root, "");
    let untracked = dump.untracked.iter().flatten();
    picture.groups.extend(untracked.flat_map(site));
    picture.service = Some(dump.service);
    picture.phase = Some(dump.phase);
    picture.notes = dump.not_observed;
    if dump.unlisted_tasks > 0 {
        let more = dump.unlisted_tasks;
        picture
            .notes
            .push(format!("{more} tasks of further kinds are not listed"));
    }
    for thread in dump.threads.into_iter().flatten().filter(|_| with_stacks) {
        picture.stacks.push(ThreadGroup {
            count: 1,
            names: vec![thread.name],
            tids: vec![thread.tid],
            stack: thread.stack.iter().map(|call| link(0, call)).collect(),
        });
    }
    dump.unlisted_tasks
}

/// Adds the tasks of a group and of those within it.
fn add(groups: &mut Vec<Group>, scope: &Scope, above: &str) {
    let at = match (above, scope.name.as_str()) {
        ("", name) => name.to_owned(),
        (above, name) => format!("{above}/{name}"),
    };
    for kind in &scope.kinds {
        let first = groups.len();
        let name = path(&at, &kind.name);
        let of_state = |state| {
            group((
                name.clone(),
                state,
                kind.spawned.clone(),
                kind.future.clone(),
            ))
        };
        for row in &kind.rows {
            let state = known(&row.state);
            let one = links(row.awaits.as_deref().unwrap_or_default());
            let summary = summary(row);
            let mut same = groups[first..].iter_mut();
            let same = same.find(|group| {
                group.state == state && group.chain == one && group.summary == summary
            });
            let found = match same {
                Some(group) => group,
                None => {
                    groups.push(Group {
                        chain: one,
                        summary,
                        ..of_state(state)
                    });
                    groups.last_mut().expect("it was pushed")
                }
            };
            found.add(row.id, row.age_seconds);
        }
        let more = kind.count.saturating_sub(kind.rows.len() as u64);
        if more > 0 {
            groups.push(Group {
                count: more,
                ..of_state("not asked")
            });
        }
    }
    for scope in &scope.groups {
        add(groups, scope, &at);
    }
}

/// Makes the row of tasks with this path, state, spawn site and type, without tasks.
fn group((task, state, spawned, future): (String, &'static str, String, String)) -> Group {
    Group {
        count: 0,
        ids: Vec::new(),
        by: Way::Socket.as_str(),
        task: Some(task),
        oldest: None,
        state,
        name_is: if future.is_empty() {
            "unknown"
        } else {
            "exact"
        },
        name: future,
        never_wakes: false,
        spawned: Some(spawned).filter(|spawned| !spawned.is_empty()),
        summary: None,
        chain: Vec::new(),
    }
}

/// Makes the rows of untracked tasks: a row for each thing that they await, and one for the rest.
fn site(site: &Site) -> Vec<Group> {
    let of = |count, state, summary| Group {
        count,
        ids: Vec::new(),
        by: Way::Socket.as_str(),
        task: None,
        oldest: site.age_seconds.map(seconds),
        state,
        name_is: if site.future.is_some() {
            "exact"
        } else {
            "unknown"
        },
        name: site
            .future
            .clone()
            .unwrap_or_else(|| "a future of an unknown type".to_owned()),
        never_wakes: site.unwakeable >= site.live,
        spawned: Some(site.spawned.clone()).filter(|spawned| !spawned.is_empty()),
        summary,
        chain: Vec::new(),
    };
    let mut rest = site.live;
    let mut rows = Vec::new();
    if site.running > 0 {
        rows.push(of(site.running, "running", None));
        rest = rest.saturating_sub(site.running);
    }
    for (what, count) in &site.awaits {
        let count = (*count).min(rest);
        rest -= count;
        rows.push(of(count, "waiting", Some(what.clone())));
    }
    if rest > 0 {
        rows.push(of(rest, "waiting", None));
    }
    rows
}

/// Returns the summary of a task: its thread, or its innermost await in the program's own code.
fn summary(row: &Row) -> Option<String> {
    if let Some(tid) = row.on_thread {
        return Some(format!("running on thread {tid}"));
    }
    let chains = row.awaits.as_deref()?;
    let of_chain = |chain: &Vec<Frame>| {
        let own = chain.iter().find(|frame| frame.is_own());
        let own = own.or(chain.first())?.shown();
        let waits = chain.iter().find_map(|frame| frame.waits_for.as_deref());
        Some(match waits {
            Some(what) => format!("{own}, waiting for {what}"),
            None => own,
        })
    };
    let all: Vec<String> = chains.iter().filter_map(of_chain).collect();
    (!all.is_empty()).then(|| all.join(" or "))
}

/// Returns the lines of the chains of a task. A dump has each with the innermost await first. A common
/// beginning is shown once.
fn links(chains: &[Vec<Frame>]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    let mut before: Vec<Link> = Vec::new();
    for chain in chains {
        let mut lines: Vec<Link> = Vec::new();
        for (level, frame) in chain.iter().rev().enumerate() {
            lines.push(link(level, frame));
            lines.extend(frame.waits_for.as_ref().map(|what| Link {
                level: level + 1,
                kind: "wakes",
                text: what.clone(),
            }));
        }
        let pairs = lines.iter().zip(&before);
        let common = pairs.take_while(|(line, before)| line == before).count();
        links.extend_from_slice(&lines[common..]);
        before = lines;
    }
    links
}

fn link(level: usize, frame: &Frame) -> Link {
    Link {
        level,
        kind: if frame.is_own() { "own" } else { "library" },
        text: frame.shown(),
    }
}

/// Returns the word of a state of which only this program knows the meaning.
fn known(state: &str) -> &'static str {
    let all = TaskState::ALL.map(TaskState::as_str);
    all.into_iter()
        .find(|known| *known == state)
        .unwrap_or("unknown")
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

// === impl Group ===

/// A row that is put together task by task.
trait Add {
    fn add(&mut self, id: u64, age_seconds: f64);
}

impl Add for Group {
    fn add(&mut self, id: u64, age_seconds: f64) {
        self.count += 1;
        if self.ids.len() < IDS {
            self.ids.push(id);
        }
        self.oldest = self.oldest.max(Some(seconds(age_seconds)));
    }
}

// === impl Frame ===

impl Frame {
    fn shown(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{} ({file}:{line})", self.function),
            (Some(file), None) => format!("{} ({file})", self.function),
            (None, _) => self.function.clone(),
        }
    }

    /// Returns whether it is of the program's own code: a file of a library begins with the library's
    /// name and version, or is one of the compiler's.
    fn is_own(&self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let package = file.split('/').next().unwrap_or_default();
        let version = package.rsplit_once('-').map(|(_, version)| version);
        let has_version = version.is_some_and(|version| {
            version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.')
        });
        !has_version && !file.starts_with("/rustc/")
    }
}
