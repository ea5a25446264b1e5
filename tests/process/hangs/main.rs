//! Programs that do not shut down, each with one culprit: `hangs headcount NAME`. It prints "ready" when the
//! culprit is stuck; then SIGTERM either stops the program or does not.
//!
//! `hangs tracker NAME` and `hangs graceful NAME` run the same culprit under tokio-util's `TaskTracker` and under
//! tokio-graceful-shutdown. `hangs table` runs them all and prints docs/culprits.md.
//!
//! The line that a report must lead to has a mark at its end: the culprit's name.

mod dependency;
mod foreign;
mod host;
mod list;
mod peers;
mod table;
mod tasks;
mod threads;
mod workers;

use std::process::{ExitCode, Termination};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of parts that must call `begun` before the process may be told to stop.
static TO_BEGIN: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => {
            for culprit in list::CULPRITS {
                println!("{}", culprit.name);
            }
            ExitCode::SUCCESS
        }
        ["table"] => table::print(),
        [peer, name] => {
            let culprit = list::named(name);
            // The service itself counts as one more part.
            TO_BEGIN.store(culprit.parts + 1, Ordering::Release);
            match peer {
                "headcount" => peers::headcount(culprit),
                "tracker" => peers::tracker(culprit),
                "graceful" => peers::graceful(culprit).report(),
                other => panic!("no peer '{other}'"),
            }
        }
        _ => panic!("hangs headcount|tracker|graceful NAME, hangs list, hangs table"),
    }
}

/// Counts down the parts: each part of a culprit calls this right before it gets stuck, and so does the service.
fn begun() {
    if TO_BEGIN.fetch_sub(1, Ordering::AcqRel) == 1 {
        println!("ready");
    }
}
