//! `process_*`, under the names that every exporter gives them, and what the program was built with.

use super::family::Families;
use super::names::{self, Name};
use super::watched::Watched;
use crate::threads;
use rustix::process::{Resource, getrlimit};
use std::sync::{Mutex, PoisonError};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Reads what the system knows of this process.
#[derive(Debug)]
pub(crate) struct Process {
    /// `None` on systems that cannot be observed.
    system: Option<Mutex<(System, Pid)>>,
}

/// What was read; `None` where it is not observed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    /// In Unix time.
    pub(crate) started: Option<u64>,
    pub(crate) open_files: Option<u64>,
}

// === impl Process ===

impl Process {
    pub(crate) fn new() -> Self {
        let system = System::new().ok().zip(sysinfo::get_current_pid().ok());
        Self {
            system: system.map(Mutex::new),
        }
    }

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
            // Its list of threads is slow, and wrong.
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

pub(crate) fn read(watched: &Watched, families: &mut Families) {
    let facts = watched.process();
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

/// The folder's size is their number since Linux 6.2 (proc_pid_fd(5)): to list 100,000 takes 140 ms.
fn open_files() -> Option<u64> {
    let folder = std::fs::metadata("/proc/self/fd").ok()?;
    match folder.len() {
        0 => {
            let listed = std::fs::read_dir("/proc/self/fd").ok()?.count();
            // One of them is the folder that is being listed.
            Some((listed as u64).saturating_sub(1))
        }
        files => Some(files),
    }
}

/// What the program was built with: version, revision, compiler, and whether tokio's unstable hooks are there.
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
