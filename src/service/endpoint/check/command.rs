//! A command of the user as a check: exit code 0 is up.
//!
//! The module knows nothing of processes. It is given a [`Run`], which guards the command.

use crate::service::endpoint::failure::Failure;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

/// Runs a program with its arguments until nothing of its tree is left.
///
/// It bounds the run by the duration, and ends it when the service begins to drain. Its future must be
/// polled to its end then.
pub(crate) type Run = Arc<dyn Fn(Vec<String>, Duration) -> Running + Send + Sync>;

/// The future of [`Run`].
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<(), CommandFailure>> + Send>>;

/// The reason why a command did not end with success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandFailure {
    /// It could not be started because of a limit of this process or machine.
    OwnLimit(String),
    /// It could not be started, did not end in time, or failed.
    Failed {
        /// The reason, such as "exited with code 1".
        why: String,
        /// The last line of its output; empty if there is none.
        last_line: String,
    },
}

/// A command that is run with each check.
pub(in crate::service::endpoint) struct Command {
    words: Vec<String>,
    /// `None` if commands cannot be run here.
    run: Option<Run>,
}

// === impl Command ===

impl Command {
    /// Returns the check of a command. It fails until it is given a [`Run`].
    pub(super) fn new(words: Vec<String>) -> Self {
        Self { words, run: None }
    }

    /// Sets the way to run it.
    pub(super) fn run_by(&mut self, run: Run) {
        self.run = Some(run);
    }

    /// Runs the command. `timeout` bounds it.
    pub(super) async fn check(&self, timeout: Duration) -> Result<(), Failure> {
        let Some(run) = &self.run else {
            return Err(Failure::Impossible("commands cannot be run".to_owned()));
        };
        match run(self.words.clone(), timeout).await {
            Ok(()) => Ok(()),
            Err(CommandFailure::OwnLimit(why)) => Err(Failure::OwnLimit(why)),
            Err(CommandFailure::Failed { why, last_line }) if last_line.is_empty() => {
                Err(Failure::answered(&why))
            }
            Err(CommandFailure::Failed { why, last_line }) => {
                Err(Failure::answered(&format!("{why}: {last_line}")))
            }
        }
    }
}
