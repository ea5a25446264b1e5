#![doc = include_str!("../README.md")]
//!
//! # Glossary
//!
//! *Task*: a tracked tokio task, blocking closure or child process. *Group*: tasks that drain together; groups nest.
//! *Tracked, untracked*: spawned through headcount, or by a bare `tokio::spawn`. *Drain*: stop taking work, finish what is
//! in hand. *Cancel*: drop the future at its next await. *Close*: end the runtime and its threads. *Budget*: how long a
//! layer or a task may take. *Audit*: compare the threads with the *baseline*, those of the start. *Live*: not ended.
//! *Ready*: should get work. *Daemon*: a thread or task that may die with the process. *Lingering*: alive after it should
//! be gone. *Report*: what a shutdown found. *Hold*: keep `/metrics` open until the report was scraped. *Unclean*: of a run
//! that ended without a report. *Restart*, *backoff*: starting a child process again, and the wait before.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)
)]

mod audit;
#[cfg(feature = "admin")]
mod control;
pub mod group;
mod registry;
pub mod report;
pub mod runtime;
/// The command: its interface is the command line.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod service;
mod shutdown;
#[cfg(feature = "json")]
pub mod state;
pub mod task;
#[cfg(feature = "admin")]
pub mod telemetry;
pub mod testing;
pub mod threads;

pub use group::{Spawn, TaskGroup, TaskHandle};
pub use report::Report;
pub use runtime::{Attached, BuildError, Builder, Runtime, attach, run};
pub use task::{TaskError, TaskKind, TaskState};
pub use threads::{ThreadHandle, ThreadKind};
