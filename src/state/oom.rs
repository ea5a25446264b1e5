//! Detection of an out-of-memory kill of the previous run, by the counters of its control group.
//!
//! A killed process leaves no trace of the reason, but the kernel counts OOM kills per control
//! group. The marker records the count with each heartbeat; if the next run finds a higher count,
//! the kernel killed a process of the group.
//!
//! A service manager often creates a new group for a restarted service, with a count that begins at
//! 0. The parent's count is then compared instead, since the manager keeps the parent. The parent
//! may contain other services, so its count is trusted only for a short time after the last
//! heartbeat.
//!
//! It cannot tell which process of the group was killed.
//!
//! The decision at the next start:
//!
//! | group of the marker | evidence |
//! |---|---|
//! | still there, same inode | its count has risen |
//! | gone, or another inode | the parent's count has risen, and the last beat is below a minute old |
//! | never had a count | none: the cause stays unknown |
//!
//! In cgroup version 2 a group's count includes those of the groups below it (cgroup-v2,
//! `memory.events`), so the parent's rises with a kill in the service's own.

use super::cgroup::ControlGroup;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest time since the last heartbeat for which a kill in the parent's count is attributed
/// to this service.
const SOON: Duration = Duration::from_secs(60);

/// The control group of a process and its parent; `None` for a group without a readable count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    /// The group in which the process was when the run started.
    own: Option<Group>,
    /// `None` if the group is the root of the mount, as in a container.
    parent: Option<Group>,
}

/// One control group. The inode is part of its identity, because a new group can have the path of
/// an old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// The file with the count of OOM kills.
    file: PathBuf,
    /// The inode of the group's directory.
    inode: u64,
}

/// The numbers of OOM kills in the group and in its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kills {
    /// A total since the group was created; it never falls.
    pub(super) own: u64,
    /// It counts the kills of sibling services too.
    pub(super) parent: u64,
}

// === impl Groups ===

impl Groups {
    /// Returns the groups of this process.
    ///
    /// Costs the reading of two files for the folders and one for each count. Called once for each
    /// run.
    pub(super) fn here() -> Self {
        ControlGroup::of_this_process("memory")
            .map(|group| Self::of(&group))
            .unwrap_or_default()
    }

    /// Returns the group and its parent, if the group has a count.
    fn of(group: &ControlGroup) -> Self {
        let file = if group.is_version_2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let mut folders = group.folders().iter();
        let mut next = || Group::at(folders.next()?, file);
        match next() {
            Some(own) => Self {
                own: Some(own),
                parent: next(),
            },
            None => Self::default(),
        }
    }

    /// Reads both counts. A count that cannot be read is 0.
    ///
    /// Called with each heartbeat, on the thread of the state folder.
    pub(super) fn kills(&self) -> Kills {
        let count = |group: &Option<Group>| group.as_ref().and_then(Group::kills).unwrap_or(0);
        Kills {
            own: count(&self.own),
            parent: count(&self.parent),
        }
    }

    /// Returns whether the kernel killed a process of the group since the counts were `then`, which
    /// was `ago`.
    ///
    /// A kill that happened between the last heartbeat and the end of a run that ended for another
    /// reason is attributed to the run.
    pub(super) fn killed_since(&self, then: Kills, ago: Duration) -> bool {
        let now = self.kills();
        match &self.own {
            Some(own) if own.is_there() => now.own > then.own,
            Some(_) => {
                let same = self.parent.as_ref().is_some_and(Group::is_there);
                same && now.parent > then.parent && ago < SOON
            }
            None => false,
        }
    }
}

// === impl Group ===

impl Group {
    /// Returns the group of that folder, or `None` if it has no count.
    ///
    /// Costs a look at the folder and a read of the file.
    fn at(folder: &Path, file: &str) -> Option<Self> {
        let group = Self {
            file: folder.join(file),
            inode: std::fs::metadata(folder).ok()?.ino(),
        };
        group.kills().is_some().then_some(group)
    }

    /// Returns whether the group still exists, and is not another one at the same path.
    fn is_there(&self) -> bool {
        let folder = self.file.parent().map(std::fs::metadata);
        folder.is_some_and(|folder| folder.is_ok_and(|folder| folder.ino() == self.inode))
    }

    /// Reads the count. `None` if the group is gone, or on a kernel before 4.13, which has no
    /// `oom_kill` line.
    fn kills(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path, kills: u64) {
        std::fs::create_dir_all(folder).expect("the folder is ours");
        let text = format!("oom 9\noom_kill {kills}\noom_group_kill 0\n");
        std::fs::write(folder.join("memory.events"), text).expect("the folder is ours");
    }

    /// Returns the groups of a process with these lines in `/proc/self/cgroup`. Version 2 is mounted
    /// at `root`, and the memory controller of version 1, with this root, at `root/memory`.
    fn groups(lines: &str, root: &Path, mounted: &str) -> Groups {
        let root = root.display();
        let mounts = format!(
            "35 24 0:30 / {root} rw - cgroup2 cgroup2 rw\n\
             36 24 0:31 {mounted} {root}/memory rw - cgroup cgroup rw,memory\n"
        );
        let group = ControlGroup::find("memory", lines, &mounts);
        group.map(|group| Groups::of(&group)).unwrap_or_default()
    }

    fn planted() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let parent = root.path().join("system.slice");
        let own = parent.join("orders.service");
        count(&parent, 3);
        count(&own, 1);
        (root, parent, own)
    }

    const LINES: &str = "1:name=systemd:/x\n0::/system.slice/orders.service\n";

    #[test]
    fn an_oom_kill_shows_in_the_count_of_the_own_group() {
        let (root, _, own) = planted();
        let groups = groups(LINES, root.path(), "/");
        let then = groups.kills();
        assert_eq!(then, Kills { own: 1, parent: 3 });
        assert!(!groups.killed_since(then, SOON * 2));
        count(&own, 2);
        assert!(groups.killed_since(then, SOON * 2));
    }

    #[test]
    fn the_count_of_the_parent_is_used_if_the_own_group_was_recreated() {
        let (root, parent, own) = planted();
        let groups = groups(LINES, root.path(), "/");
        let then = groups.kills();
        // Kept, so that the new group cannot get its inode.
        std::fs::rename(&own, parent.join("old")).expect("the folder is ours");
        count(&own, 0);
        assert!(!groups.killed_since(then, Duration::ZERO));
        count(&parent, 4);
        assert!(groups.killed_since(then, Duration::ZERO));
        assert!(!groups.killed_since(then, SOON), "it may be another's");
    }

    #[test]
    fn a_kill_in_the_parent_does_not_count_while_the_own_group_exists() {
        let (root, parent, _) = planted();
        let groups = groups(LINES, root.path(), "/");
        let then = groups.kills();
        count(&parent, 4);
        assert!(!groups.killed_since(then, Duration::ZERO));
    }

    #[test]
    fn version_1_is_read_from_the_memory_hierarchy() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let own = root.path().join("memory/docker/x");
        std::fs::create_dir_all(&own).expect("the folder is ours");
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        std::fs::write(own.join("memory.oom_control"), text).expect("the folder is ours");
        let lines = "4:cpu:/y\n3:memory:/docker/x\n0::/z\n";
        let groups = groups(lines, root.path(), "/");
        assert_eq!(groups.kills(), Kills { own: 5, parent: 0 });
    }

    #[test]
    fn in_a_container_the_count_is_found_below_the_mount_of_its_group() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let own = root.path().join("memory");
        std::fs::create_dir_all(&own).expect("the folder is ours");
        std::fs::write(own.join("memory.oom_control"), "oom_kill 5\n").expect("the folder is ours");
        let groups = groups("3:memory:/docker/x\n0::/z\n", root.path(), "/docker/x");
        assert_eq!(groups.kills(), Kills { own: 5, parent: 0 });
    }

    #[test]
    fn without_a_count_no_kill_is_reported() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let groups = groups(LINES, root.path(), "/");
        assert_eq!(groups, Groups::default());
        assert!(!groups.killed_since(Kills::default(), Duration::ZERO));
    }
}
