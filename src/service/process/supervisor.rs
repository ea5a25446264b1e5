//! The supervising task of each declared process: it waits for the dependencies, runs the command,
//! and decides what follows each end.
//!
//! ```text
//! waiting → starting → ready → stopping → stopped | exited | failed
//!    ↑          ╰────────┴──────→ backoff ─╮
//!    ╰─────────────────────────────────────╯
//! ```
//! A user may stop, start and restart a process in any state; see `requests`.
//!
//! The dependencies are checked again before every start. The tasks communicate only through the
//! board. All of them are told to drain at once, by their group; each one then waits until every
//! process that depends on its own is in a final state before it stops its process. So dependents
//! stop first, and no central component orders the stop.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use self::{
    attempt::{Attempt, End},
    failure::{Failure, Fault},
};
use super::{
    ProcessSettings, Ready, TARGET,
    board::{Board, Dependencies, Post, State, Status},
    exit::Exit,
    output::{Files, LogFile, Sink},
    restart::{Next, Restarts},
    run::{Launcher, Run},
};
use crate::telemetry::{ChildRequest, ChildRequests};
use crate::{TaskGroup, service::endpoint::Health};

mod attempt;
mod failure;
mod relied;
mod requests;
mod unstopped;

/// The time added to a stop budget for the delivery of orders and notices.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// The state of the supervising task of one process.
struct Supervisor {
    name: String,
    settings: ProcessSettings,
    launcher: Launcher,
    post: Post,
    /// The dependencies, all of which must be met before each start.
    needs: Dependencies,
    /// The processes that depend on this one, by name; their statuses must be final before it stops.
    dependents: Vec<(String, watch::Receiver<Status>)>,
    /// True while the endpoint of [`Ready::Endpoint`] is up. `None` for other conditions, or if no
    /// endpoint has that name.
    endpoint: Option<watch::Receiver<Health>>,
    /// True while the endpoint of [`ProcessSettings::liveness`] is up.
    liveness: Option<watch::Receiver<Health>>,
    group: TaskGroup,
    /// Takes the output of all runs.
    sink: Arc<Sink>,
    /// The requests of users.
    requests: ChildRequests,
    /// The request that decides what follows the end of the current run, or that the next start
    /// answers.
    pending: Option<ChildRequest>,
    /// True if some of the last run may be alive. No other run is started then.
    may_be_alive: bool,
    /// The share of the stop budgets in the drain; see [`stop_time`].
    drain_budget: Duration,
}

/// Implements [`super::start_all`], with a launcher that tests can replace. Returns the board, which
/// the tests read.
pub(super) fn start_all(
    processes: BTreeMap<String, ProcessSettings>,
    endpoints: &dyn Fn(&str) -> Option<watch::Receiver<Health>>,
    tasks: &TaskGroup,
    launcher: &Launcher,
) -> Board {
    let group = tasks.group("process");
    let (board, posts) = Board::with(processes.keys());
    let budgets: Vec<_> = processes
        .keys()
        .map(|name| stop_time(name, &processes, &mut BTreeSet::new()))
        .collect();
    let dependents: Vec<_> = processes
        .keys()
        .map(|name| {
            dependents(name, &processes)
                .filter_map(|name| Some((name.clone(), board.watch(name)?)))
                .collect()
        })
        .collect();
    let files = files(&processes, tasks);
    let (end, ended) = mpsc::unbounded_channel();
    if !processes.is_empty() {
        let starter = requests::start_ended(ended, end.clone(), tasks.clone());
        group.task("starter").daemon().spawn(starter);
    }
    for (((process, mut post), drain_budget), dependents) in processes
        .into_iter()
        .zip(posts)
        .zip(budgets)
        .zip(dependents)
    {
        let (name, settings) = process;
        let child = post.show(&name, &group);
        if settings.required {
            post.gate(&name, &group);
        }
        let supervisor = Supervisor {
            needs: board.dependencies(&settings.depends_on, endpoints),
            endpoint: match &settings.ready {
                Ready::Endpoint(endpoint) => endpoints(endpoint),
                _ => None,
            },
            liveness: settings.liveness.as_deref().and_then(endpoints),
            sink: Arc::new(
                Sink::new(&name, &child, log_file(&files, &settings)).hiding(&settings.env),
            ),
            requests: child.requests(),
            pending: None,
            may_be_alive: false,
            drain_budget,
            name,
            settings,
            launcher: launcher.clone(),
            post,
            dependents,
            group: group.clone(),
        };
        supervisor.spawn(end.clone());
    }
    board
}

/// Starts the thread that writes the files of processes, if any has one. Without it, they have none.
fn files(processes: &BTreeMap<String, ProcessSettings>, tasks: &TaskGroup) -> Option<Files> {
    let mut all = processes.values();
    all.find(|settings| settings.log_file.is_some())?;
    let started = Files::start(tasks);
    if let Err(error) = &started {
        tracing::warn!(target: TARGET, "no log_file is written, because the system refuses a thread: {error}");
    }
    started.ok()
}

/// Returns the file of a process.
fn log_file(files: &Option<Files>, settings: &ProcessSettings) -> Option<LogFile> {
    Some(files.as_ref()?.file(settings.log_file.as_ref()?))
}

/// Returns the names of the processes that depend directly on the process `name`.
fn dependents<'a>(
    name: &'a str,
    processes: &'a BTreeMap<String, ProcessSettings>,
) -> impl Iterator<Item = &'a String> {
    let depends = move |settings: &ProcessSettings| settings.depends_on.contains_key(name);
    processes
        .iter()
        .filter_map(move |(name, settings)| depends(settings).then_some(name))
}

/// Returns the drain budget of a process: its own stop budget and margin, after the longest stop
/// time of its dependents.
///
/// `above` holds the names on the path from the first call, to detect cycles.
fn stop_time<'a>(
    name: &'a str,
    processes: &'a BTreeMap<String, ProcessSettings>,
    above: &mut BTreeSet<&'a str>,
) -> Duration {
    // The configuration rejects cycles; this check only ensures that the recursion ends.
    if !above.insert(name) {
        return Duration::ZERO;
    }
    let longest = dependents(name, processes)
        .map(|dependent| stop_time(dependent, processes, above))
        .max();
    above.remove(name);
    let own = processes.get(name).map(|settings| settings.stop_budget);
    own.unwrap_or_default() + STOP_MARGIN + longest.unwrap_or_default()
}

// === impl Supervisor ===

impl Supervisor {
    /// Spawns the supervising task. Once it is over, the supervisor goes to `end`.
    fn spawn(mut self, end: mpsc::UnboundedSender<Self>) {
        let (group, name) = (self.group.clone(), self.name.clone());
        let task = group.task(&name).long_lived();
        let task = task.drain_budget(self.drain_budget);
        let task = if self.settings.required {
            task.required()
        } else {
            task
        };
        task.try_spawn(async move {
            let outcome = self.supervise().await;
            // It fails if the service is stopping.
            end.send(self).ok();
            outcome
        });
    }

    /// Supervises the process until its final state, then logs a failure and records that state.
    async fn supervise(&mut self) -> Result<(), Failure> {
        let outcome = self.run_to_the_end().await;
        match &outcome {
            Ok(state) => self.post.enter(*state),
            Err(failure) => {
                if !self.group.is_draining() {
                    self.post.given_up();
                }
                tracing::error!(target: TARGET, task = %self.name, "{failure}");
                self.post.enter(State::Failed);
                if let Some(request) = self.pending.take() {
                    request.refuse(&failure.to_string());
                }
            }
        }
        outcome.map(drop)
    }

    /// Runs the process, and restarts it, until no restart follows. Returns the final state.
    async fn run_to_the_end(&mut self) -> Result<State, Failure> {
        if let (Ready::Endpoint(endpoint), None) = (&self.settings.ready, &self.endpoint) {
            return Err(Failure::NoEndpoint(endpoint.clone()));
        }
        let mut restarts = Restarts::new(&self.settings);
        loop {
            if self.wait_for_needs().await?.is_break() {
                return Ok(State::Stopped);
            }
            let end = self.run_once().await;
            if let ControlFlow::Break(outcome) = self.after(end, &mut restarts).await {
                return outcome;
            }
        }
    }

    /// Waits until all dependencies are met at the same time; `Break` if the drain begins first.
    ///
    /// # Errors
    /// [`Failure::Dependency`] if a dependency can no longer be met.
    async fn wait_for_needs(&mut self) -> Result<ControlFlow<()>, Failure> {
        if self.group.is_draining() {
            return Ok(ControlFlow::Break(()));
        }
        while let Some(need) = self.needs.unmet() {
            self.post.enter(State::Waiting);
            tracing::info!(target: TARGET, task = %self.name, "waiting for {need}");
            self.post.wait_for(&format!("waiting for {need}"));
            if let Some(request) = self.pending.take() {
                request.done(&format!("it starts later: waiting for {need}"));
            }
            let request = tokio::select! {
                met = self.group.until_draining(need.met()) => match met {
                    Some(met) => { met.map_err(Failure::Dependency)?; continue }
                    None => return Ok(ControlFlow::Break(())),
                },
                request = self.requests.next() => request,
            };
            self.pending = Some(request);
            if let Some(ControlFlow::Break(_)) = self.obey().await {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Runs the command once, until nothing of its tree is left or no more can be done.
    async fn run_once(&mut self) -> End {
        self.post.unready("not ready yet");
        self.post.enter(State::Starting);
        let launched = Run::launch(&self.launcher, &self.name, &self.settings, &self.sink).await;
        let end = match launched {
            Ok(run) => Attempt::new(self, run).watch().await,
            Err(error) => {
                let fault = Fault::NoGuardian(error);
                if let Some(request) = self.pending.take() {
                    request.refuse(&fault.to_string());
                }
                End::failed(fault)
            }
        };
        self.post.gone();
        end
    }

    /// Decides what follows the end of a run. `Continue`, after the delay, means to run it again.
    ///
    /// There is no restart in a drain. There is none either when processes of the run could not be
    /// killed, or may be alive, because a new run could conflict with them.
    async fn after(
        &mut self,
        end: End,
        restarts: &mut Restarts,
    ) -> ControlFlow<Result<State, Failure>> {
        if let End::Failure { fault, .. } = &end
            && fault.is_own_limit()
            && self.pending.is_none()
        {
            return self.hindered(fault, restarts).await;
        }
        let (state, up) = match end {
            End::Stopped => return ControlFlow::Break(Ok(State::Stopped)),
            End::OnRequest => return self.obey().await.unwrap_or(ControlFlow::Continue(())),
            // The next start waits until it is up.
            End::EndpointDown => {
                self.post.restarting();
                return ControlFlow::Continue(());
            }
            End::Success { exit, up } => (Ok(exit), up),
            End::Failure { fault, up } => (Err(fault), up),
        };
        if state.is_ok() && up.is_some() {
            self.post.ready();
        } else {
            self.post.unready("it has ended");
        }
        let final_state = |state: Result<_, Fault>, restarts| match state {
            Ok(_) => Ok(State::Exited),
            Err(fault) => Err(Failure::Fault { fault, restarts }),
        };
        self.may_be_alive = matches!(state, Err(Fault::Unkillable(_) | Fault::Unguarded));
        if self.group.is_draining() || self.may_be_alive {
            return ControlFlow::Break(final_state(state, 0));
        }
        if let Some(request) = &self.pending {
            let (verb, what) = (request.verb().word(), words(&state));
            tracing::info!(target: TARGET, task = %self.name, "{what}, before the {verb} on request");
            return self.obey().await.unwrap_or(ControlFlow::Continue(()));
        }
        let (delay, number) = match restarts.after(state.is_ok(), up) {
            Next::Final => return ControlFlow::Break(final_state(state, 0)),
            Next::GiveUp { restarts } => {
                return ControlFlow::Break(final_state(state, restarts));
            }
            Next::Again { delay, number } => (delay, number),
        };
        let what = words(&state);
        let seconds = delay.as_secs_f64();
        match self.settings.max_restarts {
            Some(limit) => {
                tracing::warn!(target: TARGET, task = %self.name, "{what}; restart {number} of {limit} in {seconds:.1}s");
            }
            None => {
                tracing::warn!(target: TARGET, task = %self.name, "{what}; restart {number} in {seconds:.1}s");
            }
        }
        let paused = self.pause(delay).await;
        // One on request is counted already.
        if paused.is_continue() && self.pending.is_none() {
            self.post.restarting();
        }
        paused
    }

    /// Tries again later after a start that a limit of this process or machine has prevented. That
    /// says nothing about the command, so it counts as no failure.
    async fn hindered(
        &mut self,
        fault: &Fault,
        restarts: &Restarts,
    ) -> ControlFlow<Result<State, Failure>> {
        let delay = restarts.delay();
        let seconds = delay.as_secs_f64();
        tracing::warn!(
            target: TARGET, task = %self.name,
            "{fault}: a limit of this process or machine is reached; next try in {seconds:.1}s"
        );
        self.pause(delay).await
    }

    /// Waits before the next start; `Break` if the drain begins first. A request ends the wait.
    async fn pause(&mut self, delay: Duration) -> ControlFlow<Result<State, Failure>> {
        self.post.enter(State::Backoff);
        let request = tokio::select! {
            waited = self.group.until_draining(sleep(delay)) => match waited {
                Some(()) => return ControlFlow::Continue(()),
                None => return ControlFlow::Break(Ok(State::Stopped)),
            },
            request = self.requests.next() => request,
        };
        self.pending = Some(request);
        self.obey().await.unwrap_or(ControlFlow::Continue(()))
    }
}

/// Returns the end of a run in words.
fn words(end: &Result<Exit, Fault>) -> String {
    match end {
        Ok(exit) => exit.to_string(),
        Err(fault) => fault.to_string(),
    }
}
