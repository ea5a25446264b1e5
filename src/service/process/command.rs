//! Commands that run once for another task, with the guard of a process: nothing of them is left
//! behind, however they end.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    ProcessSettings,
    output::Sink,
    run::{Event, Launcher, Run},
    wire::Notice,
};
use crate::{TaskGroup, telemetry};

/// The time beyond its stop budget after which a command that was stopped is given up.
const GRACE: Duration = Duration::from_secs(2);

/// A starter of commands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands(pub(super) Launcher);

// === impl Commands ===

impl Commands {
    /// Runs a command until nothing of its tree is left. Its output is that of the process `name`.
    ///
    /// When `limit` is over, or the drain begins, it is stopped within its stop budget, and killed
    /// if it has not ended then.
    ///
    /// # Errors
    /// The command cannot be started, does not end in time, or does not end with success.
    ///
    /// # Cancel safety
    /// Dropping the future kills the whole tree.
    pub(crate) async fn run(
        &self,
        name: &str,
        settings: &ProcessSettings,
        limit: Duration,
        group: &TaskGroup,
    ) -> Result<(), String> {
        let child = Arc::new(telemetry::Child::register(group, name));
        let sink = Arc::new(Sink::new(name, &child, None));
        let run = Run::launch(&self.0, name, settings, &sink).await;
        let mut run = run.map_err(|error| format!("cannot start its guardian: {error}"))?;
        let mut over = pin!(sleep(limit));
        let mut draining = pin!(group.draining());
        let mut at_last = pin!(sleep(limit + settings.stop_budget + GRACE));
        let mut watched = Watched {
            child: Arc::clone(&child),
            program: settings.command.first().cloned().unwrap_or_default(),
            pid: None,
        };
        let mut is_stopping = false;
        let (mut is_late, mut is_empty) = (false, false);
        let mut fault = Some("its helper processes were lost".to_owned());
        loop {
            let event = tokio::select! {
                event = run.next() => event,
                () = &mut over, if !is_late && !is_stopping => {
                    is_late = true;
                    run.stop();
                    continue;
                }
                () = &mut draining, if !is_late && !is_stopping => {
                    is_stopping = true;
                    run.stop();
                    continue;
                }
                // Dropping the run kills it. That of a drain ends with the budget of the task.
                () = &mut at_last => return Err(format!("did not end within {limit:?}, nor when it was stopped")),
            };
            match event {
                Event::Closed => break,
                Event::Notice(Notice::Started { pid }) => {
                    child.started(pid, &settings.command.join(" "));
                    watched.pid = Some(pid);
                }
                Event::Notice(Notice::Refused { why, .. }) => fault = Some(why),
                Event::Notice(Notice::Exited { exit, .. }) => {
                    child.ended(&exit.to_string());
                    watched.pid = None;
                    fault = (!settings.is_success(exit)).then(|| exit.to_string());
                }
                Event::Notice(Notice::Unkillable { processes }) => {
                    fault = Some(format!("cannot be killed: {}", processes.join(", ")));
                    watched.pid = None;
                    child.lost();
                }
                Event::Notice(Notice::Empty) => is_empty = true,
                _ => {}
            }
        }
        if !is_empty && run.end_strays().await.is_none() {
            child.lost();
        }
        match fault {
            _ if is_stopping => Err("the service is stopping".to_owned()),
            _ if is_late => Err(format!("did not end within {limit:?}")),
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// A command that runs.
struct Watched {
    child: Arc<telemetry::Child>,
    program: String,
    /// `None` unless it runs.
    pid: Option<u32>,
}

// === impl Watched ===

impl Drop for Watched {
    /// Notes a command that is not watched to its end: dropping the [`Run`] kills the whole tree.
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.child.killed(&format!("{} (pid {pid})", self.program));
            self.child
                .ended("killed by SIGKILL, because its task was cancelled");
        }
    }
}
