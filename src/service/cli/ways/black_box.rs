//! The tasks of a service as its black box has them.

use super::{BOTH, Way, counted, empty};
use crate::inspect::other::{Group, Label, Labels, Picture, Process};
use crate::state::LastMoments;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// The most tasks of which the future is searched for a slot.
const SEARCHED: usize = 1000;

/// The black box of a live process.
#[derive(Debug, Clone)]
pub(in crate::service::cli) struct Notes {
    pub(in crate::service::cli) moments: LastMoments,
    /// The time since the last sign of life. All ages in the box are shorter by it.
    pub(in crate::service::cli) since: Duration,
}

/// The tasks that are both in tokio's lists and in the box.
#[derive(Debug, Default)]
pub(in crate::service::cli) struct Joined {
    pub(in crate::service::cli) labels: Labels,
    /// The ids of the tasks in the box.
    ids: HashSet<u64>,
    /// True if there were too many tasks to look for all of those in the box.
    is_partial: bool,
}

// === impl Joined ===

impl Joined {
    fn add(&mut self, header: u64, id: u64, label: Label) {
        self.labels.insert(header, label);
        self.ids.insert(id);
    }
}

// === impl Notes ===

impl Notes {
    /// Reads the black box of a process, with at most `rows` tasks of each kind. `None` if the process
    /// has none, or none that can be read.
    pub(in crate::service::cli) fn read(pid: u32, rows: usize) -> Option<Self> {
        let moments = LastMoments::of_live(pid, rows)?;
        let since = SystemTime::now().duration_since(moments.seen);
        Some(Self {
            moments,
            since: since.unwrap_or_default(),
        })
    }

    /// Reads the box of the process again, and leaves out the tasks that were not in it before. The
    /// others lived in between, so the memory that was read in between has them and no other task at
    /// their addresses.
    pub(in crate::service::cli) fn again(&self, pid: u32) -> Self {
        let before = self.moments.tasks.iter().flat_map(|kind| &kind.rows);
        let before: HashSet<u64> = before.map(|task| task.id).collect();
        // It is gone with the process.
        let mut notes = Self::read(pid, usize::MAX).unwrap_or_else(|| self.clone());
        for kind in &mut notes.moments.tasks {
            kind.rows.retain(|task| before.contains(&task.id));
        }
        notes
    }

    /// Finds the tasks of tokio that the box has: by the waker that a task has published, or by the
    /// reference to its slot, which a task has in its future.
    pub(in crate::service::cli) fn join(&self, process: &Process) -> Joined {
        let mut joined = Joined::default();
        let headers: HashSet<u64> = process.tasks().map(|task| task.header).collect();
        let mut slots: HashMap<u64, (u64, Label)> = HashMap::new();
        for kind in &self.moments.tasks {
            let name: Rc<str> = path(&kind.group, &kind.name).into();
            for task in &kind.rows {
                let label = Label {
                    task: Rc::clone(&name),
                    age: task.age + self.since,
                };
                match task.waker.iter().find(|word| headers.contains(word)) {
                    Some(header) => joined.add(*header, task.id, label),
                    // A closure and `main` are no tasks of tokio's lists.
                    None if !matches!(kind.runs, "async" | "local") => {}
                    None => drop(slots.insert(task.slot, (task.id, label))),
                }
            }
        }
        let addresses: HashSet<u64> = slots.keys().copied().collect();
        let unknown = process.tasks();
        let unknown = unknown.filter(|task| !joined.labels.contains_key(&task.header));
        let mut unknown: Vec<_> = unknown.take(SEARCHED + 1).collect();
        joined.is_partial = unknown.len() > SEARCHED && !addresses.is_empty();
        unknown.truncate(SEARCHED);
        for task in unknown.into_iter().filter(|_| !addresses.is_empty()) {
            let slot = process.refers_to(task, &addresses);
            if let Some((id, label)) = slot.and_then(|slot| slots.remove(&slot)) {
                joined.add(task.header, id, label);
            }
        }
        joined
    }

    /// Returns a picture of the tasks that the box has.
    pub(super) fn picture(&self, pid: u32) -> Picture {
        let mut picture = empty(pid, Way::BlackBox);
        self.describe(&mut picture);
        for kind in &self.moments.tasks {
            for (state, count) in &kind.states {
                let task = path(&kind.group, &kind.name);
                let oldest = kind.oldest + self.since;
                picture
                    .groups
                    .push(group(task, state, *count, oldest, &kind.spawned));
            }
        }
        let note = "untracked tasks are not in a black box";
        picture.notes.push(note.to_owned());
        let picture = counted(picture);
        Picture {
            most: picture.tasks + self.moments.tasks_not_in_box,
            ..picture
        }
    }

    /// Adds to a picture by attach the tasks that only the box has: blocking closures, `main`, and
    /// those in their first poll.
    pub(super) fn complete(&self, picture: &mut Picture, joined: &Joined) {
        self.describe(picture);
        for group in &mut picture.groups {
            if group.task.is_some() {
                group.by = BOTH;
            }
        }
        let mut more = 0;
        for kind in &self.moments.tasks {
            let mut rest: BTreeMap<&'static str, (u64, Duration)> = BTreeMap::new();
            for task in &kind.rows {
                if !joined.ids.contains(&task.id) {
                    let (count, oldest) = rest.entry(task.state.as_str()).or_default();
                    *count += 1;
                    *oldest = task.age.max(*oldest);
                }
            }
            for (state, (count, oldest)) in rest {
                let (task, oldest) = (path(&kind.group, &kind.name), oldest + self.since);
                picture
                    .groups
                    .push(group(task, state, count, oldest, &kind.spawned));
                more += count;
            }
        }
        picture.tasks += more;
        picture.most += more;
        if joined.is_partial {
            let note = "some tasks have two rows, one by attach and one by the black box: too many \
                have not been polled yet";
            picture.notes.push(note.to_owned());
        } else {
            picture.fewest += more;
        }
        let order = |group: &Group| std::cmp::Reverse(group.count);
        picture.groups.sort_by_key(order);
    }

    fn describe(&self, picture: &mut Picture) {
        picture.service = Some(self.moments.service.clone());
        picture.phase = Some(self.moments.phase.as_str().to_owned());
        let missing = self.moments.tasks_not_in_box;
        if missing > 0 {
            let note = format!("about {missing} more tracked tasks are not in the black box");
            picture.notes.push(note);
        }
    }
}

/// Makes the row of tasks of one kind and state.
fn group(task: String, state: &'static str, count: u64, oldest: Duration, spawned: &str) -> Group {
    Group {
        count,
        ids: Vec::new(),
        by: Way::BlackBox.as_str(),
        task: Some(task),
        oldest: Some(oldest),
        state,
        name: String::new(),
        name_is: "unknown",
        never_wakes: false,
        spawned: Some(spawned.to_owned()).filter(|spawned| !spawned.is_empty()),
        summary: None,
        chain: Vec::new(),
    }
}

/// Returns the path of a task: that of its group, and its name.
pub(in crate::service::cli) fn path(group: &str, name: &str) -> String {
    match (group, name) {
        (_, "") => "a task without a name in the box".to_owned(),
        ("", name) => name.to_owned(),
        (group, name) => format!("{group}/{name}"),
    }
}
