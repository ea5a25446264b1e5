//! How a process ended, and how that reads in a sentence.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::{WaitIdStatus, WaitStatus};
use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// It ended by itself, with this code.
    Code(i32),
    /// A signal ended it.
    Signal { number: i32, core_dumped: bool },
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
        }
    }
}
