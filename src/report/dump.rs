//! A dump: everything that is alive at one moment, as data and as text. Tasks by group, untracked
//! spawn sites, threads, and child processes.
//!
//! Its size is bounded, however much is alive: tasks are counted by kind, with a few of each kind
//! as examples, and each list ends with the number of entries that it leaves out. A dump contains
//! addresses, paths and command lines, so show it only to the owner of the process.

mod text;

use super::ChildRow;
use super::row::{self, KindRow, ThreadRow, UntrackedRow};
use std::fmt;

/// The version of the dump's data. It is raised when a field changes its meaning or is removed, not
/// when one is added.
pub const SCHEMA: u32 = 1;

/// Everything that was alive at one moment.
///
/// [`Dumper::dump`](crate::runtime::Dumper::dump) takes one, and SIGQUIT prints one. Taking it
/// stops no task: those that start or end meanwhile may be listed or not. The threads that take the
/// dump are left out.
///
/// The size is bounded: at most 1,000 kinds of task, 1,000 spawn sites of untracked tasks, 1,000
/// threads and 1,000 child processes are listed. The `unlisted_…` fields count the other tasks,
/// threads and child processes.
///
/// In JSON, durations are seconds. In a stream of reports and dumps, a dump is the one with a
/// `phase`.
///
/// # Examples
///
/// ```
/// use headcount::report::dump::Phase;
///
/// let runtime = headcount::Runtime::builder().name("orders").print(false).build()?;
/// runtime.tasks().spawn("accept", std::future::pending::<()>());
/// let dump = runtime.dump();
/// assert_eq!((dump.tasks, dump.phase), (1, Phase::Running));
/// assert_eq!(dump.root.kinds[0].name, "accept");
/// assert!(dump.to_text().starts_with("headcount orders: dump, running\n"));
/// assert!(dump.to_json().contains(r#""service":"orders""#));
/// # assert_eq!(dump.schema, headcount::report::dump::SCHEMA);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Dump {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the service, as given to the runtime.
    pub service: String,
    /// The id of the process.
    pub pid: u32,
    /// The progress of the shutdown.
    pub phase: Phase,
    /// The number of live tracked tasks, including daemons.
    pub tasks: u64,
    /// The root group. At most 1,000 kinds of task are listed in it and the groups below.
    pub root: Group,
    /// The number of tasks of kinds that are not listed.
    pub unlisted_tasks: u64,
    /// Untracked tasks by spawn site or type, at most 1,000 rows, those with the most tasks first;
    /// `None` if they are not observed.
    #[serde(serialize_with = "row::json::in_dump")]
    pub untracked: Option<Vec<UntrackedRow>>,
    /// The threads of the process, at most 1,000; `None` if they are not observed.
    #[serde(serialize_with = "row::json::in_dump")]
    pub threads: Option<Vec<ThreadRow>>,
    /// The number of threads that are not listed.
    pub unlisted_threads: u64,
    /// Findings about several tasks or threads together, as sentences: tasks that nothing can wake,
    /// threads that wait for one lock, its owner if it is known, and deadlocks.
    pub hints: Vec<String>,
    /// The child processes that are not in the baseline, at most 1,000; `None` if they are not
    /// observed.
    pub children: Option<Vec<ChildRow>>,
    /// The number of child processes that are not listed.
    pub unlisted_children: u64,
    /// The parts that could not be observed, each with the reason, as sentences.
    pub not_observed: Vec<String>,
}

/// The progress of a shutdown.
///
/// # Examples
///
/// ```
/// use headcount::report::dump::Phase;
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let dumper = runtime.dumper();
/// let report = runtime.run(async |tasks| {
///     assert_eq!(dumper.dump().phase, Phase::Running);
///     tasks.stop("sold out");
///     tasks.draining().await;
///     assert_eq!(dumper.dump().phase, Phase::Draining);
/// });
/// assert_eq!(report.exit_code(), 0);
/// assert_eq!(dumper.dump().phase.as_str(), "done");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// No layer has begun.
    Running,
    /// In the first layer: tasks are draining.
    Draining,
    /// In the second layer: the remaining tasks are cancelled.
    Cancelling,
    /// In the third layer: threads end.
    Closing,
    /// The report is complete.
    Done,
}

/// The groups of one path that have live tasks, or contain groups that do. Groups with the same
/// path are listed as one.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let http = runtime.tasks().group("http");
/// http.group("tls").spawn("accept", std::future::pending::<()>());
/// let http = &runtime.dump().root.groups[0];
/// assert_eq!((http.name.as_str(), http.count, http.draining), ("http", 1, 0));
/// assert_eq!(http.groups[0].kinds[0].path(), "http/tls/accept");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Group {
    /// The last part of the path; empty for the root.
    pub name: String,
    /// The number of groups with this path.
    pub count: u64,
    /// The number of them that were told to drain.
    pub draining: u64,
    /// The number of them that are being cancelled.
    pub cancelling: u64,
    /// The live tasks of these groups, without those of inner groups, by kind. The kind with the
    /// oldest task comes first.
    #[serde(serialize_with = "row::json::in_dump")]
    pub kinds: Vec<KindRow>,
    /// The inner groups.
    pub groups: Vec<Self>,
}

// === impl Dump ===

impl Dump {
    /// Returns the dump as a tree, with a line at the top that has the service and the phase. Lines
    /// end with `\n`.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.to_text_after("dump")
    }

    /// Returns [`Dump::to_text`] with the reason for the dump in its first line.
    pub(crate) fn to_text_after(&self, why: &str) -> String {
        let (service, phase) = (&self.service, self.phase.as_str());
        format!("headcount {service}: {why}, {phase}\n{}", self.tree())
    }

    /// Returns the tree without the first line.
    pub(crate) fn tree(&self) -> String {
        text::tree(self)
    }

    /// Returns the part of the tree with the threads and hints.
    pub(crate) fn threads_tree(&self) -> String {
        text::threads_tree(self)
    }

    /// Returns the dump as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Serialization fails only for maps with keys that are not strings; the dump has no map.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

// === impl Phase ===

impl Phase {
    /// Returns the word that dumps and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Cancelling => "cancelling",
            Self::Closing => "closing",
            Self::Done => "done",
        }
    }
}
