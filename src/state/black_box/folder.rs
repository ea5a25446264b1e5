//! The folder of the black boxes of a user.

use super::NoBox;
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock, fstat, fstatfs, mkdir,
    open, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The type of a tmpfs (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
/// The longest wait for the lock of a new file, which another process may hold while it looks for
/// boxes to remove.
const LOCKED: Duration = Duration::from_millis(200);

/// A folder on a tmpfs that only this user can write to.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// The folder itself, which may have been moved since.
    fd: OwnedFd,
}

/// The reason why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// There is no such folder, or it is not on a tmpfs, as on many systems.
    #[error("{0}")]
    Unfit(String),
    /// It is unsafe, or the system refuses it.
    #[error("{0}")]
    Fault(String),
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Self {
        let why = io::Error::from(error).to_string();
        // ENOTDIR is no missing folder: it may be a symbolic link in the place of headcount's own.
        match error {
            Errno::NOENT => Self::Unfit(why),
            _ => Self::Fault(why),
        }
    }
}

/// Returns the folder for an environment that `variable` looks up, and creates it if necessary.
///
/// A folder that cannot be used is passed over. If all of them are, the first fault is returned, or else
/// the first reason.
pub(super) fn find(variable: impl Fn(&str) -> Option<OsString>) -> Result<Folder, NoBox> {
    let (mut fault, mut unfit) = (None, None);
    for (path, is_ours) in candidates(variable, geteuid().as_raw()) {
        match usable(&path, is_ours) {
            Ok(fd) => return Ok(Folder { path, fd }),
            Err(reason) => {
                let first = match reason {
                    Unusable::Unfit(_) => &mut unfit,
                    Unusable::Fault(_) => &mut fault,
                };
                first.get_or_insert(format!("{}: {reason}", path.display()));
            }
        }
    }
    if let Some(fault) = fault {
        return Err(NoBox::BadFolder(fault));
    }
    let why = unfit.unwrap_or_else(|| "there is no folder for it".to_owned());
    Err(NoBox::NoFolder(why))
}

/// Returns the folders of a user, the preferred one first, each with whether headcount makes it.
pub(super) fn candidates(
    variable: impl Fn(&str) -> Option<OsString>,
    uid: u32,
) -> impl Iterator<Item = (PathBuf, bool)> {
    let systemd = variable("RUNTIME_DIRECTORY").and_then(|folders| {
        let first = folders.to_str()?.split(':').next()?;
        Some(PathBuf::from(first))
    });
    let user = variable("XDG_RUNTIME_DIR").map(|folder| PathBuf::from(folder).join("headcount"));
    let shared = format!("/dev/shm/headcount-{uid}");
    let all = [
        systemd.map(|folder| (folder, false)),
        user.map(|folder| (folder, true)),
        Some((PathBuf::from(shared), true)),
    ];
    let all = all.into_iter().flatten();
    all.filter(|(folder, _)| folder.is_absolute())
}

/// Opens the folder, and creates it if it is headcount's own. Returns the reason if it is not fit.
///
/// A folder of headcount's own must not be a symbolic link, since others may write to the folder around
/// it. systemd makes a link for a service with a dynamic user (systemd.exec(5), `DynamicUser=`).
pub(super) fn usable(path: &Path, is_ours: bool) -> Result<OwnedFd, Unusable> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if is_ours {
        flags |= OFlags::NOFOLLOW;
        match mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let fd = open(path, flags, Mode::empty())?;
    let system = fstatfs(&fd)?;
    if u64::try_from(system.f_type).ok() != Some(TMPFS) {
        return Err(Unusable::Unfit("not on a tmpfs".to_owned()));
    }
    let data = fstat(&fd)?;
    let own = geteuid().as_raw();
    if data.st_uid != own {
        let owner = data.st_uid;
        let why = format!("it belongs to user {owner}, and this process runs as user {own}");
        return Err(Unusable::Fault(why));
    }
    if data.st_mode & 0o022 != 0 {
        let why = "other users can write to it".to_owned();
        return Err(Unusable::Fault(why));
    }
    Ok(fd)
}

// === impl Folder ===

impl Folder {
    /// Creates a file of that size in the folder, all of it allocated, and locks it. It is read-only
    /// for everything that opens it later.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough space. Nothing is left behind.
    pub(super) fn create(&self, name: &OsStr, bytes: u64) -> io::Result<File> {
        let limit = getrlimit(Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < bytes) {
            // The kernel would send SIGXFSZ (setrlimit(2)).
            let why = "the limit of the size of a file is too low";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::RUSR)?;
        let made = lock(&file).and_then(|()| allocate(&file, bytes));
        if let Err(error) = made {
            unlinkat(&self.fd, name, AtFlags::empty()).ok();
            return Err(error.into());
        }
        Ok(file.into())
    }
}

/// Locks a new file.
fn lock(file: &OwnedFd) -> rustix::io::Result<()> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCKED => {
                std::thread::sleep(Duration::from_millis(2));
            }
            locked => return locked,
        }
    }
}

/// Allocates the file, all or nothing. A signal may interrupt it (fallocate(2)).
fn allocate(file: &OwnedFd, bytes: u64) -> rustix::io::Result<()> {
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            allocated => return allocated,
        }
    }
}
