//! The state folder and the textfile as a part of a runtime. Both outlive the process.
//!
//! Both are opened before the work runtime exists. A problem with either is a warning, logged once
//! the control side can log, and never keeps the service from starting. Both are written at the end
//! of a shutdown, by exit hooks.

use super::black_box::BlackBox;
use super::marker::Run;
use super::run::{Opened, State};
use super::textfile::Textfile;
use super::{Cause, PreviousRun, default_folder};
use crate::control::builder::Builder;
use crate::control::exit_hook::ExitHook;
use crate::control::part::{Earlier, Opening, Part, Starting};
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

/// The state folder and the textfile of a runtime, if it has them. Dropping it releases the folder.
#[derive(Debug, Default)]
pub(crate) struct StatePart {
    /// The setting; taken by the start.
    folder: Folder,
    /// The setting; taken by the start.
    textfile: Option<PathBuf>,
    /// The setting: whether the run has a black box. `None`: if it has a state folder.
    boxed: Option<bool>,
    /// The black box of a run without a state folder.
    black_box: Option<BlackBox>,
    /// The reason why there is no black box, until it is logged.
    no_box: Option<String>,
    /// The opened folder. Also held by the exit hooks and by the metrics, so the part's drop
    /// releases it explicitly.
    state: Option<Arc<State>>,
    /// Warnings from before the control side was there to log them. Empty once they are logged.
    warnings: Vec<String>,
}

/// The place of the state folder.
#[derive(Debug, Default)]
enum Folder {
    /// No state folder was asked for.
    #[default]
    Nowhere,
    /// The folder that [`default_folder`] returns for the service's name.
    Default,
    /// The folder that the service chose.
    At(PathBuf),
}

// === impl Builder ===

impl Builder {
    /// Records in this folder how runs end, so that the next run knows if this one was killed.
    ///
    /// The folder is created if it does not exist.
    /// [`Runtime::previous_run`](crate::Runtime::previous_run) returns what the previous run
    /// recorded. Default: no state folder.
    ///
    /// Only one run can use a folder at a time. A second one, or one that cannot write to the
    /// folder, runs without it and logs a warning.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let orders = || headcount::Runtime::builder().state_folder(folder).print(false);
    /// orders().build()?.run(async |_tasks| {});
    ///
    /// let second = orders().build()?;
    /// assert!(second.previous_run().is_some_and(|previous| !previous.is_unclean()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.parts.get_mut::<StatePart>().folder = Folder::At(folder.into());
        self
    }

    /// Records how runs end in the [`state::default_folder`](crate::state::default_folder) for the
    /// service's name.
    ///
    /// The name is that of [`Builder::name`]. See [`Builder::state_folder`] for what is recorded.
    /// If there is no default folder, the service runs without one and logs a warning.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // Not run here: it would write to the folder of a real service.
    /// let runtime = headcount::Runtime::builder().name("orders").default_state_folder().build()?;
    /// if let Some(previous) = runtime.previous_run().filter(|previous| previous.is_unclean()) {
    ///     eprintln!("{previous}");
    /// }
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn default_state_folder(mut self) -> Self {
        self.parts.get_mut::<StatePart>().folder = Folder::Default;
        self
    }

    /// Sets whether the run keeps a black box: a file on a tmpfs in which the kernel keeps what the
    /// process was doing, even if it is killed. Default: if it has a state folder.
    ///
    /// After a SIGKILL or an OOM kill the next run reads it, so
    /// [`PreviousRun::moments`](crate::state::PreviousRun::moments) tells which tasks lived, which of
    /// them held a thread and for how long, in which layer of a shutdown the run was, and what
    /// happened last. `headcount report` reads it too, also while the process is stopped.
    ///
    /// The file has 3.7 MiB, all of which count as memory of the control group. It is in
    /// `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/headcount` or `/dev/shm/headcount-UID`, and is removed
    /// when the run ends with a report, or when the next run has read it. systemd removes
    /// `$RUNTIME_DIRECTORY` when a service stops, unless `RuntimeDirectoryPreserve=` is set.
    ///
    /// Boxes of killed runs that no run reads are removed by the next start in the same folder after a day,
    /// and all but the newest 4 at once: they take at most 15 MiB.
    ///
    /// It has room for 32,768 live tasks; of further ones only the number is known. A process has one
    /// black box: that of its first runtime that keeps one. Without the space, or in a folder that is
    /// not safe, the run keeps none and logs a warning; without a tmpfs too if `keep` is true, and
    /// otherwise at the debug level. Tasks cost the same with and without it.
    ///
    /// A child of fork(2) has no black box, and must not use headcount before it calls execve(2): the
    /// slots of the tasks are not in its memory, so it would end by SIGSEGV.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// // A container whose memory is tight.
    /// let runtime = headcount::Runtime::builder().state_folder(folder).black_box(false).build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn black_box(mut self, keep: bool) -> Self {
        self.parts.get_mut::<StatePart>().boxed = Some(keep);
        self
    }

    /// Writes the end of each run to this file, for the textfile collector of Prometheus'
    /// node_exporter.
    ///
    /// The collector reads only files with a name that ends in `.prom`. The file is written at the
    /// end of a shutdown. If there is a state folder, it is also written at the start, with the end
    /// of the previous run. Default: no file.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let file = folder.join("orders.prom");
    /// let runtime = headcount::Runtime::builder().textfile(&file).print(false).build()?;
    /// runtime.run(async |_tasks| {});
    /// assert!(std::fs::read_to_string(file)?.contains("headcount_"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn textfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.parts.get_mut::<StatePart>().textfile = Some(path.into());
        self
    }
}

// === impl StatePart ===

impl StatePart {
    /// Returns the opened folder.
    #[cfg(feature = "admin")]
    pub(crate) fn state(&self) -> Option<&Arc<State>> {
        self.state.as_ref()
    }

    /// Returns the previous run in the folder.
    pub(crate) fn previous(&self) -> Option<&PreviousRun> {
        self.state.as_ref()?.previous()
    }
}

impl Part for StatePart {
    /// Reads what the previous run left in the state folder, and leaves the marker of this run.
    ///
    /// Blocks as long as the disk does, on the thread that builds the runtime. Never fails.
    fn open(
        &mut self,
        start: &Opening<'_>,
        exit_hooks: &mut Vec<Arc<dyn ExitHook>>,
    ) -> io::Result<()> {
        let (service, version) = (&*start.plan.service, &*start.plan.version);
        let root = start.root.number;
        let is_asked = self.boxed == Some(true);
        let boxed = self.boxed.unwrap_or(true).then_some((root, is_asked));
        let open = |folder: PathBuf| State::open(&folder, (service, version), boxed);
        let opened = match mem::take(&mut self.folder) {
            Folder::Nowhere => Opened::default(),
            Folder::At(folder) => open(folder),
            Folder::Default => default_folder(service).map_or_else(homeless, open),
        };
        self.state = opened.state;
        self.warnings = opened.warnings;
        self.no_box = opened.no_box;
        if is_asked && self.state.is_none() {
            let run = Run::new(service, version, super::Exits::new());
            match BlackBox::open(&run, root) {
                Ok(black_box) => self.black_box = Some(black_box),
                Err(error) => self.no_box = error.told(true, &mut self.warnings),
            }
        }
        exit_hooks.extend(self.state.clone().map(|state| state as Arc<dyn ExitHook>));
        if let Some(path) = self.textfile.take() {
            let textfile = Textfile::new(path, service, version, self.state.clone());
            self.warnings.extend(textfile.begin());
            exit_hooks.push(Arc::new(textfile));
        }
        Ok(())
    }

    /// Starts the heartbeat of the marker, and logs the warnings and an unclean end of the previous
    /// run.
    ///
    /// Fails only if the heartbeat's thread cannot be created.
    fn start(&mut self, start: &Starting<'_>, _earlier: Earlier<'_>) -> io::Result<()> {
        for warning in self.warnings.drain(..) {
            let warn = move || tracing::warn!(target: "headcount::state", "{warning}");
            start.output.log(warn);
        }
        if let Some(why) = self.no_box.take() {
            let tell = move || tracing::debug!(target: "headcount::state", "no black box: {why}");
            start.output.log(tell);
        }
        let Some(state) = &self.state else {
            return Ok(());
        };
        state.start(start.root.number)?;
        if let Some(previous) = state.previous().filter(|previous| previous.is_unclean()) {
            let words = previous.to_string();
            let (outcome, run_id) = (previous.shutdown.outcome, previous.run_id.clone());
            let (cause, version) = (previous.cause, previous.shutdown.version.clone());
            start.output.log(move || {
                tracing::warn!(
                    name: "headcount.process.previous_exit_unclean",
                    target: "headcount::state",
                    outcome = outcome.as_str(),
                    cause = cause.map(Cause::as_str),
                    run_id, version,
                    "{words}"
                );
            });
            if let Some(moments) = &previous.moments {
                let (run_id, tasks) = (moments.run_id.clone(), moments.live_tasks);
                let (phase, words) = (moments.phase, moments.sentence());
                start.output.log(move || {
                    tracing::warn!(
                        name: "headcount.process.last_moments",
                        target: "headcount::state",
                        phase = phase.as_str(), live_tasks = tasks, run_id,
                        "before the previous run ended, {words}"
                    );
                });
            }
        }
        Ok(())
    }
}

impl Drop for StatePart {
    fn drop(&mut self) {
        // While the thread panics the marker stays, so that the next run sees that this one did not
        // end properly.
        if let Some(state) = &self.state
            && !std::thread::panicking()
        {
            state.release();
        }
        if !std::thread::panicking() {
            self.black_box.iter().for_each(BlackBox::remove);
        }
    }
}

/// Returns the warning that there is no default state folder.
///
/// The run goes on without a state folder.
fn homeless() -> Opened {
    let warning = "there is no state folder: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is an absolute path; \
                   how this run ends will not be recorded";
    Opened {
        state: None,
        warnings: vec![warning.to_owned()],
        no_box: None,
    }
}
