//! What headcount and a guardian say to each other: one JSON object a line, over the guardian's standard input, which is a Unix socket.
//!
//! End of file is a message too. Towards the guardian: headcount is gone, or does not want the command any more. Towards headcount: every
//! guarding process of this run has ended.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{StopSignal, exit::Exit};

/// From headcount to the guardian.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Always the first, and sent once.
    Start(Start),
    /// The stop signal to the whole tree, and SIGKILL when the budget is over.
    Stop,
    /// SIGKILL to the whole tree, at once.
    Kill,
}

/// What to run, and how to stop it; the guardian keeps the budget itself, so that a stop ends even when headcount hangs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) working_folder: Option<PathBuf>,
    pub(super) stop_signal: StopSignal,
    pub(super) stop_budget: Duration,
}

/// From the guardian to headcount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// The command runs, as this process.
    Started { pid: u32 },
    /// It could not be started: a whole sentence that names what and where.
    Refused { why: String },
    /// The command itself ended; what it started is being ended, too.
    Exited { exit: Exit },
    /// These could not be killed for a second: the guardian goes on trying.
    Unkillable { processes: Vec<String> },
    /// The keeper ended before its tree: the guardian kills what is left.
    KeeperLost { exit: Exit },
    /// Nothing of the tree is alive: the last notice.
    Empty,
}

/// `message` as a line to send.
pub(super) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("the messages hold nothing that JSON cannot");
    line.push(b'\n');
    line
}
