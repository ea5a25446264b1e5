//! The marker of a run, `run.json`: whoever finds it without a report knows that the run did not get to its end.
//!
//! Its last part changes while the run lives, each field by one write in its place, of always the same length: no
//! moment leaves a file that is not JSON, and the watchdog can leave a word without a lock or an allocation.

use super::cgroup::{Groups, Kills};
use super::last::Ended;
use super::{Exits, boot, files};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the files' form.
pub(super) const SCHEMA: u32 = 1;
/// Wide enough for the longest of [`Ended`].
const NOTE: usize = 9;
const BEAT: usize = 64;
const WORDS: usize = 200;
/// A panic that the process outlived for so long was not its end. Until then it may be at work on a backtrace.
pub(super) const OUTLIVED: Duration = Duration::from_secs(2);
const FORCED: &[u8; NOTE] = b"forced   ";

/// What does not change while the run lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) schema: u32,
    pub(super) service: String,
    pub(super) run_id: String,
    pub(super) pid: u32,
    /// In the kernel's ticks: together with the pid and the boot it tells one process from all others.
    pub(super) pid_start: u64,
    pub(super) boot_id: String,
    #[serde(rename = "started_at", with = "boot::seconds")]
    pub(super) started: SystemTime,
    pub(super) version: String,
    pub(super) cgroups: Groups,
    /// Of the runs before this one.
    pub(super) exits: Exits,
}

/// A marker that was found.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Marker {
    #[serde(flatten)]
    pub(super) run: Run,
    live: Live,
}

#[derive(Debug, Clone, Deserialize)]
struct Live {
    beat: String,
    note: String,
    stopping: String,
    panicked: String,
    panic: String,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// By the wall clock.
    pub(super) at: SystemTime,
    /// Since the machine was started.
    pub(super) uptime: Duration,
    pub(super) kills: Kills,
}

/// The marker of this run, open.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    beat: Place,
    note: Place,
    stopping: Place,
    panicked: Place,
    panic: Place,
}

/// Where a field is in the file, and how long it always is.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    width: usize,
}

// === impl Run ===

impl Run {
    /// This process.
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
        }
    }

    /// Whether its process lives, and is not this one.
    pub(super) fn is_another_that_lives(&self) -> bool {
        self.pid != std::process::id()
            && self.boot_id == boot::id()
            && self.pid_start != 0
            && crate::audit::start_of(self.pid) == Some(self.pid_start)
    }
}

// === impl Marker ===

impl Marker {
    /// What the run wrote down of its end, if it came so far: the word of its outcome.
    pub(super) fn noted(&self) -> Option<Ended> {
        Ended::from_word(self.live.note.trim_end())
    }

    /// Why it was stopping.
    pub(super) fn stopping(&self) -> Option<&str> {
        Some(self.live.stopping.trim_end()).filter(|reason| !reason.is_empty())
    }

    /// The panic that it did not outlive.
    pub(super) fn panic(&self) -> Option<&str> {
        let panicked: u64 = self.live.panicked.trim_end().parse().ok()?;
        let outlived = self.beat().uptime >= Duration::from_millis(panicked) + OUTLIVED;
        (!outlived).then(|| self.live.panic.trim_end())
    }

    /// The last sign of life; the start, if there is none that can be read.
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
    fn now(groups: &Groups) -> Self {
        Self {
            at: SystemTime::now(),
            uptime: boot::now(),
            kills: groups.kills(),
        }
    }

    fn text(self) -> String {
        let wall = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Kills { own, parent } = self.kills;
        let (wall, uptime) = (wall.as_millis(), self.uptime.as_millis());
        format!("{wall} {uptime} {own} {parent}")
    }
}

// === impl Writer ===

impl Writer {
    /// Leaves the marker of a run.
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

    pub(super) fn beat(&self, groups: &Groups) -> io::Result<()> {
        self.write_beat(Beat::now(groups))
    }

    pub(super) fn write_beat(&self, beat: Beat) -> io::Result<()> {
        self.write(self.beat, &beat.text())
    }

    /// The shutdown has begun.
    pub(super) fn stopping(&self, reason: &str) -> io::Result<()> {
        self.write(self.stopping, reason)
    }

    /// A thread panics, of which the process may end; or still does.
    pub(super) fn panicking(&self, words: Option<&str>) -> io::Result<()> {
        if let Some(words) = words {
            self.write(self.panic, words)?;
        }
        let uptime = boot::now().as_millis().to_string();
        self.write(self.panicked, &uptime)
    }

    /// How it ends, before the report is written: a disk that is full takes no new file, but this.
    pub(super) fn ending(&self, outcome: Ended) -> io::Result<()> {
        self.write(self.note, outcome.as_str())
    }

    /// The watchdog ends the process. Takes no lock and allocates nothing.
    pub(super) fn forced(&self) {
        // There is nobody left to tell.
        self.file.write_all_at(FORCED, self.note.at).ok();
    }

    fn write(&self, place: Place, text: &str) -> io::Result<()> {
        self.file
            .write_all_at(place.fill(text).as_bytes(), place.at)
    }
}

// === impl Place ===

impl Place {
    /// So much of a text as there is room for, with nothing in it that JSON would have to escape.
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
