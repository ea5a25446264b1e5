//! The metrics `process_*`, under the names that all Prometheus client libraries use, and
//! `build_info`.
//!
//! Figures that the system does not give are absent. CPU time and memory come from `sysinfo`, the
//! rest from `/proc/self/fd`, `getrlimit(2)` and the thread count of headcount.

use super::family::Families;
use super::names::{self, Name};
use crate::threads;
use rustix::process::{Resource, getrlimit};
use std::sync::{Mutex, PoisonError};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// A reader of the process figures of the operating system. Concurrent reads wait for each other.
#[derive(Debug)]
pub(crate) struct Process {
    /// The system and the id of this process; `None` on a system that `sysinfo` does not support.
    /// `sysinfo` keeps its state in it, of this process alone.
    system: Option<Mutex<(System, Pid)>>,
}

/// Figures of this process; `None` where one is not observed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Facts {
    /// User and system CPU time, in seconds. The resolution is a millisecond or worse.
    pub(crate) cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: Option<u64>,
    /// Virtual memory, in bytes.
    pub(crate) virtual_bytes: Option<u64>,
    /// The start of the process, in Unix time, in seconds.
    pub(crate) started: Option<u64>,
    /// The number of open file descriptors. Linux only.
    pub(crate) open_files: Option<u64>,
}

// === impl Process ===

impl Process {
    pub(crate) fn new() -> Self {
        let pid = sysinfo::get_current_pid().ok();
        Self {
            system: pid.map(|pid| Mutex::new((System::new(), pid))),
        }
    }

    /// Reads the figures from the operating system.
    ///
    /// It reads several files of `/proc`, on the thread of the scrape. If the process cannot be
    /// read, only the open files are known.
    pub(crate) fn look(&self) -> Facts {
        let mut facts = Facts {
            open_files: open_files(),
            ..Facts::default()
        };
        let Some(system) = &self.system else {
            return facts;
        };
        let mut held = system.lock().unwrap_or_else(PoisonError::into_inner);
        let (system, pid) = &mut *held;
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[*pid]),
            false,
            // The list of threads of `sysinfo` is slow and wrong.
            ProcessRefreshKind::nothing()
                .with_cpu()
                .with_memory()
                .without_tasks(),
        );
        if let Some(process) = system.process(*pid) {
            facts.cpu_seconds = Some(process.accumulated_cpu_time() as f64 / 1000.0);
            facts.resident_bytes = Some(process.memory());
            facts.virtual_bytes = Some(process.virtual_memory());
            facts.started = Some(process.start_time());
        }
        facts
    }
}

/// Adds `process_*` and `build_info`.
///
/// No limit for open files is shown as `+Inf`. `process_threads` includes threads that are not
/// registered.
pub(super) fn read(facts: &Facts, families: &mut Families) {
    let mut add = |name: &Name, value: Option<f64>| {
        if let Some(value) = value {
            families.add(name, &[], value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    add(&names::PROCESS_CPU, facts.cpu_seconds);
    add(&names::PROCESS_RESIDENT, whole(facts.resident_bytes));
    add(&names::PROCESS_VIRTUAL, whole(facts.virtual_bytes));
    add(&names::PROCESS_START, whole(facts.started));
    add(&names::PROCESS_FDS, whole(facts.open_files));
    let most = getrlimit(Resource::Nofile).current;
    add(
        &names::PROCESS_MAX_FDS,
        Some(most.map_or(f64::INFINITY, |most| most as f64)),
    );
    add(
        &names::PROCESS_THREADS,
        whole(Some(threads::live().total())),
    );
    families.add(&names::BUILD, &build(), 1.0);
}

/// Returns the number of open file descriptors.
///
/// Since Linux 6.2 the size of `/proc/self/fd` is their number (proc_pid_fd(5)). On an older kernel
/// the size is 0 and the folder is listed, which takes 140 ms for 100,000 descriptors. `None`
/// without `/proc`.
fn open_files() -> Option<u64> {
    let folder = std::fs::metadata("/proc/self/fd").ok()?;
    match folder.len() {
        0 => {
            let listed = std::fs::read_dir("/proc/self/fd").ok()?.count();
            // One entry is the descriptor of the folder that is being listed.
            Some((listed as u64).saturating_sub(1))
        }
        files => Some(files),
    }
}

/// Returns the build of the program: version, revision, compiler, and whether it was built with
/// `tokio_unstable`.
///
/// All are fixed at compile time. Revision and compiler are `unknown` unless the build sets
/// `HEADCOUNT_REVISION` and `HEADCOUNT_RUSTC`.
pub(crate) fn build() -> [&'static str; 4] {
    [
        env!("CARGO_PKG_VERSION"),
        option_env!("HEADCOUNT_REVISION").unwrap_or("unknown"),
        option_env!("HEADCOUNT_RUSTC").unwrap_or("unknown"),
        if cfg!(tokio_unstable) {
            "true"
        } else {
            "false"
        },
    ]
}
