//! The file of the control socket: its path, the checks of its folder, and its removal.
//!
//! Another user may be able to create files beside it, such as in `/tmp`. So a folder that headcount
//! makes must be a real folder of this user that nobody else may enter, and any other folder must not
//! let other users replace files. bind(2) follows no link at the end of a path.
//!
//! Whether a file that is in the way is in use is found by connecting to it: the kernel refuses if no
//! process listens. The folder is locked meanwhile, so that two processes that start at once do not
//! each remove the socket of the other.

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::geteuid;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait for the lock of the folder, which other processes hold for a moment at their
/// start, and the pause between attempts.
const LOCKING: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(2);
/// The most of a process's environment that is read.
const ENVIRONMENT: u64 = 4 * 1024 * 1024;
/// The most files in the folder that are looked at for sockets that killed processes left behind.
const LOOKED_AT: usize = 1000;
/// The permissions of other users to write, and the flag of a folder in which only the owner of a
/// file may replace it (chmod(2)).
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A socket's file, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device and the inode. Another file may have replaced it.
    identity: (u64, u64),
}

/// A file in the way of a socket.
enum Found {
    /// The socket of a process that no longer listens.
    Stale,
    /// A process listens.
    InUse,
    /// Something else, in words.
    Other(String),
}

/// Returns the paths of the control socket of a process, the likeliest first. There need not be one.
///
/// - `$RUNTIME_DIRECTORY/headcount.sock`, and `PID.sock` there if another process has the first;
///   systemd sets this variable
/// - else `$XDG_RUNTIME_DIR/headcount/PID.sock`, if that folder belongs to the user of the process
/// - else `/tmp/headcount-UID/PID.sock`
///
/// The variables are those that the process was started with, or of this process if they cannot be
/// read.
///
/// # Examples
///
/// ```
/// let paths = headcount::runtime::control_sockets(std::process::id());
/// assert_eq!(paths[0].extension().unwrap(), "sock");
/// ```
#[must_use]
pub fn control_sockets(pid: u32) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let user = fs::metadata(&process).map_or_else(|_| geteuid().as_raw(), |data| data.uid());
    let mut environment = Vec::new();
    let read = File::open(process.join("environ"))
        .and_then(|file| file.take(ENVIRONMENT).read_to_end(&mut environment));
    if read.is_err() {
        return places(pid, user, |name| std::env::var_os(name));
    }
    places(pid, user, |name| {
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|variable| {
            let rest = variable.strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=")
        });
        value.map(|value| OsStr::from_bytes(value).to_owned())
    })
}

/// Returns the paths for a process with these variables.
fn places(pid: u32, user: u32, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let own = format!("{pid}.sock");
    let folder = |name| {
        let folder = PathBuf::from(variable(name)?);
        folder.is_absolute().then_some(folder)
    };
    // systemd separates several folders by colons.
    let runtime = variable("RUNTIME_DIRECTORY").and_then(|folders| {
        let first = folders.as_bytes().split(|byte| *byte == b':').next()?;
        let first = PathBuf::from(OsStr::from_bytes(first));
        first.is_absolute().then_some(first)
    });
    if let Some(folder) = runtime {
        return vec![folder.join("headcount.sock"), folder.join(own)];
    }
    let is_own = |folder: &PathBuf| fs::metadata(folder).is_ok_and(|data| data.uid() == user);
    if let Some(folder) = folder("XDG_RUNTIME_DIR").filter(is_own) {
        return vec![folder.join("headcount").join(own)];
    }
    vec![PathBuf::from(format!("/tmp/headcount-{user}")).join(own)]
}

/// Makes the socket at the first of its usual paths that no other process uses.
///
/// # Errors
///
/// Returns a sentence if there can be none.
pub(super) fn bind_default() -> Result<(UnixListener, SocketFile), String> {
    let paths = places(std::process::id(), geteuid().as_raw(), |name| {
        std::env::var_os(name)
    });
    let is_given = paths.len() > 1;
    let mut refused = String::new();
    for path in paths {
        match bind(&path, is_given) {
            Ok(made) => return Ok(made),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

/// Makes the socket at a path that the service chose.
///
/// # Errors
///
/// Returns a sentence if there can be none.
pub(super) fn bind_at(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    bind(path, true)
}

/// Makes the socket. A folder that is not given by others is created, and must be this user's alone.
fn bind(path: &Path, is_given: bool) -> Result<(UnixListener, SocketFile), String> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let checked = match is_given {
        true => check_given(folder),
        false => make_own(folder),
    };
    let no_folder =
        |why: String| format!("there is no control socket in {}: {why}", folder.display());
    checked.map_err(no_folder)?;
    let _locked = lock(folder).map_err(no_folder)?;
    if !is_given {
        remove_stale(folder);
    }
    let no_socket =
        |why: String| format!("there is no control socket at {}: {why}", path.display());
    listen(path).map_err(no_socket)
}

/// Checks a folder that headcount did not make. Links to it are followed: systemd makes one for a
/// service with a dynamic user (systemd.exec(5), `DynamicUser=`).
fn check_given(folder: &Path) -> Result<(), String> {
    let data = fs::metadata(folder).map_err(|error| error.to_string())?;
    let own = geteuid().as_raw();
    if !data.is_dir() {
        return Err("it is not a folder".to_owned());
    }
    if data.uid() != own && data.uid() != 0 {
        return Err(belongs(data.uid(), own));
    }
    if data.mode() & OTHERS_WRITE != 0 && data.mode() & STICKY == 0 {
        return Err("other users may replace files in it".to_owned());
    }
    Ok(())
}

/// Creates a folder with mode 0700, or checks that the one that exists is just like that. A link is
/// refused.
fn make_own(folder: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    let data = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    let own = geteuid().as_raw();
    if data.is_symlink() {
        return Err("it is a symbolic link".to_owned());
    }
    if !data.is_dir() {
        return Err("it is not a folder".to_owned());
    }
    if data.uid() != own {
        return Err(belongs(data.uid(), own));
    }
    if data.mode() & 0o077 != 0 {
        let mode = data.mode() & 0o777;
        return Err(format!(
            "other users may enter it: its mode is {mode:04o}, not 0700"
        ));
    }
    Ok(())
}

fn belongs(owner: u32, own: u32) -> String {
    format!("it belongs to user {owner}, and this process runs as user {own}")
}

/// Locks the folder until the file is closed. Blocks for at most [`LOCKING`].
fn lock(folder: &Path) -> Result<File, String> {
    let flags = i32::try_from(OFlags::DIRECTORY.bits()).expect("open(2) takes an int");
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(folder);
    let opened = opened.map_err(|error| error.to_string())?;
    let begun = Instant::now();
    loop {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened),
            // A file system without locks.
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(opened),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCKING => thread::sleep(AGAIN),
            Err(Errno::WOULDBLOCK) => return Err("another process keeps it locked".to_owned()),
            Err(error) => return Err(io::Error::from(error).to_string()),
        }
    }
}

/// Makes the socket, in place of one that no process listens on. The caller has locked the folder.
fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match found(path) {
                Found::Stale => {}
                Found::InUse => return Err("another process listens there".to_owned()),
                Found::Other(what) => return Err(what),
            }
            fs::remove_file(path).map_err(|error| error.to_string())?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = listener.map_err(|error| error.to_string())?;
    // Until here the file has the mode that the umask leaves; each client is checked anyway.
    let finish = || {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let data = fs::symlink_metadata(path)?;
        Ok((data.dev(), data.ino()))
    };
    match finish() {
        Ok(identity) => {
            let path = path.to_owned();
            Ok((listener, SocketFile { path, identity }))
        }
        Err(error) => {
            fs::remove_file(path).ok();
            Err(io::Error::to_string(&error))
        }
    }
}

/// Returns what is in the way of a socket.
fn found(path: &Path) -> Found {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) => return Found::Other(error.to_string()),
    };
    let own = geteuid().as_raw();
    if data.is_symlink() {
        return Found::Other("a symbolic link is there".to_owned());
    }
    if !data.file_type().is_socket() {
        return Found::Other("a file that is no socket is there".to_owned());
    }
    if data.uid() != own {
        return Found::Other(format!(
            "a socket is there, and {}",
            belongs(data.uid(), own)
        ));
    }
    match try_connect(path) {
        Err(Errno::CONNREFUSED) => Found::Stale,
        // A full backlog, or a limit of this process: the listener may live.
        _ => Found::InUse,
    }
}

/// Connects to a socket, without waiting for a listener with a full backlog.
fn try_connect(path: &Path) -> rustix::io::Result<()> {
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    ioctl_fionbio(&client, true)?;
    connect(&client, &SocketAddrUnix::new(path)?)
}

/// Removes the sockets of processes that were killed from a folder of headcount's own. The caller has
/// locked it.
fn remove_stale(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.take(LOOKED_AT) {
        let path = entry.path();
        let is_socket = path
            .extension()
            .is_some_and(|extension| extension == "sock");
        if is_socket && matches!(found(&path), Found::Stale) {
            // If it stays, it is in the way of a process with its id only, which tries again.
            fs::remove_file(&path).ok();
        }
    }
}

// === impl SocketFile ===

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let data = fs::symlink_metadata(&self.path);
        if data.is_ok_and(|data| (data.dev(), data.ino()) == self.identity) {
            // Otherwise the next process with this path removes it.
            fs::remove_file(&self.path).ok();
        }
    }
}
