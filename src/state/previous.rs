//! The end of the previous run, as far as the files that it left in the state folder show it.
//!
//! A saved report is the best evidence. Without one the marker tells: first the outcome that the
//! run noted itself, then a panic that no heartbeat followed, then a reboot, then an OOM kill. What
//! remains is unknown: a process that was killed leaves no reason.
//!
//! The kinds of evidence, the strongest first:
//!
//! 1. A report with the run id of the marker, or a report without a marker.
//! 2. The note in the marker: the run knew its outcome, or the watchdog ended it.
//! 3. A panic in the marker that no later heartbeat contradicts.
//! 4. Another boot id.
//! 5. A risen count of OOM kills.
//!
//! Everything is read once, at the start of the next run. Nothing is inferred from the exit code,
//! which only the parent of the process learned.

pub(super) mod last_run;

use super::black_box::moments::LastMoments;
use super::files::Found;
use super::last::LastShutdown;
use super::marker::{Marker, Run};
use super::{Exits, boot};
use crate::report::{Outcome, brief};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime};

/// The previous run in a state folder, returned by
/// [`Runtime::previous_run`](crate::Runtime::previous_run).
///
/// Its `Display` form is one sentence, without a full stop.
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let orders = || headcount::Runtime::builder().state_folder(folder).print(false);
/// orders().build()?.run(async |_tasks| {});
///
/// let second = orders().build()?;
/// let previous = second.previous_run().expect("there was one");
/// assert_eq!(previous.pid, std::process::id());
/// assert_eq!((previous.is_unclean(), previous.cause), (false, None));
/// assert!(previous.to_string().ends_with("ended clean"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PreviousRun {
    /// The unique id of the run; empty if its marker could not be read.
    pub run_id: String,
    /// The process id; 0 if its marker could not be read.
    pub pid: u32,
    /// The time at which the run was started. If its marker could not be read: the time at which
    /// that was last changed.
    ///
    /// In JSON: `started_at`, in seconds since 1970.
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub started: SystemTime,
    /// The end of the run, in numbers.
    pub shutdown: LastShutdown,
    /// The cause of the missing report. It is `None` if there is a report, and if the run noted its
    /// outcome but could not save the report.
    pub cause: Option<Cause>,
    /// The reason for the shutdown that was in progress, if the run ended without a report.
    pub stopping: Option<String>,
    /// The thread, place and message of the panic that ended the run, if the cause is
    /// [`Cause::Panic`].
    pub panic: Option<String>,
    /// What the run was doing when it was last seen alive, if it ended without a report and had a
    /// black box. Of its events, the latest 100; `killed.json` in the state folder has all.
    pub moments: Option<Box<LastMoments>>,
    /// The time from the last sign of life of the run to the start of this one: its last heartbeat,
    /// accurate to five seconds, or the last one in its black box, accurate to a tenth of a second.
    ///
    /// It is `None` if there is a report, if the machine has rebooted since, or if the marker could
    /// not be read. It is not part of the JSON form.
    #[serde(skip)]
    pub ended_ago: Option<Duration>,
    /// The report of the run, as JSON; `None` if it was not saved.
    pub report: Option<serde_json::Value>,
}

/// The cause of a run's end without a report.
///
/// # Examples
///
/// ```
/// use headcount::state::Cause;
///
/// assert_eq!(Cause::OutOfMemory.as_str(), "oom");
/// assert_eq!(Cause::Reboot.as_str(), "reboot");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The machine has rebooted since, or the folder comes from another machine.
    Reboot,
    /// The kernel's OOM killer killed a process of the run's control group.
    OutOfMemory,
    /// A panic ended the process.
    Panic,
    /// The files show no cause: the process was killed, aborted, or called `exit`.
    Unknown,
}

/// The content of `report.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    /// See `SCHEMA` in the marker.
    pub(super) schema: u32,
    /// Equal to that of the marker that this report replaces.
    pub(super) run_id: String,
    /// The process that wrote the report.
    pub(super) pid: u32,
    /// The start of the run, by the wall clock.
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub(super) started: SystemTime,
    /// The outcomes of all runs so far, including this one.
    pub(super) exits: Exits,
    /// The numbers that metrics need, so that they do not depend on the form of the report.
    pub(super) shutdown: LastShutdown,
    /// The whole report; kept as a value, since this version may not know all of its fields.
    pub(super) report: serde_json::Value,
    /// The report as text; empty in the files of earlier versions.
    #[serde(default)]
    pub(super) text: String,
}

/// Returns the previous run, and the outcomes of all runs including it.
///
/// `marker_changed` is the modification time of a damaged marker. A damaged report is treated as a
/// missing one.
///
/// The order of the cases matters: a marker of another run than the report's is newer than the
/// report, because a marker is written at each start.
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
        // The run saved its report and ended before it could remove its marker, or the removal was
        // lost with the power.
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
            (Some(previous), counted(exits, Outcome::Unclean))
        }
        (Found::Nothing, Some(saved)) => {
            let exits = saved.exits.clone();
            (Some(PreviousRun::saved(saved)), exits)
        }
        (Found::Nothing, None) => (None, Exits::new()),
    }
}

/// Returns the numbers with one more run of that outcome.
///
/// The counts have no bound; there is one key for each outcome.
pub(super) fn counted(mut exits: Exits, outcome: Outcome) -> Exits {
    *exits.entry(outcome.as_str().to_owned()).or_default() += 1;
    exits
}

// === impl PreviousRun ===

impl PreviousRun {
    /// Returns whether the run left no report: it ended before one was final, could not save it, or
    /// was ended by the watchdog.
    #[must_use]
    pub fn is_unclean(&self) -> bool {
        self.report.is_none()
    }

    /// Adds what the black box of the run shows. Its last sign of life is the newer one.
    pub(super) fn add(&mut self, moments: LastMoments) {
        if let Some(ago) = &mut self.ended_ago {
            *ago = boot::now().saturating_sub(moments.seen_uptime).min(*ago);
            self.shutdown.at = moments.seen;
        }
        self.moments = Some(Box::new(moments));
    }

    /// Describes a run that saved its report.
    ///
    /// `ended_ago` is unknown: a report has no heartbeat.
    pub(super) fn saved(saved: Saved) -> Self {
        Self {
            run_id: saved.run_id,
            pid: saved.pid,
            started: saved.started,
            shutdown: saved.shutdown,
            cause: None,
            stopping: None,
            panic: None,
            moments: None,
            ended_ago: None,
            report: Some(saved.report),
        }
    }

    /// Describes a run that left only its marker.
    ///
    /// The time of the end is computed back from now by the time since the boot, which includes
    /// suspend.
    pub(super) fn without_report(marker: &Marker) -> Self {
        let beat = marker.beat();
        let same_boot = marker.run.boot_id == boot::id();
        let ago = same_boot.then(|| boot::now().saturating_sub(beat.uptime));
        let panic = marker.panic().map(str::to_owned);
        let (outcome, cause, reason) = match marker.noted() {
            Some(Outcome::Forced) => (Outcome::Forced, None, "deadline"),
            Some(outcome) => (outcome, None, "unknown"),
            None => {
                let cause = if panic.is_some() {
                    Cause::Panic
                } else {
                    cause_of(&marker.run, ago, beat.kills)
                };
                (Outcome::Unclean, Some(cause), cause.as_str())
            }
        };
        // The wall clock may have jumped since the heartbeat; the time since the boot has not.
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
            moments: None,
            ended_ago: ago,
            report: None,
        }
    }

    /// Describes a run with a damaged marker, which was last changed at that time.
    ///
    /// Its cause is unknown, even after a reboot: the boot id was in the marker.
    pub(super) fn unreadable(changed: Option<SystemTime>) -> Self {
        let at = changed.unwrap_or_else(SystemTime::now);
        let cause = Cause::Unknown;
        Self {
            run_id: String::new(),
            pid: 0,
            started: at,
            shutdown: LastShutdown::without_report(Outcome::Unclean, cause.as_str(), "", at),
            cause: Some(cause),
            stopping: None,
            panic: None,
            moments: None,
            ended_ago: None,
            report: None,
        }
    }
}

/// Returns the cause of an end that the run itself left no trace of. `ago` is the time since its
/// last heartbeat, or `None` across a reboot.
///
/// A reboot comes first, because counts of another boot mean nothing.
fn cause_of(run: &Run, ago: Option<Duration>, kills: super::oom::Kills) -> Cause {
    match ago {
        None => Cause::Reboot,
        Some(ago) if run.cgroups.killed_since(kills, ago) => Cause::OutOfMemory,
        Some(_) => Cause::Unknown,
    }
}

impl fmt::Display for PreviousRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f, "the previous run", "before this start")
    }
}

impl PreviousRun {
    /// Returns the sentence for a reader other than the next run. `since` follows the time since the
    /// run was last seen alive.
    pub(super) fn sentence(&self, since: &str) -> String {
        struct Last<'a>(&'a PreviousRun, &'a str);
        impl fmt::Display for Last<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.describe(f, "the run", self.1)
            }
        }
        Last(self, since).to_string()
    }

    /// Writes the sentence.
    fn describe(&self, f: &mut fmt::Formatter<'_>, run: &str, since: &str) -> fmt::Result {
        let outcome = self.shutdown.outcome;
        f.write_str(run)?;
        if self.pid != 0 {
            write!(f, " (pid {})", self.pid)?;
        }
        if self.report.is_some() {
            return write!(f, " ended {}", outcome.as_str());
        }
        match (outcome, self.cause, &self.panic) {
            (Outcome::Forced, ..) => f.write_str(" missed its shutdown deadline and was forced to exit"),
            (Outcome::Unclean, Some(Cause::Reboot), _) => {
                f.write_str(" ended without a report: the machine has rebooted since")
            }
            (Outcome::Unclean, Some(Cause::OutOfMemory), _) => f.write_str(
                " ended without a report: the kernel killed a process of its control group because memory ran out",
            ),
            (Outcome::Unclean, _, Some(panic)) => {
                write!(f, " ended without a report, after a panic: {panic}")
            }
            (Outcome::Unclean, ..) => {
                f.write_str(" ended without a report: it was killed, aborted, or called exit")
            }
            (outcome, ..) => write!(
                f,
                " ended {}, but could not save its report",
                outcome.as_str()
            ),
        }?;
        if let (Outcome::Unclean, Some(reason)) = (outcome, &self.stopping) {
            write!(
                f,
                ", while it was stopping ({reason}): it may have been given too little time to stop"
            )?;
        }
        match self.ended_ago {
            Some(ago) => write!(f, "; last seen alive {} {since}", brief(ago)),
            None => Ok(()),
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Returns the lower-case name that metrics use; `oom` for [`OutOfMemory`](Self::OutOfMemory).
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
