//! The black box: a file that the process maps, and that says what it was doing when it was killed.
//!
//! It holds the slots of live tasks themselves, not copies of them, and the [`Sheet`] of the
//! [`recorder`]. The kernel keeps the pages when the process ends, however it ends. The next run
//! reads them, and so does `headcount report`; the process need not help, and may be stopped.
//!
//! Only a tmpfs will do: on a disk, the writer of dirty pages would work all the time, and a full or
//! slow disk could stop a worker. All of the file is allocated at the start, so no later store can
//! fail (SIGBUS). If it cannot be allocated, the slots live in plain memory, and the log says so.
//!
//! # Bounds
//!
//! A file has 3.7 MiB. It has room for 32,768 live tasks, 1,024 kinds, 1,024 threads that run tasks,
//! 512 registered threads, and 10,000 events. More tasks than that live in plain memory, and only
//! their number is known. A process has one box: that of its first runtime with a state folder.
//!
//! # Files
//!
//! `PID-RUN.box` in the first of these folders that is on a tmpfs and belongs to this user alone:
//! `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/headcount`, `/dev/shm/headcount-UID`. The file has mode 0400,
//! and is locked with flock(2) while the process lives: a mapping holds the open file, and with it the
//! lock. It is removed when the report is saved, or
//! after the next run has read it. [`stale`] removes those that no run has read.
//!
//! The file of a live process has pointers of it, and a process that can write it can change them. This
//! gives no rights that ptrace(2) would not give: both need the same user.

mod folder;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod map;
pub(super) mod moments;
pub(super) mod read;
mod stale;
mod words;

use super::marker::Run;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use crate::recorder;
use crate::recorder::sheet::Sheet;
use crate::registry::slots::BATCH;
use crate::registry::slots::slot::Slot;
use rustix::process::geteuid;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The number of chunks of slots in a file: 2 MiB.
const CHUNKS: usize = 32;
/// The number of slots in a file.
const SLOTS: usize = CHUNKS * BATCH;
/// The offset of the slots: the size of the sheet, rounded up to a page.
const SLOTS_AT: usize = size_of::<Sheet>().next_multiple_of(4096);
/// The size of a file.
const BYTES: usize = SLOTS_AT + SLOTS * size_of::<Slot>();

/// The black box of this process. It stays mapped until the process ends.
#[derive(Debug)]
pub(super) struct BlackBox {
    path: PathBuf,
}

/// The reason why a run has no black box.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBox {
    /// The system cannot have one, or needs none. Logged at the debug level.
    #[error("{0}")]
    Unfit(String),
    /// There is no folder on a tmpfs. Logged at the debug level, unless a black box was asked for.
    #[error("{0}")]
    NoFolder(String),
    /// A folder is there, but must not or cannot be used. Logged as a warning.
    #[error("{0}")]
    BadFolder(String),
    /// The system refused it. Logged as a warning.
    #[error("the black box cannot be kept in {}: {error}", folder.display())]
    Refused { folder: PathBuf, error: io::Error },
}

// === impl NoBox ===

impl NoBox {
    /// Adds a warning, or returns the reason for the log at the debug level. `is_asked`: the service
    /// asked for a black box, and does not only have the default.
    pub(super) fn told(self, is_asked: bool, warnings: &mut Vec<String>) -> Option<String> {
        let mut why = self.to_string();
        match self {
            Self::Unfit(_) => return Some(why),
            Self::NoFolder(_) if !is_asked => return Some(why),
            Self::NoFolder(_) | Self::BadFolder(_) => why = format!("there is no black box: {why}"),
            Self::Refused { .. } => {}
        }
        warnings.push(format!(
            "{why}; if this run is killed, the next one cannot tell which tasks lived"
        ));
        None
    }
}

// === impl BlackBox ===

impl BlackBox {
    /// Creates the file of this process, and moves the recorder and the slots of coming tasks into
    /// it. `root` is the runtime that has its phase in it.
    ///
    /// Must be called before the first task of the runtime. Blocks for the allocation of the file,
    /// about a millisecond.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(super) fn open(run: &Run, root: u64) -> Result<Self, NoBox> {
        if recorder::has_begun() {
            let why = "this process has, or had, a black box already".to_owned();
            return Err(NoBox::Unfit(why));
        }
        let folder = folder::find(|name| std::env::var_os(name))?;
        stale::remove(&folder.path);
        let name = Self::name(run);
        let refused = |error: io::Error| NoBox::Refused {
            folder: folder.path.clone(),
            error,
        };
        // The mapping keeps the file open, and with it the lock.
        let file = folder.create(&name, BYTES as u64).map_err(refused)?;
        let made = Self {
            path: folder.path.join(name),
        };
        let mapped = map::map(&file);
        let (sheet, slots) = mapped.map_err(|error| {
            made.remove();
            refused(error)
        })?;
        describe(sheet, slots, run, root);
        if !recorder::begin(sheet) {
            made.remove();
            let why = "another runtime of this process has a black box".to_owned();
            return Err(NoBox::Unfit(why));
        }
        move_in(slots);
        Ok(made)
    }

    /// Returns that there is none.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    pub(super) fn open(_: &Run, _: u64) -> Result<Self, NoBox> {
        Err(NoBox::Unfit("a black box needs 64-bit Linux".to_owned()))
    }

    /// Returns the name of the file of a run.
    pub(super) fn name(run: &Run) -> OsString {
        format!("{}-{}.box", run.pid, run.run_id).into()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, because nothing needs it any more. If that fails, a later run removes it.
    pub(super) fn remove(&self) {
        super::files::remove(&self.path).ok();
    }
}

/// Returns whether a file has the name of a black box: a pid, and the id of a run.
fn is_name(name: &OsStr) -> bool {
    let name = name.to_str().and_then(|name| name.strip_suffix(".box"));
    name.and_then(|name| name.split_once('-'))
        .is_some_and(|(pid, run_id)| {
            let is_id = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
            !pid.is_empty()
                && pid.bytes().all(|byte| byte.is_ascii_digit())
                && !run_id.is_empty()
                && run_id.bytes().all(is_id)
        })
}

/// Returns the path of a run's black box, if its name is that of one: it is removed once it was read.
pub(super) fn of_run(run: &Run) -> Option<&Path> {
    let path = Path::new(run.black_box.as_deref()?);
    let name = BlackBox::name(run);
    (path.is_absolute() && path.file_name()? == &*name).then_some(path)
}

/// Returns the path of the black box of a process. Of several, which are those of dead processes with
/// the same pid but one, the newest.
///
/// It is looked for where the process itself would put it, by its user and environment, and where this
/// process would. Folders and files of other users than that one and this one are passed over: the
/// process may name any folder in its environment.
pub(super) fn of_process(pid: u32) -> Option<PathBuf> {
    let prefix = format!("{pid}-");
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|data| data.uid());
    let owner = owner.ok();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let theirs = |name: &str| variable(&environment, name);
    let theirs = owner.map(|owner| folder::candidates(theirs, owner));
    let own = geteuid().as_raw();
    let ours = folder::candidates(|name| std::env::var_os(name), own);
    let folders = theirs.into_iter().flatten().chain(ours);
    newest(folders, &prefix, |user| user == own || owner == Some(user))
}

/// Returns the newest box in these folders with a name that begins like this. `is_trusted` returns
/// whether the folders and files of a user are looked at.
///
/// A folder of headcount's own that is a symbolic link counts as a file of the user that made the link,
/// and so does a file.
fn newest(
    folders: impl Iterator<Item = (PathBuf, bool)>,
    prefix: &str,
    is_trusted: impl Fn(u32) -> bool,
) -> Option<PathBuf> {
    let folders = folders.filter(|(folder, is_ours)| {
        let data = match is_ours {
            true => std::fs::symlink_metadata(folder),
            false => std::fs::metadata(folder),
        };
        data.is_ok_and(|data| is_trusted(data.uid()))
    });
    let entries = folders.flat_map(|(folder, _)| std::fs::read_dir(folder).into_iter().flatten());
    let boxes = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let is_its = is_name(&name) && name.to_str()?.starts_with(prefix);
        let data = entry.metadata().ok().filter(|_| is_its)?;
        let is_trusted = data.is_file() && is_trusted(data.uid());
        is_trusted.then(|| (data.modified().ok(), entry.path()))
    });
    boxes
        .max_by_key(|(changed, _)| *changed)
        .map(|(_, path)| path)
}

/// Returns a variable of an environment (proc_pid_environ(5)).
fn variable(environment: &[u8], name: &str) -> Option<OsString> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| {
        let rest = variable.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    });
    Some(OsString::from_vec(value?.to_owned()))
}

/// Fills in the head of the sheet.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn describe(sheet: &Sheet, slots: &'static [Slot], run: &Run, root: u64) {
    use crate::recorder::sheet::{FORMAT, MAGIC};
    use crate::registry::clock;
    use std::sync::atomic::Ordering::{Relaxed, Release};
    use std::time::UNIX_EPOCH;

    let head = &sheet.head;
    head.format.store(FORMAT, Relaxed);
    head.uid.store(geteuid().as_raw(), Relaxed);
    head.sheet_bytes.store(size_of::<Sheet>() as u64, Relaxed);
    head.slot_bytes.store(size_of::<Slot>() as u64, Relaxed);
    head.slots.store(slots.len() as u64, Relaxed);
    head.address.store(slots.as_ptr().addr() as u64, Relaxed);
    head.pid.store(u64::from(run.pid), Relaxed);
    head.pid_start.store(run.pid_start, Relaxed);
    let started = run.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    head.started_wall.store(recorder::nanos(started), Relaxed);
    let now = recorder::nanos(recorder::uptime());
    head.started.store(now, Relaxed);
    head.scale.store(clock::nanos_between(0, 1 << 32), Relaxed);
    head.root.store(root, Relaxed);
    head.boot_id.set(&run.boot_id);
    head.run_id.set(&run.run_id);
    head.service.set(&run.service);
    head.version.set(&run.version);
    let live = &sheet.live;
    live.beat_wall.store(recorder::nanos(started), Relaxed);
    live.beat_raw.store(clock::raw(), Relaxed);
    live.beat.store(now, Relaxed);
    head.magic.store(MAGIC, Release);
}

/// Hands the slots to the registry, and notes what was there before.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn move_in(slots: &'static [Slot]) {
    crate::registry::slots::give_memory(slots);
    crate::registry::kind::note_all();
    for known in crate::threads::all() {
        recorder::thread(known.tid, known.class as u32, &known.name);
    }
}

#[cfg(all(test, not(headcount_loom)))]
mod tests;
