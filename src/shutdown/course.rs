//! The course of a shutdown, for those who watch: when it began and why, how long each layer took, and the report.
//!
//! It only keeps what the pipeline says. The lock is held for nanoseconds; the watchdog, which takes none, does not look.

use crate::registry::warnings::Warning;
use crate::report::dump::Phase;
use crate::report::{Reason, Report};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "admin")]
use std::time::Duration;
use std::time::{Instant, SystemTime};

#[derive(Debug, Default)]
pub(crate) struct Course(Mutex<Seen>);

/// What is known of a shutdown at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// When it began.
    pub(crate) begun: Option<SystemTime>,
    /// Why: the first reason.
    pub(crate) reason: Option<Reason>,
    /// How often it was asked for, by [`Reason::WORDS`].
    pub(crate) requested: [u64; Reason::WORDS.len()],
    /// How often a second signal cut a layer short.
    pub(crate) cut: u64,
    /// When each phase was entered.
    entered: [Option<Instant>; 5],
    /// What it came to.
    pub(crate) report: Option<Arc<Report>>,
    /// When that was known.
    pub(crate) ended: Option<SystemTime>,
}

// === impl Course ===

impl Course {
    /// The shutdown begins.
    pub(super) fn begin(&self, reason: &Reason) {
        let mut seen = self.lock();
        seen.begun = Some(SystemTime::now());
        seen.reason = Some(reason.clone());
        seen.count(reason);
    }

    /// Somebody asks for a shutdown that has begun; `cuts` when a layer ends by it.
    pub(super) fn ask(&self, reason: &Reason, cuts: bool) {
        let mut seen = self.lock();
        seen.count(reason);
        seen.cut += u64::from(cuts);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.lock().entered[phase as usize] = Some(Instant::now());
    }

    /// The report is final; a moment later again, with what was done with it.
    pub(super) fn publish(&self, report: &Arc<Report>) {
        let mut seen = self.lock();
        if seen.report.replace(Arc::clone(report)).is_some() {
            return;
        }
        seen.ended = Some(SystemTime::now());
        drop(seen);
        Warning::OverBudget.note_many(report.drain.ignored.len());
        let close = &report.close;
        let lingering = report.cancel.lingering.len() + close.threads.len() + close.children.len();
        Warning::Lingering.note_many(lingering);
    }

    #[cfg(feature = "admin")]
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seen ===

impl Seen {
    fn count(&mut self, reason: &Reason) {
        let word = reason.word();
        let place = Reason::WORDS.iter().position(|known| *known == word);
        if let Some(place) = place {
            self.requested[place] += 1;
        }
    }

    /// How long a phase has lasted so far; zero when it was not entered.
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
