//! Whether the kernel ended processes of our control group for lack of memory: its count is all that a process that was
//! killed leaves of it.
//!
//! The group of a service that its manager starts anew is often a new one, whose count begins at 0. Then the parent's
//! count tells, which its manager keeps; others are in it too, so it counts only for a while.

use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For so long after the last sign of life an end in the parent's count is taken for ours.
const SOON: Duration = Duration::from_secs(60);

/// A control group, and its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    own: Option<Group>,
    parent: Option<Group>,
}

/// A path alone would not do: a group that was made anew has the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    file: PathBuf,
    inode: u64,
}

/// How many processes of the two the kernel has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kills {
    pub(super) own: u64,
    pub(super) parent: u64,
}

// === impl Groups ===

impl Groups {
    /// Those of this process.
    pub(super) fn here() -> Self {
        let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::of(&lines, Path::new("/sys/fs/cgroup"))
    }

    /// From the lines of `/proc/self/cgroup` (cgroups(7)): `0::/path` of version 2, `4:memory:/path` of version 1.
    fn of(lines: &str, root: &Path) -> Self {
        let mut fields = lines.lines().map(|line| line.splitn(3, ':'));
        let found = fields.find_map(|mut fields| {
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            if controllers.split(',').any(|name| name == "memory") {
                Some((root.join("memory").join(path), "memory.oom_control"))
            } else if number == "0" && root.join(path).join("memory.events").exists() {
                Some((root.join(path), "memory.events"))
            } else {
                None
            }
        });
        let Some((folder, file)) = found else {
            return Self::default();
        };
        let parent = folder.parent().filter(|parent| parent.starts_with(root));
        Self {
            own: Group::at(&folder, file),
            parent: parent.and_then(|parent| Group::at(parent, file)),
        }
    }

    pub(super) fn kills(&self) -> Kills {
        let count = |group: &Option<Group>| group.as_ref().and_then(Group::kills).unwrap_or(0);
        Kills {
            own: count(&self.own),
            parent: count(&self.parent),
        }
    }

    /// Whether a process of the group was ended since it had so many, which was so long ago.
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
    fn at(folder: &Path, file: &str) -> Option<Self> {
        let group = Self {
            file: folder.join(file),
            inode: std::fs::metadata(folder).ok()?.ino(),
        };
        group.kills().is_some().then_some(group)
    }

    fn is_there(&self) -> bool {
        let folder = self.file.parent().map(std::fs::metadata);
        folder.is_some_and(|folder| folder.is_ok_and(|folder| folder.ino() == self.inode))
    }

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
    fn an_end_for_lack_of_memory_is_seen_in_the_own_group() {
        let (root, _, own) = planted();
        let groups = Groups::of(LINES, root.path());
        let then = groups.kills();
        assert_eq!(then, Kills { own: 1, parent: 3 });
        assert!(!groups.killed_since(then, SOON * 2));
        count(&own, 2);
        assert!(groups.killed_since(then, SOON * 2));
    }

    #[test]
    fn the_parent_tells_when_the_own_group_was_made_anew() {
        let (root, parent, own) = planted();
        let groups = Groups::of(LINES, root.path());
        let then = groups.kills();
        // Kept, so that the new one cannot have its inode.
        std::fs::rename(&own, parent.join("old")).expect("the folder is ours");
        count(&own, 0);
        assert!(!groups.killed_since(then, Duration::ZERO));
        count(&parent, 4);
        assert!(groups.killed_since(then, Duration::ZERO));
        assert!(!groups.killed_since(then, SOON), "it may be another's");
    }

    #[test]
    fn an_end_of_another_in_the_parent_is_not_ours_while_the_own_group_is_there() {
        let (root, parent, _) = planted();
        let groups = Groups::of(LINES, root.path());
        let then = groups.kills();
        count(&parent, 4);
        assert!(!groups.killed_since(then, Duration::ZERO));
    }

    #[test]
    fn version_1_has_a_tree_for_memory() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let own = root.path().join("memory/docker/x");
        std::fs::create_dir_all(&own).expect("the folder is ours");
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        std::fs::write(own.join("memory.oom_control"), text).expect("the folder is ours");
        let groups = Groups::of("4:cpu:/y\n3:memory:/docker/x\n0::/z\n", root.path());
        assert_eq!(groups.kills(), Kills { own: 5, parent: 0 });
    }

    #[test]
    fn without_a_count_nothing_was_ended() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let groups = Groups::of(LINES, root.path());
        assert_eq!(groups, Groups::default());
        assert!(!groups.killed_since(Kills::default(), Duration::ZERO));
    }
}
