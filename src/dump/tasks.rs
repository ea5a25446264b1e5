//! The live tasks of a runtime by group and kind, for dumps.
//!
//! They are counted in one walk over the slots, which stops no task. Only a few tasks of each kind
//! are kept, so memory does not grow with the number of tasks.

use crate::registry::root::Root;
use crate::registry::scope;
use crate::report::dump::Group;
use crate::report::tally::Tally;
use std::collections::{HashMap, HashSet};

/// The counted tasks.
pub(super) struct Tasks {
    /// The number of live tasks.
    pub(super) count: u64,
    /// The tree of groups.
    pub(super) root: Group,
    /// The number of tasks that are not in the tree.
    pub(super) unlisted: u64,
    /// The path of the task that each thread is on, by thread id.
    pub(super) on_threads: HashMap<u32, String>,
}

/// Counts the live tasks of a root. At most `listed` kinds are in the tree.
///
/// The kinds with the oldest tasks are kept. Each lists at most five tasks, fewer if there are many
/// kinds, and at least one.
pub(super) fn of(root: &Root, listed: usize) -> Tasks {
    // The numbers of the scopes that have live tasks, and of those above them.
    let mut scopes = HashSet::new();
    let tally = Tally::of(root.scope, |task| {
        for scope in task.scope().lineage() {
            if !scopes.insert(scope.number) {
                break;
            }
        }
        true
    });
    let mut tasks = Tasks {
        count: tally.count(),
        root: Group::default(),
        unlisted: 0,
        on_threads: tally.on_threads(),
    };
    for scope in scopes.into_iter().map(scope::at) {
        let group = tasks.root.at(scope.name());
        group.count += 1;
        group.draining += u64::from(scope.is_draining());
        group.cancelling += u64::from(scope.is_cancelling());
    }
    let mut kinds = tally.into_rows();
    let unlisted = kinds.split_off(kinds.len().min(listed));
    tasks.unlisted = unlisted.iter().map(|kind| kind.count).sum();
    let most = (listed / kinds.len().max(1)).max(1);
    for mut kind in kinds {
        kind.rows.truncate(most);
        tasks.root.at(kind.group).kinds.push(kind);
    }
    tasks.root.remove_empty();
    tasks
}

// === impl Group ===

impl Group {
    /// Returns the group at a path below this one, and creates it if needed.
    fn at(&mut self, path: &str) -> &mut Self {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self, |group, name| {
            let place = group
                .groups
                .binary_search_by(|inner| inner.name.as_str().cmp(name));
            let place = place.unwrap_or_else(|place| {
                let name = name.to_owned();
                group.groups.insert(
                    place,
                    Self {
                        name,
                        ..Self::default()
                    },
                );
                place
            });
            &mut group.groups[place]
        })
    }

    /// Removes the inner groups in which no kind is listed.
    fn remove_empty(&mut self) {
        self.groups.iter_mut().for_each(Self::remove_empty);
        self.groups
            .retain(|group| !group.kinds.is_empty() || !group.groups.is_empty());
    }
}
