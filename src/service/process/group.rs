//! The control group of each run, where headcount's own group is delegated.
//!
//! A process cannot leave its control group by forking, detaching or clearing its environment. So
//! `cgroup.kill` ends all of a tree at once, and `cgroup.events` proves that none of it is left, even
//! when both helper processes are lost.
//!
//! The keeper enters the group for as long as it starts the command, so the command is born in it.
//! The helper processes themselves stay outside. No controller is enabled, so limits and usage are
//! those of headcount's own group, which may hold processes although it has groups below it.
//!
//! A group is used only if it is delegated, because the manager of any other group may be confused by
//! groups that it has not made. Sources: cgroups(7), admin-guide/cgroup-v2 of the kernel
//! documentation, and CGROUP_DELEGATION of systemd.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::state::ControlGroup;

/// The beginning of the names of all groups that headcount makes: `headcount-PID-START-NUMBER`.
const PREFIX: &str = "headcount-";
/// The attributes that systemd gives to delegated groups.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// The group of this process, below which it may make others.
#[derive(Debug, Clone)]
pub(super) struct Delegated {
    own: PathBuf,
    /// The pid and the start time of this process, for the names of groups.
    owner: (u32, u64),
    /// The number of groups that were made.
    made: Arc<AtomicU64>,
}

/// The control group of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    folder: PathBuf,
    /// The folder of headcount's own group.
    own: PathBuf,
}

// === impl Delegated ===

impl Delegated {
    /// Finds the group of this process; `None` if it is not delegated. Removes empty groups that runs
    /// left behind which were killed. `started_at` returns when the process with a pid was started.
    pub(super) fn find(started_at: impl Fn(u32) -> Option<u64>) -> Option<Self> {
        let pid = std::process::id();
        let owner = (pid, started_at(pid)?);
        // No controller of version 1 has this name.
        let group = ControlGroup::of_this_process("cgroup2")?;
        let (own, above) = group.folders().split_first()?;
        // The root of the mount is the group of the whole container, except on the host: the root
        // of the hierarchy has no such file.
        let is_container = above.is_empty() && own.join("cgroup.events").exists();
        if !is_container && !is_marked(own) {
            return None;
        }
        remove_abandoned(own, started_at);
        Some(Self {
            own: own.clone(),
            owner,
            made: Arc::default(),
        })
    }

    /// Makes the group of a run. `None` if that is not permitted, or the kernel cannot kill groups
    /// (before Linux 5.14).
    pub(super) fn make(&self) -> Option<Group> {
        let (pid, start) = self.owner;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let group = Group {
            folder: self.own.join(format!("{PREFIX}{pid}-{start}-{number}")),
            own: self.own.clone(),
        };
        fs::create_dir(&group.folder).ok()?;
        if group.folder.join("cgroup.kill").exists() {
            return Some(group);
        }
        group.remove();
        None
    }
}

/// Returns true if a group is marked as delegated.
fn is_marked(folder: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(folder, *name, &mut value[..]);
        length.is_ok_and(|length| value[..length] == *b"1")
    })
}

/// Removes the groups of runs that are not alive, as far as they are empty.
fn remove_abandoned(own: &Path, started_at: impl Fn(u32) -> Option<u64>) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let mut parts = name.split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(start))) = (parts.next(), parts.next()) else {
            continue;
        };
        let owner = u32::try_from(pid).ok().and_then(&started_at);
        if owner != Some(start) {
            // One that is not empty cannot be removed.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

// === impl Group ===

impl Group {
    /// Moves this process into the group.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn enter(&self) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), "0")
    }

    /// Moves this process back to headcount's own group.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn leave(&self) -> io::Result<()> {
        fs::write(self.own.join("cgroup.procs"), "0")
    }

    /// Sends SIGKILL to every process of the group at once. Does nothing if there is none.
    pub(super) fn kill(&self) {
        // It may have been removed.
        fs::write(self.folder.join("cgroup.kill"), "1").ok();
    }

    /// Returns the processes of the group.
    pub(super) fn members(&self) -> Vec<Pid> {
        let pids = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        let pids = pids.lines().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect()
    }

    /// Returns true if no process of the group is alive, not even in a group that one of them has
    /// made. False if that cannot be read.
    pub(super) fn is_empty(&self) -> bool {
        match fs::read_to_string(self.folder.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 0"),
            // Only an empty group can be removed.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes the group. Does nothing if it is not empty or was removed already.
    pub(super) fn remove(&self) {
        // A process of the tree may have made groups.
        remove_below(&self.folder, 0);
    }
}

/// Removes an empty group with those below it.
fn remove_below(folder: &Path, depth: u32) {
    /// Deeper groups are left alone.
    const DEEPEST: u32 = 8;
    if fs::remove_dir(folder).is_ok() || depth == DEEPEST {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&entry.path(), depth + 1);
    }
    fs::remove_dir(folder).ok();
}
