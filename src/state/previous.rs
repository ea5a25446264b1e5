//! What the run before this one came to, from what it left in the folder.

use super::files::Found;
use super::last::{Ended, LastShutdown};
use super::marker::{Marker, Run};
use super::{Exits, boot};
use crate::report::brief;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime};

/// The run before this one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PreviousRun {
    /// Its name, which no other run has; empty when that could not be read.
    pub run_id: String,
    /// Its process; 0 when that could not be read.
    pub pid: u32,
    /// When it was started.
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub started: SystemTime,
    /// Its end in numbers.
    pub shutdown: LastShutdown,
    /// Why there is no report; `None` when there is one, or when the run left a word of its end.
    pub cause: Option<Cause>,
    /// Why it was stopping when it ended without a report.
    pub stopping: Option<String>,
    /// The panic that it did not outlive: thread, place and message.
    pub panic: Option<String>,
    /// How long before this start it was last known to live; `None` across a start of the machine.
    #[serde(skip)]
    pub ended_ago: Option<Duration>,
    /// Its report, as JSON.
    pub report: Option<serde_json::Value>,
}

/// Why a run ended without a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The machine was started anew since, or the folder comes from another machine.
    Reboot,
    /// The kernel ended a process of its control group for lack of memory.
    OutOfMemory,
    /// It panicked, and did not outlive that.
    Panic,
    /// Nothing is left that tells: it was killed, it aborted, or it called `exit`.
    Unknown,
}

/// `report.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) schema: u32,
    pub(super) run_id: String,
    pub(super) pid: u32,
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub(super) started: SystemTime,
    /// With this run in it.
    pub(super) exits: Exits,
    pub(super) shutdown: LastShutdown,
    pub(super) report: serde_json::Value,
}

/// What was found, and how many runs ended how, with the one before this in it.
pub(super) fn previous(
    marker: Found<Marker>,
    saved: Found<Saved>,
    marker_changed: Option<SystemTime>,
) -> (Option<PreviousRun>, Exits) {
    let saved = match saved {
        Found::Whole(saved) => Some(saved),
        Found::Nothing | Found::Damaged(_) => None,
    };
    match (marker, saved) {
        // It got so far that only the marker was left to be removed.
        (Found::Whole(marker), Some(saved)) if saved.run_id == marker.run.run_id => {
            let exits = saved.exits.clone();
            (Some(PreviousRun::saved(saved)), exits)
        }
        (Found::Whole(marker), _) => {
            let previous = PreviousRun::without_report(&marker);
            let exits = counted(marker.run.exits, previous.shutdown.outcome);
            (Some(previous), exits)
        }
        (Found::Damaged(_), saved) => {
            let exits = saved.map(|saved| saved.exits).unwrap_or_default();
            let previous = PreviousRun::unreadable(marker_changed);
            (Some(previous), counted(exits, Ended::Unclean))
        }
        (Found::Nothing, Some(saved)) => {
            let exits = saved.exits.clone();
            (Some(PreviousRun::saved(saved)), exits)
        }
        (Found::Nothing, None) => (None, Exits::new()),
    }
}

/// One more.
pub(super) fn counted(mut exits: Exits, outcome: Ended) -> Exits {
    *exits.entry(outcome.as_str().to_owned()).or_default() += 1;
    exits
}

// === impl PreviousRun ===

impl PreviousRun {
    /// Whether it ended without a report, or by the watchdog.
    #[must_use]
    pub fn is_unclean(&self) -> bool {
        self.report.is_none()
    }

    fn saved(saved: Saved) -> Self {
        Self {
            run_id: saved.run_id,
            pid: saved.pid,
            started: saved.started,
            shutdown: saved.shutdown,
            cause: None,
            stopping: None,
            panic: None,
            ended_ago: None,
            report: Some(saved.report),
        }
    }

    fn without_report(marker: &Marker) -> Self {
        let beat = marker.beat();
        let same_boot = marker.run.boot_id == boot::id();
        let ago = same_boot.then(|| boot::now().saturating_sub(beat.uptime));
        let panic = marker.panic().map(str::to_owned);
        let (outcome, cause, reason) = match marker.noted() {
            Some(Ended::Forced) => (Ended::Forced, None, "deadline"),
            Some(outcome) => (outcome, None, "unknown"),
            None => {
                let cause = if panic.is_some() {
                    Cause::Panic
                } else {
                    cause_of(&marker.run, ago, beat.kills)
                };
                (Ended::Unclean, Some(cause), cause.as_str())
            }
        };
        // The wall clock may have jumped since the beat; the time since the boot did not.
        let at = ago.and_then(|ago| SystemTime::now().checked_sub(ago));
        let at = at.unwrap_or(beat.at);
        Self {
            run_id: marker.run.run_id.clone(),
            pid: marker.run.pid,
            started: marker.run.started,
            shutdown: LastShutdown::without_report(outcome, reason, &marker.run.version, at),
            cause,
            stopping: marker.stopping().map(str::to_owned),
            panic: panic.filter(|_| cause == Some(Cause::Panic)),
            ended_ago: ago,
            report: None,
        }
    }

    fn unreadable(changed: Option<SystemTime>) -> Self {
        let at = changed.unwrap_or_else(SystemTime::now);
        let cause = Cause::Unknown;
        Self {
            run_id: String::new(),
            pid: 0,
            started: at,
            shutdown: LastShutdown::without_report(Ended::Unclean, cause.as_str(), "", at),
            cause: Some(cause),
            stopping: None,
            panic: None,
            ended_ago: None,
            report: None,
        }
    }
}

fn cause_of(run: &Run, ago: Option<Duration>, kills: super::cgroup::Kills) -> Cause {
    match ago {
        None => Cause::Reboot,
        Some(ago) if run.cgroups.killed_since(kills, ago) => Cause::OutOfMemory,
        Some(_) => Cause::Unknown,
    }
}

impl fmt::Display for PreviousRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.shutdown.outcome;
        f.write_str("the previous run")?;
        if self.pid != 0 {
            write!(f, " (pid {})", self.pid)?;
        }
        if self.report.is_some() {
            return write!(f, " ended {}", outcome.as_str());
        }
        match (outcome, self.cause, &self.panic) {
            (Ended::Forced, ..) => f.write_str(" missed its deadline, and was ended"),
            (Ended::Unclean, Some(Cause::Reboot), _) => {
                f.write_str(" ended without a report: the machine was started anew since")
            }
            (Ended::Unclean, Some(Cause::OutOfMemory), _) => f.write_str(
                " ended without a report: the kernel ended a process of its control group for lack of memory",
            ),
            (Ended::Unclean, _, Some(panic)) => {
                write!(f, " ended without a report, after a panic: {panic}")
            }
            (Ended::Unclean, ..) => {
                f.write_str(" ended without a report: it was killed, aborted, or called exit")
            }
            (outcome, ..) => write!(
                f,
                " ended {}, but could not save its report",
                outcome.as_str()
            ),
        }?;
        if let (Ended::Unclean, Some(reason)) = (outcome, &self.stopping) {
            write!(
                f,
                ", while it was stopping ({reason}): whoever stopped it may wait too short a time"
            )?;
        }
        match self.ended_ago {
            Some(ago) => write!(f, "; last known to live {} before this start", brief(ago)),
            None => Ok(()),
        }
    }
}

// === impl Cause ===

impl Cause {
    /// The word that metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::OutOfMemory => "oom",
            Self::Panic => "panic",
            Self::Unknown => "unknown",
        }
    }
}
