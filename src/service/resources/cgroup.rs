//! The limits and the usage of the control group of the process, for cgroup versions 1 and 2.
//!
//! A limit can be set at every level between the process's cgroup and the root, and all of them apply,
//! so all levels are read. [`ControlGroup`] finds them.
//!
//! Files are read through a function parameter, so that tests can supply their contents.

use crate::state::ControlGroup;
use std::path::Path;
use std::time::Duration;

/// The cgroup of the process, per controller; `None` for a controller that is not available.
#[derive(Debug)]
pub(super) struct Cgroup {
    memory: Option<ControlGroup>,
    cpu: Option<ControlGroup>,
    /// The controller `cpuacct`: version 1 may count CPU time in a hierarchy other than that of `cpu`.
    cpu_time: Option<ControlGroup>,
    pids: Option<ControlGroup>,
}

/// An amount in use and its limit, in the same unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share<T> {
    pub(super) used: T,
    pub(super) limit: T,
}

/// A function that reads a file; returns `None` if it cannot be read.
type Files<'f> = &'f dyn Fn(&Path) -> Option<String>;

/// Reads a file as text; returns `None` if it cannot be read.
pub(super) fn read_file(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

// === impl Cgroup ===

impl Cgroup {
    /// Finds the cgroup of this process. On a system without cgroups, no controller is available.
    pub(super) fn of_this_process() -> Self {
        Self::found_by(ControlGroup::of_this_process)
    }

    /// Finds the cgroup with a function that takes the name of a controller.
    fn found_by(find: impl Fn(&str) -> Option<ControlGroup>) -> Self {
        Self {
            memory: find("memory"),
            cpu: find("cpu"),
            cpu_time: find("cpuacct"),
            pids: find("pids"),
        }
    }

    /// Returns memory usage and limit, in bytes, at the level that is closest to its limit.
    ///
    /// The inactive page cache is not counted, since the kernel can reclaim it at any time. Limits above
    /// `host`, the memory of the host in bytes, are ignored.
    pub(super) fn memory(&self, files: Files<'_>, host: u64) -> Option<Share<u64>> {
        let group = self.memory.as_ref()?;
        let (limit, usage, inactive) = if group.is_version_2() {
            ("memory.max", "memory.current", "inactive_file")
        } else {
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        };
        tightest(group, |folder| {
            let limit = number(&files(&folder.join(limit))?).filter(|limit| *limit <= host)?;
            let used = number(&files(&folder.join(usage))?)?;
            let stat = files(&folder.join("memory.stat")).unwrap_or_default();
            let used = used.saturating_sub(keyed(&stat, inactive).unwrap_or(0));
            Some(Share { used, limit })
        })
    }

    /// Returns the number of processes and threads and its limit, at the level that is closest to its
    /// limit.
    pub(super) fn pids(&self, files: Files<'_>) -> Option<Share<u64>> {
        tightest(self.pids.as_ref()?, |folder| {
            let limit = number(&files(&folder.join("pids.max"))?)?;
            let used = number(&files(&folder.join("pids.current"))?)?;
            Some(Share { used, limit })
        })
    }

    /// Returns the smallest CPU quota of all levels, in CPUs.
    pub(super) fn cpu_limit(&self, files: Files<'_>) -> Option<f64> {
        let group = self.cpu.as_ref()?;
        let quotas = group.folders().iter().filter_map(|folder| {
            if group.is_version_2() {
                return quota(&files(&folder.join("cpu.max"))?);
            }
            let quota_us = files(&folder.join("cpu.cfs_quota_us"))?;
            let period_us = files(&folder.join("cpu.cfs_period_us"))?;
            quota(&format!("{} {}", quota_us.trim(), period_us.trim()))
        });
        quotas.min_by(f64::total_cmp)
    }

    /// Returns the total CPU time of all processes in the process's own cgroup, since it was created.
    pub(super) fn cpu_time(&self, files: Files<'_>) -> Option<Duration> {
        let group = self.cpu_time.as_ref()?;
        let folder = group.folders().first()?;
        if group.is_version_2() {
            let stat = files(&folder.join("cpu.stat"))?;
            keyed(&stat, "usage_usec").map(Duration::from_micros)
        } else {
            number(&files(&folder.join("cpuacct.usage"))?).map(Duration::from_nanos)
        }
    }
}

// === impl Share ===

impl Share<f64> {
    /// Returns the part of the limit that is in use, 1.0 for all of it.
    pub(super) fn ratio(self) -> f64 {
        self.used / self.limit
    }
}

impl Share<u64> {
    pub(super) fn as_f64(self) -> Share<f64> {
        Share {
            used: self.used as f64,
            limit: self.limit as f64,
        }
    }
}

/// Returns the level with the highest usage relative to its limit.
fn tightest(
    group: &ControlGroup,
    read: impl Fn(&Path) -> Option<Share<u64>>,
) -> Option<Share<u64>> {
    group
        .folders()
        .iter()
        .filter_map(|folder| read(folder))
        .filter(|share| share.limit > 0)
        .max_by(|a, b| a.as_f64().ratio().total_cmp(&b.as_f64().ratio()))
}

/// Parses a number. Returns `None` for "max" and "-1", which stand for no limit.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the number of a key, in a text of "key number" lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| number(value))?
    })
}

/// Parses "quota period" to a number of CPUs. Returns `None` for "max" and "-1", which stand for no
/// quota.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (number(quota)?, number(period)?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::path::PathBuf;

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

    /// Finds the cgroup from the texts of `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
    fn find(groups: &str, mounts: &str) -> Cgroup {
        Cgroup::found_by(|controller| ControlGroup::find(controller, groups, mounts))
    }

    #[test]
    fn the_level_closest_to_its_limit_counts_and_the_inactive_page_cache_does_not() {
        let cgroup = find("0::/slice/app\n", V2_MOUNT);
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
        // A limit above the host's memory is ignored.
        let own = Some(Share {
            used: 400,
            limit: 1000,
        });
        assert_eq!(cgroup.memory(&files, 1500), own);
    }

    #[test]
    fn the_values_for_no_limit_are_known_in_both_versions() {
        let two = find("0::/\n", V2_MOUNT);
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
        let one = find("4:memory:/docker/abc\n3:cpu,cpuacct:/\n", V1_MOUNTS);
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
    fn the_smallest_quota_counts_and_is_given_in_cpus() {
        let two = find("0::/a/b\n", V2_MOUNT);
        let files = planted(&[
            ("a/b/cpu.max", "400000 100000"),
            ("a/cpu.max", "150000 100000"),
            ("a/b/cpu.stat", "usage_usec 2500000\nuser_usec 1"),
        ]);
        assert_eq!(two.cpu_limit(&files), Some(1.5));
        assert_eq!(two.cpu_time(&files), Some(Duration::from_millis(2500)));
        let one = find("3:cpu,cpuacct:/\n", V1_MOUNTS);
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
        let one = find("4:memory:/docker/abc\n", V1_MOUNTS);
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
        let two = find("0::/a\n", V2_MOUNT);
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
