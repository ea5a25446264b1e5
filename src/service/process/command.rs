//! Commands that run once for another task, with the guard of a process: nothing of them is left
//! behind, however they end.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::{
    ProcessSettings, StopSignal,
    output::Sink,
    run::{Event, Launcher, Run},
    wire::Notice,
};
use crate::service::{
    endpoint::{self, CommandFailure},
    own_limit,
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
        let watched = Watched {
            child,
            command: settings.command.clone(),
            pid: None,
        };
        let run = self.watch(name, settings, limit, group, &sink, Some(watched));
        run.await.map_err(|failed| failed.why)
    }

    /// Returns the way in which the endpoint `name` runs its command. Neither the process nor its
    /// output is shown. It is killed when its time is over, or the drain begins.
    pub(crate) fn of_endpoint(&self, name: &str, group: &TaskGroup) -> endpoint::Run {
        let (commands, name, group) = (self.clone(), name.to_owned(), group.clone());
        let is_left = Arc::new(AtomicBool::new(false));
        Arc::new(move |command, limit| {
            let (commands, name, group) = (commands.clone(), name.clone(), group.clone());
            let is_left = Arc::clone(&is_left);
            Box::pin(async move {
                if is_left.load(Ordering::Relaxed) {
                    // Others would pile up behind it.
                    return Err(CommandFailure::Failed {
                        why: "the command of an earlier check cannot be killed".to_owned(),
                        last_line: String::new(),
                    });
                }
                let settings = ProcessSettings {
                    command,
                    stop_signal: StopSignal::Kill,
                    stop_budget: Duration::ZERO,
                    ..ProcessSettings::default()
                };
                let sink = Arc::new(Sink::quiet(&name));
                let ran = commands.watch(&name, &settings, limit, &group, &sink, None);
                ran.await.map_err(|mut failed| {
                    if let Some(run) = failed.left.take() {
                        is_left.store(true, Ordering::Relaxed);
                        let end = run.watch_to_the_end(is_left);
                        group.task("left").daemon().spawn(end);
                    }
                    match failed.is_own_limit {
                        true => CommandFailure::OwnLimit(failed.why),
                        false => CommandFailure::Failed {
                            why: failed.why,
                            last_line: sink.last_line(),
                        },
                    }
                })
            })
        })
    }

    /// Implements [`Self::run`]. `watched` shows the process, if it is to be shown.
    async fn watch(
        &self,
        name: &str,
        settings: &ProcessSettings,
        limit: Duration,
        group: &TaskGroup,
        sink: &Arc<Sink>,
        mut watched: Option<Watched>,
    ) -> Result<(), Failed> {
        let run = Run::launch(&self.0, name, settings, sink).await;
        let mut run = run.map_err(|error| Failed {
            is_own_limit: own_limit::is_cause_of_start(&error),
            ..Failed::because(format!("cannot start its guardian: {error}"))
        })?;
        let mut over = pin!(sleep(limit));
        let mut draining = pin!(group.draining());
        let mut at_last = pin!(sleep(limit + settings.stop_budget + GRACE));
        let mut is_stopping = false;
        let (mut is_late, mut is_empty) = (false, false);
        let mut fault = Some(Failed::because("its helper processes were lost"));
        let mut unkillable = None;
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
                () = &mut at_last => {
                    if unkillable.is_some() {
                        watched.iter_mut().for_each(Watched::lost);
                    }
                    return Err(Failed::left(run, limit));
                }
            };
            match event {
                Event::Closed => break,
                Event::Notice(Notice::Started { pid }) => {
                    watched.iter_mut().for_each(|watched| watched.started(pid));
                }
                Event::Notice(Notice::Refused { why, own_limit }) => {
                    fault = Some(Failed {
                        is_own_limit: own_limit,
                        ..Failed::because(why)
                    });
                }
                Event::Notice(Notice::Exited { exit, .. }) => {
                    let how = exit.to_string();
                    watched.iter_mut().for_each(|watched| watched.ended(&how));
                    fault = (!settings.is_success(exit)).then(|| Failed::because(how));
                }
                Event::Notice(Notice::Unkillable { processes }) => {
                    unkillable = Some(format!("cannot be killed: {}", processes.join(", ")));
                }
                Event::Notice(Notice::Empty) => is_empty = true,
                _ => {}
            }
        }
        if !is_empty && (run.end_strays().await.is_none() || unkillable.is_some()) {
            watched.iter_mut().for_each(Watched::lost);
            fault = unkillable.map(Failed::because).or(fault);
        }
        match fault {
            _ if is_stopping => Err(Failed::because("the service is stopping")),
            _ if is_late => Err(Failed::because(format!("did not end within {limit:?}"))),
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// The reason why a command did not end with success.
struct Failed {
    why: String,
    /// True if it could not be started because of a limit of this process or machine.
    is_own_limit: bool,
    /// The run, if it has not ended.
    left: Option<Left>,
}

/// A run that was killed and has not ended yet. Dropping it kills it again, and looks no longer.
struct Left(Run);

/// A command that runs.
struct Watched {
    child: Arc<telemetry::Child>,
    command: Vec<String>,
    /// `None` unless it runs.
    pid: Option<u32>,
}

// === impl Failed ===

impl Failed {
    /// Kills a run that did not end within `limit`, nor when it was stopped.
    fn left(run: Run, limit: Duration) -> Self {
        run.kill();
        let why = format!("did not end within {limit:?}, nor when it was stopped");
        Self {
            left: Some(Left(run)),
            ..Self::because(why)
        }
    }

    fn because(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            is_own_limit: false,
            left: None,
        }
    }
}

// === impl Left ===

impl Left {
    /// Waits until nothing of it is left, and then sets `is_left` to false.
    async fn watch_to_the_end(mut self, is_left: Arc<AtomicBool>) {
        while self.0.next().await != Event::Closed {}
        is_left.store(false, Ordering::Relaxed);
    }
}

// === impl Watched ===

impl Watched {
    fn started(&mut self, pid: u32) {
        self.child.started(pid, &self.command.join(" "));
        self.pid = Some(pid);
    }

    fn ended(&mut self, how: &str) {
        self.child.ended(how);
        self.pid = None;
    }

    /// Notes that some of it may be alive.
    fn lost(&mut self) {
        self.child.lost();
        self.pid = None;
    }
}

impl Drop for Watched {
    /// Notes a command that is not watched to its end: dropping the [`Run`] kills the whole tree.
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let program = self.command.first().map_or("", String::as_str);
            self.child.killed(&format!("{program} (pid {pid})"));
            self.child
                .ended("killed by SIGKILL, because its task was cancelled");
        }
    }
}
