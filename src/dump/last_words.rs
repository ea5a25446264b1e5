//! The last words: what is still alive when the deadline has passed, printed just before the process
//! ends.
//!
//! They run on the thread `headcount-last`, which was started when the watchdog was armed, and may
//! take locks and allocate. If a lock is held forever, the process ends without them half a second
//! after the deadline: the watchdog does not wait longer.
//!
//! ```text
//! 0          begin: registry at once, kernel and stacks for at most 250 ms
//! then       the tree is written: tasks, threads with addresses, children
//! 430 ms     end of symbolizing; the threads are written again if any stack has names
//! 500 ms     _exit(70)
//! ```
//!
//! They write to the descriptor directly: the printing thread may be stuck. No task is asked what
//! it awaits, because no task is expected to be polled any more.

use super::Dumper;
use crate::control::output::{self, Stream};
use crate::control::plan::Plan;
use crate::control::progress::Progress;
use crate::registry::query::await_query::Answers;
use crate::report;
use std::sync::Arc;
use std::time::Duration;

/// The longest wait of the last words for what the kernel knows of threads and children. Half of
/// the time: the rest is for symbols and for writing.
const LOOK_BUDGET: Duration = Duration::from_millis(250);
/// The time for the last words to symbolize stacks, counted from their beginning. The watchdog
/// waits for half a second in all. The 70 ms that are left are for the second write.
const NAMES_BUDGET: Duration = Duration::from_millis(430);
/// A deadline that is noticed this late passed while the process was not running. The thread
/// otherwise notices it within milliseconds. A machine that was suspended does not count, because
/// the clock stands still then.
const PAUSED: Duration = Duration::from_secs(1);

/// Returns the function that prints the last words when the deadline has passed: what is still
/// alive, then the threads again with symbolized stacks if there is time. Prepared at the start, so
/// nothing is formatted or cloned at the deadline but what is printed. A write that fails is
/// ignored; there is no other way out.
pub(crate) fn last_words(
    plan: &Plan,
    dumper: &Dumper,
    progress: &Arc<Progress>,
) -> impl FnOnce(Duration) + Send + use<> {
    let (service, deadline) = (plan.service.clone(), plan.deadline);
    let (dumper, progress) = (dumper.clone(), Arc::clone(progress));
    move |late| {
        let (deadline, when) = (report::brief(deadline), progress.when());
        let paused = if late < PAUSED {
            String::new()
        } else {
            // The tasks listed below may have had no time to end.
            let late = report::brief(late);
            format!(" {late} ago, while the process was stopped or got no CPU time")
        };
        let head = format!(
            "headcount {service}: forced: the deadline of {deadline} passed {when}{paused}; still alive:\n"
        );
        let begun = std::time::Instant::now();
        let mut taken = dumper.take(LOOK_BUDGET);
        let text = head + &taken.dump().tree();
        output::write(Stream::Stderr, text.as_bytes()).ok();
        // The essential part is written. Symbolizing may take longer than there is time.
        if taken.name(dumper.symbolizer(), Answers::new(), begun + NAMES_BUDGET) {
            let head = format!("headcount {service}: the same threads with function names:\n");
            let text = head + &taken.dump().threads_tree();
            output::write(Stream::Stderr, text.as_bytes()).ok();
        }
    }
}
