//! The tasks of a process as data: for text, and for JSON.

use super::Process;
use super::running::{self, Call, Running, Stacked};
use crate::inspect::chain::{Address, Chains, Folds, Tasks, tree_lines};
use crate::inspect::descriptors::Descriptors;
use crate::inspect::header::Task;
use crate::inspect::program::{Certainty, Functions, Limits, Name, Types, of_kinds};
use crate::stacks::awaits::type_name::shortened;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// The most tasks of which the chains are read.
const CHAINS: usize = 100_000;
/// The word for the way by which all of this is read.
pub(crate) const ATTACH: &str = "attach";
/// The most ids that a group of tasks names.
const IDS: usize = 10;

/// The tasks of a process at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Picture {
    pub(crate) pid: u32,
    /// The file name of the program.
    pub(crate) program: String,
    /// The name and the phase of a service of headcount, if it is known to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<String>,
    /// The versions of tokio in the program: mostly one.
    pub(crate) tokio: Vec<String>,
    /// The ways by which the tasks were read, such as `attach`.
    pub(crate) by: &'static str,
    /// The number of tasks that were read.
    pub(crate) tasks: u64,
    /// The fewest and the most tasks that there were while they were read.
    pub(crate) fewest: u64,
    pub(crate) most: u64,
    /// The number of runtimes and `LocalSet`s with tasks.
    pub(crate) runtimes: usize,
    pub(crate) threads: usize,
    /// Equal tasks, the most frequent first.
    pub(crate) groups: Vec<Group>,
    /// Threads with equal stacks; empty unless they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stacks: Vec<ThreadGroup>,
    /// The self-checks that were not possible.
    pub(crate) unchecked: Vec<&'static str>,
    /// Reasons why something is missing.
    pub(crate) notes: Vec<String>,
}

/// Tasks with one type, one state and equal chains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub(crate) count: u64,
    /// The ids of the first ten.
    pub(crate) ids: Vec<u64>,
    /// The way by which they were read.
    pub(crate) by: &'static str,
    /// The path of a task that headcount tracks: its group and its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    /// The age of the oldest, if it is known.
    #[serde(
        rename = "oldest_seconds",
        skip_serializing_if = "Option::is_none",
        serialize_with = "seconds"
    )]
    pub(crate) oldest: Option<Duration>,
    /// `waiting`, `running`, `woken`, `cancelled` or `ending`; of a task that headcount tracks, and
    /// that was not read by attach, its state there.
    pub(crate) state: &'static str,
    /// The type of the future, shortened.
    #[serde(rename = "type")]
    pub(crate) name: String,
    /// `exact`, `called`, `several` or `unknown`.
    pub(crate) name_is: &'static str,
    /// True if nothing is left that could wake them.
    pub(crate) never_wakes: bool,
    /// The place of the spawn, if tokio was built with `tokio_unstable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spawned: Option<String>,
    /// Where the first of them waits, and for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<String>,
    /// The chains of the first of them, a line for each future.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) chain: Vec<Link>,
}

/// Threads with equal stacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ThreadGroup {
    pub(crate) count: u64,
    /// The names of the threads, each once.
    pub(crate) names: Vec<String>,
    /// The ids of the first ten.
    pub(crate) tids: Vec<u32>,
    /// The calls, innermost first; empty for threads on a processor.
    pub(crate) stack: Vec<Link>,
}

/// A line of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Link {
    /// The number of futures around it.
    pub(crate) level: usize,
    /// `own`, `library`, `wakes` or `note`.
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

/// The notes of headcount about a task.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    /// The path: its group and its name.
    pub(crate) task: Rc<str>,
    pub(crate) age: Duration,
}

/// The notes of headcount about the tasks of a process, by their addresses.
pub(crate) type Labels = HashMap<u64, Label>;

/// A task with its number among those with chains, and the key of its group.
struct Row<'a> {
    task: &'a Task,
    label: Option<&'a Label>,
    at: Option<usize>,
    key: Key,
}

/// Tasks with one key are one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    task: Option<Rc<str>>,
    /// The number of the name.
    name: usize,
    state: &'static str,
    never_wakes: bool,
    spawned: u64,
    /// The number of the chains that its own are folded into.
    chain: Option<usize>,
}

/// The names of tasks, shortened.
struct Shown {
    names: HashMap<u64, Name>,
    /// Numbers by the tables of functions, and by the whole names of futures.
    by_table: FxHashMap<u64, usize>,
    by_name: FxHashMap<Rc<str>, usize>,
    by_text: HashMap<Rc<str>, usize>,
    texts: Vec<Rc<str>>,
}

// === impl Picture ===

impl Picture {
    /// Groups the tasks of a process by kind and state. Costs no debug information.
    pub(crate) fn of_kinds(process: &Process, labels: &Labels) -> Self {
        let mut shown = Shown::new(names(process, None));
        let rows = process.tasks().map(|task| {
            let name = shown.of_kind(task.table);
            row(task, labels, name)
        });
        let rows: Vec<Row<'_>> = rows.collect();
        Self::of(process, &shown, &rows, &Tasks::default())
    }

    /// Groups the tasks of a process by their chains too, and adds the threads with their stacks if
    /// `with_stacks` says so. An error is the reason of a failed self-check.
    pub(crate) fn with_chains(
        process: &Process,
        labels: &Labels,
        with_stacks: bool,
        limits: Limits,
    ) -> Result<Self, String> {
        let types = process.program.types(functions(process), limits);
        if let Some(header) = types.header() {
            process.check_layout(&header)?;
        }
        let mut shown = Shown::new(names(process, Some(&types)));
        let descriptors = Descriptors::of(Path::new(&format!("/proc/{}", process.pid)));
        let chains = Chains::new(&types, &process.memory, &process.program, &descriptors);
        let rows = process.tasks().map(|task| {
            let name = shown.of_kind(task.table);
            row(task, labels, name)
        });
        let mut rows: Vec<Row<'_>> = rows.collect();
        let read = rows.iter().take(CHAINS);
        let read = read.map(|row| address(process, row.task));
        let read: Vec<Address> = read.collect();
        let (mut tasks, mut folds) = (Tasks::default(), Folds::default());
        tasks.reserve(read.len());
        chains.of_tasks(&read, |at, tree| {
            let Some(tree) = tree else { return };
            let row = &mut rows[at];
            // Without the box that the future may be in.
            row.key.name = shown.of_future(&tree.name).unwrap_or(row.key.name);
            let (fold, tree) = folds.fold(tree);
            row.key.chain = Some(fold);
            let name = Rc::clone(&shown.texts[row.key.name]);
            row.at = Some(tasks.add(row.task.header, row.task.id, name, Some(tree)));
        });
        let has_running = process.tasks().any(|task| task.state.is_running());
        let stacked = match with_stacks || has_running {
            true => running::stacks(process, &types),
            false => Vec::new(),
        };
        let running = running::running(process, &stacked);
        let mut picture = Self::of(process, &shown, &rows, &tasks);
        for group in &mut picture.groups {
            group.take(process, &running);
        }
        if with_stacks {
            picture.stacks = threads(&stacked);
        }
        picture.notes.extend(missing(process, &types, rows.len()));
        Ok(picture)
    }

    fn of(process: &Process, shown: &Shown, rows: &[Row<'_>], tasks: &Tasks) -> Self {
        let mut groups: FxHashMap<Key, Vec<&Row<'_>>> = FxHashMap::default();
        for row in rows {
            groups.entry(row.key.clone()).or_default().push(row);
        }
        let groups = groups
            .into_values()
            .map(|rows| group(process, shown, &rows, tasks));
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by_key(|group| (std::cmp::Reverse(group.count), group.ids.first().copied()));
        let (fewest, most) = process.range();
        // A program that was replaced on disk still runs.
        let path = process.path.trim_end_matches(" (deleted)");
        let program = Path::new(path).file_name().unwrap_or_default();
        Self {
            pid: process.pid,
            program: program.to_string_lossy().into_owned(),
            service: None,
            phase: None,
            tokio: process.tokio.clone(),
            by: ATTACH,
            tasks: rows.len() as u64,
            fewest,
            most,
            runtimes: process.runtimes.len(),
            threads: process.threads.len(),
            groups,
            stacks: Vec::new(),
            unchecked: process.unchecked.clone(),
            notes: dropped(process.unlisted()).into_iter().collect(),
        }
    }
}

// === impl Group ===

impl Group {
    /// Adds the thread and the calls of a task that runs. Of several tasks, none is told apart.
    fn take(&mut self, process: &Process, running: &HashMap<u64, Running<'_>>) {
        let [id] = self.ids[..] else { return };
        let task = process.tasks().find(|task| task.id == id);
        let Some(running) = task.and_then(|task| running.get(&task.header)) else {
            return;
        };
        self.summary = Some(running.summary());
        // From the outermost to the innermost, as a chain.
        let calls = running.calls.iter().rev().enumerate();
        self.chain = calls.map(|(level, call)| link(level, call)).collect();
    }
}

fn link(level: usize, call: &Call) -> Link {
    Link {
        level,
        kind: if call.is_own() { "own" } else { "library" },
        text: call.shown(),
    }
}

/// Groups threads with equal stacks, those on a processor first, then the most frequent.
fn threads(stacked: &[Stacked]) -> Vec<ThreadGroup> {
    let mut groups: Vec<ThreadGroup> = Vec::new();
    for stacked in stacked {
        let calls = stacked.shown().iter();
        let stack: Vec<Link> = calls.map(|call| link(0, call)).collect();
        let thread = &stacked.thread;
        let group = match groups.iter_mut().find(|group| group.stack == stack) {
            Some(group) => group,
            None => {
                groups.push(ThreadGroup {
                    count: 0,
                    names: Vec::new(),
                    tids: Vec::new(),
                    stack,
                });
                groups.last_mut().expect("it was pushed")
            }
        };
        group.count += 1;
        if !group.names.contains(&thread.name) {
            group.names.push(thread.name.clone());
        }
        if group.tids.len() < IDS {
            group.tids.push(thread.tid);
        }
    }
    groups.sort_by_key(|group| (!group.stack.is_empty(), std::cmp::Reverse(group.count)));
    groups
}

/// Makes the row of a task.
fn row<'a>(task: &'a Task, labels: &'a Labels, name: usize) -> Row<'a> {
    let label = labels.get(&task.header);
    let key = Key {
        task: label.map(|label| Rc::clone(&label.task)),
        name,
        state: task.state.as_str(),
        never_wakes: task.state.can_never_wake(0),
        spawned: task.spawned,
        chain: None,
    };
    Row {
        task,
        label,
        at: None,
        key,
    }
}

/// Makes a group of tasks with one key.
fn group(process: &Process, shown: &Shown, rows: &[&Row<'_>], tasks: &Tasks) -> Group {
    let mut ids: Vec<u64> = rows.iter().map(|row| row.task.id).collect();
    if ids.len() > IDS {
        ids.select_nth_unstable(IDS);
        ids.truncate(IDS);
    }
    ids.sort_unstable();
    let first = rows
        .iter()
        .min_by_key(|row| row.task.id)
        .expect("a group has a row");
    let tree = first.at.and_then(|at| tasks.tree(at));
    let lines = tree.map_or_else(Vec::new, |tree| tree_lines(tasks, tree));
    let chain = lines.into_iter().map(|line| Link {
        level: line.level,
        kind: line.kind_word(),
        text: line.text,
    });
    let certainty = shown.names.get(&first.task.table);
    let certainty = certainty.map(|name| name.certainty);
    Group {
        count: rows.len() as u64,
        ids,
        by: ATTACH,
        task: first.key.task.as_deref().map(str::to_owned),
        oldest: rows.iter().filter_map(|row| Some(row.label?.age)).max(),
        state: first.key.state,
        name: shown.texts[first.key.name].to_string(),
        name_is: match certainty {
            Some(Certainty::Exact) => "exact",
            Some(Certainty::Called) => "called",
            Some(Certainty::Several) => "several",
            Some(Certainty::Unknown) | None => "unknown",
        },
        never_wakes: first.key.never_wakes,
        spawned: process.place(first.key.spawned),
        summary: first.at.and_then(|at| tasks.summary(at)),
        chain: chain.collect(),
    }
}

// === impl Shown ===

impl Shown {
    fn new(names: HashMap<u64, Name>) -> Self {
        Self {
            names,
            by_table: FxHashMap::default(),
            by_name: FxHashMap::default(),
            by_text: HashMap::new(),
            texts: Vec::new(),
        }
    }

    /// Returns the number of the name of a kind of task.
    fn of_kind(&mut self, table: u64) -> usize {
        if let Some(number) = self.by_table.get(&table) {
            return *number;
        }
        let name = self.names.get(&table).map(|name| shortened(&name.text));
        let number = self.number(name.unwrap_or_else(|| "a future of a library".to_owned()));
        self.by_table.insert(table, number);
        number
    }

    /// Returns the number of the name of a future; `None` if it has no name.
    fn of_future(&mut self, name: &Rc<str>) -> Option<usize> {
        if name.is_empty() {
            return None;
        }
        if let Some(number) = self.by_name.get(name) {
            return Some(*number);
        }
        let number = self.number(shortened(name));
        self.by_name.insert(Rc::clone(name), number);
        Some(number)
    }

    fn number(&mut self, text: String) -> usize {
        let text: Rc<str> = text.into();
        let (next, texts) = (self.texts.len(), &mut self.texts);
        *self.by_text.entry(text).or_insert_with_key(|text| {
            texts.push(Rc::clone(text));
            next
        })
    }
}

/// Returns the names of all kinds of tasks.
pub(super) fn names(process: &Process, types: Option<&Types<'_>>) -> HashMap<u64, Name> {
    let tables = process.kinds.tables.iter();
    let in_file = |at| process.program.in_file(at);
    let tables = tables.map(|(at, table)| (*at, table.functions.map(in_file)));
    of_kinds(&process.program, types, tables)
}

/// Returns the functions by which the types of a program are found: those of the tasks that are alive.
fn functions(process: &Process) -> Functions {
    let mut functions = Functions {
        closures: process.program.symbols().closure_polls(),
        ..Functions::default()
    };
    let mut tables: Vec<u64> = process.tasks().map(|task| task.table).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in tables
        .iter()
        .filter_map(|table| process.kinds.tables.get(table))
    {
        let [poll, others @ ..] = table.functions.map(|at| process.program.in_file(at));
        functions.polls.insert(poll);
        functions.others.extend(others);
    }
    functions.others.sort_unstable();
    functions.others.dedup();
    functions
}

/// Returns the addresses by which a task is read.
fn address(process: &Process, task: &Task) -> Address {
    let table = process.kinds.tables.get(&task.table);
    Address {
        header: task.header,
        table: task.table,
        // No function polls a kind that is not known.
        poll: table.map_or(0, |table| table.functions[0]),
        id: (table.map_or(0, |table| table.id), task.id),
    }
}

/// Writes seconds, or `null`.
fn seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// Explains tasks that are in no list.
fn dropped(unlisted: usize) -> Option<String> {
    match unlisted {
        0 => None,
        1 => Some("a runtime is being dropped, and waits for a task that runs".to_owned()),
        many => Some(format!(
            "a runtime is being dropped, and waits for {many} tasks that run"
        )),
    }
}

/// Explains why chains are missing.
fn missing(process: &Process, types: &Types<'_>, rows: usize) -> Option<String> {
    if rows > CHAINS {
        return Some(format!("chains of the first {CHAINS} tasks only"));
    }
    if rows == 0 || types.has_futures() {
        return None;
    }
    Some(process.program.without_types(types).to_owned())
}
