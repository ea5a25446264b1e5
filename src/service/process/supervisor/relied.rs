//! The endpoints that a running process relies on.

use std::{
    future::{Future as _, poll_fn},
    task::Poll,
};

use tokio::{sync::watch, time::Instant};

use crate::service::{
    endpoint::Health,
    process::{WhenDown, board::Dependencies},
};

/// The endpoints among the dependencies of a process, as far as it follows them while it runs.
#[derive(Debug)]
pub(super) struct Relied {
    endpoints: Vec<(String, watch::Receiver<Health>)>,
    /// The endpoint that was found to be down.
    down: Option<usize>,
}

// === impl Relied ===

impl Relied {
    /// Returns the endpoints of these dependencies; none if the process does not follow them.
    pub(super) fn on(needs: &Dependencies, when_down: WhenDown) -> Self {
        let endpoints = match when_down {
            WhenDown::Ignore => Vec::new(),
            WhenDown::Unready | WhenDown::Restart => needs.endpoints(),
        };
        Self {
            endpoints,
            down: None,
        }
    }

    /// Returns the endpoint that is down, as of the last [`turn`](Self::turn).
    pub(super) fn down(&self) -> Option<&str> {
        self.down.map(|at| &*self.endpoints[at].0)
    }

    /// Waits until one of the endpoints is down, or if one was, until all are up. Endpoints that are no
    /// longer checked do not change. Never returns if there is none.
    ///
    /// # Cancel safety
    /// No change is lost.
    pub(super) async fn turn(&mut self) {
        loop {
            let mut all = self.endpoints.iter_mut();
            let down = all.position(|(_, health)| !health.borrow_and_update().is_up);
            if down.is_some() != self.down.is_some() {
                self.down = down;
                return;
            }
            self.down = down;
            let open = self.endpoints.iter_mut();
            let open = open.filter(|(_, health)| health.has_changed().is_ok());
            let mut changes: Vec<_> = open.map(|(_, health)| Box::pin(health.changed())).collect();
            poll_fn(|cx| {
                let polled = changes.iter_mut().map(|change| change.as_mut().poll(cx));
                // All are polled, so that each can wake this task.
                match polled.fold(false, |any, change| any | change.is_ready()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
    }
}

/// Waits until checks that were begun after `start` find the endpoint up, or until it is not up. Never
/// returns if there is no endpoint, or if its task has ended.
pub(super) async fn turns(
    endpoint: &mut Option<&mut watch::Receiver<Health>>,
    to: bool,
    start: Instant,
) {
    let has_come = |health: &Health| {
        if to {
            health.is_up_since(start)
        } else {
            !health.is_up
        }
    };
    let has_turned = match endpoint {
        Some(endpoint) => endpoint.wait_for(has_come).await.is_ok(),
        None => false,
    };
    if !has_turned {
        std::future::pending::<()>().await;
    }
}
