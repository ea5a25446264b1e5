//! The look at a process that does not stop, for the report: it says why, as far as that is visible from
//! outside.
//!
//! It begins when half of the stop budget is over, and after [`LATEST`] at the latest, because nothing of
//! the process is left after its SIGKILL. It runs on a thread of its own, which nothing waits for. At most [`LOOKS`] run at once; the
//! reasons of further processes stay unknown.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::{Instant, sleep_until},
};

use crate::TaskGroup;
use crate::service::process::StopSignal;

/// The most looks at once.
const LOOKS: usize = 4;
/// The shortest stop budget with a look. It takes longer than half of a shorter one.
const SHORTEST: Duration = Duration::from_millis(500);

/// The longest time before a look.
const LATEST: Duration = Duration::from_secs(5);

/// The number of looks that run.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// A look at one run that is being stopped.
#[derive(Debug, Default)]
pub(super) enum Look {
    /// No look is due.
    #[default]
    None,
    Due {
        at: Instant,
        /// The keeper, whose tree is looked at.
        keeper: u32,
        signal: StopSignal,
        group: TaskGroup,
    },
    Begun(UnboundedReceiver<Vec<String>>),
}

/// A place among the looks. Dropping it gives it back.
struct Place;

// === impl Look ===

impl Look {
    /// Prepares for a look at the tree of `keeper`, which was just sent the stop signal.
    pub(super) fn prepare(
        &mut self,
        keeper: Option<u32>,
        signal: StopSignal,
        budget: Duration,
        group: &TaskGroup,
    ) {
        let Some(keeper) = keeper.filter(|_| signal != StopSignal::Kill && budget >= SHORTEST)
        else {
            return;
        };
        *self = Self::Due {
            at: Instant::now() + (budget / 2).min(LATEST),
            keeper,
            signal,
            group: group.clone(),
        };
    }

    /// Looks when it is time, and returns the reasons that are known then, a line for each process; the
    /// next call may return more of them. Never returns if there is nothing more to know.
    ///
    /// # Cancel safety
    /// A look that has begun goes on, and the next call waits for it.
    pub(super) async fn next(&mut self) -> Vec<String> {
        loop {
            let begun = match self {
                Self::None => std::future::pending().await,
                Self::Due {
                    at,
                    keeper,
                    signal,
                    group,
                } => {
                    sleep_until(*at).await;
                    begin(*keeper, *signal, group)
                }
                Self::Begun(look) => {
                    if let Some(reasons) = look.recv().await {
                        return reasons;
                    }
                    None
                }
            };
            *self = begun.map_or(Self::None, Self::Begun);
        }
    }
}

/// Starts a look. `None` if too many run, or no thread can be started.
fn begin(
    keeper: u32,
    signal: StopSignal,
    group: &TaskGroup,
) -> Option<UnboundedReceiver<Vec<String>>> {
    let place = Place::take()?;
    let (tell, look) = mpsc::unbounded_channel();
    let thread = group.thread("child-look").daemon().spawn(move |_stop| {
        let _place = place;
        let number = Signal::from(signal).as_raw();
        // It fails if the run is over.
        unstopped(keeper, number, |reasons| tell.send(reasons).is_ok());
    });
    thread.ok().map(|_| look)
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use crate::inspect::other::unstopped;

/// Other processes cannot be looked at on this system.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn unstopped(_: u32, _: i32, _: impl FnMut(Vec<String>) -> bool) {}

// === impl Place ===

impl Place {
    fn take() -> Option<Self> {
        let taken = LOOKING.fetch_add(1, Ordering::Relaxed);
        let place = Self;
        (taken < LOOKS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}
