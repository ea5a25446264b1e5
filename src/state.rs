//! What outlives the process: a folder that remembers how the last run ended, so that the next one can say so.
//!
//! A run leaves a marker when it starts and replaces it by its report when it ends. A marker without a report is a run
//! that was killed, or whose machine went down: [`PreviousRun`] says which, as far as that can be known.
//!
//! Nothing here can stop a service: a folder that cannot be used is a warning, and the run goes on without it. Nothing
//! here is a database either: it holds one run, and the number of ends by outcome.
//!
//! # Files
//!
//! `run.json`, the marker, with a heartbeat written each five seconds; `report.json`, the last report; `lock`, held
//! while a run uses the folder. Each is replaced as a whole, by a file beside it that is renamed. What cannot be read
//! is kept beside it as `NAME.damaged`. All are for the owner alone.

mod boot;
mod cgroup;
mod files;
mod last;
mod marker;
mod previous;
mod run;
mod textfile;

pub use last::{Ended, LastShutdown, LayerTime};
pub use previous::{Cause, PreviousRun};
pub(crate) use run::{Opened, State};
pub(crate) use textfile::Textfile;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How many runs of this folder ended how, by [`Ended::as_str`].
pub(crate) type Exits = BTreeMap<String, u64>;

/// Where a service keeps its state unless it says otherwise: the first folder of `$STATE_DIRECTORY`, which systemd sets
/// for `StateDirectory=`; else `headcount/SERVICE` in `$XDG_STATE_HOME`; else in `~/.local/state`. `None` without a home.
///
/// Sources: systemd.exec(5); the XDG Base Directory Specification, by which a relative path does not count.
#[must_use]
pub fn default_folder(service: &str) -> Option<PathBuf> {
    folder_from(service, |name| std::env::var_os(name))
}

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

/// A name that is one part of a path.
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

#[cfg(test)]
mod tests;
