//! Requests of users to start, stop or restart a process.
//!
//! A request about a running process is taken by its [`Attempt`](super::attempt::Attempt), which stops
//! the run. It is carried out here, once nothing of the run is left. A process that was stopped on
//! request keeps its supervising task, and is in no final state: what depends on it waits.
//!
//! The task of a process that has ended and is not restarted is over. Its supervisor waits in
//! [`start_ended`] for a request.

use std::{
    future::{Future as _, poll_fn},
    ops::ControlFlow,
    pin::pin,
    task::Poll,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{Failure, Supervisor};
use crate::TaskGroup;
use crate::service::process::{TARGET, board::State};
use crate::telemetry::{ChildRequest, ChildVerb};

/// The reason why a process is not started again, not even on request.
const MAY_BE_ALIVE: &str = "some of its last run may still be alive, and a new run could conflict with it; \
    end that by hand and restart headcount";

impl Supervisor {
    /// Carries out the pending request while the process does not run. `Continue` means to start it;
    /// `None` that there is no request.
    pub(super) async fn obey(&mut self) -> Option<ControlFlow<Result<State, Failure>>> {
        let request = self.pending.take()?;
        Some(match request.verb() {
            ChildVerb::Stop => self.stay_stopped(request).await,
            verb => {
                self.start_on(request);
                if verb == ChildVerb::Restart {
                    self.post.restarting();
                }
                ControlFlow::Continue(())
            }
        })
    }

    /// Waits until a request asks for a start, after `request` has asked for a stop; `Break` if the
    /// drain begins first.
    async fn stay_stopped(&mut self, request: ChildRequest) -> ControlFlow<Result<State, Failure>> {
        self.post.unready("stopped on request");
        self.post.enter(State::Held);
        tracing::info!(target: TARGET, task = %self.name, "stays stopped on request");
        request.done("stopped");
        loop {
            let Some(request) = self.group.until_draining(self.requests.next()).await else {
                return ControlFlow::Break(Ok(State::Stopped));
            };
            if request.verb() != ChildVerb::Stop {
                self.start_on(request);
                return ControlFlow::Continue(());
            }
            request.done("it was stopped before");
        }
    }

    /// Makes `request` the reason of the next start, which answers it.
    fn start_on(&mut self, request: ChildRequest) {
        let verb = request.verb().word();
        tracing::info!(target: TARGET, task = %self.name, "{verb} on request");
        self.pending = Some(request);
    }
}

/// Starts processes whose supervising tasks have ended, on request, until `tasks` drains.
///
/// `ended` gets their supervisors; `end` is its sender, for the tasks that are started.
pub(super) async fn start_ended(
    mut ended: UnboundedReceiver<Supervisor>,
    end: UnboundedSender<Supervisor>,
    tasks: TaskGroup,
) {
    let mut waiting: Vec<Supervisor> = Vec::new();
    let mut draining = pin!(tasks.draining());
    loop {
        tokio::select! {
            () = &mut draining => return,
            Some(supervisor) = ended.recv() => waiting.push(supervisor),
            (at, request) = next_of(&mut waiting) => match request.verb() {
                ChildVerb::Stop => request.done("it does not run"),
                _ if waiting[at].may_be_alive => request.refuse(MAY_BE_ALIVE),
                ChildVerb::Start | ChildVerb::Restart => {
                    let mut supervisor = waiting.swap_remove(at);
                    supervisor.start_on(request);
                    supervisor.spawn(end.clone());
                }
            },
        }
    }
}

/// Waits for the next request to any of the supervisors, and returns its place.
async fn next_of(waiting: &mut [Supervisor]) -> (usize, ChildRequest) {
    poll_fn(|cx| {
        for (at, supervisor) in waiting.iter_mut().enumerate() {
            // The channel keeps the waker when this future is dropped.
            if let Poll::Ready(request) = pin!(supervisor.requests.next()).poll(cx) {
                return Poll::Ready((at, request));
            }
        }
        Poll::Pending
    })
    .await
}
