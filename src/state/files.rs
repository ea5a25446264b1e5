//! The files of a folder: read if they are whole, kept aside if not, replaced in one step.

use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A file that is longer is not ours.
const LONGEST: u64 = 16 * 1024 * 1024;

/// A lock is another instance's when it is held for so long: a child that begins has a copy of its parent's until it
/// becomes another program.
const FORKING: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(2);

/// What a file holds.
#[derive(Debug)]
pub(super) enum Found<T> {
    Nothing,
    Whole(T),
    /// Not to be understood, and why.
    Damaged(String),
}

/// Whether the folder is ours alone.
#[derive(Debug)]
pub(super) enum Locked {
    /// As long as the file is open. `None` where the file system has no locks.
    Ours(Option<File>),
    Others,
}

/// Makes the folder, for its owner alone.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Takes the lock, which the kernel takes back when the process ends, however that happens.
pub(super) fn lock(folder: &Path) -> io::Result<Locked> {
    let file = private().create(true).open(folder.join("lock"))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Locked::Ours(Some(file))),
            Err(TryLockError::WouldBlock) if begun.elapsed() < FORKING => thread::sleep(AGAIN),
            Err(TryLockError::WouldBlock) => return Ok(Locked::Others),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                return Ok(Locked::Ours(None));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Reads a file of JSON.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Found<T> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Damaged(error.to_string()),
        // To open a pipe would wait for whoever writes to it.
        Ok(data) if !data.is_file() => return Found::Damaged("it is not a file".to_owned()),
        Ok(data) if data.len() > LONGEST => return Found::Damaged("it is too long".to_owned()),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    match read {
        Err(error) => Found::Damaged(error.to_string()),
        Ok(_) => match serde_json::from_slice(&bytes) {
            Ok(whole) => Found::Whole(whole),
            Err(error) => Found::Damaged(error.to_string()),
        },
    }
}

/// Puts a file out of the way, and returns where it is. One is kept: the last.
pub(super) fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".damaged");
    if let Err(error) = fs::rename(path, &aside) {
        // A folder that is not empty is in the way.
        let aside = beside(path, &format!(".damaged-{}", super::boot::run_id()));
        fs::rename(path, &aside).map_err(|_| error)?;
        return Ok(aside);
    }
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Replaces a file: whoever reads it, also after a loss of power, finds the old or this one. Returns it open.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let beside = beside(path, ".new");
    let file = private()
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)?;
    let written = (&file).write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // It would take room on a disk that may be full.
        fs::remove_file(&beside).ok();
        return Err(error);
    }
    sync_folder_of(path)?;
    Ok(file)
}

/// Removes a file. It may be there again after a loss of power.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = File::open(folder.unwrap_or(Path::new(".")))?;
    match folder.sync_all() {
        // Not every file system can: there it is done without.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
