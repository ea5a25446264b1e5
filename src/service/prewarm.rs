//! The `prewarm` task kind: reads files into the page cache, makes HTTP requests and runs commands,
//! once, before the service is ready.
//!
//! All steps run at the same time, as far as `concurrency` allows, each within `timeout`. Each says in
//! the log how long it took. A step that fails is a warning, and the service becomes ready without it;
//! if the task is `required`, it ends the service.
//!
//! This module does not lock pages in memory, and it does not repeat a step.

mod files;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc};

use crate::TaskGroup;
use crate::service::endpoint::{self, Check};
use crate::service::process::{Commands, Condition, Dependencies, ProcessSettings};

/// The target of log events about prewarming.
const TARGET: &str = "headcount::prewarm";

/// The settings of one task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PrewarmSettings {
    /// Files, and folders with all that is in them.
    pub(crate) files: Vec<PathBuf>,
    /// The most bytes that are read of each entry of `files`.
    pub(crate) most_bytes: u64,
    /// URLs that are requested with GET. A status from 200 to 399 is a success.
    pub(crate) http: Vec<String>,
    /// Programs and their arguments. An exit with code 0 is a success.
    pub(crate) commands: Vec<Vec<String>>,
    /// The conditions, by process name, that must hold before the steps begin.
    pub(crate) depends_on: BTreeMap<String, Condition>,
    /// The number of steps that run at the same time.
    pub(crate) concurrency: usize,
    /// The longest time of one step.
    pub(crate) timeout: Duration,
    /// True if a step that fails ends the service.
    pub(crate) required: bool,
}

/// One step.
#[derive(Debug, Clone)]
enum Step {
    Files(PathBuf),
    Http(String),
    Command(Vec<String>),
}

/// The means of the steps of one task.
#[derive(Debug)]
struct Steps {
    task: String,
    settings: PrewarmSettings,
    commands: Commands,
    group: TaskGroup,
}

/// Starts a task that warms, in the group `prewarm` of `tasks`. The service is not ready until it is
/// over.
///
/// The failure of a required task goes to `failures`, in words.
pub(crate) fn start(
    name: String,
    settings: PrewarmSettings,
    dependencies: Dependencies,
    commands: Commands,
    tasks: &TaskGroup,
    failures: mpsc::UnboundedSender<String>,
) {
    let group = tasks.group("prewarm");
    let what = format!("prewarm {name}");
    group.set_unready(&what, "not warmed yet");
    let steps = Arc::new(Steps {
        task: name.clone(),
        settings,
        commands,
        group: group.clone(),
    });
    group.task(&name).long_lived().try_spawn(async move {
        let group = steps.group.clone();
        let run = Arc::clone(&steps).run(dependencies);
        match group.until_draining(run).await {
            // The service stops, or only this group was drained, on request.
            None if steps.settings.required => {
                group.set_unready(&what, "stopped before all of it was warm");
                Ok(())
            }
            Some(Err(why)) if steps.settings.required => {
                group.set_unready(&what, &why);
                failures.send(format!("prewarm {}: {why}", steps.task)).ok();
                Err(why)
            }
            _ => {
                group.set_ready(&what);
                Ok(())
            }
        }
    });
}

// === impl PrewarmSettings ===

impl Default for PrewarmSettings {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            most_bytes: 1 << 30,
            http: Vec::new(),
            commands: Vec::new(),
            depends_on: BTreeMap::new(),
            concurrency: 4,
            timeout: Duration::from_secs(30),
            required: false,
        }
    }
}

impl PrewarmSettings {
    fn steps(&self) -> impl Iterator<Item = Step> {
        let files = self.files.iter().cloned().map(Step::Files);
        let http = self.http.iter().cloned().map(Step::Http);
        let commands = self.commands.iter().cloned().map(Step::Command);
        files.chain(http).chain(commands)
    }
}

// === impl Steps ===

impl Steps {
    /// Waits for the dependencies, then runs all steps. An error names what has failed.
    async fn run(self: Arc<Self>, mut dependencies: Dependencies) -> Result<(), String> {
        if let Err(why) = dependencies.met().await {
            tracing::warn!(target: TARGET, task = %self.task, "nothing is warmed: {why}");
            return Err(why);
        }
        let began = Instant::now();
        let places = Arc::new(Semaphore::new(self.settings.concurrency));
        let mut running = Vec::new();
        for step in self.settings.steps() {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let steps = Arc::clone(&self);
            let words = step.words();
            let task = self.group.task(step.kind());
            let handle = task.spawn(async move {
                let _place = place;
                let group = steps.group.clone();
                if matches!(step, Step::Command(_)) {
                    // It is stopped by the drain itself.
                    return steps.run_one(step).await;
                }
                let ran = group.until_draining(steps.run_one(step)).await;
                ran.unwrap_or_else(|| Err("the service is stopping".to_owned()))
            });
            running.push((words, handle));
        }
        let (count, mut failed) = (running.len(), Vec::new());
        for (words, handle) in running {
            let outcome = handle.await.unwrap_or_else(|error| Err(error.to_string()));
            if let Err(why) = outcome {
                failed.push(format!("{words}: {why}"));
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let warm = count - failed.len();
        tracing::info!(target: TARGET, task = %self.task, "warmed {warm} of {count} in {seconds:.1}s");
        if failed.is_empty() {
            return Ok(());
        }
        Err(failed.join("; "))
    }

    /// Runs one step, and logs how long it took.
    async fn run_one(&self, step: Step) -> Result<(), String> {
        let began = Instant::now();
        let words = step.words();
        let outcome = self.attempt(step).await;
        let seconds = began.elapsed().as_secs_f64();
        match &outcome {
            Ok(more) => {
                tracing::info!(target: TARGET, task = %self.task, "{words}{more} in {seconds:.2}s");
            }
            Err(why) => {
                tracing::warn!(target: TARGET, task = %self.task, "{words}: {why}, after {seconds:.2}s");
            }
        }
        outcome.map(drop)
    }

    /// Runs one step within the time limit. Returns what else there is to say of it.
    async fn attempt(&self, step: Step) -> Result<String, String> {
        let limit = self.settings.timeout;
        match step {
            Step::Files(path) => {
                let most = self.settings.most_bytes;
                files::read(&self.group, path, most, limit).await
            }
            Step::Http(url) => {
                let asked = endpoint::once(&Check::get(url), limit).await;
                asked.map(|()| String::new())
            }
            Step::Command(command) => {
                let settings = ProcessSettings {
                    command,
                    ..ProcessSettings::default()
                };
                let ran = self.commands.run(&self.task, &settings, limit, &self.group);
                ran.await.map(|()| String::new())
            }
        }
    }
}

// === impl Step ===

impl Step {
    /// Returns the name of the tasks of this kind of step.
    fn kind(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Http(_) => "http",
            Self::Command(_) => "command",
        }
    }

    /// Names the step in messages. Arguments and queries may be secret.
    fn words(&self) -> String {
        match self {
            Self::Files(path) => format!("files {}", path.display()),
            Self::Http(url) => format!("http {}", url.split('?').next().unwrap_or_default()),
            Self::Command(command) => {
                format!("command {}", command.first().map_or("", String::as_str))
            }
        }
    }
}
