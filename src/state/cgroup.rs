//! The control groups of this process, for cgroup versions 1 and 2.
//!
//! Only the folders are found here; their files are read by those that need them: [`super::oom`],
//! and the resource monitor of the service.
//!
//! Two files of the process are joined. `/proc/self/cgroup` has the path of the group within its
//! hierarchy, and `/proc/self/mountinfo` says where that hierarchy is mounted and which of its
//! groups is the root of the mount. The path below that root, appended to the mount point, is the
//! folder.

use std::path::{Component, PathBuf};

/// The control group of this process under one controller, and the groups that contain it.
///
/// It names the folders in which the kernel shows limits and usage. A limit can be set at every
/// level, and all of them apply, so a limit is the smallest of all folders.
///
/// Only levels within the mount are visible: in a container, limits that are set above it are not
/// seen. The folders are determined once: a process that is moved to another group later is still
/// measured in the old one.
///
/// Sources: cgroups(7), and admin-guide/cgroup-v1 and cgroup-v2 of the kernel documentation.
///
/// # Examples
///
/// ```
/// use headcount::state::ControlGroup;
///
/// // `None` on a system without this controller.
/// if let Some(group) = ControlGroup::of_this_process("memory") {
///     let name = if group.is_version_2() { "memory.max" } else { "memory.limit_in_bytes" };
///     assert!(!group.folders().is_empty());
///     for folder in group.folders() {
///         if let Ok(limit) = std::fs::read_to_string(folder.join(name)) {
///             println!("{}: {}", folder.display(), limit.trim());
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroup {
    is_version_2: bool,
    folders: Vec<PathBuf>,
}

// === impl ControlGroup ===

impl ControlGroup {
    /// Finds the group of this process under a controller, such as `memory` or `pids`. Returns
    /// `None` if the controller is not mounted, or the group is outside of the mount.
    ///
    /// A controller is active in one version only. If version 1 lists it, that one applies. Version
    /// 2 has one hierarchy for all controllers: a controller that is not enabled in it has no files
    /// in the folders.
    #[must_use]
    pub fn of_this_process(controller: &str) -> Option<Self> {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (groups, mounts) = (text("/proc/self/cgroup"), text("/proc/self/mountinfo"));
        Self::find(controller, &groups, &mounts)
    }

    /// Finds the group from the texts of `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
    pub(crate) fn find(controller: &str, groups: &str, mounts: &str) -> Option<Self> {
        let (is_version_2, path) = membership(groups, controller)
            .map(|path| (false, path))
            .or_else(|| Some((true, membership(groups, "")?)))?;
        let (root, mount) = mounts
            .lines()
            .filter_map(|line| mount(line, is_version_2, controller))
            .find(|(root, _)| path.starts_with(root))?;
        let below = path.strip_prefix(&root).ok()?;
        // The path of a group outside of the namespace begins with "..": its files are not visible.
        if !below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return None;
        }
        let own = mount.join(below);
        let folders = own
            .ancestors()
            .take_while(|folder| folder.starts_with(&mount))
            // Removes a trailing slash, so that equal folders have equal paths.
            .map(|folder| folder.components().collect())
            .collect();
        Some(Self {
            is_version_2,
            folders,
        })
    }

    /// Returns whether the controller belongs to cgroup version 2, whose files have other names.
    #[must_use]
    pub const fn is_version_2(&self) -> bool {
        self.is_version_2
    }

    /// Returns the folders: first the one of the process's own group, then those that contain it,
    /// up to the root of the mount. There is always at least one.
    ///
    /// # Examples
    ///
    /// ```
    /// if let Some(group) = headcount::state::ControlGroup::of_this_process("memory") {
    ///     let folders = group.folders();
    ///     assert!(folders.windows(2).all(|pair| pair[0].starts_with(&pair[1])));
    /// }
    /// ```
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

/// Returns the path of the group for a controller of version 1, or for version 2 if `controller` is
/// empty.
///
/// A line is `hierarchy-ID:controllers:path` (cgroups(7)); the id of version 2 is 0, and its list
/// of controllers is empty. A path may contain colons, so only the first two are separators.
fn membership(groups: &str, controller: &str) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = if controller.is_empty() {
            id == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == controller)
        };
        fits.then(|| PathBuf::from(path))
    })
}

/// Returns the root and the mount point in a line of mountinfo (proc_pid_mountinfo(5)), if it mounts
/// the controller.
///
/// The fields before the dash are counted from the left, and those after it from the dash, because
/// the number of optional fields in between varies.
fn mount(line: &str, is_version_2: bool, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut kind = after.split(' ');
    let fits = match kind.next()? {
        "cgroup2" => is_version_2,
        "cgroup" if !is_version_2 => kind
            .nth(1)?
            .split(',')
            .any(|option| option.trim() == controller),
        _ => false,
    };
    let mut fields = before.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    fits.then(|| (unescaped(root), unescaped(place)))
}

/// Decodes a path of mountinfo, in which space, tab, newline and backslash are octal escapes.
///
/// The backslash comes last, so that an escaped backslash before digits is not decoded twice.
fn unescaped(path: &str) -> PathBuf {
    let plain = path
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::ControlGroup;
    use std::path::Path;

    const V2_MOUNT: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
         35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNTS: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
         40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[track_caller]
    fn assert_folders(group: Option<ControlGroup>, folders: &[&str]) {
        let group = group.expect("it is mounted");
        let folders: Vec<&Path> = folders.iter().map(Path::new).collect();
        assert_eq!(group.folders(), folders);
    }

    #[test]
    fn version_2_has_every_level_up_to_the_mount() {
        let find =
            |controller| ControlGroup::find(controller, "0::/system.slice/app.service\n", V2_MOUNT);
        assert_eq!(find("memory"), find("cpu"));
        assert!(find("pids").is_some_and(|group| group.is_version_2()));
        assert_folders(
            find("memory"),
            &[
                "/sys/fs/cgroup/system.slice/app.service",
                "/sys/fs/cgroup/system.slice",
                "/sys/fs/cgroup",
            ],
        );
    }

    #[test]
    fn in_a_container_the_mount_itself_is_the_group_of_the_process() {
        assert_folders(
            ControlGroup::find("memory", "0::/\n", V2_MOUNT),
            &["/sys/fs/cgroup"],
        );
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let text = "4:memory:/docker/abc/inner\n3:cpu,cpuacct:/x\n2:name=systemd:/y\n0::/\n";
        let find = |controller| ControlGroup::find(controller, text, V1_MOUNTS);
        assert!(find("memory").is_some_and(|group| !group.is_version_2()));
        assert_folders(
            find("memory"),
            &["/sys/fs/cgroup/memory/inner", "/sys/fs/cgroup/memory"],
        );
        assert_folders(
            find("cpuacct"),
            &["/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup/cpu,cpuacct"],
        );
        // Not listed for version 1, so version 2 applies.
        assert_folders(find("pids"), &["/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn a_group_outside_of_the_mount_or_of_the_namespace_is_not_found() {
        for (groups, mounts) in [
            ("0::/../other\n", V2_MOUNT),
            ("4:memory:/elsewhere\n", V1_MOUNTS),
            ("", V2_MOUNT),
            ("0::/\n", ""),
            ("garbage\n\n::\n", "garbage - \n"),
        ] {
            assert_eq!(
                ControlGroup::find("memory", groups, mounts),
                None,
                "{groups}"
            );
        }
    }

    #[test]
    fn a_mount_with_a_space_in_its_path_is_found() {
        let mounts = "35 24 0:30 / /a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_folders(
            ControlGroup::find("cpu", "0::/x\n", mounts),
            &["/a b/x", "/a b"],
        );
    }
}
