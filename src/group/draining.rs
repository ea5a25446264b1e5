//! The wait of a task until its group is told to drain.
//!
//! The flag of the group is looked at before tokio's budget. A loop that polls a channel first, and
//! the drain only when the channel has nothing, would otherwise never see the flag if the channel
//! is closed: the channel is ready until the budget is used up, and without a budget the drain
//! would be pending too.

use crate::registry::scope::Scope;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::task::coop;

/// The number of times in a row that a task is told without a budget. It is as large as tokio's
/// budget, so a task that awaits the drain in a loop yields after twice as many rounds.
const BEYOND: u8 = 128;

thread_local! {
    /// The number of times since the last yield that a task on this thread was told without a
    /// budget. It has no destructor, so it is there until the thread is gone.
    static TOLD: Cell<u8> = const { Cell::new(0) };
}

/// Waits until the group of a scope is told to drain.
///
/// # Cancel safety
///
/// Nothing is lost if the future is dropped.
pub(super) async fn told(scope: &'static Scope) {
    // Created before the flag is read, so that a notification in between completes it. The
    // notification alone is enough: a drain that leaves no tasks resets the flag, perhaps before a
    // daemon has read it.
    let mut requested = pin!(scope.drain_requested().notified());
    poll_fn(|cx| {
        if !scope.is_draining() {
            ready!(requested.as_mut().poll(cx));
        }
        tell(cx)
    })
    .await;
}

/// Tells a task that its group drains. Pending, with the task woken, only if the task has used up
/// its budget and was told [`BEYOND`] times since.
fn tell(cx: &mut Context<'_>) -> Poll<()> {
    let times = TOLD.get();
    if !coop::has_budget_remaining() && times < BEYOND {
        TOLD.set(times + 1);
        return Poll::Ready(());
    }
    TOLD.set(0);
    ready!(coop::poll_proceed(cx)).made_progress();
    Poll::Ready(())
}
