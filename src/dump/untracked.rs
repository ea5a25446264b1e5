//! The types and await chains of untracked tasks, read on a thread of its own within a budget.
//!
//! Only a dump and the report of a shutdown need them. At most one read is under way in the process,
//! because it holds a copy of the debug information; a request meanwhile gets the types that are known.

use super::at_most::AtMost;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use crate::inspect::describe::describe;
#[cfg(feature = "admin")]
use crate::inspect::subject::is_new;
use crate::inspect::subject::{Description, Subject, remember};
use crate::report::UntrackedTasks;
use crate::threads;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The name of the threads. Dumps leave them out.
pub(super) const THREAD_NAME: &str = "headcount-types";
/// The most reads at once.
const READS: usize = 1;

/// The reads that are under way, in the whole process.
static READING: AtMost = AtMost::new(READS);

/// The pause between two looks for the result.
const LOOK: Duration = Duration::from_millis(2);

/// A read that is under way. It ends by itself if this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Describing(Option<Receiver<Descriptions>>);

/// The descriptions of the rows of untracked tasks, in their order.
type Descriptions = Vec<Description>;

// === impl Describing ===

impl Describing {
    /// Begins to read the types of tasks and what they await. `until`: the end of the time for that,
    /// after which the rest is left out. Nothing is read without the feature `stacks`, or if there are
    /// no tasks.
    pub(crate) fn begin(root: u64, tasks: &UntrackedTasks, until: Instant) -> Self {
        Self::read(root, tasks.subjects(), until)
    }

    fn read(root: u64, subjects: Vec<Subject>, until: Instant) -> Self {
        if subjects.is_empty() {
            return Self::default();
        }
        let Some(reading) = READING.begin() else {
            return Self::default();
        };
        let (tell, told) = channel();
        let started = threads::start_own(root, THREAD_NAME, move || {
            let _reading = reading;
            let read = read_once(&subjects, || describe(&subjects, until));
            // Fails if the wait timed out.
            tell.send(read).ok();
        });
        Self(started.is_ok().then_some(told))
    }

    /// Begins to read the types that were never read, without waiting for them.
    #[cfg(feature = "admin")]
    pub(crate) fn begin_new(root: u64, mut subjects: Vec<Subject>) {
        subjects.retain(|subject| is_new(subject.table));
        drop(Self::read(root, subjects, Instant::now()));
    }

    /// Waits for the read until `until`, and puts what it found into the rows.
    pub(crate) async fn complete(mut self, tasks: &mut UntrackedTasks, until: Instant) {
        while self.is_under_way(tasks) && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    /// Like [`complete`](Self::complete), but blocks the calling thread.
    pub(crate) fn complete_blocking(mut self, tasks: &mut UntrackedTasks, until: Instant) {
        while self.is_under_way(tasks) && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }

    /// Puts the result into the rows, if it is there. Returns whether it may still come.
    fn is_under_way(&mut self, tasks: &mut UntrackedTasks) -> bool {
        match self.0.as_ref().map(Receiver::try_recv) {
            Some(Ok(read)) => tasks.describe(read),
            Some(Err(TryRecvError::Empty)) => return true,
            Some(Err(TryRecvError::Disconnected)) | None => {}
        }
        self.0 = None;
        false
    }
}

/// Reads the descriptions of subjects, and remembers their types. A program that cannot be read now, or
/// makes the reader panic, is not read for each request again.
fn read_once(
    subjects: &[Subject],
    read: impl FnOnce() -> Result<Descriptions, String>,
) -> Descriptions {
    let read = catch_unwind(AssertUnwindSafe(read));
    let nothing = || vec![Description::default(); subjects.len()];
    let read = read.ok().and_then(Result::ok).unwrap_or_else(nothing);
    remember(subjects, &read);
    read
}

/// Reads nothing, because debug information is not read here.
#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn describe(_: &[Subject], _: Instant) -> Result<Descriptions, String> {
    Err("not supported".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Description, Subject, read_once};
    use crate::inspect::subject::is_new;

    #[test]
    fn a_type_whose_read_fails_or_panics_is_not_read_again() {
        // Addresses that no table of functions has.
        let failing = Subject {
            table: 1,
            ..Subject::default()
        };
        let panicking = Subject {
            table: 2,
            ..Subject::default()
        };
        let subjects = [failing];
        let read = read_once(&subjects, || Err("no".to_owned()));
        assert_eq!(read, [Description::default()]);
        assert!(!is_new(1));
        let subjects = [panicking];
        let read = read_once(&subjects, || panic!("the reader has a defect"));
        assert_eq!(read, [Description::default()]);
        assert!(!is_new(2));
    }
}
