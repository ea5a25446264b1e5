//! Untracked tasks: how they are told apart, counted and described.
//!
//! There are two sources. tokio's own list has every live task with the type of its future, on every
//! build. The hooks of `tokio_unstable` have the spawn site, and count tasks that have ended too.

use super::short;
use crate::inspect::own::Place;
use crate::inspect::subject::{Description, Subject, known_future};
use crate::registry::kind::Kind;
use crate::registry::query::runtime_tasks::{RuntimeTasks, UntrackedTask};
use crate::registry::root::Root;
use crate::registry::untracked_sites;
use crate::report::times;
use crate::task::TaskId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::panic::Location;
use std::time::Duration;
use tokio::runtime::Handle;

/// The most tasks of a type of which is read what they await.
const DESCRIBED: usize = 100;

/// The untracked tasks of one spawn site, or with one type of future: those spawned with plain
/// `tokio::spawn`.
///
/// With `--cfg tokio_unstable`, on a runtime that headcount owns, there is a row for each spawn site.
/// Otherwise there is one for each type, which tokio's own list of tasks tells apart.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let report = runtime.run(async |_tasks| {
///     tokio::spawn(std::future::pending::<()>());
/// });
/// let rows = report.cancel.untracked.expect("tokio's list can be read");
/// assert_eq!((rows[0].live, rows[0].dropped), (0, 1));
/// // Known with `--cfg tokio_unstable`.
/// if let Some(spawned) = rows[0].spawned {
///     assert_eq!(spawned.file(), file!());
/// }
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UntrackedRow {
    /// The source location of the `tokio::spawn` call; `None` without `--cfg tokio_unstable`.
    pub spawned: Option<&'static Location<'static>>,
    /// The type of the future, such as `orders::poll_queue::{async_fn_env#0}`; `None` if it is not
    /// known.
    pub future: Option<String>,
    /// The numbers of tasks by what they awaited when that was read, such as `orders::load
    /// (src/db.rs:12), waiting for a Mutex`. Needs the feature `stacks`, and types in the debug
    /// information (`debug = 2`). Only in reports and dumps; at most 100 tasks of a row are read.
    pub awaits: BTreeMap<String, u64>,
    /// The first of `awaits` that is in the program's own code, and not in a library.
    pub(crate) in_program: Option<String>,
    /// The number of live tasks. In the JSON of a report: `lingering`.
    pub live: u64,
    /// The number of live tasks that a thread is polling.
    pub running: u64,
    /// The number of live tasks that wait although nothing is left that could wake them: no waker
    /// and no abort handle. Their `JoinHandle` may still abort them.
    pub unwakeable: u64,
    /// The time for which the oldest live task has lived at least; `None` if that is not known. It
    /// is found by successive looks, so the first one knows no age.
    pub age: Option<Duration>,
    /// The number of tasks that this site has started on this runtime; `None` without
    /// `--cfg tokio_unstable`.
    pub started: Option<u64>,
    /// The number of tasks that the shutdown has dropped.
    pub dropped: u64,
}

/// The key of a row: the addresses of the spawn site, if known, and of the table of functions that
/// all tasks with one type of future share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    site: u64,
    table: u64,
}

/// The untracked tasks of a runtime at one moment.
#[derive(Debug, Default)]
pub(crate) struct UntrackedTasks {
    /// The ids of the live ones that tokio's list has.
    live: HashMap<u64, Key>,
    /// The number of those that had ended, by the address of the spawn site.
    ended: HashMap<u64, u64>,
    rows: BTreeMap<Key, UntrackedRow>,
    /// The tasks of each row that can be described. Two types from one spawn site are in one row.
    subjects: BTreeMap<u64, Subject>,
    /// The tracked tasks that can never wake.
    pub(crate) unwakeable: Vec<(TaskId, &'static Kind)>,
    /// The number of those that the list shows on a thread.
    running: u64,
    /// True if every task was seen, so that one that is missing has ended.
    is_listed: bool,
    /// True if every task was seen, and is known to be tracked or untracked.
    pub(crate) is_whole: bool,
}

// === impl UntrackedRow ===

impl UntrackedRow {
    /// Returns the rows of the live tasks of a runtime, those of the most tasks first. `handle` is
    /// the runtime's.
    ///
    /// # Errors
    ///
    /// Returns the reason if they are not observed.
    pub(crate) fn all(root: &Root, handle: &Handle) -> Result<Vec<Self>, String> {
        Ok(UntrackedTasks::look(root, handle)?.into_rows())
    }

    /// Returns the spawn site and the type of the future, as far as they are known.
    pub(crate) fn place(&self) -> String {
        match (&self.future, self.spawned) {
            (Some(future), Some(site)) => format!("{future}, spawned {}", short(site)),
            (Some(future), None) => future.clone(),
            (None, Some(site)) => format!("spawned {}", short(site)),
            (None, None) => "of an unknown type".to_owned(),
        }
    }

    /// Returns the number of tasks that can never wake, as a clause.
    pub(crate) fn never_wake(&self) -> Option<String> {
        match (self.unwakeable, self.live) {
            (0, _) => None,
            (1, 1) => Some("nothing can wake it".to_owned()),
            (n, live) if n == live => Some("nothing can wake them".to_owned()),
            (n, _) => Some(format!("nothing can wake {n} of them")),
        }
    }

    /// Returns what the tasks await, those of the most tasks first, a line for each.
    pub(crate) fn awaiting(&self) -> Vec<String> {
        let mut awaits: Vec<(&String, u64)> = self
            .awaits
            .iter()
            .map(|(text, count)| (text, *count))
            .collect();
        awaits.sort_by_key(|(_, count)| Reverse(*count));
        let line = |(text, count): (&String, u64)| format!("{text}{}", times(count));
        awaits.into_iter().map(line).collect()
    }

    fn add(&mut self, seen: &UntrackedTask) {
        self.live += 1;
        self.running += u64::from(seen.task.state.is_running());
        self.unwakeable += u64::from(seen.unwakeable);
        self.age = self.age.max(seen.age);
    }
}

// === impl UntrackedTasks ===

impl UntrackedTasks {
    /// Looks at the untracked tasks of the runtime of a handle. It takes about half a
    /// microsecond for each task of the runtime, tracked or not, and at most a second.
    ///
    /// # Errors
    ///
    /// Returns the reason if neither source knows them.
    pub(crate) fn look(root: &Root, handle: &Handle) -> Result<Self, String> {
        let listed = root.runtime_tasks(handle);
        let mut places = HashMap::new();
        let mut tasks = match listed {
            Ok(listed) => {
                places.clone_from(&listed.places);
                Self::listed(&listed)
            }
            Err(_) if root.sees_untracked() => Self::default(),
            Err(refusal) => return Err(format!("untracked tasks: not observed, {refusal}")),
        };
        if root.sees_untracked() {
            tasks.count_sites(untracked_sites(root), &places);
        }
        Ok(tasks)
    }

    fn listed(listed: &RuntimeTasks) -> Self {
        let mut tasks = Self {
            is_listed: listed.is_listed,
            is_whole: listed.is_whole,
            unwakeable: listed.unwakeable.clone(),
            ..Self::default()
        };
        for seen in &listed.untracked {
            let key = Key {
                site: seen.task.spawned,
                table: seen.task.table,
            };
            tasks.live.insert(seen.task.id, key);
            let row = tasks.rows.entry(key).or_insert_with(|| UntrackedRow {
                future: known_future(key.table),
                ..UntrackedRow::default()
            });
            row.add(seen);
            tasks.running += u64::from(seen.task.state.is_running());
            tasks.add_subject(seen, &listed.functions);
        }
        tasks
    }

    /// Adds a task to those that can be described: the oldest of each type, as far as no thread polls
    /// them.
    fn add_subject(&mut self, seen: &UntrackedTask, functions: &HashMap<u64, [u64; 7]>) {
        let table = seen.task.table;
        let Some(functions) = functions.get(&table) else {
            return;
        };
        let subject = self.subjects.entry(table).or_insert_with(|| Subject {
            table,
            functions: *functions,
            tasks: Vec::new(),
        });
        if subject.tasks.len() < DESCRIBED && !seen.task.state.is_running() {
            subject.tasks.push((seen.task.header, seen.task.id));
        }
    }

    /// Returns the tasks that can be described, by type.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        self.subjects.values().cloned().collect()
    }

    /// Puts descriptions into the rows. They are in the order of [`subjects`](Self::subjects).
    pub(crate) fn describe(&mut self, descriptions: Vec<Description>) {
        for (table, description) in self.subjects.keys().zip(descriptions) {
            for (key, row) in &mut self.rows {
                if key.table == *table {
                    row.future.clone_from(&description.future);
                    row.awaits.clone_from(&description.awaits);
                    row.in_program.clone_from(&description.in_program);
                }
            }
        }
    }

    /// Describes the rows as those of the same types at an earlier look.
    pub(crate) fn describe_like(&mut self, earlier: &Self) {
        for (key, row) in &mut self.rows {
            let mut described = earlier.rows.iter();
            if let Some((_, like)) = described.find(|(of, _)| of.table == key.table) {
                row.future = row.future.take().or_else(|| like.future.clone());
                row.awaits.clone_from(&like.awaits);
                row.in_program.clone_from(&like.in_program);
            }
        }
    }

    /// Makes a row for each spawn site, with the counts of the hooks. The tasks of the list add
    /// what only it knows.
    fn count_sites(&mut self, sites: Vec<(&'static Kind, u64, u64)>, places: &HashMap<u64, Place>) {
        let mut rows: BTreeMap<Key, UntrackedRow> = BTreeMap::new();
        for (kind, live, started) in sites {
            let site = std::ptr::from_ref(kind.site).addr() as u64;
            // Equal locations may have several addresses.
            let of_site = |key: &Key| {
                let place = places.get(&key.site);
                key.site == site || place.is_some_and(|place| place.is(kind.site))
            };
            let listed = self.rows.iter().filter(|(key, _)| of_site(key));
            let most = listed.clone().max_by_key(|(_, row)| row.live);
            let table = most.map_or(0, |(key, _)| key.table);
            let mut row = UntrackedRow {
                spawned: Some(kind.site),
                future: known_future(table),
                live,
                started: Some(started),
                ..UntrackedRow::default()
            };
            for (_, of) in listed {
                row.running += of.running;
                row.unwakeable += of.unwakeable;
                row.age = row.age.max(of.age);
            }
            self.ended.insert(site, started - live);
            rows.insert(Key { site, table }, row);
        }
        self.rows = rows;
    }

    /// Returns the number of live tasks.
    pub(crate) fn count(&self) -> u64 {
        self.rows.values().map(|row| row.live).sum()
    }

    /// Returns the number of live tasks that a thread is polling. All of them, if the states of some
    /// are not known.
    pub(crate) fn running(&self) -> u64 {
        if !self.is_whole {
            return self.count();
        }
        self.running.min(self.count())
    }

    /// Returns the rows, those of the most tasks first.
    pub(crate) fn into_rows(self) -> Vec<UntrackedRow> {
        let mut rows: Vec<UntrackedRow> = self.rows.into_values().collect();
        sort(&mut rows);
        rows
    }

    /// Returns the rows of the tasks that are alive, and of those that have ended since `before`,
    /// which counts as dropped by the shutdown.
    pub(crate) fn since(mut self, before: &Self) -> Vec<UntrackedRow> {
        let is_listed = self.is_listed && before.is_listed;
        if is_listed && self.ended.is_empty() && before.ended.is_empty() {
            // Known one by one.
            for (id, key) in &before.live {
                if !self.live.contains_key(id) {
                    self.rows.entry(*key).or_default().dropped += 1;
                }
            }
        }
        for (key, row) in &mut self.rows {
            // By the spawn site where the type is not known any more.
            let same = |(old, _): &(&Key, &UntrackedRow)| {
                old.site == key.site && (key.table == 0 || old.table == key.table)
            };
            if let Some((_, old)) = before.rows.iter().find(same) {
                row.future = row.future.take().or_else(|| old.future.clone());
                row.awaits.clone_from(&old.awaits);
                row.in_program.clone_from(&old.in_program);
            }
            let ended = self.ended.get(&key.site).copied().unwrap_or(0);
            let ended_before = before.ended.get(&key.site).copied().unwrap_or(0);
            row.dropped += ended.saturating_sub(ended_before);
        }
        let mut rows: Vec<UntrackedRow> = self.rows.into_values().collect();
        rows.retain(|row| row.dropped + row.live > 0);
        sort(&mut rows);
        rows
    }
}

/// Sorts rows: those of the most tasks first.
fn sort(rows: &mut [UntrackedRow]) {
    let place = |row: &UntrackedRow| row.spawned.map(ToString::to_string);
    rows.sort_by_cached_key(|row| {
        (
            Reverse(row.dropped + row.live),
            Reverse(row.started),
            place(row),
        )
    });
}
