//! The CPU time and memory of the process tree of each child, read from `/proc` when they are asked
//! for.
//!
//! One look serves all children of a runtime. It reads the `stat` of each process that this one may
//! see (about 15 µs each), and at most [`LISTED`] of them. A look serves for [`SERVES`], and longer
//! if it took long, so that at most a fiftieth of the thread's time goes into looks.
//!
//! The tree of a child is its process and the descendants of that. Below a helper process of
//! headcount, which is a copy of this program and has one child of its own, it is everything there:
//! the command, and the processes that have left their parent.

use super::locked;
use crate::audit::proc::processes::{self, Stat};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The time for which a look serves.
const SERVES: Duration = Duration::from_secs(2);
/// The share of the time that looks may take, as its inverse.
const SHARE: u32 = 50;
/// The most processes that a look reads. Where there are more, nothing is known.
const LISTED: usize = 10_000;

/// The use of CPU and memory by a tree, as of the last look. Serializes without the private fields.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub(crate) struct Usage {
    /// The number of processes in the tree; `None` if it is not known.
    processes: Option<usize>,
    /// The CPU time of all runs, with that of processes which have ended and were waited for.
    pub(super) cpu_seconds: Option<f64>,
    /// The number of processors used on average since the look before.
    cpu_cores: Option<f64>,
    /// The sum of the resident memory of the processes. Memory that they share counts for each.
    pub(super) resident_bytes: Option<u64>,
    #[serde(skip)]
    run: Option<Run>,
    /// The CPU time of the runs before.
    #[serde(skip)]
    before: Duration,
}

/// The last look at a run.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    /// The process of the child: its pid and the time of its start.
    process: (u32, u64),
    at: Instant,
    /// The CPU time of the tree.
    cpu: Duration,
}

/// The last look of a runtime.
#[derive(Debug, Default)]
pub(crate) struct Usages(Mutex<Option<Look>>);

/// The time and the duration of a look.
#[derive(Debug)]
struct Look {
    at: Instant,
    took: Duration,
}

// === impl Usages ===

impl Usages {
    /// Looks at the trees of these live children, given by their pids, unless the last look still
    /// serves. Does nothing without children.
    pub(crate) fn look(&self, live: &[(u32, &Mutex<Usage>)]) {
        if live.is_empty() {
            return;
        }
        let mut last = locked(&self.0);
        let serves = |look: &Look| look.at.elapsed() < SERVES.max(look.took * SHARE);
        if last.as_ref().is_some_and(serves) {
            return;
        }
        let at = Instant::now();
        let seen = processes::all(LISTED);
        let below = seen.as_ref().map(children_of);
        for (pid, usage) in live {
            let tree = seen.as_ref().zip(below.as_ref());
            let tree = tree.and_then(|(seen, below)| Tree::of(*pid, seen, below));
            locked(usage).note(at, tree);
        }
        *last = Some(Look {
            at,
            took: at.elapsed(),
        });
    }
}

/// A process tree at one look.
#[derive(Debug)]
struct Tree {
    process: (u32, u64),
    processes: usize,
    cpu: Duration,
    resident: u64,
}

/// Returns the children of each process.
fn children_of(all: &HashMap<u32, Stat>) -> HashMap<u32, Vec<u32>> {
    let mut below: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, stat) in all {
        below.entry(stat.parent).or_default().push(*pid);
    }
    below
}

// === impl Tree ===

impl Tree {
    /// Adds up the tree of a process; `None` if the process has ended.
    fn of(pid: u32, all: &HashMap<u32, Stat>, below: &HashMap<u32, Vec<u32>>) -> Option<Self> {
        let own = all.get(&pid)?;
        let mut tree = Self {
            process: (pid, own.start),
            processes: 0,
            cpu: Duration::ZERO,
            resident: 0,
        };
        let mut left = vec![pid];
        if processes::is_copy_of_this(own.parent) {
            // It waits for the orphans of the tree. What it uses itself is not the child's.
            tree.cpu += all
                .get(&own.parent)
                .map(|helper| helper.waited)
                .unwrap_or_default();
            left = below.get(&own.parent).cloned().unwrap_or_default();
        }
        // The snapshot is not taken at one moment, so it may contain a circle.
        let mut steps = all.len();
        while let Some(pid) = left.pop()
            && steps > 0
        {
            steps -= 1;
            if let Some(stat) = all.get(&pid) {
                tree.processes += usize::from(!stat.is_zombie);
                tree.cpu += stat.cpu + stat.waited;
                tree.resident += stat.resident;
            }
            left.extend(below.get(&pid).into_iter().flatten());
        }
        Some(tree)
    }
}

// === impl Usage ===

impl Usage {
    /// Notes a look. Without a tree, only the CPU time so far stays known.
    fn note(&mut self, at: Instant, tree: Option<Tree>) {
        let Some(tree) = tree else {
            self.processes = None;
            self.cpu_cores = None;
            self.resident_bytes = None;
            return;
        };
        let last = self.run.take();
        let same = last.as_ref().filter(|last| last.process == tree.process);
        // A process that was not waited for takes its CPU time with it.
        let cpu = same.map_or(tree.cpu, |last| last.cpu.max(tree.cpu));
        self.cpu_cores = same.map(|last| {
            let passed = at.saturating_duration_since(last.at).as_secs_f64();
            (cpu - last.cpu).as_secs_f64() / passed.max(0.001)
        });
        if same.is_none() {
            self.before += last.map(|last| last.cpu).unwrap_or_default();
        }
        self.processes = Some(tree.processes);
        self.cpu_seconds = Some((self.before + cpu).as_secs_f64());
        self.resident_bytes = Some(tree.resident);
        self.run = Some(Run {
            process: tree.process,
            at,
            cpu,
        });
    }

    /// Returns what is shown of a child with this pid. A child that is not live uses nothing.
    pub(super) fn shown(&self, pid: Option<u32>) -> Self {
        let is_this = self
            .run
            .as_ref()
            .is_some_and(|run| Some(run.process.0) == pid);
        if is_this {
            return self.clone();
        }
        Self {
            cpu_seconds: self.cpu_seconds,
            ..Self::default()
        }
    }
}
