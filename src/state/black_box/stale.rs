//! Removing the boxes of dead processes that no run has read.
//!
//! The next run of a service reads its box and removes it. It may never come, or may use another
//! state folder. Of the boxes of dead processes, the newest 4 are therefore kept for a day: at most 15 MiB
//! in a folder, besides the boxes of live processes.

use super::read;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The most boxes of dead processes that are kept.
const KEPT: usize = 4;
/// The longest time for which a box of a dead process is kept.
const AGE: Duration = Duration::from_secs(86_400);
/// The most files that are looked at.
const LOOKED_AT: usize = 1024;

/// Removes the boxes in a folder of this user's that are too old or too many.
///
/// The folder may have other files of the service, which are never touched: a box is known by its name
/// and its first bytes. It is that of a dead process if its lock is free and no process has its pid and
/// start time. A file that is not complete is removed once it is a minute old: its process may be
/// starting.
pub(super) fn remove(folder: &Path) {
    let mut dead: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .take(LOOKED_AT)
        .filter(|entry| super::is_name(&entry.file_name()))
        .map(|entry| entry.path())
        .filter_map(|path| Some((read::died(&path)?, path)))
        .collect();
    dead.sort_by_key(|(seen, _)| std::cmp::Reverse(*seen));
    let now = SystemTime::now();
    for (at, (seen, path)) in dead.into_iter().enumerate() {
        let is_old = now.duration_since(seen).is_ok_and(|since| since > AGE);
        if at >= KEPT || is_old {
            // If it fails, a later start tries again.
            fs::remove_file(path).ok();
        }
    }
}
