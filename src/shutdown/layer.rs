//! A layer in progress: its budget, its status line, and the wait for its work, for messages or for a
//! tick.
//!
//! A layer does not know its work. It holds the two clocks that the work is measured with: the
//! configured budget for the report, and `until` for the waits.

pub(super) mod progress_line;

use crate::control::message::Message;
use crate::report::Timing;
use progress_line::ProgressLine;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// A layer in progress.
pub(super) struct Layer {
    /// Taken when the layer is made; the layer's time in the report counts from here.
    begun: Instant,
    /// The configured budget, which the report shows.
    budget: Duration,
    /// The end of the budget or of the deadline, whichever is first. Every wait of the layer's work
    /// ends here by itself.
    pub(super) until: Instant,
    /// True if a second signal cut the layer short. The end of the budget or of the deadline does
    /// not set it.
    pub(super) cut: bool,
    /// Drawn at each tick, and erased before the wait returns.
    pub(super) line: ProgressLine,
}

// === impl Layer ===

impl Layer {
    /// Begins a layer that may take `left` of its budget. `left` is smaller than `budget` if the
    /// deadline is near, and zero if it has passed.
    pub(super) fn new(budget: Duration, left: Duration, line: ProgressLine) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            budget,
            until: begun + left,
            cut: false,
            line,
        }
    }

    /// Returns the time that the budget and the deadline leave. Zero after the end, never negative.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Returns the timing of the layer, as of this moment.
    pub(super) fn timing(&self) -> Timing {
        Timing {
            took: self.begun.elapsed(),
            budget: self.budget,
            cut: self.cut,
        }
    }
}

/// Waits for `work`, and polls `side` with it. Returns the result of `side` too, if it was done by
/// then.
pub(super) async fn alongside<T, S>(
    work: impl Future<Output = T>,
    side: impl Future<Output = S>,
) -> (T, Option<S>) {
    let (mut work, mut side) = (pin!(work), pin!(side));
    let mut done = None;
    let work = std::future::poll_fn(|cx| {
        let result = work.as_mut().poll(cx);
        if done.is_none()
            && result.is_pending()
            && let Poll::Ready(side) = side.as_mut().poll(cx)
        {
            done = Some(side);
        }
        result
    })
    .await;
    (work, done)
}

/// The event that [`select`] returned for.
///
/// One event for each call, so that the loop around it decides the order of what follows.
pub(super) enum Step<T> {
    /// The work has ended, with its result.
    Done(T),
    /// A message; `None` when all senders are gone, which stays so.
    Heard(Option<Message>),
    /// The timer of the status line, or that of the wait.
    Tick,
}

/// Waits for the first of three events. If several are ready, the work wins, then the message.
///
/// `work` is pinned by the caller and survives the call, so the next call continues it. `message`
/// and `tick` are dropped when the call returns: they must be cancel safe, as
/// `UnboundedReceiver::recv` and `sleep` are.
///
/// The order is fixed instead of random, as in `tokio::select!` by default: a signal that arrives
/// with the result must not turn a layer that has finished into one that was cut.
pub(super) async fn select<T>(
    mut work: std::pin::Pin<&mut impl Future<Output = T>>,
    message: impl Future<Output = Option<Message>>,
    tick: impl Future<Output = ()>,
) -> Step<T> {
    let (mut message, mut tick) = (pin!(message), pin!(tick));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(Step::Done(result));
        }
        if let Poll::Ready(message) = message.as_mut().poll(cx) {
            return Poll::Ready(Step::Heard(message));
        }
        tick.as_mut().poll(cx).map(|()| Step::Tick)
    })
    .await
}
