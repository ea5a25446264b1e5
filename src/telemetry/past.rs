//! How runs ended: what a state folder knows of earlier ones, and this run's report once it is final.

use super::family::Families;
use super::names;
use super::watched::Watched;
use crate::report::{Outcome, Report};
use crate::threads::ThreadClass;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const LAYERS: [&str; 3] = ["drain", "cancel", "close"];

/// What is known of earlier runs. Empty without a state folder.
#[derive(Debug, Default)]
pub(crate) struct Past(Mutex<Known>);

#[derive(Debug, Clone, Default)]
struct Known {
    last: Option<LastShutdown>,
    /// How many runs ended with which outcome word; `None` where nobody counts them.
    exits: Option<Vec<(String, u64)>>,
}

/// How one run ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LastShutdown {
    /// `clean`, `cancelled`, `lingering`, `forced` or `unclean`.
    pub(crate) outcome: String,
    /// One of [`Reason::WORDS`](crate::report::Reason), or how an unclean end came about: `killed`, `oom`, `reboot`.
    pub(crate) reason: String,
    /// The version of headcount that ran.
    pub(crate) version: String,
    /// When it was known, in Unix time.
    pub(crate) seconds: f64,
    /// Without a report nothing of the following is known.
    pub(crate) detail: Option<Detail>,
}

/// What a report says beyond the outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Detail {
    pub(crate) total_seconds: f64,
    /// What each of [`LAYERS`] took, and might have.
    pub(crate) layers: [(f64, f64); 3],
    /// Tasks that were left after drain and cancel.
    pub(crate) tasks: [u64; 2],
    /// Threads that lingered, by the class's word.
    pub(crate) threads: Vec<(String, u64)>,
    /// What became of telemetry: signal and result.
    pub(crate) flushed: Vec<(String, String)>,
}

// === impl Past ===

impl Past {
    /// How the run before this one ended.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the state folder knows it, when there is one")
    )]
    pub(crate) fn set_last(&self, last: LastShutdown) {
        self.lock().last = Some(last);
    }

    /// How many runs ended how, this one included once it has.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the state folder counts them, when there is one")
    )]
    pub(crate) fn set_exits(&self, exits: Vec<(String, u64)>) {
        self.lock().exits = Some(exits);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl LastShutdown ===

impl LastShutdown {
    pub(crate) fn of(report: &Report, at: SystemTime) -> Self {
        let threads = ThreadClass::ALL.iter().map(|class| {
            let lingering = report.close.threads.iter();
            let count = lingering.filter(|thread| thread.class == *class).count();
            (class.as_str().to_owned(), count as u64)
        });
        let seconds = |timing: &crate::report::Timing| {
            (timing.took.as_secs_f64(), timing.budget.as_secs_f64())
        };
        let count = |findings: &[crate::report::TaskFinding]| -> u64 {
            findings.iter().map(|task| task.count).sum()
        };
        Self {
            outcome: report.outcome.as_str().to_owned(),
            reason: report.reason.word().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seconds: unix(at),
            detail: Some(Detail {
                total_seconds: report.total.as_secs_f64(),
                layers: [
                    seconds(&report.drain.timing),
                    seconds(&report.cancel.timing),
                    seconds(&report.close.timing),
                ],
                tasks: [
                    count(&report.drain.ignored),
                    count(&report.cancel.lingering),
                ],
                threads: threads.collect(),
                flushed: Vec::new(),
            }),
        }
    }

    pub(super) fn write(&self, families: &mut Families) {
        let info = [&*self.outcome, &*self.reason, &*self.version];
        families.add(&names::LAST_INFO, &info, 1.0);
        families.add(&names::LAST_TIMESTAMP, &[], self.seconds);
        if let Some(detail) = &self.detail {
            detail.write(families);
        }
    }
}

// === impl Detail ===

impl Detail {
    fn write(&self, families: &mut Families) {
        families.add(&names::LAST_DURATION, &[], self.total_seconds);
        for (layer, (took, budget)) in LAYERS.iter().zip(self.layers) {
            families.add(&names::LAST_LAYER_DURATION, &[layer], took);
            families.add(&names::LAST_LAYER_BUDGET, &[layer], budget);
        }
        for (layer, tasks) in LAYERS.iter().zip(self.tasks) {
            families.add(&names::LAST_TASK_LINGERING, &[layer], tasks as f64);
        }
        for (class, threads) in &self.threads {
            families.add(&names::LAST_THREAD_LINGERING, &[class], *threads as f64);
        }
        for (signal, result) in &self.flushed {
            families.add(&names::LAST_FLUSH, &[signal, result], 1.0);
        }
    }
}

pub(crate) fn read(watched: &Watched, families: &mut Families) {
    let seen = watched.standing.course().seen();
    let known = watched.past.lock().clone();
    let own = seen.report.zip(seen.ended);
    let own = own.map(|(report, at)| LastShutdown::of(&report, at));
    if let Some(last) = own.or(known.last) {
        last.write(families);
    }
    let Some(exits) = known.exits else { return };
    for word in OUTCOMES {
        let count: u64 = exits
            .iter()
            .filter(|(outcome, _)| outcome == word)
            .map(|(_, count)| count)
            .sum();
        families.add(&names::EXITS, &[word], count as f64);
    }
}

/// The words of how a run ended.
const OUTCOMES: [&str; 5] = [
    Outcome::Clean.as_str(),
    Outcome::Cancelled.as_str(),
    Outcome::Lingering.as_str(),
    Outcome::Forced.as_str(),
    "unclean",
];

pub(crate) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
