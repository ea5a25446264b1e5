//! The control side: signals, output, progress and the watchdog, on plain threads outside the work
//! runtime.
//!
//! Each file is one of its means. The [shutdown](crate::shutdown) ties them together and runs on
//! the control thread.
//!
//! [`builder`] and [`part`] are the settings and the parts of a runtime as the modules see them that
//! add to both.
//!
//! The files here decide nothing about tasks or threads. They hold state that must be readable, and
//! do things that must work, while the service is stuck:
//!
//! ```text
//! message      the inbox: an unbounded channel, so a worker never waits to send
//! output       two queues of 256 jobs, dropped when full; a writing thread each
//! progress     phase in an atomic, the rest behind a mutex that is held for assignments
//! scrapes      at most 8 clients behind a mutex, and a counter that wakes the wait
//! signals      handlers of the process, and a thread for each root
//! watchdog     one atomic word, and a thread that takes no lock once it is armed
//! ```

pub(crate) mod build_error;
pub(crate) mod builder;
pub(crate) mod exit_hook;
pub(crate) mod log_drops;
pub(crate) mod message;
pub(crate) mod output;
pub(crate) mod owned_runtime;
pub(crate) mod part;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod scrapes;
pub(crate) mod signals;
pub(crate) mod watchdog;
