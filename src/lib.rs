#![doc = include_str!("../README.md")]
//!
//! # Glossary
//!
//! - *Task*: a tracked tokio task, blocking closure or child process.
//! - *Group*: tasks that drain together. Groups nest.
//! - *Tracked*: spawned through headcount. *Untracked*: spawned with plain `tokio::spawn`.
//! - *Live*: spawned and not ended. *Ready*: should receive work.
//! - *Drain*: to stop accepting work and finish the work in progress.
//! - *Cancel*: to drop a task's future at its next await.
//! - *Close*: to end the runtime and its threads.
//! - *Layer*: one of the three steps of a shutdown: drain, cancel, close.
//! - *Budget*: the longest time that a layer, a group or a task may take.
//! - *Audit*: the comparison of the threads with the *baseline*, the threads that ran at the start.
//! - *Daemon*: a thread or task that is allowed to end with the process.
//! - *Lingering*: still alive after it should have ended.
//! - *Report*: the result of a shutdown.
//! - *Hold*: to keep `/metrics` open after the shutdown until the report has been scraped.
//! - *Unclean*: said of a run that ended without a report.
//! - *Black box*: a file on a tmpfs that shows what a run was doing, even if it was killed.
//! - *Restart*: to start a child process again. *Backoff*: the delay before a restart.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)
)]

pub(crate) mod control;
pub(crate) mod dump;
pub(crate) mod watch;

pub(crate) mod stacks;

#[cfg(feature = "admin")]
pub(crate) mod admin;
#[cfg(feature = "otel")]
pub(crate) mod http_client;

mod audit;
pub mod group;
mod inspect;
mod recorder;
mod registry;
pub mod report;
pub mod runtime;
/// The implementation of the `headcount` command. Its interface is the command line, not this
/// module.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod service;
mod shutdown;
pub mod state;
pub mod task;
#[cfg(feature = "admin")]
pub mod telemetry;
pub mod testing;
pub mod text;
pub mod threads;

pub use group::{Spawn, TaskGroup, TaskHandle};
pub use report::Report;
pub use runtime::{Attached, BuildError, Builder, Runtime, attach, run};
pub use task::{TaskError, TaskKind, TaskState};
pub use threads::{ThreadHandle, ThreadKind};

#[cfg(all(test, not(headcount_loom)))]
#[path = "../tests/it/alone.rs"]
mod alone;
#[cfg(all(test, not(headcount_loom)))]
#[path = "../tests/it/fuzzing.rs"]
mod fuzzing;
