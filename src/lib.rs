//! Knows every task and thread of a tokio service by name.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)
)]

mod audit;
mod group;
mod registry;
pub mod report;
mod runtime;
/// The command: its interface is the command line.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod service;
mod shutdown;
mod task;
pub mod testing;
mod threads;

pub use group::{Drained, Snapshot, Spawn, TaskGroup, TaskHandle, TaskRow, UntrackedRow};
pub use report::Report;
pub use runtime::{Attached, BuildError, Builder, MainOutput, Runtime, attach, run};
pub use task::{Panic, TaskError, TaskId, TaskKind, TaskOutcome, TaskState};
pub use threads::{ThreadClass, ThreadHandle, ThreadKind};
