//! A service around a culprit, under headcount and under its peers.

use crate::begun;
use crate::host::Host;
use crate::list::{Culprit, Leaves};
use headcount::{Runtime, TaskGroup};
use std::error::Error;
use std::process::{ExitCode, Termination};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_graceful_shutdown::{SubsystemHandle, Toplevel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A deadline that is never reached.
const LONG: Duration = Duration::from_secs(60);
/// The timeout of the peers for their tasks.
const WAITED: Duration = Duration::from_secs(1);
/// Long enough for all other tasks to end, even on a busy machine.
const DRAIN: Duration = Duration::from_millis(500);
/// A budget that is used up.
const SHORT: Duration = Duration::from_millis(300);
/// A budget that is not used up even on the slowest machine.
const AMPLE: Duration = Duration::from_secs(20);

pub(crate) fn headcount(culprit: &'static Culprit) -> ExitCode {
    let (cancel, close) = match culprit.leaves {
        Leaves::Nothing => (AMPLE, AMPLE),
        Leaves::Threads => (AMPLE, SHORT),
        Leaves::Tasks => (SHORT, SHORT),
    };
    let runtime = Runtime::builder()
        .name(culprit.name)
        .worker_threads(2)
        .drain_budget(DRAIN)
        .cancel_budget(cancel)
        .close_budget(close)
        // Symbolizing takes seconds in a debug build.
        .deadline(LONG)
        .build()
        .expect("the system has threads");
    let main = async |tasks: TaskGroup| {
        (culprit.place)(&Host::Headcount(tasks.clone()));
        begun();
        tasks.draining().await;
    };
    let report = runtime.run(main); // mark: main of hangs
    report.report()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system has threads")
}

/// Runs the example of the documentation, with a timeout, without which there would be no output. The runtime is
/// dropped at the end, as `#[tokio::main]` does.
pub(crate) fn tracker(culprit: &'static Culprit) -> ExitCode {
    runtime().block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("it can be caught");
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        (culprit.place)(&Host::Tracker(tracker.clone(), token.clone()));
        begun();
        terminate.recv().await;
        token.cancel();
        tracker.close();
        match tokio::time::timeout(WAITED, tracker.wait()).await {
            Ok(()) => {
                eprintln!("all tasks ended");
                ExitCode::SUCCESS
            }
            Err(_) => {
                eprintln!("deadline has elapsed, len() = {}", tracker.len());
                ExitCode::FAILURE
            }
        }
    })
}

pub(crate) fn graceful(culprit: &'static Culprit) -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .init();
    runtime().block_on(async {
        let toplevel = Toplevel::new(async |system: &mut SubsystemHandle| {
            if !culprit.is_in_main {
                (culprit.place)(&Host::Graceful(system));
            }
            system.on_shutdown_requested().await;
        });
        let toplevel = toplevel.catch_signals();
        if culprit.is_in_main {
            let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
            (culprit.place)(&Host::Tracker(tracker, token));
        }
        begun();
        toplevel
            .handle_shutdown_requests(WAITED)
            .await
            .map_err(Into::into)
    })
}
