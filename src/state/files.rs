//! The files of a state folder: locking, reading, moving aside and atomic replacement.
//!
//! A reader finds either the old or the new content, never a part. Nothing here waits for other
//! processes for longer than [`FORKING`], but every call can block as long as the disk does.
//!
//! The steps of a replacement, and the state of the file if the machine stops after each:
//!
//! | step | content after a power loss |
//! |---|---|
//! | write a new file beside it | old |
//! | sync the new file | old |
//! | rename it over `NAME` | old or new |
//! | sync the folder | new |
//!
//! Another user may be able to create files in the folder, such as symbolic links that lead out of
//! it. So no link is followed at the end of a path: a new file has a random name and must not exist,
//! and the others are opened with `O_NOFOLLOW` (open(2)).

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The largest file that is read. headcount writes no larger ones. A larger one is damaged or not
/// headcount's, and reading it could use up the memory of the service.
const LONGEST: u64 = 16 * 1024 * 1024;

/// The time after which a held lock is taken to be another instance's, and the pause between
/// attempts. A child process holds a copy of its parent's lock between `fork` and `exec`, so a
/// short hold is no evidence.
///
/// A longer hold would delay the start of each second instance; a shorter one would refuse a start
/// that only races with a `fork`.
const FORKING: Duration = Duration::from_millis(200);
/// The lock has no wait with a timeout: flock(2) either returns at once or blocks without a limit.
const AGAIN: Duration = Duration::from_millis(2);

/// The content of a file.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// There is no such file.
    Nothing,
    /// It was read and parsed.
    Whole(T),
    /// It cannot be read or parsed, for the given reason.
    Damaged(String),
}

/// The result of an attempt to lock the folder.
#[derive(Debug)]
pub(super) enum Locked {
    /// The folder is locked as long as the file is open. It is `None` on a file system without
    /// locks.
    Ours(Option<File>),
    /// Another instance holds the lock.
    Others,
}

/// Creates the folder and its parents, with mode 0700. An existing folder is left as it is.
///
/// The mode is reduced by the umask. Folders that are made on the way have it too.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Checks that a folder belongs to this user or to root. The owner of a folder can replace
/// everything in it, and the records of earlier runs are believed.
///
/// A link to the folder is followed: systemd makes one for a service with a dynamic user
/// (systemd.exec(5), `DynamicUser=`).
pub(super) fn check_owner(folder: &Path) -> io::Result<()> {
    let own = geteuid().as_raw();
    owned_by(fs::metadata(folder)?.uid(), own)
}

/// Compares the owner of a folder with the user of this process.
fn owned_by(owner: u32, own: u32) -> io::Result<()> {
    if owner == own || owner == 0 {
        return Ok(());
    }
    let what = format!("it belongs to user {owner}, and this process runs as user {own}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// Locks the folder. The kernel releases the lock when the process ends, however that happens.
///
/// Blocks for at most [`FORKING`].
///
/// Locks of flock(2) belong to the open file, so a second runtime of the same process is refused
/// like another process. The file itself stays empty and is never removed: removing it would let
/// two runs lock two files of one name.
pub(super) fn lock(folder: &Path) -> io::Result<Locked> {
    let file = private().create(true).open(folder.join("lock"));
    let file = file.map_err(|error| linked("lock", error))?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Locked::Ours(Some(file))),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < FORKING => thread::sleep(AGAIN),
            Err(Errno::WOULDBLOCK) => return Ok(Locked::Others),
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(Locked::Ours(None)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns options for a file that only its owner can read.
///
/// The mode counts only for a file that is created. A symbolic link is not followed.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(flags(OFlags::NOFOLLOW));
    options
}

/// Converts flags of open(2) for the standard library.
fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("open(2) takes an int")
}

/// Words the error of open(2) for a symbolic link. Others are returned as they are.
fn linked(name: &str, error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => io::Error::other(format!("`{name}` is a symbolic link")),
        _ => error,
    }
}

/// Reads a JSON file.
///
/// Never fails: the reason is part of the result. The size is checked before and limited during the
/// read, since the file may grow meanwhile.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Found<T> {
    let mut options = OpenOptions::new();
    // Without `O_NONBLOCK`, opening a pipe would block until it has a writer.
    let opened = options
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            return Found::Damaged("a symbolic link".to_owned());
        }
        Err(error) => return Found::Damaged(error.to_string()),
    };
    match file.metadata() {
        Err(error) => return Found::Damaged(error.to_string()),
        Ok(data) if !data.is_file() => return Found::Damaged("not a regular file".to_owned()),
        Ok(data) if data.len() > LONGEST => return Found::Damaged("larger than 16 MiB".to_owned()),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    match file.take(LONGEST).read_to_end(&mut bytes) {
        Err(error) => Found::Damaged(error.to_string()),
        Ok(_) => match serde_json::from_slice(&bytes) {
            Ok(whole) => Found::Whole(whole),
            Err(error) => Found::Damaged(error.to_string()),
        },
    }
}

/// Renames a damaged file out of the way, and returns its new path. A file that was moved aside
/// earlier is replaced.
///
/// Only the last damaged file is kept, so that a file that is damaged at every start does not fill
/// the disk.
pub(super) fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".damaged");
    if let Err(error) = fs::rename(path, &aside) {
        // A directory at the target can make the rename fail. A unique name cannot be in use.
        let aside = beside(path, &format!(".damaged-{}", super::boot::run_id()));
        fs::rename(path, &aside).map_err(|_| error)?;
        return Ok(aside);
    }
    Ok(aside)
}

/// Returns the path with `suffix` appended to the file name.
///
/// The new path is in the same folder, so a rename stays within the file system and is atomic
/// (rename(2)).
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Replaces a file atomically, and returns the new one open.
///
/// A reader finds either the old or the new content, even after a power loss: the new file is
/// synced before it is renamed over the old one, and the folder is synced afterwards.
///
/// Blocks for two syncs. If it fails, the old content is still there; if only the sync of the
/// folder fails, the new one may be.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let beside = beside(path, &format!(".{}.new", super::boot::run_id()));
    // `create_new` fails if anything of that name exists, even a link.
    let file = private().create_new(true).mode(mode).open(&beside)?;
    let written = (&file).write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // A partial file would waste space on a disk that may be full.
        fs::remove_file(&beside).ok();
        return Err(error);
    }
    sync_folder_of(path)?;
    Ok(file)
}

/// Removes the files that a [`replace`] of this path left beside it when its process was killed. The
/// caller must hold the lock of the folder.
pub(super) fn remove_unfinished(path: &Path) {
    remove_unfinished_if(path, |_| true);
}

/// Removes the files that a [`replace`] of this path left beside it, in a folder that has no lock:
/// those of this user that are older than `age`, since another process may be writing one.
pub(super) fn remove_abandoned(path: &Path, age: Duration) {
    let user = geteuid().as_raw();
    remove_unfinished_if(path, |entry| {
        // The metadata of a link itself, not of its target.
        entry.metadata().is_ok_and(|data| {
            let is_old = data
                .modified()
                .is_ok_and(|at| at.elapsed().is_ok_and(|since| since > age));
            data.is_file() && data.uid() == user && is_old
        })
    });
}

/// Removes the files that a [`replace`] of this path may have left beside it, if `is_left` says so.
fn remove_unfinished_if(path: &Path, is_left: impl Fn(&DirEntry) -> bool) {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return;
    };
    for entry in fs::read_dir(folder_of(path))
        .into_iter()
        .flatten()
        .flatten()
    {
        let found = entry.file_name();
        let rest = found.to_str().and_then(|found| found.strip_prefix(name));
        let is_unfinished =
            rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".new"));
        if is_unfinished && is_left(&entry) {
            // It wastes some space if this fails, and the next start tries again.
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Removes a file, which need not exist. The removal is not synced, so the file may be back after a
/// power loss.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns the folder that contains the file. A path without a folder is in the current one.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

/// Syncs the folder that contains the file, so that a rename in it is durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = File::open(folder_of(path))?;
    match folder.sync_all() {
        // Some file systems cannot sync a directory. The rename is then not durable, but still
        // atomic.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_user_is_refused_and_that_of_root_is_not() {
        assert!(owned_by(1000, 1000).is_ok());
        assert!(owned_by(0, 1000).is_ok());
        let refused = owned_by(1001, 0).expect_err("it is another user's");
        assert_eq!(
            refused.to_string(),
            "it belongs to user 1001, and this process runs as user 0"
        );
    }

    #[test]
    fn only_old_files_of_a_killed_replacement_are_removed() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let at = |name: &str| folder.path().join(name);
        let old = std::time::SystemTime::now() - Duration::from_secs(120);
        for name in ["a.prom", "a.prom.1-2.new", "b.prom.1-2.new", "a.prom.old"] {
            let file = File::create(at(name)).expect("a file can be made");
            file.set_modified(old).expect("its time can be set");
        }
        File::create(at("a.prom.3-4.new")).expect("a file can be made");
        remove_abandoned(&at("a.prom"), Duration::from_secs(60));
        let entries = fs::read_dir(folder.path()).expect("the folder exists");
        let mut left: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["a.prom", "a.prom.3-4.new", "a.prom.old", "b.prom.1-2.new"]
        );
    }
}
