//! The last run of a service, read from its state folder by a process that is not the service.
//!
//! Nothing is locked, changed or removed. Of a run that was killed, and that no later run has looked
//! at, the black box is read where it is. A later run keeps what it has found out in `killed.json`.

use super::{PreviousRun, Saved};
use crate::state::black_box::moments::LastMoments;
use crate::state::black_box::read::UnreadableBox;
use crate::state::files::{self, Found};
use crate::state::marker::{Marker, SCHEMA};
use crate::state::{black_box, boot};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The last run that ended in a state folder: its report, or what is known of its end.
///
/// Its `Display` form is the report as text, or the sentence about the end and the last moments. In
/// JSON it is the content of the file: see [`LastRun::json`].
///
/// # Examples
///
/// ```
/// use headcount::state::LastRun;
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let orders = headcount::Runtime::builder().name("orders").state_folder(folder).print(false);
/// orders.build()?.run(async |_tasks| {});
///
/// let last = LastRun::in_folder(folder)?;
/// assert!(last.to_string().starts_with("headcount orders: stopping (main ended)"));
/// assert_eq!(last.json()["shutdown"]["outcome"], "clean");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LastRun {
    text: String,
    json: serde_json::Value,
    /// The start of the run.
    started: SystemTime,
}

/// The reason why there is nothing to show of a last run.
///
/// # Examples
///
/// ```
/// use headcount::state::{LastRun, NoLastRun};
///
/// let empty = tempfile::tempdir()?;
/// let error = LastRun::in_folder(empty.path()).expect_err("nothing has run");
/// assert!(matches!(error, NoLastRun::NoneYet { .. }));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoLastRun {
    /// There is no folder, or no run has ended in it.
    #[error("no run has ended in the state folder {}", folder.display())]
    NoneYet {
        /// The state folder.
        folder: PathBuf,
    },
    /// The process has no black box, or one in a folder that this process does not know.
    #[error(
        "process {pid} has no black box in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/headcount or /dev/shm"
    )]
    NoBox {
        /// The process.
        pid: u32,
    },
    /// The file is neither a black box nor a saved report.
    #[error("{} is not a saved report: {why}", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// The file is a black box that cannot be read.
    #[error("failed to read the black box {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: UnreadableBox,
    },
}

/// The content of `killed.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// See `SCHEMA` in the marker.
    schema: u32,
    #[serde(rename = "started_at", with = "boot::seconds")]
    started: SystemTime,
    text: String,
    /// The run; kept as a value, since a later version may not know all of its fields.
    run: serde_json::Value,
}

/// The reason why a file shows no run.
#[derive(Debug)]
enum Unread {
    Missing,
    Damaged(String),
}

// === impl LastRun ===

impl LastRun {
    /// Reads the last run that has ended in a state folder. A run that is going on does not count.
    ///
    /// # Errors
    ///
    /// Returns an error if no run has ended there yet, or if the files cannot be read.
    pub fn in_folder(folder: &Path) -> Result<Self, NoLastRun> {
        let marker = match files::read::<Marker>(&folder.join("run.json")) {
            Found::Whole(marker) if marker.run.schema <= SCHEMA => Some(marker),
            _ => None,
        };
        let ended = marker.filter(|marker| !marker.run.lives());
        let saved = Self::saved(&folder.join("report.json"));
        let killed = Self::kept(&folder.join("killed.json"));
        let has_report = |marker: &Marker| {
            let saved = saved.as_ref().ok();
            saved.is_some_and(|saved| saved.json["run_id"] == *marker.run.run_id)
        };
        if let Some(marker) = ended.filter(|marker| !has_report(marker)) {
            return Ok(Self::killed(&marker));
        }
        let all = [&saved, &killed].map(|read| read.as_ref().ok());
        let newest = all.into_iter().flatten().max_by_key(|last| last.started);
        if let Some(newest) = newest {
            return Ok(newest.clone());
        }
        for (name, read) in [("report.json", saved), ("killed.json", killed)] {
            if let Err(Unread::Damaged(why)) = read {
                let path = folder.join(name);
                return Err(NoLastRun::NotAReport { path, why });
            }
        }
        Err(NoLastRun::NoneYet {
            folder: folder.to_owned(),
        })
    }

    /// Reads a file: a black box, or the `report.json` or `killed.json` of a state folder.
    ///
    /// # Errors
    ///
    /// Returns an error if it is none of these, if it is damaged, or if it is the black box of another
    /// user or of another version.
    pub fn in_file(path: &Path) -> Result<Self, NoLastRun> {
        match LastMoments::read(path) {
            Ok(moments) => return Ok(Self::of_moments(&moments)),
            Err(UnreadableBox::NotABox) => {}
            Err(source) => {
                return Err(NoLastRun::Unreadable {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        let read = Self::saved(path).or_else(|why| Self::kept(path).map_err(|_| why));
        read.map_err(|why| NoLastRun::NotAReport {
            path: path.to_owned(),
            why: match why {
                Unread::Missing => "there is no such file".to_owned(),
                Unread::Damaged(why) => why,
            },
        })
    }

    /// Reads the black box of a process of this user, dead or alive.
    ///
    /// # Errors
    ///
    /// Returns an error if no folder for black boxes has one of that process, or if it cannot be read.
    pub fn of_process(pid: u32) -> Result<Self, NoLastRun> {
        let path = black_box::of_process(pid).ok_or(NoLastRun::NoBox { pid })?;
        Self::in_file(&path)
    }

    /// Returns the run as JSON: the content of `report.json`, the
    /// [previous run](crate::state::PreviousRun), or the [last moments](LastMoments).
    #[must_use]
    pub fn json(&self) -> &serde_json::Value {
        &self.json
    }

    /// Reads a saved report.
    fn saved(path: &Path) -> Result<Self, Unread> {
        let saved = read::<Saved>(path, |saved| saved.schema)?;
        let json = serde_json::to_value(&saved).unwrap_or_default();
        let (started, mut text) = (saved.started, saved.text.clone());
        if text.is_empty() {
            text = PreviousRun::saved(saved).sentence("") + "\n";
        }
        Ok(Self {
            text,
            json,
            started,
        })
    }

    /// Reads what a later run has kept.
    fn kept(path: &Path) -> Result<Self, Unread> {
        let kept = read::<Kept>(path, |kept| kept.schema)?;
        Ok(Self {
            text: kept.text,
            json: kept.run,
            started: kept.started,
        })
    }

    /// Describes a run that left only its marker, and perhaps a black box.
    fn killed(marker: &Marker) -> Self {
        let mut previous = PreviousRun::without_report(marker);
        let mut why = None;
        if let Some(path) = black_box::of_run(&marker.run) {
            match LastMoments::read(path) {
                Ok(mut moments) => {
                    // Its memory may not be freed yet.
                    moments.is_alive &= !marker.run.is_gone();
                    previous.add(moments);
                }
                Err(error) => why = Some(format!("{}: {error}", path.display())),
            }
        }
        let mut text = text_of(&previous, "ago");
        if let Some(why) = why {
            text += &format!("its black box cannot be read: {why}\n");
        }
        Self {
            text,
            json: serde_json::to_value(&previous).unwrap_or_default(),
            started: previous.started,
        }
    }

    /// Describes a black box.
    fn of_moments(moments: &LastMoments) -> Self {
        Self {
            text: moments.to_string(),
            json: serde_json::to_value(moments).unwrap_or_default(),
            started: moments.started,
        }
    }
}

impl fmt::Display for LastRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Takes the black box that the previous run has left, adds what it shows to `previous`, keeps that in
/// the folder, and removes the box. Called with the folder locked.
///
/// `left` is the box, and whether the process of the marker is certainly gone.
pub(in crate::state) fn take(
    folder: &Path,
    previous: &mut PreviousRun,
    left: Option<(&Path, bool)>,
    warnings: &mut Vec<String>,
) {
    keep(folder, previous, left, warnings);
    if let Some(moments) = &mut previous.moments {
        moments.shorten();
    }
}

/// Does what [`take`] says, with all events.
fn keep(
    folder: &Path,
    previous: &mut PreviousRun,
    left: Option<(&Path, bool)>,
    warnings: &mut Vec<String>,
) {
    let is_gone = left.is_some_and(|(_, is_gone)| is_gone);
    let left = left.map(|(path, _)| path);
    if !previous.is_unclean() {
        // The run saved its report, and ended before it could remove its box.
        left.map(files::remove);
        return;
    }
    if let Some(path) = left {
        match LastMoments::of_previous(path, is_gone) {
            // Nothing of a process that lives is removed.
            Ok(moments) if moments.is_alive => {}
            Ok(moments) => previous.add(moments),
            // It went with the reboot, or with the folder.
            Err(UnreadableBox::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = path.display();
                warnings.push(format!("the black box {path} cannot be read: {error}"));
            }
        }
    }
    let path = folder.join("killed.json");
    let is_kept = LastRun::kept(&path).is_ok_and(|kept| kept.json["run_id"] == *previous.run_id);
    // An earlier start may have read the box, and ended before it wrote a marker of its own.
    if previous.run_id.is_empty() || is_kept && previous.moments.is_none() {
        return;
    }
    let kept = Kept {
        schema: SCHEMA,
        started: previous.started,
        text: text_of(previous, "before the next start"),
        run: serde_json::to_value(&*previous).unwrap_or_default(),
    };
    let text = serde_json::to_vec(&kept).unwrap_or_default();
    match files::replace(&path, &text, 0o600) {
        Ok(_) => {
            let is_read = previous.moments.is_some();
            left.filter(|_| is_read).map(files::remove);
        }
        Err(error) => warnings.push(format!("{} cannot be written: {error}", path.display())),
    }
}

/// Returns the sentence about a run without a report, and its last moments.
fn text_of(previous: &PreviousRun, since: &str) -> String {
    let moments = previous.moments.as_ref();
    let moments = moments.map_or_else(String::new, ToString::to_string);
    format!("{}\n{moments}", previous.sentence(since))
}

/// Reads a file of this version.
fn read<T: serde::de::DeserializeOwned>(
    path: &Path,
    schema: impl Fn(&T) -> u32,
) -> Result<T, Unread> {
    match files::read::<T>(path) {
        Found::Whole(whole) if schema(&whole) <= SCHEMA => Ok(whole),
        Found::Whole(whole) => {
            let schema = schema(&whole);
            Err(Unread::Damaged(format!(
                "schema {schema} is newer than supported"
            )))
        }
        Found::Damaged(why) => Err(Unread::Damaged(why)),
        Found::Nothing => Err(Unread::Missing),
    }
}
