//! The tasks of a tokio runtime, read from tokio's own list of them.
//!
//! tokio keeps every task of a runtime in a list, so that it can drop them when the runtime shuts
//! down. The list is in no public interface, but it can be read from memory: without a flag, a hook
//! or a lock, and without the help of the process. Memory is copied by the kernel, from
//! `/proc/PID/mem`, so an address that is not mapped is an error and no fault.
//!
//! tokio does not promise a layout. Nothing here takes one for granted: what is read is held against
//! something that was not used to find it, and where the two disagree, nothing is shown.
//!
//! - [`memory`] reads words of this process or of another one.
//! - [`header`] reads one task: its state, its table of functions, its neighbours.
//! - [`own`] finds the lists of a runtime of this process.
//! - [`list`] walks the lists of a runtime while its workers change them.
//! - `program` reads the program's file: functions, types and lines.
//! - `chain` reads what a task waits for, by the types of its future.
//! - `descriptors` names the sockets.
//! - `describe` puts them together for tasks of this process.
//! - `other` puts them together for another process.
//!
//! This module does not decide what is reported, and it writes to no memory. It stops and signals no
//! process.

#![cfg_attr(
    not(feature = "service"),
    expect(dead_code, reason = "the commands of the service use the rest")
)]

#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod chain;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod describe;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod descriptors;
pub(crate) mod header;
pub(crate) mod list;
pub(crate) mod memory;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod other;
pub(crate) mod own;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod program;
pub(crate) mod subject;
