//! Removes the folder of the build from paths: `/build/orders/src/db.rs` becomes `src/db.rs`.
//!
//! Debug information has absolute paths, while the source location of a spawn is relative to the
//! workspace. A path that ends with the file of a known spawn site shows the folder of the build,
//! wherever the program was built and wherever it runs. A stack without such a path shows it only if
//! the program runs where it was built.

use crate::stacks::frame::Frame;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most files of spawn sites that are kept. Each is compared with every path, and a service
/// has few files that spawn.
const FILES: usize = 256;
/// The most folders that are learned: one for each workspace in the program.
const FOLDERS: usize = 8;

static KNOWN: Mutex<Known> = Mutex::new(Known::new());

/// The known files, and the folders that were learned from them.
#[derive(Debug)]
struct Known {
    /// The files of spawn sites, relative to the workspace.
    files: Vec<&'static str>,
    /// The folders of builds, with a `/` at the end.
    folders: Vec<String>,
}

/// Adds the file of a spawn site. Called by the symbolizer only, since it takes a lock.
pub(super) fn know(file: &'static str) {
    known().know(file);
}

/// Removes the folder of the build from the paths of frames, as far as it can be told from their
/// paths or was learned earlier. From other paths it removes the current folder.
pub(super) fn remove(frames: &mut [Frame]) {
    let here = std::env::current_dir().ok();
    let here = here.as_deref().and_then(Path::to_str).unwrap_or_default();
    let mut known = known();
    for file in frames.iter().filter_map(|frame| frame.file.as_deref()) {
        known.learn(file);
    }
    for file in frames.iter_mut().filter_map(|frame| frame.file.as_mut()) {
        known.strip(file, here);
    }
}

/// Lock poisoning is ignored: the lists are valid between any two operations.
fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Known ===

impl Known {
    const fn new() -> Self {
        Self {
            files: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// Adds a file. Absolute ones, as of a dependency, show no folder.
    fn know(&mut self, file: &'static str) {
        let is_useful = !file.starts_with('/') && self.files.len() < FILES;
        if is_useful && !self.files.contains(&file) {
            self.files.push(file);
        }
    }

    /// Learns the folder of the build, if the path ends with a known file.
    fn learn(&mut self, path: &str) {
        if !path.starts_with('/') || self.folder_of(path).is_some() || self.folders.len() >= FOLDERS
        {
            return;
        }
        let folders = self.files.iter().filter_map(|file| path.strip_suffix(file));
        // The shortest is that of the longest file, which is the least likely to be another's.
        let folder = folders.filter(|folder| folder.ends_with('/') && folder.len() > 1);
        if let Some(folder) = folder.min_by_key(|folder| folder.len()) {
            self.folders.push(folder.to_owned());
        }
    }

    fn folder_of(&self, path: &str) -> Option<&str> {
        let mut folders = self.folders.iter().map(String::as_str);
        folders.find(|folder| path.starts_with(folder))
    }

    /// Removes the folder of the build, or `here` if that is not known.
    fn strip(&self, path: &mut String, here: &str) {
        let inside = match self.folder_of(path) {
            Some(folder) => path.strip_prefix(folder),
            None => path
                .strip_prefix(here)
                .filter(|_| !here.is_empty())
                .and_then(|inside| inside.strip_prefix('/')),
        };
        if let Some(inside) = inside {
            *path = inside.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FOLDERS, Known};

    fn stripped(known: &Known, path: &str) -> String {
        let mut path = path.to_owned();
        known.strip(&mut path, "/build/here");
        path
    }

    #[test]
    fn the_folder_of_the_build_is_told_by_the_file_of_a_spawn_site() {
        let mut known = Known::new();
        known.know("crates/orders/src/db.rs");
        known.know("src/db.rs");
        known.know("/home/ann/.cargo/registry/src/x/axum-0.8.1/src/serve.rs");
        for other in [
            "/build/shop/src/other.rs",
            "src/db.rs",
            "/src/db.rs",
            "/build/my_src/db.rs",
        ] {
            known.learn(other);
            assert_eq!(known.folders, [""; 0], "{other}");
        }
        known.learn("/build/shop/crates/orders/src/db.rs");
        assert_eq!(known.folders, ["/build/shop/"]);
        let http = stripped(&known, "/build/shop/crates/http/src/lib.rs");
        assert_eq!(http, "crates/http/src/lib.rs");
        for other in [
            "/build/shopping/src/lib.rs",
            "/build/hereafter/src/lib.rs",
            "tokio-1.54.1/src/sync/mutex.rs",
            "src/db.rs",
        ] {
            assert_eq!(stripped(&known, other), other);
        }
        let here = stripped(&known, "/build/here/src/lib.rs");
        assert_eq!(here, "src/lib.rs", "it runs where it was built");
        for at in 0..2 * FOLDERS {
            known.learn(&format!("/build-{at}/src/db.rs"));
        }
        assert_eq!(known.folders.len(), FOLDERS);
    }
}
