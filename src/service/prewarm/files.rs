//! Reading of files, so that the kernel keeps them in its page cache.
//!
//! A folder is read with all that is below it. Symbolic links are followed only if they are named in
//! the configuration, and nothing but regular files is read. The work is done on a thread of the
//! blocking pool, which checks at each buffer whether its time is over. A file system that does not
//! answer holds that thread, but not the step.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::TaskGroup;

/// The size of one read, after which the time limit is checked.
const BUFFER: usize = 256 * 1024;
/// The time beyond its limit after which a reading that has not said that it is over is left alone.
const GRACE: Duration = Duration::from_secs(1);
/// The most files that one entry of the configuration reads.
const MOST_FILES: usize = 100_000;

/// A reading in progress.
#[derive(Debug)]
struct Reading {
    until: Instant,
    group: TaskGroup,
    most_bytes: u64,
    buffer: Vec<u8>,
    files: usize,
    bytes: u64,
}

/// Reads a file, or all files of a folder. Returns the number of files and bytes in words.
///
/// # Errors
/// The path cannot be read, the time limit is over, or there are more files or bytes than allowed.
///
/// # Cancel safety
/// Dropping the future leaves the reading to its time limit.
pub(super) async fn read(
    group: &TaskGroup,
    path: PathBuf,
    most_bytes: u64,
    limit: Duration,
) -> Result<String, String> {
    let mut reading = Reading {
        until: Instant::now() + limit,
        group: group.clone(),
        most_bytes,
        buffer: vec![0; BUFFER],
        files: 0,
        bytes: 0,
    };
    let read = group.spawn_blocking("read", move || {
        let outcome = reading.all(path);
        (outcome, reading.files, reading.bytes)
    });
    let read = tokio::time::timeout(limit + GRACE, read).await;
    let read =
        read.map_err(|_| "the file system does not answer, or no thread is free".to_owned())?;
    let (outcome, files, bytes) = read.map_err(|error| error.to_string())?;
    #[expect(clippy::cast_precision_loss, reason = "it is rounded for people")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    outcome.map_err(|why| format!("{why}, after {files} files and {mebibytes:.1} MiB"))?;
    Ok(format!(": {files} files, {mebibytes:.1} MiB"))
}

// === impl Reading ===

impl Reading {
    /// Reads a path of the configuration.
    fn all(&mut self, path: PathBuf) -> Result<(), String> {
        let fault = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
        let data = fs::metadata(&path).map_err(|error| fault(&path, &error))?;
        let mut waiting = vec![(path, data.is_dir())];
        while let Some((path, is_folder)) = waiting.pop() {
            if !is_folder {
                self.file(&path)?;
                continue;
            }
            for entry in fs::read_dir(&path).map_err(|error| fault(&path, &error))? {
                self.look()?;
                let entry = entry.map_err(|error| fault(&path, &error))?;
                let kind = entry.file_type().map_err(|error| fault(&path, &error))?;
                if kind.is_dir() || kind.is_file() {
                    waiting.push((entry.path(), kind.is_dir()));
                }
                if waiting.len() > MOST_FILES {
                    return Err(format!("more than {MOST_FILES} files"));
                }
            }
        }
        Ok(())
    }

    /// Reads one file.
    fn file(&mut self, path: &Path) -> Result<(), String> {
        let fault = |error: io::Error| format!("{}: {error}", path.display());
        let data = fs::metadata(path).map_err(fault)?;
        if !data.is_file() {
            return Err(format!("{} is no regular file", path.display()));
        }
        if self.files == MOST_FILES {
            return Err(format!("more than {MOST_FILES} files"));
        }
        let mut file = File::open(path).map_err(fault)?;
        self.files += 1;
        loop {
            self.look()?;
            let length = file.read(&mut self.buffer).map_err(fault)? as u64;
            if length == 0 {
                return Ok(());
            }
            self.bytes += length;
            if self.bytes > self.most_bytes {
                return Err(format!("more than {} bytes", self.most_bytes));
            }
        }
    }

    /// Fails once the time is over or the service stops.
    fn look(&self) -> Result<(), String> {
        if self.group.is_draining() {
            return Err("the service is stopping".to_owned());
        }
        if Instant::now() >= self.until {
            return Err("the time limit is over".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn group() -> TaskGroup {
        crate::attach(&tokio::runtime::Handle::current())
            .expect("the system has threads")
            .tasks()
            .clone()
    }

    /// A step on a file system that hung kept the service unready for ever.
    #[test]
    fn a_reading_that_gets_no_answer_ends_with_its_time() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .expect("the system has threads");
        let (release, released) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || released.recv());
        // In real time: tokio's paused clock stands while a blocking closure runs.
        let read =
            runtime.block_on(async { read(&group(), "/".into(), u64::MAX, Duration::ZERO).await });
        let why = "the file system does not answer, or no thread is free";
        assert_eq!(read, Err(why.to_owned()));
        drop(release);
    }

    #[tokio::test]
    async fn a_folder_is_read_with_all_below_it_but_no_link() {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let below = folder.path().join("a/b");
        fs::create_dir_all(&below).expect("the folder is ours");
        fs::write(below.join("one"), vec![0; 3 << 20]).expect("the folder is ours");
        fs::write(folder.path().join("two"), vec![0; 1 << 20]).expect("the folder is ours");
        std::os::unix::fs::symlink("/dev/zero", below.join("link")).expect("it can be made");
        let path = || folder.path().to_owned();
        let all = read(&group(), path(), u64::MAX, LONG).await;
        assert_eq!(all.as_deref(), Ok(": 2 files, 4.0 MiB"));
        let bounded = read(&group(), path(), 1000, LONG).await;
        let why = bounded.expect_err("it has more");
        assert!(
            why.starts_with("more than 1000 bytes, after 1 files"),
            "{why}"
        );
        let late = read(&group(), path(), u64::MAX, Duration::ZERO).await;
        let why = late.expect_err("it has no time");
        assert_eq!(why, "the time limit is over, after 0 files and 0.0 MiB");
        let device = read(&group(), "/dev/zero".into(), u64::MAX, LONG).await;
        let why = device.expect_err("it has no end");
        assert!(why.starts_with("/dev/zero is no regular file"), "{why}");
    }
}
