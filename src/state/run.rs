//! The state folder as held by this run: the lock, the marker with its heartbeat, and the report
//! that replaces it.
//!
//! The heartbeat and the note of a shutdown are written by a thread of their own, because a disk
//! may hang. Three writes happen elsewhere, since there may be no later time for them: a panic is
//! noted by the thread that panics, the outcome by the thread of the ending, and a forced end by
//! the watchdog.
//!
//! The order at a start: the folder is created, locked, read, and gets the marker of this run. Only
//! then is the heartbeat's thread started. The order at an end: the outcome is noted in the marker,
//! the report is saved, and the marker is removed. A process that ends between any two of these
//! steps leaves files from which the next run can tell.
//!
//! | left behind | the next run concludes |
//! |---|---|
//! | report only | ended with that report |
//! | marker and report of one run | ended with that report; the removal was lost |
//! | marker with an outcome | ended like that, could not save the report |
//! | marker without an outcome | killed, or its machine went down |

use super::Exits;
use super::black_box::{self, BlackBox};
use super::files::{self, Found, Locked};
use super::last::LastShutdown;
use super::marker::{Marker, OUTLIVED, Run, SCHEMA, Writer};
use super::oom::Groups;
use super::previous::{PreviousRun, Saved, counted, last_run, previous};
use crate::control::exit_hook::ExitHook;
use crate::recorder::{self, What};
use crate::registry::panics;
use crate::report::{Flush, FlushResult, Outcome, Reason, Report};
use crate::threads::{self, ThreadHandle};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The interval of the heartbeat.
///
/// It is the accuracy with which the end of a killed run is known, and costs a write of 64 bytes
/// that is not synced.
const BEAT: Duration = Duration::from_secs(5);

/// The result of opening a state folder.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// The opened folder, or `None` if it cannot be used.
    pub(crate) state: Option<Arc<State>>,
    /// Warnings to log, without a full stop.
    pub(crate) warnings: Vec<String>,
    /// The reason why there is no black box, for the log at the debug level.
    pub(crate) no_box: Option<String>,
}

/// A state folder that this run holds.
#[derive(Debug)]
pub(crate) struct State {
    /// The path as it was given; relative ones depend on the current directory staying the same.
    folder: PathBuf,
    /// The fixed part of this run's marker.
    run: Run,
    /// Read once at the start; `None` for a new folder.
    previous: Option<PreviousRun>,
    /// `None` if the marker could not be written.
    ///
    /// It is shared with the heartbeat's thread and the panic listener.
    marker: Option<Arc<Writer>>,
    /// The black box of this run, if it has one.
    black_box: Option<BlackBox>,
    /// The open lock file, until the folder is released. It is also `None` on a file system without
    /// locks.
    lock: Mutex<Option<File>>,
    /// The sender to the heartbeat's thread. The thread ends when this is dropped. It holds four
    /// messages; senders never wait.
    to_thread: SyncSender<Said>,
    /// The receiver, until the thread is started.
    heard: Mutex<Option<Receiver<Said>>>,
    /// Panics are noted until this is dropped. It is dropped by [`State::release`], before the
    /// folder may be used by another run.
    listener: Mutex<Option<panics::Listener>>,
    /// True once the outcome is known. The marker is then removed by [`State::end`] only, after the
    /// report is saved.
    over: AtomicBool,
    /// The outcomes of all runs; this one is included once `over` is set.
    exits: Mutex<Exits>,
    /// True while a message about a panic is on its way to the heartbeat's thread, so that panics
    /// do not fill the channel.
    panicked: Arc<AtomicBool>,
}

/// A message to the heartbeat's thread.
#[derive(Debug)]
enum Said {
    /// The shutdown has begun, for this reason.
    Stopping(String),
    /// A thread has panicked. If the process is still alive [`OUTLIVED`] later, a heartbeat must
    /// follow.
    Panicked,
}

// === impl State ===

impl State {
    /// Locks the folder, reads what the previous run left, and writes the marker of this run.
    ///
    /// It never fails: problems become warnings. It blocks as long as the disk does.
    ///
    /// With the number of a root, the run gets a black box for that runtime; with true, it was asked for.
    pub(crate) fn open(
        folder: &Path,
        (service, version): (&str, &str),
        boxed: Option<(u64, bool)>,
    ) -> Opened {
        let (mut warnings, mut no_box) = (Vec::new(), None);
        let state = Self::try_open(folder, &mut warnings, |exits| {
            let mut run = Run::new(service, version, exits);
            let opened = boxed
                .map(|(root, _)| BlackBox::open(&run, root))
                .transpose();
            let black_box = opened.unwrap_or_else(|error| {
                no_box = Some(error);
                None
            });
            let path = black_box.as_ref().and_then(|one| one.path().to_str());
            run.black_box = path.map(str::to_owned);
            (run, black_box)
        });
        let state = state.unwrap_or_else(|error| {
            let folder = folder.display();
            warnings.push(format!(
                "the state folder {folder} cannot be used: {error}; how this run ends will not be recorded"
            ));
            None
        });
        let no_box = no_box.and_then(|error| {
            let is_asked = boxed.is_some_and(|(_, is_asked)| is_asked);
            error.told(is_asked, &mut warnings)
        });
        Opened {
            state: state.map(Arc::new),
            warnings,
            no_box,
        }
    }

    /// Opens the folder, or returns `None` with a warning if another run uses it.
    ///
    /// The lock is taken before anything is read or moved aside, so that two instances that start
    /// at once do not both act on one marker. The marker is read even without the lock, for the
    /// warning only.
    fn try_open(
        folder: &Path,
        warnings: &mut Vec<String>,
        begin: impl FnOnce(Exits) -> (Run, Option<BlackBox>),
    ) -> io::Result<Option<Self>> {
        files::make_folder(folder)?;
        files::check_owner(folder)?;
        let locked = files::lock(folder)?;
        let marker = files::read::<Marker>(&folder.join("run.json"));
        let Locked::Ours(lock) = locked else {
            warnings.push(in_use(folder, &marker));
            return Ok(None);
        };
        // The lock does not exclude other mounts of a network file system, and some file systems
        // have no locks.
        if matches!(&marker, Found::Whole(marker) if marker.run.is_another_that_lives()) {
            warnings.push(in_use(folder, &marker));
            return Ok(None);
        }
        for name in ["run.json", "report.json", "killed.json"] {
            files::remove_unfinished(&folder.join(name));
        }
        let marker = understood(folder, "run.json", marker, |m| m.run.schema, warnings);
        let changed = std::fs::symlink_metadata(folder.join("run.json.damaged"));
        let changed = changed.and_then(|data| data.modified()).ok();
        let saved = files::read::<Saved>(&folder.join("report.json"));
        let saved = understood(folder, "report.json", saved, |s| s.schema, warnings);
        let left = match &marker {
            Found::Whole(marker) => {
                let path = black_box::of_run(&marker.run).map(Path::to_owned);
                path.map(|path| (path, marker.run.is_gone()))
            }
            Found::Nothing | Found::Damaged(_) => None,
        };
        let (mut previous, exits) = previous(marker, saved, changed);
        if let Some(previous) = &mut previous {
            let left = left
                .as_ref()
                .map(|(path, is_gone)| (path.as_path(), *is_gone));
            last_run::take(folder, previous, left, warnings);
        }
        let (run, black_box) = begin(exits.clone());
        let marker = match Writer::begin(&folder.join("run.json"), &run) {
            Ok(marker) => Some(Arc::new(marker)),
            Err(error) => {
                let folder = folder.display();
                warnings.push(format!(
                    "the state folder {folder} cannot be written: {error}; if this run is killed, the next one cannot tell"
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
            black_box,
            lock: Mutex::new(lock),
            to_thread,
            heard: Mutex::new(Some(heard)),
            listener: Mutex::new(None),
            over: AtomicBool::new(false),
            exits: Mutex::new(exits),
            panicked: Arc::default(),
        }))
    }

    /// Starts the heartbeat on its own thread, because a disk that hangs must not delay anything
    /// else, and begins to note panics. Does nothing if there is no marker.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system fails to create the thread.
    ///
    /// # Panics
    ///
    /// Panics if it is called twice.
    ///
    /// The thread is started before panics are listened for, so a message always has a receiver.
    pub(crate) fn start(&self, root: u64) -> io::Result<()> {
        let Some(marker) = self.marker.clone() else {
            return Ok(());
        };
        let heard = self.heard.lock();
        let heard = heard.unwrap_or_else(PoisonError::into_inner).take();
        let heard = heard.expect("a run is started once");
        let cgroups = self.run.cgroups.clone();
        let (writer, panicked) = (Arc::clone(&marker), Arc::clone(&self.panicked));
        // Never joined, because the disk may hang.
        let _detached: ThreadHandle<()> = threads::start_own(root, "headcount-state", move || {
            beat(&writer, &cgroups, &heard, &panicked);
        })?;
        let (poke, panicked) = (self.to_thread.clone(), Arc::clone(&self.panicked));
        let listener = panics::listen(move |words| {
            // An error cannot be reported from a panic hook.
            marker.panicking(words).ok();
            if !panicked.swap(true, Ordering::SeqCst) {
                poke.try_send(Said::Panicked).ok();
            }
        });
        *self.listener() = Some(listener);
        Ok(())
    }

    /// Locks the listener. Ignores lock poisoning: the value is replaced as a whole.
    fn listener(&self) -> std::sync::MutexGuard<'_, Option<panics::Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the previous run in this folder.
    pub(crate) fn previous(&self) -> Option<&PreviousRun> {
        self.previous.as_ref()
    }

    /// Returns the numbers of runs by outcome. This run is included once its outcome is known.
    pub(crate) fn exits(&self) -> Exits {
        let exits = self.exits.lock();
        exits.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the numbers of runs by outcome, as if this run had ended with `outcome`.
    ///
    /// Computed from the numbers at the start, so that calling it again does not count twice.
    pub(super) fn exits_with(&self, outcome: Outcome) -> Exits {
        counted(self.run.exits.clone(), outcome)
    }

    /// Releases the folder. If no shutdown has reached its end, this run never began, so its marker
    /// is removed.
    ///
    /// Called when the part is dropped, after the control side has ended. The lock is released
    /// last, when nothing of this run is left in the folder.
    pub(crate) fn release(&self) {
        self.listener().take();
        if !self.over.swap(true, Ordering::SeqCst) {
            if self.marker.is_some() {
                // If this fails, the next run takes this one for killed.
                files::remove(&self.folder.join("run.json")).ok();
            }
            self.black_box.iter().for_each(BlackBox::remove);
        }
        let lock = self.lock.lock();
        lock.unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Writes `report.json`.
    ///
    /// Called on the thread of the exit hook, and once more by [`ExitHook::seal`]. The report is
    /// embedded as JSON, so that a later version can still show it.
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
            text: report.to_text(false),
        };
        let text = serde_json::to_vec(&saved)?;
        files::replace(&self.folder.join("report.json"), &text, 0o600).map(drop)
    }
}

impl ExitHook for State {
    /// See [`ExitHook::name`].
    fn name(&self) -> &'static str {
        "state"
    }

    fn budget(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn begun(&self, reason: &Reason) {
        // If the channel is full, the thread is blocked by the disk, and the note could not be
        // written anyway.
        self.to_thread
            .try_send(Said::Stopping(reason.to_string()))
            .ok();
    }

    fn second_signal(&self, signal: &Reason) {
        let reason = format!("signalled twice, last by {signal}; a third signal exits at once");
        self.to_thread.try_send(Said::Stopping(reason)).ok();
    }

    fn run(&self, report: &Report, _until: Instant) -> Vec<Flush> {
        let begun = Instant::now();
        if !self.over.swap(true, Ordering::SeqCst) {
            let outcome = report.outcome;
            *self.exits.lock().unwrap_or_else(PoisonError::into_inner) = self.exits_with(outcome);
            if let Some(marker) = &self.marker {
                // The report has the same outcome, if it can be written.
                marker.ending(outcome).ok();
            }
        }
        // The marker may be back after a power loss. It then has the run id of the report, so it is
        // not counted.
        let saved = self
            .save(report)
            .and_then(|()| files::remove(&self.folder.join("run.json")));
        if saved.is_ok() || self.marker.is_none() {
            // The report says all of it, and more. Without a marker no run would look for the box.
            self.black_box.iter().for_each(BlackBox::remove);
        }
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
            // If this fails, the report that was saved before stays, without the results of the
            // other hooks.
            self.save(report).ok();
        }
    }

    fn forced(&self) {
        recorder::note(What::Deadline, None, "");
        if let Some(marker) = &self.marker {
            marker.forced();
        }
    }
}

/// Runs the heartbeat's thread until the [`State`] is dropped.
///
/// After a panic it sleeps for two seconds, and messages wait in the channel meanwhile. The
/// sender's side lives in the [`State`], and in the panic listener that it holds.
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
        // The next write may succeed, and nothing else depends on this one.
        written.ok();
    }
}

/// Returns the warning that the folder is in use, naming the process of the marker if there is one.
fn in_use(folder: &Path, marker: &Found<Marker>) -> String {
    let who = match marker {
        Found::Whole(marker) => format!("process {}", marker.run.pid),
        Found::Nothing | Found::Damaged(_) => "another process".to_owned(),
    };
    format!(
        "the state folder {} is in use by {who}: how this run ends will not be recorded; give each instance its own \
         folder or name",
        folder.display()
    )
}

/// Moves a file aside, with a warning, if it is damaged or was written by a later version of
/// headcount.
///
/// The next write then creates a new file, so damage is reported once.
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
        Found::Whole(whole) => format!("schema {} is newer than supported", schema(&whole)),
        Found::Damaged(why) => why,
    };
    let path = folder.join(name);
    let kept = match files::keep_aside(&path) {
        Ok(aside) => format!("kept as {}", aside.display()),
        Err(error) => format!("it could not be kept: {error}"),
    };
    let path = path.display();
    warnings.push(format!("{path} cannot be read: {why}; {kept}"));
    Found::Damaged(why)
}
