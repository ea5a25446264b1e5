//! Knows every task and thread of a tokio service by name.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)
)]

mod audit;
pub mod group;
mod registry;
pub mod report;
pub mod runtime;
/// The command: its interface is the command line.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod service;
mod shutdown;
pub mod task;
pub mod testing;
pub mod threads;

pub use group::{Spawn, TaskGroup, TaskHandle};
pub use report::Report;
pub use runtime::{Attached, BuildError, Builder, Runtime, attach, run};
pub use task::{TaskError, TaskKind, TaskState};
pub use threads::{ThreadHandle, ThreadKind};
