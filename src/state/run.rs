//! This run in the folder: the lock, the marker and its heartbeat, and at the end the report in the marker's place.

use super::Exits;
use super::cgroup::Groups;
use super::files::{self, Found, Locked};
use super::last::{Ended, LastShutdown};
use super::marker::{Marker, OUTLIVED, Run, SCHEMA, Writer};
use super::previous::{PreviousRun, Saved, counted, previous};
use crate::registry::panics;
use crate::report::{Flush, FlushResult, Reason, Report};
use crate::shutdown::ending::Ending;
use crate::threads::{self, ThreadClass, ThreadHandle};
use std::fs::File;
use std::io;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(5);

/// What became of the folder at the start.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// `None` where it cannot be used.
    pub(crate) state: Option<Arc<State>>,
    /// What people must hear of, in sentences.
    pub(crate) warnings: Vec<String>,
}

/// The folder, held for this run.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    run: Run,
    previous: Option<PreviousRun>,
    /// `None` where it could not be written.
    marker: Option<Arc<Writer>>,
    lock: Mutex<Option<File>>,
    to_thread: SyncSender<Said>,
    heard: Mutex<Option<Receiver<Said>>>,
    /// Hears of panics as long as it lives.
    listener: Mutex<Option<panics::Listener>>,
    /// Whether the end has begun: then the marker is not withdrawn.
    over: AtomicBool,
    exits: Mutex<Exits>,
    /// Whether the thread has not yet heard of the last panic.
    panicked: Arc<AtomicBool>,
}

/// What the thread of the heartbeat has to do besides.
#[derive(Debug)]
enum Said {
    Stopping(String),
    Panicked,
}

// === impl State ===

impl State {
    /// Reads what the run before left, and leaves the marker of this one.
    pub(crate) fn open(folder: &Path, service: &str, version: &str) -> Opened {
        let mut warnings = Vec::new();
        let state = Self::try_open(folder, service, version, &mut warnings);
        let state = state.unwrap_or_else(|error| {
            let folder = folder.display();
            warnings.push(format!(
                "the state folder {folder} cannot be used: {error}; how this run ends will not be remembered"
            ));
            None
        });
        Opened {
            state: state.map(Arc::new),
            warnings,
        }
    }

    fn try_open(
        folder: &Path,
        service: &str,
        version: &str,
        warnings: &mut Vec<String>,
    ) -> io::Result<Option<Self>> {
        files::make_folder(folder)?;
        let locked = files::lock(folder)?;
        let marker = files::read::<Marker>(&folder.join("run.json"));
        let Locked::Ours(lock) = locked else {
            warnings.push(in_use(folder, &marker));
            return Ok(None);
        };
        // Where the lock does not reach: another machine's mount, a file system without locks.
        if matches!(&marker, Found::Whole(marker) if marker.run.is_another_that_lives()) {
            warnings.push(in_use(folder, &marker));
            return Ok(None);
        }
        let marker = understood(folder, "run.json", marker, |m| m.run.schema, warnings);
        let changed = std::fs::metadata(folder.join("run.json.damaged"));
        let changed = changed.and_then(|data| data.modified()).ok();
        let saved = files::read::<Saved>(&folder.join("report.json"));
        let saved = understood(folder, "report.json", saved, |s| s.schema, warnings);
        let (previous, exits) = previous(marker, saved, changed);
        let run = Run::new(service, version, exits.clone());
        let marker = match Writer::begin(&folder.join("run.json"), &run) {
            Ok(marker) => Some(Arc::new(marker)),
            Err(error) => {
                let folder = folder.display();
                warnings.push(format!(
                    "the state folder {folder} cannot be written: {error}; if this run is killed, the next will not know"
                ));
                None
            }
        };
        let (to_thread, heard) = sync_channel(4);
        Ok(Some(Self {
            folder: folder.to_owned(),
            run,
            previous,
            marker,
            lock: Mutex::new(lock),
            to_thread,
            heard: Mutex::new(Some(heard)),
            listener: Mutex::new(None),
            over: AtomicBool::new(false),
            exits: Mutex::new(exits),
            panicked: Arc::default(),
        }))
    }

    /// Starts the heartbeat, on a thread of its own: a disk that hangs must not hold up anything else.
    pub(crate) fn start(&self, root: u64) -> io::Result<()> {
        let Some(marker) = self.marker.clone() else {
            return Ok(());
        };
        let heard = self.heard.lock();
        let heard = heard.unwrap_or_else(PoisonError::into_inner).take();
        let heard = heard.expect("a run is started once");
        let cgroups = self.run.cgroups.clone();
        let (writer, panicked) = (Arc::clone(&marker), Arc::clone(&self.panicked));
        // Nobody joins it: the disk may hang.
        let _detached: ThreadHandle<()> = threads::start(
            root,
            "headcount-state",
            ThreadClass::Control,
            Location::caller(),
            move || beat(&writer, &cgroups, &heard, &panicked),
        )?;
        let (poke, panicked) = (self.to_thread.clone(), Arc::clone(&self.panicked));
        let listener = panics::listen(move |words| {
            // It is the most that can be done here.
            marker.panicking(words).ok();
            if !panicked.swap(true, Ordering::SeqCst) {
                poke.try_send(Said::Panicked).ok();
            }
        });
        *self.listener() = Some(listener);
        Ok(())
    }

    fn listener(&self) -> std::sync::MutexGuard<'_, Option<panics::Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run before this one.
    pub(crate) fn previous(&self) -> Option<&PreviousRun> {
        self.previous.as_ref()
    }

    /// How many runs ended how; with this one, once it is over.
    pub(crate) fn exits(&self) -> Exits {
        let exits = self.exits.lock();
        exits.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, with this run ended so.
    pub(super) fn exits_with(&self, outcome: Ended) -> Exits {
        counted(self.run.exits.clone(), outcome)
    }

    /// Gives the folder back. A run that never began leaves no marker.
    pub(crate) fn release(&self) {
        self.listener().take();
        if !self.over.swap(true, Ordering::SeqCst) && self.marker.is_some() {
            // It stays, and the next run takes this one for killed.
            files::remove(&self.folder.join("run.json")).ok();
        }
        let lock = self.lock.lock();
        lock.unwrap_or_else(PoisonError::into_inner).take();
    }

    fn save(&self, report: &Report) -> io::Result<()> {
        let shutdown = LastShutdown::of(report, &self.run.version, SystemTime::now());
        let saved = Saved {
            schema: SCHEMA,
            run_id: self.run.run_id.clone(),
            pid: self.run.pid,
            started: self.run.started,
            exits: self.exits(),
            shutdown,
            report: serde_json::to_value(report)?,
        };
        let text = serde_json::to_vec(&saved)?;
        files::replace(&self.folder.join("report.json"), &text, 0o600).map(drop)
    }
}

impl Ending for State {
    fn name(&self) -> &'static str {
        "state"
    }

    fn budget(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn begun(&self, reason: &Reason) {
        // If the thread is stuck, so is the disk.
        self.to_thread
            .try_send(Said::Stopping(reason.to_string()))
            .ok();
    }

    fn told_twice(&self, signal: &Reason) {
        let reason = format!("told twice, by {signal} at last; a third signal ends it at once");
        self.to_thread.try_send(Said::Stopping(reason)).ok();
    }

    fn end(&self, report: &Report, _until: Instant) -> Vec<Flush> {
        let begun = Instant::now();
        if !self.over.swap(true, Ordering::SeqCst) {
            let outcome = Ended::from(report.outcome);
            *self.exits.lock().unwrap_or_else(PoisonError::into_inner) = self.exits_with(outcome);
            if let Some(marker) = &self.marker {
                // The report says the same, if it can be written.
                marker.ending(outcome).ok();
            }
        }
        // A marker that comes back after a loss of power has the run id of the report, and does not count.
        let saved = self
            .save(report)
            .and_then(|()| files::remove(&self.folder.join("run.json")));
        let (result, text) = match saved {
            Ok(()) => (FlushResult::Delivered, "state saved".to_owned()),
            Err(error) => {
                let folder = self.folder.display();
                (
                    FlushResult::Failed,
                    format!("state not saved in {folder}: {error}"),
                )
            }
        };
        vec![Flush::new("state", result, text, begun.elapsed())]
    }

    fn seal(&self, report: &Report) {
        let others = report.flush.iter().any(|flush| flush.signal != "state");
        let saved = report
            .flush
            .iter()
            .any(|flush| flush.signal == "state" && flush.is_delivered());
        if others && saved {
            // What was saved before stays.
            self.save(report).ok();
        }
    }

    fn forced(&self) {
        if let Some(marker) = &self.marker {
            marker.forced();
        }
    }
}

/// The signs of life, until the run gives the folder back.
fn beat(marker: &Writer, cgroups: &Groups, heard: &Receiver<Said>, panicked: &AtomicBool) {
    loop {
        let written = match heard.recv_timeout(BEAT) {
            Err(RecvTimeoutError::Timeout) => marker.beat(cgroups),
            Ok(Said::Stopping(reason)) => marker.stopping(&reason),
            Ok(Said::Panicked) => {
                panicked.store(false, Ordering::SeqCst);
                std::thread::sleep(OUTLIVED);
                marker.beat(cgroups)
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // The next one may succeed, and nothing depends on it.
        written.ok();
    }
}

fn in_use(folder: &Path, marker: &Found<Marker>) -> String {
    let who = match marker {
        Found::Whole(marker) => format!("process {}", marker.run.pid),
        Found::Nothing | Found::Damaged(_) => "another process".to_owned(),
    };
    format!(
        "the state folder {} is in use by {who}: how this run ends will not be remembered; give each instance a folder \
         or a name of its own",
        folder.display()
    )
}

/// What is damaged, or written by a later version, is kept beside and is not used.
fn understood<T>(
    folder: &Path,
    name: &str,
    found: Found<T>,
    schema: impl Fn(&T) -> u32,
    warnings: &mut Vec<String>,
) -> Found<T> {
    let why = match found {
        Found::Nothing => return Found::Nothing,
        Found::Whole(whole) if schema(&whole) <= SCHEMA => return Found::Whole(whole),
        Found::Whole(whole) => format!("its schema is {}, of a later version", schema(&whole)),
        Found::Damaged(why) => why,
    };
    let path = folder.join(name);
    let kept = match files::keep_aside(&path) {
        Ok(aside) => format!("kept as {}", aside.display()),
        Err(error) => format!("not kept: {error}"),
    };
    let path = path.display();
    warnings.push(format!("{path} is not understood: {why}; {kept}"));
    Found::Damaged(why)
}
