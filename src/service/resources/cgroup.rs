//! The limits of the control group that the process is in, versions 1 and 2.
//!
//! A limit may be set at any level between the process and the root, and each holds; so all levels
//! are read. Facts: cgroups(7), and admin-guide/cgroup-v2 and cgroup-v1 of the kernel.
//!
//! The texts are parsed apart from where they are read, so that tests can plant them.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::sample::Share;

/// Where the limits of a process are to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroup {
    memory: Option<Levels>,
    cpu: Option<Levels>,
    /// Version 1 counts CPU time in a hierarchy of its own.
    cpu_time: Option<Levels>,
    pids: Option<Levels>,
}

/// The folders of one controller, the process's own first, the root of the mount last.
#[derive(Debug, PartialEq, Eq)]
struct Levels {
    version: Version,
    folders: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Reads a file; `None` if it is not there.
type Files<'f> = &'f dyn Fn(&Path) -> Option<String>;

pub(super) fn read_file(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

// === impl Cgroup ===

impl Cgroup {
    /// Where the kernel says that this process is; nothing where there are no cgroups.
    pub(super) fn of_this_process() -> Self {
        let text = |path: &str| read_file(Path::new(path)).unwrap_or_default();
        Self::resolve(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
    }

    /// From the texts of `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
    fn resolve(cgroup: &str, mountinfo: &str) -> Self {
        let levels = |controller| Levels::resolve(controller, cgroup, mountinfo);
        Self {
            memory: levels("memory"),
            cpu: levels("cpu"),
            cpu_time: levels("cpuacct"),
            pids: levels("pids"),
        }
    }

    /// Memory in use without what the kernel would give back at once, at the level that is nearest
    /// to its limit. A limit above `host`, the memory that there is, is none.
    pub(super) fn memory(&self, files: Files<'_>, host: u64) -> Option<Share<u64>> {
        let levels = self.memory.as_ref()?;
        let (limit, usage, inactive) = match levels.version {
            Version::One => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            Version::Two => ("memory.max", "memory.current", "inactive_file"),
        };
        levels.tightest(|folder| {
            let limit = number(&files(&folder.join(limit))?).filter(|limit| *limit <= host)?;
            let used = number(&files(&folder.join(usage))?)?;
            let stat = files(&folder.join("memory.stat")).unwrap_or_default();
            let used = used.saturating_sub(keyed(&stat, inactive).unwrap_or(0));
            Some(Share { used, limit })
        })
    }

    pub(super) fn pids(&self, files: Files<'_>) -> Option<Share<u64>> {
        self.pids.as_ref()?.tightest(|folder| {
            let limit = number(&files(&folder.join("pids.max"))?)?;
            let used = number(&files(&folder.join("pids.current"))?)?;
            Some(Share { used, limit })
        })
    }

    /// The smallest quota of all levels, in CPUs.
    pub(super) fn cpu_limit(&self, files: Files<'_>) -> Option<f64> {
        let levels = self.cpu.as_ref()?;
        levels
            .folders
            .iter()
            .filter_map(|folder| match levels.version {
                Version::Two => quota(&files(&folder.join("cpu.max"))?),
                Version::One => {
                    let quota_us = files(&folder.join("cpu.cfs_quota_us"))?;
                    let period_us = files(&folder.join("cpu.cfs_period_us"))?;
                    quota(&format!("{} {}", quota_us.trim(), period_us.trim()))
                }
            })
            .min_by(f64::total_cmp)
    }

    /// The CPU time of everything in the process's own cgroup, since it was made.
    pub(super) fn cpu_time(&self, files: Files<'_>) -> Option<Duration> {
        let levels = self.cpu_time.as_ref()?;
        let folder = levels.folders.first()?;
        match levels.version {
            Version::Two => {
                let stat = files(&folder.join("cpu.stat"))?;
                keyed(&stat, "usage_usec").map(Duration::from_micros)
            }
            Version::One => {
                number(&files(&folder.join("cpuacct.usage"))?).map(Duration::from_nanos)
            }
        }
    }
}

// === impl Levels ===

impl Levels {
    fn resolve(controller: &str, cgroup: &str, mountinfo: &str) -> Option<Self> {
        // A controller belongs to one version only; a line of version 1 is then the one that holds.
        let (version, path) = membership(cgroup, controller)
            .map(|path| (Version::One, path))
            .or_else(|| Some((Version::Two, membership(cgroup, "")?)))?;
        let (root, mount) = mountinfo
            .lines()
            .filter_map(|line| mount(line, version, controller))
            .find(|(root, _)| path.starts_with(root))?;
        let below = path.strip_prefix(&root).ok()?;
        // Outside of the cgroup namespace the path begins with "..": nothing to read there.
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
            // "/a/b/" and "/a/b" are one folder.
            .map(|folder| folder.components().collect())
            .collect();
        Some(Self { version, folders })
    }

    fn tightest(&self, read: impl Fn(&Path) -> Option<Share<u64>>) -> Option<Share<u64>> {
        self.folders
            .iter()
            .filter_map(|folder| read(folder))
            .filter(|share| share.limit > 0)
            .max_by(|a, b| a.as_f64().ratio().total_cmp(&b.as_f64().ratio()))
    }
}

/// The path of the cgroup for a controller of version 1, or with "" of version 2.
fn membership(cgroup: &str, controller: &str) -> Option<PathBuf> {
    cgroup.lines().find_map(|line| {
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

/// Root and place of a mount, if this line of mountinfo is one of the controller.
fn mount(line: &str, version: Version, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut kind = after.split(' ');
    let fits = match (version, kind.next()?) {
        (Version::Two, "cgroup2") => true,
        (Version::One, "cgroup") => kind
            .nth(1)?
            .split(',')
            .any(|option| option.trim() == controller),
        _ => false,
    };
    let mut fields = before.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    fits.then(|| (unescaped(root), unescaped(place)))
}

/// A path of mountinfo, where space, tab, newline and backslash are octal.
fn unescaped(path: &str) -> PathBuf {
    let plain = path
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(plain)
}

/// A number; "max" and "-1" are none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind a key, in a text of "key number" lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| number(value))?
    })
}

/// CPUs from "quota period"; "max" and "-1" are no quota.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (number(quota)?, number(period)?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const V2_MOUNT: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
         35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNTS: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
         40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const HOST: u64 = 1 << 34;

    fn planted(files: &[(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        let files: HashMap<PathBuf, String> = files
            .iter()
            .map(|(path, text)| (Path::new("/sys/fs/cgroup").join(path), format!("{text}\n")))
            .collect();
        move |path| files.get(path).cloned()
    }

    fn folders(levels: Option<Levels>) -> Vec<String> {
        levels
            .expect("there are levels")
            .folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect()
    }

    #[test]
    fn version_2_has_every_level_up_to_the_mount() {
        let cgroup = Cgroup::resolve("0::/system.slice/app.service\n", V2_MOUNT);
        assert_eq!(cgroup.memory, cgroup.cpu);
        assert_eq!(cgroup.memory, cgroup.pids);
        assert_eq!(
            folders(cgroup.memory),
            [
                "/sys/fs/cgroup/system.slice/app.service",
                "/sys/fs/cgroup/system.slice",
                "/sys/fs/cgroup"
            ]
        );
    }

    #[test]
    fn in_a_container_the_root_of_the_mount_is_the_own_cgroup() {
        let cgroup = Cgroup::resolve("0::/\n", V2_MOUNT);
        assert_eq!(folders(cgroup.memory), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let text = "4:memory:/docker/abc/inner\n3:cpu,cpuacct:/x\n2:name=systemd:/y\n0::/\n";
        let cgroup = Cgroup::resolve(text, V1_MOUNTS);
        assert_eq!(
            folders(cgroup.memory),
            ["/sys/fs/cgroup/memory/inner", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(
            folders(cgroup.cpu_time),
            ["/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup/cpu,cpuacct"]
        );
        // Not in version 1 here, so it would be in version 2.
        assert_eq!(folders(cgroup.pids), ["/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn a_cgroup_outside_of_the_mount_or_the_namespace_is_not_read() {
        assert_eq!(Cgroup::resolve("0::/../other\n", V2_MOUNT).memory, None);
        assert_eq!(
            Cgroup::resolve("4:memory:/elsewhere\n", V1_MOUNTS).memory,
            None
        );
        assert_eq!(Cgroup::resolve("", V2_MOUNT), Cgroup::default());
        assert_eq!(Cgroup::resolve("0::/\n", ""), Cgroup::default());
        assert_eq!(
            Cgroup::resolve("garbage\n\n::\n", "garbage - \n"),
            Cgroup::default()
        );
    }

    #[test]
    fn a_mount_with_a_space_in_its_path_is_found() {
        let mounts = "35 24 0:30 / /a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            folders(Cgroup::resolve("0::/x\n", mounts).memory),
            ["/a b/x", "/a b"]
        );
    }

    #[test]
    fn the_level_nearest_to_its_limit_counts_and_the_page_cache_does_not() {
        let cgroup = Cgroup::resolve("0::/slice/app\n", V2_MOUNT);
        let files = planted(&[
            ("slice/app/memory.max", "1000"),
            ("slice/app/memory.current", "600"),
            (
                "slice/app/memory.stat",
                "anon 300\ninactive_file 200\nactive_file 5",
            ),
            ("slice/memory.max", "2000"),
            ("slice/memory.current", "1800"),
            ("memory.stat", "inactive_file 1"),
        ]);
        let tight = Some(Share {
            used: 1800,
            limit: 2000,
        });
        assert_eq!(cgroup.memory(&files, HOST), tight);
        // A limit above the host's memory limits nothing.
        let own = Some(Share {
            used: 400,
            limit: 1000,
        });
        assert_eq!(cgroup.memory(&files, 1500), own);
    }

    #[test]
    fn no_limit_is_no_limit_in_both_versions() {
        let two = Cgroup::resolve("0::/\n", V2_MOUNT);
        let files = planted(&[
            ("memory.max", "max"),
            ("memory.current", "600"),
            ("cpu.max", "max 100000"),
            ("pids.max", "max"),
            ("pids.current", "3"),
        ]);
        assert_eq!(two.memory(&files, HOST), None);
        assert_eq!(two.cpu_limit(&files), None);
        assert_eq!(two.pids(&files), None);
        let one = Cgroup::resolve("4:memory:/docker/abc\n3:cpu,cpuacct:/\n", V1_MOUNTS);
        let files = planted(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/memory.usage_in_bytes", "600"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(one.memory(&files, HOST), None);
        assert_eq!(one.cpu_limit(&files), None);
    }

    #[test]
    fn the_smallest_quota_counts_and_is_in_cpus() {
        let two = Cgroup::resolve("0::/a/b\n", V2_MOUNT);
        let files = planted(&[
            ("a/b/cpu.max", "400000 100000"),
            ("a/cpu.max", "150000 100000"),
            ("a/b/cpu.stat", "usage_usec 2500000\nuser_usec 1"),
        ]);
        assert_eq!(two.cpu_limit(&files), Some(1.5));
        assert_eq!(two.cpu_time(&files), Some(Duration::from_millis(2500)));
        let one = Cgroup::resolve("3:cpu,cpuacct:/\n", V1_MOUNTS);
        let files = planted(&[
            ("cpu,cpuacct/cpu.cfs_quota_us", "50000"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
            ("cpu,cpuacct/cpuacct.usage", "2500000000"),
        ]);
        assert_eq!(one.cpu_limit(&files), Some(0.5));
        assert_eq!(one.cpu_time(&files), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn version_1_memory_counts_the_whole_subtree() {
        let one = Cgroup::resolve("4:memory:/docker/abc\n", V1_MOUNTS);
        let files = planted(&[
            ("memory/memory.limit_in_bytes", "1000"),
            ("memory/memory.usage_in_bytes", "900"),
            (
                "memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 400",
            ),
        ]);
        let share = Some(Share {
            used: 500,
            limit: 1000,
        });
        assert_eq!(one.memory(&files, HOST), share);
    }

    #[test]
    fn pids_are_a_share_of_the_limit() {
        let two = Cgroup::resolve("0::/a\n", V2_MOUNT);
        let files = planted(&[("a/pids.max", "100"), ("a/pids.current", "90")]);
        assert_eq!(
            two.pids(&files),
            Some(Share {
                used: 90,
                limit: 100
            })
        );
    }
}
