//! Files with the output of processes, which are rotated by size.
//!
//! One thread writes all files, so that a slow disk holds up no task. Each file has a bounded share of
//! lines that wait; a process that prints faster than its file takes lines blocks on its full pipe,
//! as with the log. The thread ends when the last [`LogFile`] is dropped.
//!
//! Lines are written as they were printed, each with a line feed. Before a file would exceed its size,
//! `web.log` becomes `web.log.1`, `web.log.1` becomes `web.log.2`, and the oldest is removed.

use std::os::unix::fs::OpenOptionsExt as _;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
};

use tokio::sync::Notify;

use crate::TaskGroup;
use crate::service::process::{LogFileSettings, TARGET};

/// The bytes of one file that wait before its process is slowed down.
const SHARE: usize = 128 * 1024;
/// The most bytes of one file that wait. Lines beyond them are dropped and counted, in the last moments
/// of a process.
const MOST: usize = 1024 * 1024;

/// The thread that writes.
#[derive(Debug)]
pub(in crate::service::process) struct Files(mpsc::Sender<Chunk>);

/// The file of one process.
#[derive(Debug)]
pub(in crate::service::process) struct LogFile {
    thread: mpsc::Sender<Chunk>,
    target: Arc<Target>,
}

/// A file, as its writers and the thread share it.
#[derive(Debug)]
struct Target {
    settings: LogFileSettings,
    /// The bytes that wait.
    waiting: AtomicUsize,
    /// The lines that were dropped, as far as the file does not say so.
    dropped: AtomicU64,
    /// Notified when fewer bytes wait.
    room: Notify,
}

/// A line that waits.
#[derive(Debug)]
struct Chunk {
    target: Arc<Target>,
    line: String,
}

/// A file that is open for appending.
#[derive(Debug)]
struct Open {
    file: File,
    /// Its size, as far as headcount writes it.
    size: u64,
}

/// The files of the thread.
#[derive(Debug, Default)]
struct Writer {
    open: Vec<(Arc<Target>, Result<Open, ()>)>,
}

// === impl Files ===

impl Files {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the operating system fails to create the thread.
    pub(in crate::service::process) fn start(tasks: &TaskGroup) -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel::<Chunk>();
        tasks.thread("log-files").spawn(move |_stop| {
            let mut writer = Writer::default();
            for Chunk { target, line } in chunks {
                writer.write(&target, &line);
                let waiting = target.waiting.fetch_sub(line.len(), Ordering::SeqCst);
                target.room.notify_waiters();
                if waiting == line.len() {
                    writer.note_dropped(&target);
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Returns the file with these settings. It is opened with the first line.
    pub(in crate::service::process) fn file(&self, settings: &LogFileSettings) -> LogFile {
        let target = Target {
            settings: settings.clone(),
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            room: Notify::new(),
        };
        LogFile {
            thread: self.0.clone(),
            target: Arc::new(target),
        }
    }
}

// === impl LogFile ===

impl LogFile {
    /// Waits until there is room for more lines.
    pub(super) async fn room(&self) {
        loop {
            // Created before the look, so that a change in between is not missed.
            let changed = self.target.room.notified();
            if self.target.waiting.load(Ordering::SeqCst) < SHARE {
                return;
            }
            changed.await;
        }
    }

    /// Adds a line without waiting, or drops it if too many wait.
    pub(super) fn write(&self, line: &str) {
        let line = format!("{line}\n");
        let target = &self.target;
        if target.waiting.load(Ordering::SeqCst) + line.len() > MOST {
            target.dropped.fetch_add(1, Ordering::SeqCst);
            return;
        }
        target.waiting.fetch_add(line.len(), Ordering::SeqCst);
        let target = Arc::clone(target);
        // The thread ends only after all senders.
        self.thread.send(Chunk { target, line }).ok();
    }
}

// === impl Writer ===

impl Writer {
    /// Says in the file and in the log how many lines were dropped before.
    fn note_dropped(&mut self, target: &Arc<Target>) {
        let dropped = target.dropped.swap(0, Ordering::SeqCst);
        if dropped == 0 {
            return;
        }
        let what =
            format!("{dropped} lines are missing here: they came faster than they were written");
        let path = target.settings.path.display();
        tracing::warn!(target: TARGET, "{path}: {what}");
        self.write(target, &format!("[headcount] {what}\n"));
    }

    /// Writes a line. A failure is logged once, until a line can be written again.
    fn write(&mut self, target: &Arc<Target>, line: &str) {
        let known = self
            .open
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, target));
        let at = known.unwrap_or_else(|| {
            self.open.push((Arc::clone(target), Err(())));
            self.open.len() - 1
        });
        let settings = &target.settings;
        let open = &mut self.open[at].1;
        let was_good = known.is_none() || open.is_ok();
        match append(open, settings, line) {
            Ok(()) => {}
            Err(error) => {
                *open = Err(());
                if was_good {
                    let path = settings.path.display();
                    tracing::warn!(target: TARGET, "cannot write {path}: {error}; its lines are lost until it can");
                }
            }
        }
    }
}

/// Appends a line, after opening or rotating the file if necessary.
fn append(open: &mut Result<Open, ()>, settings: &LogFileSettings, line: &str) -> io::Result<()> {
    let length = line.len() as u64;
    if let Ok(file) = open
        && file.size > 0
        && file.size + length > settings.size
    {
        rotate(&settings.path, settings.kept)?;
        *open = Err(());
    }
    if open.is_err() {
        let mut file = Open::of(&settings.path)?;
        if file.size > 0 && file.size + length > settings.size {
            rotate(&settings.path, settings.kept)?;
            file = Open::of(&settings.path)?;
        }
        *open = Ok(file);
    }
    let Ok(file) = open else {
        return Ok(());
    };
    file.file.write_all(line.as_bytes())?;
    file.size += length;
    Ok(())
}

/// Moves the file away. `kept` is the number of older files that are kept.
fn rotate(path: &Path, kept: u32) -> io::Result<()> {
    if kept == 0 {
        return fs::remove_file(path);
    }
    for number in (1..kept).rev() {
        let (from, to) = (older(path, number), older(path, number + 1));
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, older(path, 1))
}

/// Returns the path of an older file.
fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

// === impl Open ===

impl Open {
    fn of(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The lines may hold secrets. A pipe without a reader would block the thread of all files.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let data = file.metadata()?;
        if !data.is_file() {
            // It would be renamed when it is rotated.
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Self {
            file,
            size: data.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path, kept: u32) -> LogFileSettings {
        LogFileSettings {
            path: folder.join("logs/web.log"),
            size: 10,
            kept,
        }
    }

    /// Returns the names and texts of the files.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder.join("logs")).expect("it was made");
        let mut files: Vec<_> = entries
            .map(|entry| {
                let entry = entry.expect("it can be listed");
                let text = fs::read_to_string(entry.path()).expect("it is text");
                (entry.file_name().to_string_lossy().into_owned(), text)
            })
            .collect();
        files.sort();
        files
    }

    fn written(folder: &Path, kept: u32, lines: &[&str]) -> Vec<(String, String)> {
        let settings = settings(folder, kept);
        let mut open = Err(());
        for line in lines {
            append(&mut open, &settings, line).expect("the folder is ours");
        }
        files(folder)
    }

    #[test]
    fn a_file_is_rotated_before_it_exceeds_its_size() {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let lines = [
            "one\n",
            "two\n",
            "three\n",
            "four\n",
            "a long line of it\n",
            "six\n",
        ];
        assert_eq!(
            written(folder.path(), 2, &lines),
            [
                pair("web.log", "six\n"),
                pair("web.log.1", "a long line of it\n"),
                pair("web.log.2", "four\n"),
            ]
        );
        // The next run goes on where this one ended.
        let more = written(folder.path(), 2, &["seven\n"]);
        assert_eq!(more[0], pair("web.log", "six\nseven\n"));
        assert_eq!(
            written(folder.path(), 2, &["eight\n"])[0],
            pair("web.log", "eight\n")
        );
    }

    #[test]
    fn without_older_files_the_file_starts_over() {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let files = written(folder.path(), 0, &["one\n", "two\n", "three\n"]);
        assert_eq!(files, [("web.log".to_owned(), "three\n".to_owned())]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let settings = settings(folder.path(), 1);
        let in_the_way = folder.path().join("logs");
        fs::write(&in_the_way, "a file").expect("the folder is ours");
        let mut open = Err(());
        append(&mut open, &settings, "one\n").expect_err("its folder is a file");
        fs::remove_file(&in_the_way).expect("it is ours");
        append(&mut open, &settings, "two\n").expect("it can be made");
        assert_eq!(files(folder.path())[0].1, "two\n");
    }
}
