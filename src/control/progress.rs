//! The progress of a shutdown, for observers: its phase, when it began and why, how long each phase
//! took, and the report.
//!
//! The pipeline writes it; dumps, metrics, the admin server and the watchdog read it. The phase is
//! an atomic, because dumps and the watchdog's last words must not wait for a lock. The rest is
//! behind a mutex that is held only for a few assignments or a clone.
//!
//! ```text
//!            begin       enter(Draining)  enter(Cancelling)  enter(Closing)  enter(Done)  publish
//! phase      Running     Draining         Cancelling         Closing         Done         Done
//! reason     set         set              set                set             set          set
//! report     -           -                -                  -               -            set
//! ```
//!
//! The pre-drain delay belongs to `Running`: it has a reason, from which readiness fails. There is
//! no event of a change; readers look when they are asked.

use crate::registry::count::warnings::Warning;
use crate::report::dump::Phase;
use crate::report::{Reason, Report};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "admin")]
use std::time::Duration;
use std::time::{Instant, SystemTime};

/// The progress of the shutdown of one root.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The number of the [`Phase`]. Written by the control thread only.
    phase: AtomicU8,
    /// No other lock is taken while it is held.
    timeline: Mutex<Timeline>,
}

/// The events of a shutdown so far.
///
/// Readers get a copy. It is small: the report is behind an `Arc`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline {
    /// The time when the shutdown began; `None` before. A wall clock, for display; durations come
    /// from `entered`.
    pub(crate) begun: Option<SystemTime>,
    /// The first reason, which is the one in the report.
    pub(crate) reason: Option<Reason>,
    /// The number of requests to shut down by kind, in the order of [`Reason::WORDS`]. Later
    /// requests count too. A request after the shutdown is not counted.
    pub(crate) requested: [u64; Reason::WORDS.len()],
    /// The number of times that a second signal cut the drain short. 0 or 1.
    pub(crate) cut: u64,
    /// The time when each phase was entered, by the number of the phase. `Running` is never
    /// entered. Each is entered at most once.
    entered: [Option<Instant>; 5],
    /// The report, once it is final. It is replaced once, when the results of the exit hooks are
    /// known.
    pub(crate) report: Option<Arc<Report>>,
    /// The time when the report was first published. The exit hooks come after it.
    pub(crate) ended: Option<SystemTime>,
}

// === impl Progress ===

impl Progress {
    /// The phases in the order of their numbers. The order of the variants of [`Phase`], so that
    /// the number is an index.
    pub(crate) const PHASES: [Phase; 5] = [
        Phase::Running,
        Phase::Draining,
        Phase::Cancelling,
        Phase::Closing,
        Phase::Done,
    ];

    /// Records the beginning of the shutdown, and counts its reason. Called once, before the phase
    /// changes.
    pub(crate) fn begin(&self, reason: &Reason) {
        let mut timeline = self.lock();
        timeline.begun = Some(SystemTime::now());
        timeline.reason = Some(reason.clone());
        timeline.count(reason);
    }

    /// Counts a further request for a shutdown that has begun. `cuts`: the request cuts the drain
    /// short.
    pub(crate) fn request(&self, reason: &Reason, cuts: bool) {
        let mut timeline = self.lock();
        timeline.count(reason);
        timeline.cut += u64::from(cuts);
    }

    /// Enters a phase. Only the pipeline calls it.
    ///
    /// The timeline is updated before the atomic, so a reader that sees the phase also finds it in
    /// the timeline.
    pub(crate) fn enter(&self, phase: Phase) {
        self.lock().entered[phase as usize] = Some(Instant::now());
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Publishes the report. The pipeline calls it again when exit hooks have added their results;
    /// only the first call sets the end time and counts the warnings.
    ///
    /// The counting comes after the lock is released. A reader may therefore see the report a
    /// moment before its warnings.
    pub(crate) fn publish(&self, report: &Arc<Report>) {
        let mut timeline = self.lock();
        if timeline.report.replace(Arc::clone(report)).is_some() {
            return;
        }
        timeline.ended = Some(SystemTime::now());
        drop(timeline);
        Warning::OverBudget.note_many(report.drain.ignored.len());
        let close = &report.close;
        let lingering = report.cancel.lingering.len() + close.threads.len() + close.children.len();
        Warning::Lingering.note_many(lingering);
    }

    /// Returns the current phase. Takes no lock. For dumps and the last words.
    pub(crate) fn phase(&self) -> Phase {
        Self::PHASES[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    /// Returns a copy of the timeline. Clones the reason's text.
    #[cfg(feature = "admin")]
    pub(crate) fn timeline(&self) -> Timeline {
        self.lock().clone()
    }

    /// Returns whether a second signal can still cut a layer short. The pre-drain delay counts as
    /// before.
    pub(crate) fn is_before_cancel(&self) -> bool {
        matches!(self.phase(), Phase::Running | Phase::Draining)
    }

    /// Returns the phase as the watchdog's last words name it, after "the deadline passed".
    pub(crate) fn when(&self) -> &'static str {
        match self.phase() {
            Phase::Running => "before the first layer",
            Phase::Draining => "in layer 'drain'",
            Phase::Cancelling => "in layer 'cancel'",
            Phase::Closing => "in layer 'close'",
            Phase::Done => "after the last layer",
        }
    }

    /// Locks the timeline. A panic of a holder leaves whole assignments, so lock poisoning is
    /// ignored.
    fn lock(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Timeline ===

impl Timeline {
    /// Counts a request by the word of its reason.
    fn count(&mut self, reason: &Reason) {
        let word = reason.word();
        let place = Reason::WORDS.iter().position(|known| *known == word);
        if let Some(place) = place {
            self.requested[place] += 1;
        }
    }

    /// Returns how long a phase lasted, or has lasted so far. Returns zero if it was not entered.
    ///
    /// The end of a phase is the entry of the next one that was entered. `Done` has no next one, so
    /// its time grows as long as the process lives.
    #[cfg(feature = "admin")]
    pub(crate) fn took(&self, phase: Phase) -> Duration {
        let place = phase as usize;
        let Some(entered) = self.entered[place] else {
            return Duration::ZERO;
        };
        let left = self.entered[place + 1..].iter().flatten().next();
        match left {
            Some(left) => left.saturating_duration_since(entered),
            None => entered.elapsed(),
        }
    }
}
