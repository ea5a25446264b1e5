//! The live tasks of a runtime by group and kind: one walk over the slots, which stops nobody, and little memory.

use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::registry::scope;
use crate::registry::{self, LiveTask};
use crate::report::dump::{self, Group, States, Task};
use crate::task::TaskState;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// How many tasks of a kind are kept.
const ROWS: usize = 5;

#[derive(Default)]
pub(super) struct Tasks {
    kinds: HashMap<u32, Tally>,
    /// By the number of the scope.
    groups: HashSet<u32>,
    /// The task that a thread holds.
    held: HashMap<u32, String>,
}

/// The live tasks of one kind.
struct Tally {
    kind: &'static Kind,
    count: u64,
    states: States,
    oldest: Duration,
    rows: Vec<Row>,
}

/// A task that is listed, and the thread that it is on.
struct Row {
    task: LiveTask,
    on_thread: Option<u32>,
}

/// The groups of one path.
#[derive(Default)]
struct Node {
    count: u64,
    draining: u64,
    cancelling: u64,
    kinds: Vec<dump::Kind>,
    groups: BTreeMap<&'static str, Self>,
}

// === impl Tasks ===

impl Tasks {
    pub(super) fn of(root: &Root) -> Self {
        let mut tasks = Self::default();
        let on_threads = registry::on_threads();
        for task in registry::live_tasks(root.scope) {
            tasks.add(&task, on_threads.get(&task.place()).copied());
        }
        tasks
    }

    fn add(&mut self, task: &LiveTask, on_thread: Option<u32>) {
        if let Some(tid) = on_thread {
            let path = crate::report::path(task.kind.group(), task.kind.name);
            self.held.insert(tid, path);
        }
        for scope in task.scope().lineage() {
            if !self.groups.insert(scope.number) {
                break;
            }
        }
        let tally = self
            .kinds
            .entry(task.kind.number)
            .or_insert_with(|| Tally::new(task.kind));
        tally.add(task, on_thread);
    }

    pub(super) fn count(&self) -> u64 {
        self.kinds.values().map(|tally| tally.count).sum()
    }

    /// The tree of groups with so many kinds, how many tasks are of others, and the task that a thread holds.
    pub(super) fn into_groups(self, listed: usize) -> (Group, u64, HashMap<u32, String>) {
        let mut root = Node::default();
        for number in self.groups {
            let scope = scope::at(number);
            let node = root.at(scope.name());
            node.count += 1;
            node.draining += u64::from(scope.is_draining());
            node.cancelling += u64::from(scope.is_cancelling());
        }
        let mut kinds: Vec<Tally> = self.kinds.into_values().collect();
        kinds.sort_by_key(|tally| (Reverse(tally.oldest), tally.kind.number));
        let unlisted = kinds.split_off(kinds.len().min(listed));
        let rows = (listed / kinds.len().max(1)).clamp(1, ROWS);
        for tally in kinds {
            let node = root.at(tally.kind.group());
            node.kinds.push(tally.into_kind(rows));
        }
        let unlisted = unlisted.iter().map(|tally| tally.count).sum();
        (root.into_group(""), unlisted, self.held)
    }
}

// === impl Tally ===

impl Tally {
    fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            count: 0,
            states: States::default(),
            oldest: Duration::ZERO,
            rows: Vec::new(),
        }
    }

    fn add(&mut self, task: &LiveTask, on_thread: Option<u32>) {
        self.count += 1;
        self.states.add(task.state);
        self.oldest = self.oldest.max(task.age());
        let new = Row {
            task: *task,
            on_thread,
        };
        // Most tasks are younger than those that were kept, and hold no thread.
        let place = self.rows.partition_point(|row| row.rank() <= new.rank());
        if place < ROWS {
            self.rows.truncate(ROWS - 1);
            self.rows.insert(place, new);
        }
    }

    fn into_kind(mut self, rows: usize) -> dump::Kind {
        self.rows.truncate(rows);
        dump::Kind {
            name: self.kind.name.to_owned(),
            kind: self.kind.options.runs,
            daemon: self.kind.options.daemon,
            spawned: self.kind.site.to_string(),
            count: self.count,
            states: self.states,
            oldest: self.oldest,
            rows: self.rows.into_iter().map(Row::into_task).collect(),
        }
    }
}

// === impl Row ===

impl Row {
    /// Those of the lowest are listed.
    fn rank(&self) -> (bool, bool, Reverse<Duration>) {
        let is_calm = self.task.state != TaskState::Stalled;
        (self.on_thread.is_none(), is_calm, Reverse(self.task.age()))
    }

    fn into_task(self) -> Task {
        let Self { task, on_thread } = self;
        Task {
            id: task.id,
            state: task.state,
            age: task.age(),
            last_poll: task.last_poll(),
            awaits: None,
            on_thread,
        }
    }
}

// === impl Node ===

impl Node {
    fn at(&mut self, path: &'static str) -> &mut Self {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self, |node, name| node.groups.entry(name).or_default())
    }

    fn into_group(self, name: &str) -> Group {
        let groups = self
            .groups
            .into_iter()
            .map(|(name, node)| node.into_group(name))
            .filter(|group| !group.kinds.is_empty() || !group.groups.is_empty())
            .collect();
        Group {
            name: name.to_owned(),
            count: self.count,
            draining: self.draining,
            cancelling: self.cancelling,
            kinds: self.kinds,
            groups,
        }
    }
}
