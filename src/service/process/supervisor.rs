//! One task for each declared process: waits for what it depends on, runs it, and decides what follows each of its ends.
//!
//! ```text
//! waiting → starting → ready → stopping → stopped | exited | failed
//!    ↑          ╰────────┴──────→ backoff ─╮
//!    ╰─────────────────────────────────────╯
//! ```
//! Dependencies are asked again before every start. The tasks know each other only by the board: a task is told to stop by its group, and
//! then first waits until all that depend on its process are final; nobody directs the order.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use self::{
    attempt::{Attempt, End},
    failure::{Failure, Fault},
};
use super::{
    Condition, ProcessSettings, Ready,
    board::{Board, Post, State, Status},
    restart::{Next, Restarts},
    run::{Launcher, Run},
};
use crate::TaskGroup;

mod attempt;
mod failure;

/// The target of what is said about processes.
const TARGET: &str = "headcount::process";
/// Added to the stop budgets for the way of orders and notices.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Everything that the task of one process holds.
struct Supervisor {
    name: String,
    settings: ProcessSettings,
    launcher: Launcher,
    post: Post,
    needs: Vec<Need>,
    dependents: Vec<watch::Receiver<Status>>,
    endpoint: Option<watch::Receiver<bool>>,
    group: TaskGroup,
}

/// A process that this one depends on.
struct Need {
    name: String,
    condition: Condition,
    /// `None` when no process has the name.
    status: Option<watch::Receiver<Status>>,
}

/// See [`super::start_all`].
pub(super) fn start_all(
    processes: BTreeMap<String, ProcessSettings>,
    endpoints: &dyn Fn(&str) -> Option<watch::Receiver<bool>>,
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
                .filter_map(|name| board.watch(name))
                .collect()
        })
        .collect();
    for (((process, mut post), budget), dependents) in processes
        .into_iter()
        .zip(posts)
        .zip(budgets)
        .zip(dependents)
    {
        let (name, settings) = process;
        let required = settings.required;
        post.show(&name, tasks);
        let supervisor = Supervisor {
            needs: needs(&settings, &board),
            endpoint: match &settings.ready {
                Ready::Endpoint(endpoint) => endpoints(endpoint),
                _ => None,
            },
            name: name.clone(),
            settings,
            launcher: launcher.clone(),
            post,
            dependents,
            group: group.clone(),
        };
        let task = group.task(&name).long_lived().drain_budget(budget);
        let task = if required { task.required() } else { task };
        task.try_spawn(supervisor.supervise());
    }
    board
}

fn needs(settings: &ProcessSettings, board: &Board) -> Vec<Need> {
    let need = |(name, condition): (&String, &Condition)| Need {
        name: name.clone(),
        condition: *condition,
        status: board.watch(name),
    };
    settings.depends_on.iter().map(need).collect()
}

fn dependents<'a>(
    name: &'a str,
    processes: &'a BTreeMap<String, ProcessSettings>,
) -> impl Iterator<Item = &'a String> {
    let depends = move |settings: &ProcessSettings| settings.depends_on.contains_key(name);
    processes
        .iter()
        .filter_map(move |(name, settings)| depends(settings).then_some(name))
}

/// How long a process may take from the drain to its end: its own stop, after the longest of those that depend on it.
fn stop_time<'a>(
    name: &'a str,
    processes: &'a BTreeMap<String, ProcessSettings>,
    above: &mut BTreeSet<&'a str>,
) -> Duration {
    // A cycle is refused with the configuration; here it must only end.
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
    async fn supervise(mut self) -> Result<(), Failure> {
        let outcome = self.run_to_the_end().await;
        match &outcome {
            Ok(state) => self.post.enter(*state),
            Err(failure) => {
                tracing::error!(target: TARGET, task = %self.name, "{failure}");
                self.post.enter(State::Failed);
            }
        }
        outcome.map(drop)
    }

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
            self.post.restarting();
        }
    }

    /// Waits until everything that this process depends on holds at once; `Break` when told to drain first.
    async fn wait_for_needs(&mut self) -> Result<ControlFlow<()>, Failure> {
        if self.group.is_draining() {
            return Ok(ControlFlow::Break(()));
        }
        while let Some(need) = self.needs.iter_mut().find(|need| !need.is_met()) {
            self.post.enter(State::Waiting);
            tracing::info!(target: TARGET, task = %self.name, "waits for {need}");
            match self.group.until_draining(need.met()).await {
                Some(met) => met?,
                None => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn run_once(&mut self) -> End {
        self.post.ready(false);
        self.post.enter(State::Starting);
        let launched = Run::launch(&self.launcher, &self.name, &self.settings).await;
        let end = match launched {
            Ok(run) => Attempt::new(self, run).watch().await,
            Err(error) => End::failed(Fault::NoGuardian(error)),
        };
        self.post.gone();
        end
    }

    /// Decides what follows, and waits for it: `Continue` to run again.
    async fn after(
        &self,
        end: End,
        restarts: &mut Restarts,
    ) -> ControlFlow<Result<State, Failure>> {
        let (state, up) = match end {
            End::Stopped => return ControlFlow::Break(Ok(State::Stopped)),
            End::Success { exit, up } => (Ok(exit), up),
            End::Failure { fault, up } => (Err(fault), up),
        };
        self.post.ready(state.is_ok() && up.is_some());
        let final_state = |state: Result<_, Fault>, restarts| match state {
            Ok(_) => Ok(State::Exited),
            Err(fault) => Err(Failure::Fault { fault, restarts }),
        };
        if self.group.is_draining() || matches!(state, Err(Fault::Unkillable(_))) {
            return ControlFlow::Break(final_state(state, 0));
        }
        let (delay, number) = match restarts.after(state.is_ok(), up) {
            Next::Final => return ControlFlow::Break(final_state(state, 0)),
            Next::GiveUp { restarts } => {
                return ControlFlow::Break(final_state(state, restarts));
            }
            Next::Again { delay, number } => (delay, number),
        };
        let what = state.map_or_else(|fault| fault.to_string(), |exit| exit.to_string());
        let seconds = delay.as_secs_f64();
        match self.settings.max_restarts {
            Some(limit) => {
                tracing::warn!(target: TARGET, task = %self.name, "{what}; restart {number} of {limit} in {seconds:.1}s");
            }
            None => {
                tracing::warn!(target: TARGET, task = %self.name, "{what}; restart {number} in {seconds:.1}s");
            }
        }
        self.post.enter(State::Backoff);
        match self.group.until_draining(sleep(delay)).await {
            Some(()) => ControlFlow::Continue(()),
            None => ControlFlow::Break(Ok(State::Stopped)),
        }
    }
}

// === impl Need ===

impl Need {
    fn is_met(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|status| status.borrow().meets(self.condition))
    }

    /// Waits until it is met; an error when it never can be.
    async fn met(&mut self) -> Result<(), Failure> {
        let condition = self.condition;
        let decided = |status: &Status| status.meets(condition) || status.state.is_final();
        let state = match &mut self.status {
            // The last state that a task leaves is final.
            Some(status) => status
                .wait_for(decided)
                .await
                .ok()
                .map(|status| status.state),
            None => None,
        };
        if self.is_met() {
            return Ok(());
        }
        Err(Failure::Dependency {
            need: self.to_string(),
            state,
        })
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.condition {
            Condition::Started => "started",
            Condition::Ready => "ready",
            Condition::Exited => "done",
        };
        write!(f, "{} to be {what}", self.name)
    }
}
