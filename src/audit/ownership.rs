//! The owner of an unknown thread or child: the service, headcount itself, or other code in the
//! process.
//!
//! Three questions are kept apart. [`UnknownThreads`] is the setting of a runtime: what to make of
//! a thread that headcount knows nothing of. [`OwnChildren`] remembers processes while their origin
//! can still be seen. [`may_be_ours`] keeps headcount from reporting its own threads in the moment
//! before they register. The rules for threads of known libraries are not here, but in `threads`
//! and `shutdown`.

use super::{Audited, Baseline, Child};
use crate::threads;
use std::collections::HashSet;
use std::time::Duration;

/// The longest that a thread may take to start on a busy machine.
///
/// It is long on purpose: an overloaded machine may not run a new thread for seconds, and a false
/// "lingering" is worse than a late one.
pub(crate) const STARTING: Duration = Duration::from_secs(5);
/// The treatment of threads that are neither registered nor in the baseline.
#[derive(Debug, Clone)]
pub(crate) enum UnknownThreads {
    /// They linger.
    Linger,
    /// They linger if they descend from a thread with this tag, at any remove. Other threads belong
    /// to someone else, such as another test.
    #[cfg(target_os = "linux")]
    LingerIfTagged(super::tag::Tag),
    /// They are expected. A runtime that the application owns starts threads too, and they cannot
    /// be told from others.
    Expect,
}

/// The child processes that are the service's.
///
/// Children are recorded while the threads that forked them exist, because the kernel reparents
/// them when those end.
#[derive(Debug, Default)]
pub(crate) struct OwnChildren {
    /// A pid stays in it after its process has ended; [`OwnChildren::alive`] lists only those that
    /// still exist.
    pids: HashSet<u32>,
}

// === impl OwnChildren ===

impl OwnChildren {
    /// Records the children that are ours at this moment.
    ///
    /// Called when a shutdown begins and again by the cancel layer. Costs a listing of all
    /// children.
    pub(crate) fn note(&mut self, baseline: &Baseline, unknown: &UnknownThreads) {
        let ours = super::children(baseline)
            .into_iter()
            .filter(|child| unknown.owns_child(child));
        self.pids.extend(ours.map(|child| child.pid));
    }

    /// Returns the children that are ours and still exist.
    ///
    /// A pid that was reused by a child of other code during the shutdown would be counted as ours.
    pub(crate) fn alive(&self, baseline: &Baseline, unknown: &UnknownThreads) -> Vec<Child> {
        super::children(baseline)
            .into_iter()
            .filter(|child| self.pids.contains(&child.pid) || unknown.owns_child(child))
            .collect()
    }
}

// === impl UnknownThreads ===

impl UnknownThreads {
    /// Returns whether an unknown thread lingers, rules aside.
    ///
    /// For a tag it reads the thread's signals, so it costs a file.
    pub(crate) fn lingers(&self, thread: &Audited) -> bool {
        match self {
            Self::Linger => true,
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(tag) => tag.marks_thread(thread.os.key.tid),
            Self::Expect => false,
        }
    }

    /// Returns whether the thread may just be starting, so that its tag cannot be read yet. A
    /// thread that has existed for longer blocks all signals for reasons of its own.
    ///
    /// The close layer waits for such a thread up to [`STARTING`] beyond its budget.
    pub(crate) fn is_undecided(&self, thread: &Audited) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(_) => {
                thread.age < STARTING && super::tag::may_be_starting(thread.os.key.tid)
            }
            Self::Linger | Self::Expect => false,
        }
    }

    /// Returns whether a child outside the baseline is ours.
    ///
    /// For a tag it asks the thread that forked the child, which must still exist.
    pub(crate) fn owns_child(&self, child: &Child) -> bool {
        match self {
            Self::Linger => true,
            #[cfg(target_os = "linux")]
            Self::LingerIfTagged(tag) => tag.marks_thread(child.forked_by),
            Self::Expect => false,
        }
    }
}

/// Returns whether the thread may belong to the control side and has not registered yet. Until then
/// only its name identifies it, which is its own or that of the thread that started it. The name is
/// trusted only for as long as a start may take.
///
/// The name of the workers is excluded: they are the service's and register as they start.
pub(crate) fn may_be_ours(thread: &Audited) -> bool {
    let comm = &thread.os.comm;
    thread.age < STARTING && comm.starts_with("headcount-") && comm != threads::WORK
}
