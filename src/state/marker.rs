//! The marker of a run, `run.json`. A marker without a report means that the run did not end
//! properly.
//!
//! The file is JSON. Its first part, [`Run`], is fixed. Its last part, `live`, changes while the
//! process runs: each field is padded with spaces to a fixed width and overwritten in place by a
//! single write. So the file is valid JSON at every moment, a full disk does not matter, and the
//! watchdog can note its intervention without a lock or an allocation.
//!
//! The writes are not synced: they survive the end of the process, but not a crash of the machine,
//! for which the boot id is enough.
//!
//! The life of the file:
//!
//! 1. [`Writer::begin`] replaces an older marker with a complete one. This is the only write that
//!    needs space on the disk.
//! 2. Heartbeats, the reason for a shutdown, panics and the outcome overwrite their fields. Each
//!    field has its own bytes, so no lock is needed.
//! 3. The exit hook removes the file after the report is saved. Whatever ends the process earlier
//!    leaves it behind.
//!
//! A field is read by trimming the spaces. A write that was cut short by the end of the machine is
//! at worst a damaged field of a marker with another boot id, which needs none of them.

use super::oom::{Groups, Kills};
use super::{Exits, boot, files};
use crate::report::Outcome;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the format of `run.json` and `report.json`. A file with a higher number is kept
/// aside and not read. Fields may be added without a new number, since unknown ones are ignored.
pub(super) const SCHEMA: u32 = 1;
/// The width of the outcome, in bytes: that of the longest name of [`Outcome`].
///
/// A field must have room for each text that is ever written to it.
const NOTE: usize = 9;
/// The width of a heartbeat and of a time, in bytes.
///
/// Two times of 13 digits and two counts need about 40.
const BEAT: usize = 64;
/// The width of a text, in bytes. Longer texts are cut.
///
/// It keeps the marker below a kilobyte or two, so that a write of a field stays within few pages.
const WORDS: usize = 200;
/// A panic that is followed by a heartbeat after this time did not end the process. Before that the
/// process may still be printing a backtrace.
pub(super) const OUTLIVED: Duration = Duration::from_secs(2);
/// The padded note that the watchdog writes. It must have the width of the field.
const FORCED: &[u8; NOTE] = b"forced   ";

/// The part of the marker that does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// See [`SCHEMA`].
    pub(super) schema: u32,
    /// The name of the service, for a reader of the file; nothing decides by it.
    pub(super) service: String,
    /// It tells whether a saved report is that of this run.
    pub(super) run_id: String,
    /// The process id, in the PID namespace of the process.
    pub(super) pid: u32,
    /// The start time of the process in the kernel's clock ticks since the boot; 0 if it is not
    /// known. Together with the pid and the boot id it identifies one process.
    pub(super) pid_start: u64,
    /// The kernel's id of the boot; empty if it is not known.
    pub(super) boot_id: String,
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub(super) started: SystemTime,
    /// The version of the service; empty if it was not set.
    pub(super) version: String,
    /// The control groups, for the search for an OOM kill.
    pub(super) cgroups: Groups,
    /// The outcomes of the runs before this one.
    pub(super) exits: Exits,
    /// The path of the run's black box, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) black_box: Option<String>,
}

/// A marker that was read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Marker {
    /// The fixed part.
    #[serde(flatten)]
    pub(super) run: Run,
    /// The part that was overwritten in place.
    live: Live,
}

/// The padded fields that are overwritten in place.
#[derive(Debug, Clone, Deserialize)]
struct Live {
    /// The last heartbeat, as [`Beat::text`] writes it.
    beat: String,
    /// `running`, or the outcome once it is known.
    note: String,
    /// The reason for the shutdown; blank before one has begun.
    stopping: String,
    /// The time of the last panic, in milliseconds since the boot; blank if there was none.
    panicked: String,
    /// The thread, place and message of the last panic.
    panic: String,
}

/// A heartbeat: a time at which the process was alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// The wall clock time.
    pub(super) at: SystemTime,
    /// The time since the boot.
    pub(super) uptime: Duration,
    /// The numbers of OOM kills at that time.
    pub(super) kills: Kills,
}

/// The open marker of this run.
///
/// Its methods write to disjoint parts of the file, so threads may call them concurrently.
#[derive(Debug)]
pub(super) struct Writer {
    /// The file of the marker, open for the whole run: writes need no path, and reach the same file
    /// even if the folder was moved.
    file: File,
    beat: Place,
    note: Place,
    stopping: Place,
    panicked: Place,
    panic: Place,
}

/// The offset and the fixed width of a field in the file, in bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Counted from the beginning of the file.
    at: u64,
    /// Spaces fill the rest.
    width: usize,
}

// === impl Run ===

impl Run {
    /// Describes this process.
    ///
    /// Reads `/proc`; each part that cannot be read is left empty or 0.
    pub(super) fn new(service: &str, version: &str, exits: Exits) -> Self {
        let pid = std::process::id();
        Self {
            schema: SCHEMA,
            service: service.to_owned(),
            run_id: boot::run_id(),
            pid,
            pid_start: crate::audit::start_of(pid).unwrap_or(0),
            boot_id: boot::id(),
            started: SystemTime::now(),
            version: version.to_owned(),
            cgroups: Groups::here(),
            exits,
            black_box: None,
        }
    }

    /// Returns whether the process of the marker is still alive and is not this one.
    ///
    /// It is false if that cannot be determined: after a reboot, on another machine, or in another
    /// pid namespace.
    ///
    /// It guards what the lock cannot: file systems without locks, and other mounts of a network
    /// file system on this machine.
    pub(super) fn is_another_that_lives(&self) -> bool {
        self.pid != std::process::id() && self.lives()
    }

    /// Returns whether the process of the marker is certainly gone: the machine has rebooted, or no
    /// process has its pid and start time.
    pub(super) fn is_gone(&self) -> bool {
        let has_boot = !self.boot_id.is_empty() && !boot::id().is_empty();
        has_boot && self.pid_start != 0 && !self.lives()
    }

    /// Returns whether the process of the marker is alive. It is false if that cannot be determined.
    pub(super) fn lives(&self) -> bool {
        self.boot_id == boot::id()
            && self.pid_start != 0
            && crate::audit::start_of(self.pid) == Some(self.pid_start)
    }
}

// === impl Marker ===

impl Marker {
    /// Returns the outcome that the run noted, or `None` if it did not get that far.
    pub(super) fn noted(&self) -> Option<Outcome> {
        Outcome::from_word(self.live.note.trim_end())
    }

    /// Returns the reason for its shutdown, if one had begun.
    pub(super) fn stopping(&self) -> Option<&str> {
        Some(self.live.stopping.trim_end()).filter(|reason| !reason.is_empty())
    }

    /// Returns the panic that was not followed by a heartbeat, and so may have ended the process.
    ///
    /// The times are of the same boot, or else the whole question does not come up.
    pub(super) fn panic(&self) -> Option<&str> {
        let panicked: u64 = self.live.panicked.trim_end().parse().ok()?;
        let outlived = self.beat().uptime >= Duration::from_millis(panicked) + OUTLIVED;
        (!outlived).then(|| self.live.panic.trim_end())
    }

    /// Returns the last heartbeat. A number in it that cannot be read is replaced by the start time
    /// or by 0.
    pub(super) fn beat(&self) -> Beat {
        let mut numbers = self.live.beat.split_whitespace();
        let mut next = || numbers.next().and_then(|n| n.parse::<u64>().ok());
        let wall = next().map(Duration::from_millis);
        let at = wall.and_then(|wall| UNIX_EPOCH.checked_add(wall));
        Beat {
            at: at.unwrap_or(self.run.started),
            uptime: Duration::from_millis(next().unwrap_or(0)),
            kills: Kills {
                own: next().unwrap_or(0),
                parent: next().unwrap_or(0),
            },
        }
    }
}

// === impl Beat ===

impl Beat {
    /// Costs two reads of the control groups' files.
    fn now(groups: &Groups) -> Self {
        Self {
            at: SystemTime::now(),
            uptime: boot::now(),
            kills: groups.kills(),
        }
    }

    /// Formats the heartbeat as four numbers: both times in milliseconds, and both counts. They fit
    /// into [`BEAT`] bytes.
    fn text(self) -> String {
        let wall = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Kills { own, parent } = self.kills;
        let (wall, uptime) = (wall.as_millis(), self.uptime.as_millis());
        format!("{wall} {uptime} {own} {parent}")
    }
}

// === impl Writer ===

impl Writer {
    /// Writes the marker of a run, replacing an earlier one, and keeps it open.
    ///
    /// Blocks for the syncs of `files::replace`. The offsets are computed while the text is built,
    /// so a name of any length in the fixed part is no problem.
    pub(super) fn begin(path: &Path, run: &Run) -> io::Result<Self> {
        let mut text = serde_json::to_string(run)?;
        text.pop();
        text.push_str(",\n\"live\":{");
        let mut field = |name: &str, width: usize, value: &str, end: &str| {
            text.push_str(&format!("\n\"{name}\":\""));
            let place = Place {
                at: text.len() as u64,
                width,
            };
            text.push_str(&place.fill(value));
            text.push('"');
            text.push_str(end);
            place
        };
        let beat = field("beat", BEAT, &Beat::now(&run.cgroups).text(), ",");
        let note = field("note", NOTE, "running", ",");
        let stopping = field("stopping", WORDS, "", ",");
        let panicked = field("panicked", BEAT, "", ",");
        let panic = field("panic", WORDS, "", "}}\n");
        Ok(Self {
            file: files::replace(path, text.as_bytes(), 0o600)?,
            beat,
            note,
            stopping,
            panicked,
            panic,
        })
    }

    /// Writes a heartbeat with the current times and counts.
    ///
    /// Called every five seconds by the thread of the state folder.
    pub(super) fn beat(&self, groups: &Groups) -> io::Result<()> {
        self.write_beat(Beat::now(groups))
    }

    /// Writes the given heartbeat.
    pub(super) fn write_beat(&self, beat: Beat) -> io::Result<()> {
        self.write(self.beat, &beat.text())
    }

    /// Notes that the shutdown has begun, with its reason.
    pub(super) fn stopping(&self, reason: &str) -> io::Result<()> {
        self.write(self.stopping, reason)
    }

    /// Notes a panic, which may end the process.
    ///
    /// `words` are its thread, place and message. With `None` only the time of the last panic is
    /// renewed, because the process is about to abort because of it.
    ///
    /// The text is written before the time. A process that ends in between leaves the time of an
    /// older panic, or none, so the text is not shown for the wrong reason.
    pub(super) fn panicking(&self, words: Option<&str>) -> io::Result<()> {
        if let Some(words) = words {
            self.write(self.panic, words)?;
        }
        let uptime = boot::now().as_millis().to_string();
        self.write(self.panicked, &uptime)
    }

    /// Notes the outcome, before the report is written. On a full disk this write still succeeds,
    /// while a new file cannot be written.
    pub(super) fn ending(&self, outcome: Outcome) -> io::Result<()> {
        self.write(self.note, outcome.as_str())
    }

    /// Notes that the watchdog ends the process. It takes no lock and does not allocate. One
    /// pwrite(2) of nine bytes from static memory.
    pub(super) fn forced(&self) {
        // The process ends now, so an error cannot be reported.
        self.file.write_all_at(FORCED, self.note.at).ok();
    }

    /// Allocates the padded text. The write does not extend the file, so it needs no space.
    fn write(&self, place: Place, text: &str) -> io::Result<()> {
        self.file
            .write_all_at(place.fill(text).as_bytes(), place.at)
    }
}

// === impl Place ===

impl Place {
    /// Returns the text cut or padded to the width of the field, with every character replaced that
    /// JSON would escape.
    ///
    /// The result has exactly `width` bytes, and is cut between characters, so the file stays valid
    /// UTF-8 and valid JSON.
    fn fill(self, text: &str) -> String {
        let plain = text.chars().map(|c| match c {
            '"' => '\'',
            '\\' => '/',
            c if c.is_control() => ' ',
            c => c,
        });
        let mut filled = String::with_capacity(self.width);
        for c in plain {
            if filled.len() + c.len_utf8() > self.width {
                break;
            }
            filled.push(c);
        }
        let room = self.width - filled.len();
        filled.extend(std::iter::repeat_n(' ', room));
        filled
    }
}
