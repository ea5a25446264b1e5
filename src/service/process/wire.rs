//! The protocol between headcount and a guardian: one JSON value per line, over a Unix socket.
//!
//! The socket is the standard input of the guardian, which the keeper inherits. It carries
//! [`Order`]s to them and [`Notice`]s to headcount. Both ends are the same binary, so the protocol
//! has no version.
//!
//! End of file has a meaning in both directions. To the guardian and the keeper it means that
//! headcount is gone, or that it no longer wants the command to run. To headcount it means that
//! both helper processes of this run have ended.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::service::secrets::Secrets;

use super::{StopSignal, StopSignalTo, exit::Exit, group::Group};

/// A message from headcount to the helper processes of a run. The keeper reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Starts the command. It is always the first order and is sent once.
    Start(Start),
    /// Sends the stop signal, and SIGKILL when the stop budget has elapsed.
    Stop,
    /// Sends SIGKILL to the whole tree at once.
    Kill,
}

/// The command to run, and how to stop it.
///
/// The keeper enforces the stop budget itself, so a stop completes even if headcount hangs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) command: Vec<String>,
    pub(super) env: Secrets,
    pub(super) working_folder: Option<PathBuf>,
    pub(super) stop_signal: StopSignal,
    pub(super) stop_signal_to: StopSignalTo,
    pub(super) stop_budget: Duration,
    /// The soft limit of open files of the command; that of the keeper if `None`.
    #[serde(default)]
    pub(super) file_limit: Option<u64>,
    /// The control group for the command, if there is one.
    #[serde(default)]
    pub(super) group: Option<Group>,
}

/// A message from the guardian or the keeper to headcount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// The keeper has begun, with this pid.
    Keeping { pid: u32 },
    /// The keeper is in the control group of the run, so the command will be started in it.
    Grouped,
    /// The command is running with this pid.
    Started { pid: u32 },
    /// The command could not be started. `why` is a complete message that names the program or the
    /// folder. `own_limit` is true if a limit of the process or machine is the reason.
    Refused {
        why: String,
        #[serde(default)]
        own_limit: bool,
    },
    /// The command itself has ended. The keeper is ending everything that it left behind. `killed`
    /// is true if the keeper had sent it SIGKILL.
    Exited { exit: Exit, killed: bool },
    /// These processes were alive when their time was over, and the sender is killing them. It is sent
    /// at most once, before the first SIGKILL, and not if SIGKILL is the stop signal.
    Killed { processes: Vec<String> },
    /// These processes are still alive one second after the first SIGKILL. The sender keeps trying.
    Unkillable { processes: Vec<String> },
    /// The keeper has ended before its tree. The guardian is killing what is left.
    KeeperLost { exit: Exit },
    /// No process of the tree is left. This is the last notice.
    Empty,
}

/// Returns `message` as one line of JSON, with the line feed.
pub(super) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("every message can be written as JSON");
    line.push(b'\n');
    line
}
