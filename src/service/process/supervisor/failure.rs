//! What can go wrong with one run, and with a process for good.

use std::{io, time::Duration};

use crate::service::process::{board::State, exit::Exit};

/// Why one run of a process has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Exited(Exit),
    #[error("not ready within {0:?}")]
    NotReady(Duration),
    #[error("its guardian was {0}, so it was stopped")]
    GuardianLost(Exit),
    /// Nobody was left to say that the tree is dead.
    #[error("its guardians ended without a word: processes of it may be alive")]
    Unguarded,
    #[error("cannot be killed: {0}")]
    Unkillable(String),
    #[error("cannot start its guardian: {0}")]
    NoGuardian(io::Error),
}

/// Why a process will not be started again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{fault}{}", after(.restarts))]
    Fault { fault: Fault, restarts: u32 },
    #[error("can never start: it waits for {need}, and that {}", fate(.state))]
    Dependency { need: String, state: Option<State> },
    #[error("can never be ready: there is no endpoint {0}")]
    NoEndpoint(String),
}

fn after(restarts: &u32) -> String {
    match restarts {
        0 => String::new(),
        1 => "; given up after 1 restart".to_owned(),
        _ => format!("; given up after {restarts} restarts"),
    }
}

fn fate(state: &Option<State>) -> &'static str {
    match state {
        Some(State::Failed) => "has failed",
        Some(State::Exited) => "has exited without that",
        Some(_) => "was stopped",
        None => "is not a declared process",
    }
}
