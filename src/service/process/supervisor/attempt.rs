//! One run of a process, from the start of its command to the end of the last process of its tree.
//!
//! An attempt reacts to the guardian's notices, the command's output, the endpoint, the readiness
//! timeout and the drain. It records the status on the board, and asks for the stop. It does not
//! decide about restarts: it returns an [`End`] to the supervisor.

use std::{borrow::Cow, path::Path, pin::pin, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    STOP_MARGIN, Supervisor,
    failure::Fault,
    relied::{Relied, turns},
    unstopped::Look,
};
use crate::service::{
    endpoint::Health,
    process::{
        ProcessSettings, Ready, StopSignal, TARGET, WhenDown,
        board::{Post, State, Status},
        exit::Exit,
        run::{Event, Run},
        wire::Notice,
    },
};
use crate::telemetry::{ChildRequest, ChildRequests, ChildVerb};

/// The result of one run. `up` is the time for which it was ready; `None` if it never was.
#[derive(Debug)]
pub(super) enum End {
    /// The run was stopped because the group drains.
    Stopped,
    /// The run was stopped for the pending request.
    OnRequest,
    /// The run was stopped because an endpoint that the process depends on is down.
    EndpointDown,
    Success {
        exit: Exit,
        up: Option<Duration>,
    },
    Failure {
        fault: Fault,
        up: Option<Duration>,
    },
}

/// The state of one run.
pub(super) struct Attempt<'a> {
    name: &'a str,
    settings: &'a ProcessSettings,
    post: &'a Post,
    group: crate::TaskGroup,
    dependents: &'a mut [(String, watch::Receiver<Status>)],
    endpoint: Option<&'a mut watch::Receiver<Health>>,
    liveness: Option<&'a mut watch::Receiver<Health>>,
    relied: Relied,
    requests: &'a mut ChildRequests,
    /// The request that decides what follows the run.
    pending: &'a mut Option<ChildRequest>,
    /// The requests that asked for this start, until they are answered.
    starting: Vec<ChildRequest>,
    run: Run,
    started: Instant,
    /// True once [`Notice::Started`] has arrived.
    begun: bool,
    /// The pid in that notice.
    pid: Option<u32>,
    /// True if the line that makes the process ready arrived before [`Notice::Started`].
    ready_early: bool,
    /// The time at which the process became ready.
    ready: Option<Instant>,
    /// True while it is not ready any more because its endpoint is down.
    is_down: bool,
    /// True once the endpoint of the liveness was up while the process was ready.
    lives: bool,
    /// The time for which the process was ready when it ended.
    up: Option<Duration>,
    /// The exit status of the command itself.
    exit: Option<Exit>,
    /// True if the keeper had sent SIGKILL to the command before it ended.
    killed: bool,
    /// The reason for which the run has failed; see [`Self::fail`].
    fault: Option<Fault>,
    /// True once the group has begun to drain.
    draining: bool,
    stop: Stop,
    /// The look at a run that does not stop.
    look: Look,
    /// The reasons why the run does not stop, as far as they are known.
    reasons: Vec<String>,
    /// True if processes of the run had to be killed.
    has_killed: bool,
    /// True once [`Notice::Empty`] has arrived.
    empty: bool,
    /// True once the run was watched to its end.
    over: bool,
}

/// The progress of the stop of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stop {
    NotAsked,
    /// [`Run::stop`] was called. The keeper enforces the stop budget and kills what is left by
    /// `until`.
    Asked {
        until: Instant,
    },
    /// [`Run::kill`] was called, or the guardian reported processes that it cannot kill. The run is
    /// abandoned at `until`.
    Killed {
        until: Instant,
    },
}

// === impl End ===

impl End {
    /// Returns the result of a run that failed before it was ready.
    pub(super) fn failed(fault: Fault) -> Self {
        Self::Failure { fault, up: None }
    }
}

// === impl Attempt ===

impl<'a> Attempt<'a> {
    /// Begins to watch `run`. The time for readiness counts from here.
    pub(super) fn new(supervisor: &'a mut Supervisor, run: Run) -> Self {
        Self {
            name: &supervisor.name,
            settings: &supervisor.settings,
            post: &supervisor.post,
            group: supervisor.group.clone(),
            dependents: &mut supervisor.dependents,
            endpoint: supervisor.endpoint.as_mut(),
            liveness: supervisor.liveness.as_mut(),
            relied: Relied::on(&supervisor.needs, supervisor.settings.when_down),
            requests: &mut supervisor.requests,
            starting: supervisor.pending.take().into_iter().collect(),
            pending: &mut supervisor.pending,
            run,
            started: Instant::now(),
            begun: false,
            pid: None,
            ready_early: false,
            ready: None,
            is_down: false,
            lives: false,
            up: None,
            exit: None,
            killed: false,
            fault: None,
            draining: false,
            stop: Stop::NotAsked,
            look: Look::default(),
            reasons: Vec::new(),
            has_killed: false,
            empty: false,
            over: false,
        }
    }

    /// Watches the run until nothing of its tree is left, or until no more can be done.
    ///
    /// # Cancel safety
    /// Dropping the future drops the [`Run`], which kills the whole tree.
    pub(super) async fn watch(mut self) -> End {
        let group = self.group.clone();
        let mut draining = pin!(group.draining());
        let ready_by = self.started + self.settings.ready_timeout;
        loop {
            let runs = self.begun && self.exit.is_none() && self.stop == Stop::NotAsked;
            let waits = self.ready.is_none() && self.exit.is_none() && self.stop == Stop::NotAsked;
            let is_up = self.ready.is_some() && !self.is_down;
            tokio::select! {
                event = self.run.next() => {
                    if event == Event::Closed {
                        if !self.empty {
                            self.end_strays().await;
                        }
                        return self.end();
                    }
                    self.take(event);
                }
                () = &mut draining, if !self.draining => {
                    self.draining = true;
                    self.post.enter(State::Stopping);
                    self.say_what_stops_first();
                }
                () = all_final(self.dependents), if self.draining && self.stop == Stop::NotAsked => {
                    self.ask_to_stop();
                }
                () = turns(&mut self.endpoint, !is_up, self.started), if runs => self.endpoint_turned(!is_up),
                () = turns(&mut self.liveness, !self.lives, self.started), if runs && self.ready.is_some() => {
                    self.liveness_turned();
                }
                () = self.relied.turn(), if runs && !self.draining => self.relied_turned(),
                () = sleep_until(ready_by), if waits => {
                    self.fail(Fault::NotReady(self.settings.ready_timeout));
                    self.ask_to_stop();
                }
                request = self.requests.next(), if !self.draining => self.take_request(request),
                reasons = self.look.next() => {
                    self.post.unstopped(&reasons);
                    self.reasons = reasons;
                }
                () = self.stop.overdue() => {
                    if self.escalate() {
                        return self.end();
                    }
                }
            }
        }
    }

    /// Takes a request. A stop or restart stops the run; what follows is decided at its end.
    fn take_request(&mut self, request: ChildRequest) {
        let runs = self.exit.is_none() && self.stop == Stop::NotAsked;
        let verb = request.verb();
        match (verb, self.pid) {
            (ChildVerb::Start, Some(pid)) if runs => {
                request.done(&format!("it was running before, pid {pid}"));
            }
            (ChildVerb::Start, None) if runs => self.starting.push(request),
            _ => {
                if let Some(earlier) = self.pending.replace(request) {
                    earlier.refuse("a later request took its place");
                }
                if runs {
                    let verb = verb.word();
                    tracing::info!(target: TARGET, task = %self.name, "stopping: {verb} on request");
                    self.post.unready("being stopped on request");
                    self.ask_to_stop();
                }
            }
        }
    }

    /// Kills what the tree left when both helper processes were lost. If it is then known to be empty,
    /// the end of the run is confirmed.
    async fn end_strays(&mut self) {
        let Some(strays) = self.run.end_strays().await else {
            self.fault = Some(Fault::Unguarded);
            return;
        };
        self.empty = true;
        self.fail(Fault::HelpersLost);
        let Some(pid) = self.pid else {
            return;
        };
        self.has_killed |= !strays.is_empty() || self.exit.is_none();
        for stray in &strays {
            self.post.killed(stray);
        }
        if self.exit.is_none() {
            // The kernel has killed it with its parent.
            self.post.killed(&format!("{} (pid {pid})", self.program()));
            self.post.ended("killed with its helper processes");
        }
        if !strays.is_empty() {
            let strays = strays.join(", ");
            tracing::warn!(target: TARGET, task = %self.name, "killed what was left of it: {strays}");
        }
    }

    /// Returns the name of the program.
    fn program(&self) -> Cow<'_, str> {
        let program = self.settings.command.first().map(Path::new);
        let program = program.and_then(Path::file_name).unwrap_or_default();
        program.to_string_lossy()
    }

    /// Says which processes have to end before this one is told to stop.
    fn say_what_stops_first(&self) {
        let alive = self.dependents.iter();
        let alive = alive.filter(|(_, status)| !status.borrow().state.is_final());
        let names: Vec<String> = alive.map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            tracing::info!(target: TARGET, task = %self.name, "stops after {}", names.join(", "));
            self.post.waits_for(&names);
        }
    }

    /// Handles one event other than [`Event::Closed`].
    fn take(&mut self, event: Event) {
        match event {
            Event::Notice(Notice::Started { pid }) => {
                tracing::info!(target: TARGET, task = %self.name, pid, "started");
                self.post.started(pid, &self.settings.command);
                self.begun = true;
                self.pid = Some(pid);
                for request in self.starting.drain(..) {
                    let verb = request.verb().word();
                    request.done(&format!("{verb}ed, pid {pid}"));
                }
                if self.settings.ready == Ready::Started || self.ready_early {
                    self.now_ready();
                }
            }
            Event::Notice(Notice::Exited { exit, killed }) => {
                self.exit = Some(exit);
                self.killed = killed;
                self.up = self.ready.map(|ready| ready.elapsed());
                self.post.ended(&self.how(exit));
                self.post.enter(State::Stopping);
            }
            Event::Notice(Notice::Killed { processes }) => self.note_killed(processes),
            Event::Notice(Notice::Refused { why, own_limit }) => {
                self.fail(Fault::Refused { why, own_limit });
            }
            Event::Notice(Notice::Unkillable { processes }) => {
                self.fail(Fault::Unkillable(processes.join(", ")));
                self.stop = Stop::Killed {
                    until: Instant::now(),
                };
            }
            Event::Notice(Notice::KeeperLost { exit }) => self.fail(Fault::KeeperLost(exit)),
            Event::GuardianLost(exit) => self.fail(Fault::GuardianLost(exit)),
            Event::Notice(Notice::Empty) => self.empty = true,
            Event::Line => self.now_ready(),
            // The run itself takes those of the keeper.
            Event::Notice(Notice::Keeping { .. } | Notice::Grouped) | Event::Closed => {}
        }
    }

    /// Records the processes that had to be killed, and logs those that the command had started.
    fn note_killed(&mut self, processes: Vec<String>) {
        self.has_killed = true;
        for process in &processes {
            self.post.killed(process);
        }
        let own = format!("(pid {})", self.pid.unwrap_or_default());
        let mut others = processes;
        others.retain(|process| !process.ends_with(&own));
        if !others.is_empty() {
            let budget = self.settings.stop_budget;
            let others = others.join(", ");
            tracing::warn!(
                target: TARGET, task = %self.name,
                "processes that it had started did not stop within {budget:?} and were killed: {others}"
            );
        }
    }

    /// Records a fault. The first one is the reason of the failure. Processes that survive SIGKILL
    /// replace any other reason, because a new run could conflict with them.
    fn fail(&mut self, fault: Fault) {
        if self.fault.is_none() || matches!(fault, Fault::Unkillable(_)) {
            self.fault = Some(fault);
        }
    }

    /// Marks the process as ready, unless it has ended or is being stopped.
    fn now_ready(&mut self) {
        // The output and the notices come through different pipes, so a line of output can arrive
        // before `Notice::Started`. `take` then calls this function again.
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
        self.show_ready();
    }

    /// Shows that the process is ready, unless an endpoint keeps it from that.
    fn show_ready(&self) {
        if self.ready.is_none() || self.is_down || self.relied.down().is_some() {
            return;
        }
        self.post.ready();
        if !self.draining {
            self.post.enter(State::Ready);
        }
    }

    /// Shows that the process is no longer ready, because an endpoint is down.
    fn show_unready(&self, why: &str) {
        self.post.unready(why);
        if !self.draining {
            self.post.enter(State::Starting);
        }
    }

    /// Follows the endpoint of the condition for readiness.
    fn endpoint_turned(&mut self, up: bool) {
        let Ready::Endpoint(endpoint) = &self.settings.ready else {
            return;
        };
        if self.ready.is_none() {
            return self.now_ready();
        }
        self.is_down = !up;
        if up {
            tracing::info!(target: TARGET, task = %self.name, "ready again: its endpoint {endpoint} is up");
            self.show_ready();
        } else {
            tracing::warn!(target: TARGET, task = %self.name, "not ready any more: its endpoint {endpoint} is down");
            self.show_unready(&format!("its endpoint {endpoint} is down"));
        }
    }

    /// Follows the endpoints that the process depends on.
    fn relied_turned(&mut self) {
        let Some(endpoint) = self.relied.down() else {
            if self.ready.is_some() {
                tracing::info!(target: TARGET, task = %self.name, "ready again: the endpoints that it depends on are up");
            }
            return self.show_ready();
        };
        let why = format!("the endpoint {endpoint} that it depends on is down");
        if self.settings.when_down == WhenDown::Restart {
            tracing::warn!(target: TARGET, task = %self.name, "stopping: {why}");
            self.post.unready(&why);
            return self.ask_to_stop();
        }
        if self.ready.is_some() {
            tracing::warn!(target: TARGET, task = %self.name, "not ready any more: {why}");
        }
        self.show_unready(&why);
    }

    /// Follows the endpoint of the liveness: once it has been up, it must stay so.
    fn liveness_turned(&mut self) {
        if !self.lives {
            self.lives = true;
            return;
        }
        let endpoint = self.settings.liveness.clone().unwrap_or_default();
        self.fail(Fault::NotAlive(endpoint));
        self.ask_to_stop();
    }

    /// Orders the keeper to stop the tree, and sets the time by which it must be gone.
    fn ask_to_stop(&mut self) {
        self.post.enter(State::Stopping);
        self.run.stop();
        let (signal, budget) = (self.settings.stop_signal, self.settings.stop_budget);
        self.post.told(signal);
        self.look
            .prepare(self.run.keeper(), signal, budget, &self.group);
        let until = Instant::now() + self.settings.stop_budget + STOP_MARGIN * 2;
        self.stop = Stop::Asked { until };
    }

    /// Takes the next step when the tree is not gone in time: orders SIGKILL first, then gives up.
    /// Returns true to give up.
    fn escalate(&mut self) -> bool {
        if let Stop::Asked { .. } = self.stop {
            self.run.kill();
            let until = Instant::now() + STOP_MARGIN;
            self.stop = Stop::Killed { until };
            return false;
        }
        // The guardian may have named the processes that survive.
        if !matches!(self.fault, Some(Fault::Unkillable(_))) {
            self.fail(Fault::Unkillable(
                "its guardian is not responding".to_owned(),
            ));
        }
        true
    }

    /// Records a success, and turns what was seen into a result.
    fn end(mut self) -> End {
        self.over = true;
        let success = self.exit.is_some_and(|exit| self.settings.is_success(exit));
        // One that headcount has stopped may not have done all of its work.
        if success && self.stop == Stop::NotAsked {
            self.post.succeeded();
        }
        let is_lost = matches!(self.fault, Some(Fault::Unguarded | Fault::Unkillable(_)));
        if is_lost {
            self.post.lost();
        }
        if is_lost || self.has_killed {
            for reason in &self.reasons {
                tracing::warn!(target: TARGET, task = %self.name, "did not stop: {reason}");
            }
        } else if !self.reasons.is_empty() {
            // It needed its time, and has stopped.
            self.post.unstopped(&[]);
        }
        let up = self.up;
        let fault = match (self.fault.take(), self.exit) {
            (Some(fault), _) => fault,
            (None, _) if !self.empty => Fault::Unguarded,
            (None, Some(exit)) if self.draining && self.stop != Stop::NotAsked => {
                self.log_stop(exit);
                return End::Stopped;
            }
            (None, Some(exit)) if self.pending.is_some() && self.stop != Stop::NotAsked => {
                self.log_stop(exit);
                return End::OnRequest;
            }
            (None, Some(exit)) if self.is_stopped_for_endpoint() => {
                self.log_stop(exit);
                return End::EndpointDown;
            }
            (None, Some(exit)) if success => {
                tracing::info!(target: TARGET, task = %self.name, "{exit}");
                // A process that becomes ready by exiting was ready for no time.
                let by_exit = matches!(self.settings.ready, Ready::Exit(_));
                let up = up.or(by_exit.then_some(Duration::ZERO));
                return End::Success { exit, up };
            }
            (None, Some(exit)) => Fault::Exited(exit),
            (None, None) => Fault::Unguarded,
        };
        for request in self.starting.drain(..) {
            request.refuse(&fault.to_string());
        }
        End::Failure { fault, up }
    }

    /// Returns true if the run was stopped because an endpoint is down.
    fn is_stopped_for_endpoint(&self) -> bool {
        self.stop != Stop::NotAsked
            && self.settings.when_down == WhenDown::Restart
            && self.relied.down().is_some()
    }

    /// Returns how the command ended. A SIGKILL that came from elsewhere, such as the OOM killer, is
    /// called so.
    fn how(&self, exit: Exit) -> String {
        let is_killed = matches!(exit, Exit::Signal { number: 9, .. });
        let is_ours = self.killed || self.settings.stop_signal == StopSignal::Kill;
        if is_killed && !is_ours && self.stop != Stop::NotAsked {
            return format!("{exit}, which headcount did not send");
        }
        exit.to_string()
    }

    /// Logs a stop, as a warning if the command was killed: because its budget had elapsed, or by
    /// something else, such as the OOM killer.
    fn log_stop(&self, exit: Exit) {
        let name = self.name;
        let is_killed = matches!(exit, Exit::Signal { number: 9, .. });
        let how = self.how(exit);
        if !is_killed || self.settings.stop_signal == StopSignal::Kill {
            tracing::info!(target: TARGET, task = %name, "stopped: {how}");
        } else if self.killed {
            let budget = self.settings.stop_budget;
            tracing::warn!(target: TARGET, task = %name, "did not stop within {budget:?}: {how}");
        } else {
            tracing::warn!(target: TARGET, task = %name, "stopped: {how}");
        }
    }
}

impl Drop for Attempt<'_> {
    /// Notes a run that is not watched to its end: dropping the [`Run`] kills the whole tree.
    fn drop(&mut self) {
        let Some(pid) = self.pid.filter(|_| !self.over) else {
            return;
        };
        if self.exit.is_none() {
            self.post.killed(&format!("{} (pid {pid})", self.program()));
            self.post
                .ended("killed by SIGKILL, because its task was cancelled");
        } else {
            self.post.killed("what it had left running");
        }
    }
}

/// Waits until all `processes` are in a final state.
async fn all_final(processes: &mut [(String, watch::Receiver<Status>)]) {
    for (_, status) in processes {
        // An error means that the supervising task is gone.
        status.wait_for(|status| status.state.is_final()).await.ok();
    }
}

// === impl Stop ===

impl Stop {
    /// Waits until the current step of the stop is overdue. Never returns if no stop was asked for.
    async fn overdue(self) {
        match self {
            Self::NotAsked => std::future::pending().await,
            Self::Asked { until } | Self::Killed { until } => sleep_until(until).await,
        }
    }
}
