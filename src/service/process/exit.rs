//! The exit status of a process, and its text for log messages.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::{WaitIdStatus, WaitStatus};
use serde::{Deserialize, Serialize};

/// The exit status of a process. It is displayed as `exited with code 3` or `killed by SIGTERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// The process exited with this code.
    Code(i32),
    /// The process was killed by this signal.
    Signal { number: i32, core_dumped: bool },
    /// The process has ended, and its status could not be read.
    Unknown,
}

// === impl Exit ===

impl From<WaitIdStatus> for Exit {
    fn from(status: WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, number) => Self::Signal {
                number: number.unwrap_or_default(),
                core_dumped: status.dumped(),
            },
        }
    }
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        ExitStatus::from_raw(status.as_raw()).into()
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, number) => Self::Signal {
                number: number.unwrap_or_default(),
                core_dumped: status.core_dumped(),
            },
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal {
                number,
                core_dumped,
            } => {
                match signal_hook::low_level::signal_name(number) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {number}")?,
                }
                f.write_str(if core_dumped { " (core dumped)" } else { "" })
            }
            Self::Unknown => f.write_str("ended with an unknown status"),
        }
    }
}
