//! One run of a process, watched from its start to the end of the last process of its tree.

use std::{pin::pin, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{STOP_MARGIN, Supervisor, TARGET, failure::Fault};
use crate::service::process::{
    ProcessSettings, Ready, StopSignal,
    board::{Post, State, Status},
    exit::Exit,
    run::{Event, Run},
    wire::Notice,
};

/// How a run ended; `up` is for how long it had been ready.
#[derive(Debug)]
pub(super) enum End {
    /// Because the group drains.
    Stopped,
    Success {
        exit: Exit,
        up: Option<Duration>,
    },
    Failure {
        fault: Fault,
        up: Option<Duration>,
    },
}

pub(super) struct Attempt<'a> {
    name: &'a str,
    settings: &'a ProcessSettings,
    post: &'a Post,
    group: crate::TaskGroup,
    dependents: &'a mut [watch::Receiver<Status>],
    endpoint: Option<&'a mut watch::Receiver<bool>>,
    run: Run,
    started: Instant,
    /// The guardian said that the command runs, and its pid.
    begun: bool,
    /// A line that says that it is ready came before that.
    ready_early: bool,
    ready: Option<Instant>,
    /// For how long it had been ready when it ended.
    up: Option<Duration>,
    exit: Option<Exit>,
    fault: Option<Fault>,
    draining: bool,
    stop: Stop,
    /// The guardian said that nothing is left.
    empty: bool,
}

/// How far the stop of a run went.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stop {
    NotAsked,
    /// The guardian keeps the budget, and kills; this is when it should be done.
    Asked {
        until: Instant,
    },
    Killed {
        until: Instant,
    },
}

// === impl End ===

impl End {
    pub(super) fn failed(fault: Fault) -> Self {
        Self::Failure { fault, up: None }
    }
}

// === impl Attempt ===

impl<'a> Attempt<'a> {
    pub(super) fn new(supervisor: &'a mut Supervisor, run: Run) -> Self {
        Self {
            name: &supervisor.name,
            settings: &supervisor.settings,
            post: &supervisor.post,
            group: supervisor.group.clone(),
            dependents: &mut supervisor.dependents,
            endpoint: supervisor.endpoint.as_mut(),
            run,
            started: Instant::now(),
            begun: false,
            ready_early: false,
            ready: None,
            up: None,
            exit: None,
            fault: None,
            draining: false,
            stop: Stop::NotAsked,
            empty: false,
        }
    }

    /// Runs it to its end. Dropping this future kills the tree.
    pub(super) async fn watch(mut self) -> End {
        let group = self.group.clone();
        let mut draining = pin!(group.draining());
        let ready_by = self.started + self.settings.ready_timeout;
        loop {
            let waits = self.ready.is_none() && self.exit.is_none() && self.stop == Stop::NotAsked;
            tokio::select! {
                event = self.run.next() => {
                    if event == Event::Closed {
                        return self.end();
                    }
                    self.take(event);
                }
                () = &mut draining, if !self.draining => {
                    self.draining = true;
                    self.post.enter(State::Stopping);
                }
                () = all_final(self.dependents), if self.draining && self.stop == Stop::NotAsked => {
                    self.ask_to_stop();
                }
                () = up(&mut self.endpoint), if waits && self.begun => self.now_ready(),
                () = sleep_until(ready_by), if waits => {
                    self.fault = Some(Fault::NotReady(self.settings.ready_timeout));
                    self.ask_to_stop();
                }
                () = self.stop.overdue() => {
                    if self.escalate() {
                        return self.end();
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Notice(Notice::Started { pid }) => {
                tracing::info!(target: TARGET, task = %self.name, pid, "started");
                self.post.started(pid);
                self.begun = true;
                if self.settings.ready == Ready::Started || self.ready_early {
                    self.now_ready();
                }
            }
            Event::Notice(Notice::Exited { exit }) => {
                self.exit = Some(exit);
                self.up = self.ready.map(|ready| ready.elapsed());
                self.post.enter(State::Stopping);
            }
            Event::Notice(Notice::Refused { why }) => self.fault = Some(Fault::Refused(why)),
            Event::Notice(Notice::Unkillable { processes }) => {
                self.fault = Some(Fault::Unkillable(processes.join(", ")));
                self.stop = Stop::Killed {
                    until: Instant::now(),
                };
            }
            Event::Notice(Notice::KeeperLost { exit }) | Event::GuardianLost(exit) => {
                self.fault = Some(Fault::GuardianLost(exit));
            }
            Event::Notice(Notice::Empty) => self.empty = true,
            Event::Line => self.now_ready(),
            Event::Closed => {}
        }
    }

    fn now_ready(&mut self) {
        // What it writes comes another way than the word that it was started, and may be here before.
        self.ready_early = !self.begun;
        if self.ready_early
            || self.ready.is_some()
            || self.exit.is_some()
            || self.stop != Stop::NotAsked
        {
            return;
        }
        self.ready = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::info!(target: TARGET, task = %self.name, "ready after {seconds:.1}s");
        self.post.ready(true);
        if !self.draining {
            self.post.enter(State::Ready);
        }
    }

    fn ask_to_stop(&mut self) {
        self.post.enter(State::Stopping);
        self.run.stop();
        let until = Instant::now() + self.settings.stop_budget + STOP_MARGIN * 2;
        self.stop = Stop::Asked { until };
    }

    /// The guardian is late. True when there is nothing more to try.
    fn escalate(&mut self) -> bool {
        if let Stop::Asked { .. } = self.stop {
            self.run.kill();
            let until = Instant::now() + STOP_MARGIN;
            self.stop = Stop::Killed { until };
            return false;
        }
        let silent = || Fault::Unkillable("its guardian does not answer".to_owned());
        self.fault.get_or_insert_with(silent);
        true
    }

    fn end(self) -> End {
        let success = self.exit.is_some_and(|exit| self.settings.is_success(exit));
        if let Some(exit) = self.exit {
            self.post.exited(exit, success);
        }
        let up = self.up;
        let fault = match (self.fault, self.exit) {
            (Some(fault), _) => fault,
            (None, _) if !self.empty => Fault::Unguarded,
            (None, Some(exit)) if self.draining && self.stop != Stop::NotAsked => {
                stopped(self.name, self.settings, exit);
                return End::Stopped;
            }
            (None, Some(exit)) if success => {
                tracing::info!(target: TARGET, task = %self.name, "{exit}");
                // To be ready by this exit is to have been up for no time.
                let by_exit = matches!(self.settings.ready, Ready::Exit(_));
                let up = up.or(by_exit.then_some(Duration::ZERO));
                return End::Success { exit, up };
            }
            (None, Some(exit)) => Fault::Exited(exit),
            (None, None) => Fault::Unguarded,
        };
        End::Failure { fault, up }
    }
}

fn stopped(name: &str, settings: &ProcessSettings, exit: Exit) {
    let killed = matches!(exit, Exit::Signal { number: 9, .. });
    if killed && settings.stop_signal != StopSignal::Kill {
        let budget = settings.stop_budget;
        tracing::warn!(target: TARGET, task = %name, "did not stop within {budget:?}: {exit}");
    } else {
        tracing::info!(target: TARGET, task = %name, "stopped: {exit}");
    }
}

async fn all_final(processes: &mut [watch::Receiver<Status>]) {
    for status in processes {
        // An error means that its task is gone.
        status.wait_for(|status| status.state.is_final()).await.ok();
    }
}

async fn up(endpoint: &mut Option<&mut watch::Receiver<bool>>) {
    let is_up = match endpoint {
        Some(endpoint) => endpoint.wait_for(|up| *up).await.is_ok(),
        None => false,
    };
    if !is_up {
        std::future::pending::<()>().await;
    }
}

// === impl Stop ===

impl Stop {
    async fn overdue(self) {
        match self {
            Self::NotAsked => std::future::pending().await,
            Self::Asked { until } | Self::Killed { until } => sleep_until(until).await,
        }
    }
}
