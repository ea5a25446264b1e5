//! The state folder, which outlives the process and records how the last run ended.
//!
//! A run leaves a marker when it starts, and replaces it with its report when it ends. If the next
//! run finds a marker without a report, the previous run was killed, or its machine went down:
//! [`PreviousRun`] says which, as far as that can be known.
//!
//! Nothing here can stop a service: if the folder cannot be used, headcount logs a warning and the
//! run continues without it. It is not a history: it holds one run, and the number of runs by
//! outcome.
//!
//! # Files
//!
//! - `run.json` is the marker of the current run, with a heartbeat that is written every five seconds.
//! - `report.json` is the report of the last run that had one.
//! - `killed.json` is what the next run found out about the last run that had none, with what its
//!   [black box](LastMoments) shows.
//! - `lock` is locked while a run uses the folder.
//!
//! The first three are created and replaced as a whole, by renaming a new file over the old one; the
//! marker's heartbeat and notes are then overwritten in place. A file that cannot be read is kept
//! as `NAME.damaged`. The folder is created with mode 0700 and the files with mode 0600. A folder that
//! belongs to another user than this one or root is not used, and no symbolic link in it is followed.

mod black_box;
mod boot;
mod cgroup;
mod files;
mod last;
mod marker;
pub(crate) mod names;
mod oom;
mod part;
mod previous;
mod run;
mod textfile;

pub use black_box::moments::LastMoments;
pub use black_box::read::UnreadableBox;
pub use cgroup::ControlGroup;
pub use last::LastShutdown;
pub(crate) use part::StatePart;
pub use previous::last_run::{LastRun, NoLastRun};
pub use previous::{Cause, PreviousRun};
#[cfg(feature = "admin")]
pub(crate) use run::State;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The number of runs of a folder by outcome. The keys are those of [`Outcome::as_str`].
pub(crate) type Exits = BTreeMap<String, u64>;

/// Returns the default state folder of a service, which need not exist.
///
/// It is the first of these with an absolute path:
///
/// 1. the first folder in `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`;
/// 2. `$XDG_STATE_HOME/headcount/SERVICE`;
/// 3. `$HOME/.local/state/headcount/SERVICE`.
///
/// It is `None` if none of the variables has an absolute path. `SERVICE` is the name of the service
/// with `_` in place of characters that do not belong in a file name, cut at 64 characters.
///
/// Sources: systemd.exec(5), and the XDG Base Directory Specification, which says that relative
/// paths are ignored.
///
/// # Examples
///
/// ```
/// if let Some(folder) = headcount::state::default_folder("orders") {
///     assert!(folder.is_absolute());
/// }
/// ```
#[must_use]
pub fn default_folder(service: &str) -> Option<PathBuf> {
    folder_from(service, |name| std::env::var_os(name))
}

/// Returns the default folder for an environment that `variable` looks up.
///
/// Empty variables count as unset, since an empty path is not absolute. Pure apart from `variable`,
/// so tests need not change the environment of the process.
fn folder_from(service: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(variable(name)?);
        path.is_absolute().then_some(path)
    };
    let systemd = variable("STATE_DIRECTORY").and_then(|folders| {
        let first = folders.to_str()?.split(':').next()?;
        Path::new(first).is_absolute().then(|| first.into())
    });
    systemd.or_else(|| {
        let home = || Some(absolute("HOME")?.join(".local/state"));
        let state = absolute("XDG_STATE_HOME").or_else(home)?;
        Some(state.join("headcount").join(plain(service)))
    })
}

/// Returns the name as a single path component: never empty, never beginning with a dot, at most 64
/// characters.
///
/// Two services with names that differ only in replaced characters would get one folder; the lock
/// then keeps them apart, with a warning.
fn plain(service: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    let plain: String = service
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .take(64)
        .collect();
    match plain.trim_start_matches('.') {
        "" => "service".to_owned(),
        plain => plain.to_owned(),
    }
}

#[cfg(all(test, not(headcount_loom)))]
mod tests;
