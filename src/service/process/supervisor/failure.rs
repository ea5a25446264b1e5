//! The errors of one run, and those after which a process is not started again.

use std::{io, time::Duration};

use crate::service::{
    own_limit,
    process::{board::Unmet, exit::Exit},
};

/// The reason for which one run of a process has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The keeper could not start the command, or the helper processes could not be set up.
    #[error("{why}")]
    Refused { why: String, own_limit: bool },
    /// The command ended by itself, and not with success.
    #[error("{0}")]
    Exited(Exit),
    /// The process did not become ready within `ready_timeout`.
    #[error("not ready within {0:?}")]
    NotReady(Duration),
    /// The endpoint of its liveness went down.
    #[error("its liveness endpoint {0} is down, so the process was stopped")]
    NotAlive(String),
    /// The guardian ended before the tree. The keeper ended the tree.
    #[error("guardian {0}, so the process was stopped")]
    GuardianLost(Exit),
    /// The keeper ended before the tree. The guardian killed the tree.
    #[error("keeper {0}, so the process was stopped")]
    KeeperLost(Exit),
    /// Both helper processes ended before the tree, and headcount has killed what was left.
    #[error("its helper processes were lost, so the process was killed")]
    HelpersLost,
    /// Both helper processes ended before the tree, and it is not known that the tree is gone.
    #[error("its helper processes were lost; some of the process may still be alive")]
    Unguarded,
    /// Processes of the tree survive SIGKILL, or the guardian is not responding.
    #[error("cannot be killed: {0}")]
    Unkillable(String),
    /// The guardian could not be started.
    #[error("cannot start its guardian: {0}")]
    NoGuardian(io::Error),
}

/// The reason for which a process is not started again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The last run failed, after this number of restarts in a row. The number is 0 unless the
    /// limit of restarts was reached.
    #[error("{fault}{}", after(.restarts))]
    Fault { fault: Fault, restarts: u32 },
    /// A dependency can never be met.
    #[error("can never start: {0}")]
    Dependency(Unmet),
    /// The process can never become ready, because the endpoint of its condition is not declared.
    #[error("can never become ready: there is no endpoint named {0}")]
    NoEndpoint(String),
}

// === impl Fault ===

impl Fault {
    /// Returns true if a limit of this process or machine kept the command from being started.
    pub(super) fn is_own_limit(&self) -> bool {
        match self {
            Self::NoGuardian(error) => own_limit::is_cause_of_start(error),
            Self::Refused { own_limit, .. } => *own_limit,
            _ => false,
        }
    }
}

/// Returns the end of the message about a failed run.
fn after(restarts: &u32) -> String {
    match restarts {
        0 => String::new(),
        1 => "; given up after 1 restart".to_owned(),
        _ => format!("; given up after {restarts} restarts"),
    }
}
