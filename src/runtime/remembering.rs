//! What a runtime remembers beyond its process: wires the state folder and the textfile to the shutdown.

use super::{Builder, Runtime};
use crate::shutdown::Control;
use crate::shutdown::ending::Ending;
use crate::state::{self, Opened, PreviousRun, State, Textfile};
#[cfg(feature = "admin")]
use crate::telemetry::Past;
use std::path::PathBuf;
use std::sync::Arc;

/// The settings.
#[derive(Debug, Default)]
pub(super) struct Remembering {
    folder: Folder,
    textfile: Option<PathBuf>,
    version: String,
}

#[derive(Debug, Default)]
enum Folder {
    #[default]
    Nowhere,
    Default,
    At(PathBuf),
}

/// What came of them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    state: Option<Arc<State>>,
    textfile: Option<Arc<Textfile>>,
    warnings: Vec<String>,
    #[cfg(feature = "admin")]
    version: String,
}

// === impl Builder ===

impl Builder {
    /// Remembers how runs end in this folder, which is made if it is not there: the next run can tell that this one was
    /// killed, and [`Runtime::previous_run`] says so. Default: nothing is remembered.
    ///
    /// One run at a time uses a folder. A second one is warned, and goes on without. So does one whose folder cannot be
    /// written.
    pub fn state_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.remembers.folder = Folder::At(folder.into());
        self
    }

    /// The same in [`state::default_folder`] of the service's name.
    pub fn default_state_folder(mut self) -> Self {
        self.remembers.folder = Folder::Default;
        self
    }

    /// Writes the end of each run to this file, for the textfile collector of Prometheus' node_exporter. Its name must
    /// end with `.prom`. With a state folder also at the start, when the run before ended without a report.
    pub fn textfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.remembers.textfile = Some(path.into());
        self
    }

    /// The version of the service, for reports of how a version ended. Default: empty.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.remembers.version);
        self
    }
}

// === impl Runtime ===

impl Runtime {
    /// How the run before this one ended; `None` without a state folder, for its first run, and where it cannot be used.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let orders = || headcount::Runtime::builder().name("orders").state_folder(folder).print(false);
    /// let first = orders().build()?;
    /// assert!(first.previous_run().is_none());
    /// first.run(async |_| {});
    ///
    /// let second = orders().build()?;
    /// let previous = second.previous_run().expect("there was one");
    /// assert_eq!(previous.shutdown.outcome.as_str(), "clean");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn previous_run(&self) -> Option<&PreviousRun> {
        self.remembered.state.as_ref()?.previous()
    }
}

// === impl Remembering ===

impl Remembering {
    /// Reads what the run before left, and leaves a sign of this one.
    pub(super) fn begin(self, service: &str) -> Remembered {
        let version = &*self.version;
        let open = |folder: PathBuf| State::open(&folder, service, version);
        let opened = match self.folder {
            Folder::Nowhere => Opened::default(),
            Folder::At(folder) => open(folder),
            Folder::Default => state::default_folder(service).map_or_else(homeless, open),
        };
        let Opened {
            state,
            mut warnings,
        } = opened;
        let textfile = self.textfile.map(|path| {
            let textfile = Textfile::new(path, service, version, state.clone());
            warnings.extend(textfile.begin());
            Arc::new(textfile)
        });
        Remembered {
            state,
            textfile,
            warnings,
            #[cfg(feature = "admin")]
            version: self.version,
        }
    }
}

fn homeless() -> Opened {
    let warning = "there is no state folder: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is an absolute path; \
                   how this run ends will not be remembered";
    Opened {
        state: None,
        warnings: vec![warning.to_owned()],
    }
}

// === impl Remembered ===

impl Remembered {
    /// What is to be done with the report.
    pub(super) fn endings(&self) -> Vec<Arc<dyn Ending>> {
        let state = self.state.clone().map(|state| state as Arc<dyn Ending>);
        let textfile = self.textfile.clone().map(|file| file as Arc<dyn Ending>);
        state.into_iter().chain(textfile).collect()
    }

    /// Of the service.
    #[cfg(feature = "otel")]
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// What metrics show of it.
    #[cfg(feature = "admin")]
    pub(super) fn past(&self) -> Past {
        Past {
            state: self.state.clone(),
            version: self.version.clone(),
        }
    }

    /// Begins the heartbeat, and says what people must hear of.
    pub(super) fn start(&mut self, root: u64, control: &Control) -> std::io::Result<()> {
        for warning in self.warnings.drain(..) {
            control.log(move || tracing::warn!(target: "headcount::state", "{warning}"));
        }
        let Some(state) = &self.state else {
            return Ok(());
        };
        state.start(root)?;
        if let Some(previous) = state.previous().filter(|previous| previous.is_unclean()) {
            let words = previous.to_string();
            let (outcome, run_id) = (previous.shutdown.outcome, previous.run_id.clone());
            let (cause, version) = (previous.cause, previous.shutdown.version.clone());
            control.log(move || {
                tracing::warn!(
                    name: "headcount.process.previous_exit_unclean",
                    target: "headcount::state",
                    outcome = outcome.as_str(),
                    cause = cause.map(state::Cause::as_str),
                    run_id, version,
                    "{words}"
                );
            });
        }
        Ok(())
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        // A run that ends by a panic did not come to its end.
        if let Some(state) = &self.state
            && !std::thread::panicking()
        {
            state.release();
        }
    }
}
