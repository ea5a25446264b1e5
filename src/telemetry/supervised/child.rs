//! A child process in the metrics, the API and the report.

use super::usage::Usage;
use super::{Ago, CHILDREN, Entry, locked};
use crate::group::TaskGroup;
use crate::recorder::{self, What};
use crate::registry::root::{ChildRequests, Process, ProcessState, Root};
use crate::report::ChildRow;
use crate::text::{plain, without_secrets, without_user_info};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The number of lines of output that are kept of a child.
const LINES: usize = 20;
/// The most characters of a line that are shown.
const SHOWN: usize = 200;
/// The most characters of a line that are kept. It is more than what is shown, so that a password is
/// recognized that the end of the shown part would cut.
const KEPT: usize = 1000;

/// A child process in the metrics `headcount_child_*`, in `/api/children` of the admin server with
/// its page and `/readyz`, and in the report. Dropping it removes it from all but the report.
///
/// The code that runs the process tells what happens to it. The CPU time and memory of its whole
/// tree are read from `/proc`, when they are asked for. A process that runs when the shutdown
/// begins has a row in [`Report::processes`](crate::Report::processes).
///
/// The first 64 names of a runtime have series of their own. The others share the series of
/// `_other`, which show how many of them are running and the sum of their restarts. The same holds
/// for children that are registered under one name.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::{Child, Format};
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let proxy = Child::register(runtime.tasks(), "proxy");
/// proxy.started(4711, "proxy --port 5432");
/// proxy.restarted();
/// let text = runtime.metrics().read(Format::Text);
/// assert!(text.contains("headcount_child_restarts_total{child=\"proxy\"} 1"), "{text}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Child {
    entry: Entry<ChildState>,
    /// The root, which the process is registered with too, for the report.
    root: Arc<Root>,
    process: Arc<Process>,
}

/// The state of one child, shared with its readers. The atomics are relaxed: they stand alone.
#[derive(Debug)]
pub(crate) struct ChildState {
    /// True while the child runs, as its supervisor says.
    pub(crate) live: AtomicBool,
    pub(crate) restarts: AtomicU64,
    process: Arc<Process>,
    told: Mutex<Told>,
    /// Locked for a look at the tree, and to show it.
    usage: Mutex<Usage>,
}

/// The information about a child that only the API shows.
#[derive(Debug, Default)]
struct Told {
    /// The state in the supervisor's words.
    state: Option<&'static str>,
    started: Option<Instant>,
    /// The end of the latest run that has ended.
    last_exit: Option<(String, Instant)>,
    /// The last lines of output, oldest first.
    lines: VecDeque<String>,
}

/// A child as the API shows it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ChildView {
    /// The path of the task that runs it.
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) live: bool,
    /// `None` unless it is live.
    pid: Option<u32>,
    /// The name of the program, without its arguments, which may hold secrets.
    program: Option<String>,
    running_seconds: Option<f64>,
    restarts: u64,
    last_exit: Option<Ago>,
    /// The signal that asked the current run to stop.
    told_to_stop: Option<Ago>,
    /// The processes that must end before it is told to stop.
    waits_for: Vec<String>,
    /// The processes of the run that had to be killed.
    killed: Vec<String>,
    /// The reasons why the run does not stop.
    unstopped: Vec<String>,
    usage: Usage,
    lines: Vec<String>,
}

// === impl Child ===

impl Child {
    /// Adds a child process to the metrics and the report of the runtime of `tasks`, the group of
    /// the task that runs it. It starts as not running, with no restarts. `name` is the name of that
    /// task.
    ///
    /// Control characters in the name are replaced by `_`.
    #[must_use = "its series are gone when it is dropped"]
    pub fn register(tasks: &TaskGroup, name: &str) -> Self {
        let root = Arc::clone(tasks.registry_root());
        let shown = name.replace(char::is_control, "_");
        let path = crate::report::path(tasks.name(), &shown);
        let process = root.processes.add(path);
        let state = ChildState::new(Arc::clone(&process));
        Self {
            entry: CHILDREN.register(tasks, name, state),
            process,
            root,
        }
    }

    /// Sets whether the child process is running.
    pub fn set_live(&self, live: bool) {
        self.entry.state.live.store(live, Ordering::Relaxed);
    }

    /// Sets the state that `/api/children` shows, in the words of the code that runs the process, such
    /// as `starting` or `backoff`. Without it, the state is `not started`, `running` or `ended`.
    pub fn set_state(&self, state: &'static str) {
        locked(&self.entry.state.told).state = Some(state);
        self.process.change(|process| process.word = state);
    }

    /// Keeps a line of its output, without the line feed, for `/api/logs` of the
    /// [control socket](crate::Builder::control_socket). `stream` is `stdout` or `stderr`.
    ///
    /// The last lines of each child are kept in memory, at most 1000 and 64 KiB, and of each line 4 KiB.
    /// Nothing is left out of them: only the user of the process can read the socket.
    pub fn printed(&self, stream: &'static str, line: &str) {
        self.process.output.add(stream, line);
    }

    /// Takes the requests of users to start, stop or restart the process, which come through the
    /// [control socket](crate::Builder::control_socket). Until then, they are refused.
    ///
    /// At most 8 requests wait. A second call takes them instead of the first receiver.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::{Child, ChildVerb};
    ///
    /// async fn supervise(child: Child, mut proxy: tokio::process::Child) {
    ///     let mut requests = child.requests();
    ///     loop {
    ///         let request = requests.next().await;
    ///         match request.verb() {
    ///             ChildVerb::Stop => {
    ///                 proxy.kill().await.ok();
    ///                 child.ended("killed on request");
    ///                 request.done("stopped");
    ///             }
    ///             _ => request.refuse("it is started once"),
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use = "requests are refused once it is dropped"]
    pub fn requests(&self) -> ChildRequests {
        self.process.take_requests()
    }

    /// Records a line of the process's output, for `/api/children`. The last 20 lines are kept, with
    /// at most 200 characters of each.
    ///
    /// Everyone who can reach the admin server can read them. The user info of URLs and the values
    /// after words such as `password=` are left out. No other secret is recognized, so pass no line
    /// that may hold one.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Child;
    /// # use std::io::{Read as _, Write as _};
    ///
    /// let admin = ([127, 0, 0, 1], 0).into();
    /// let runtime = headcount::Runtime::builder().print(false).admin(admin).build()?;
    /// let proxy = Child::register(runtime.tasks(), "proxy");
    /// proxy.said("listening on 5432, token=abc");
    /// # let mut client = std::net::TcpStream::connect(runtime.admin_address().unwrap())?;
    /// # client.write_all(b"GET /api/children HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    /// # let mut answer = String::new();
    /// # client.read_to_string(&mut answer)?;
    /// // GET /api/children
    /// assert!(answer.contains(r#""lines":["listening on 5432, token=…"]"#), "{answer}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn said(&self, line: &str) {
        let line = line.chars().take(KEPT).collect();
        let mut told = locked(&self.entry.state.told);
        if told.lines.len() == LINES {
            told.lines.pop_front();
        }
        told.lines.push_back(line);
    }

    /// Counts one restart.
    pub fn restarted(&self) {
        recorder::note(What::ProcessRestarted, None, &self.process.path);
        self.entry.state.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the child process has failed and is not started again. The report of the
    /// shutdown says so, under the name of the group given to [`register`](Self::register).
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Child;
    ///
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     Child::register(&tasks.group("process"), "proxy").given_up();
    /// });
    /// assert_eq!(report.given_up_processes["process/proxy"], 1);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn given_up(&self) {
        recorder::note(What::GivenUp, None, &self.process.path);
        self.root.give_up(self.process.path.clone());
    }

    /// Records that the process runs, with this pid and command line. Of the command line the
    /// report shows at most 200 characters, without the user info of URLs.
    pub fn started(&self, pid: u32, command: &str) {
        self.set_live(true);
        locked(&self.entry.state.told).started = Some(Instant::now());
        let words = format!("{} (pid {pid})", self.process.path);
        recorder::note(What::ProcessStarted, None, &words);
        self.process.change(|state| {
            // It may have been told to stop in the moment of its start.
            let is_same_run = state.end.is_none();
            *state = ProcessState {
                word: state.word,
                pid: Some(pid),
                command: without_user_info(command).chars().take(200).collect(),
                waits_for: std::mem::take(&mut state.waits_for),
                told: state.told.filter(|_| is_same_run),
                is_lost: state.is_lost,
                ..ProcessState::default()
            };
        });
    }

    /// Records that the process will be told to stop when the processes with these names have
    /// ended. The report and the status line then say so, instead of blaming it.
    pub fn waits_for(&self, names: &[String]) {
        self.process
            .change(|state| state.waits_for = names.to_vec());
    }

    /// Records that the process was just sent the signal with this number, which asks it to stop.
    /// Only the first signal of a run counts.
    pub fn told(&self, signal: i32) {
        self.process.change(|state| {
            state.told.get_or_insert((signal, Instant::now()));
        });
    }

    /// Records that the process has ended, and how, for example `exited with code 3`.
    pub fn ended(&self, how: &str) {
        self.set_live(false);
        let words = format!("{}: {how}", self.process.path);
        recorder::note(What::ProcessEnded, None, &words);
        let end = (how.to_owned(), Instant::now());
        locked(&self.entry.state.told).last_exit = Some(end);
        self.process.change(|state| {
            // An earlier run may still be alive.
            let is_known = !state.is_lost;
            state.end = is_known.then(|| (how.to_owned(), Instant::now()));
        });
    }

    /// Records that the process, or one that it had started, may still be alive, and that this cannot
    /// be found out. A shutdown then counts it as lingering, even if it begins after this value was
    /// dropped, or after a later run has ended.
    pub fn lost(&self) {
        self.process.change(|state| {
            state.end = None;
            state.is_lost = true;
        });
    }

    /// Records why the process did not stop after its signal, a line for each process of its tree. The
    /// report shows the lines below its row.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Child;
    ///
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     let proxy = Child::register(&tasks, "proxy");
    ///     proxy.started(4711, "proxy --port 5432");
    ///     let drain = tasks.clone();
    ///     tasks.spawn("proxy", async move {
    ///         drain.draining().await;
    ///         proxy.told(15);
    ///         proxy.unstopped(&["proxy (pid 4711) ignores SIGTERM".to_owned()]);
    ///         proxy.killed("proxy (pid 4711)");
    ///         proxy.ended("killed by SIGKILL");
    ///     });
    /// });
    /// assert_eq!(report.processes[0].unstopped, ["proxy (pid 4711) ignores SIGTERM"]);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn unstopped(&self, reasons: &[String]) {
        let reasons = reasons.iter().map(|reason| plain(reason).into_owned());
        let reasons: Vec<String> = reasons.collect();
        self.process.change(|state| state.unstopped = reasons);
    }

    /// Records a process that had to be killed, for example `sh (pid 17)`: this one, or one that it
    /// had started. A shutdown in which that happens is not clean.
    pub fn killed(&self, process: &str) {
        let words = format!("{}: {process}", self.process.path);
        recorder::note(What::ProcessKilled, None, &words);
        self.process
            .change(|state| state.killed.push(process.to_owned()));
    }
}

impl Drop for Child {
    /// Removes the process, unless a shutdown has begun: its report and its progress show the process.
    fn drop(&mut self) {
        if self.root.is_stopping() {
            self.entry.stays = true;
        } else {
            self.root.processes.remove(&self.process);
        }
    }
}

// === impl ChildState ===

impl ChildState {
    fn new(process: Arc<Process>) -> Self {
        Self {
            live: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            process,
            told: Mutex::default(),
            usage: Mutex::default(),
        }
    }

    /// Returns the path of the task that runs it.
    pub(crate) fn path(&self) -> &str {
        &self.process.path
    }

    /// Returns the pid and the place for a look at its tree, while it is live.
    pub(crate) fn measured(&self) -> Option<(u32, &Mutex<Usage>)> {
        Some((self.pid()?, &self.usage))
    }

    /// Returns the CPU time in seconds and the resident memory in bytes of its tree, as of the last look.
    pub(crate) fn used(&self) -> (Option<f64>, Option<u64>) {
        let pid = self.pid();
        let used = locked(&self.usage).shown(pid);
        (used.cpu_seconds, used.resident_bytes)
    }

    /// Returns the pid of the process while it is live.
    fn pid(&self) -> Option<u32> {
        let pid = self.process.state().pid;
        pid.filter(|_| self.live.load(Ordering::Relaxed))
    }

    /// Returns its state in words.
    pub(crate) fn state(&self) -> &'static str {
        let told = locked(&self.told);
        let live = self.live.load(Ordering::Relaxed);
        told.state.unwrap_or(match (live, &told.last_exit) {
            (true, _) => "running",
            (false, Some(_)) => "ended",
            (false, None) => "not started",
        })
    }

    /// Returns everything that the API shows.
    pub(crate) fn view(&self) -> ChildView {
        let pid = self.pid();
        let state = self.state();
        let row = ChildRow::of_task(&self.process);
        let told = locked(&self.told);
        let program = row.as_ref().map(|row| row.program().into_owned());
        let stop = row.as_ref().filter(|row| row.end.is_none());
        let stop = stop.and_then(|row| Some((row.signal.clone()?, row.took?)));
        ChildView {
            name: self.process.path.clone(),
            state,
            live: pid.is_some(),
            pid,
            program,
            running_seconds: told
                .started
                .filter(|_| pid.is_some())
                .map(|at| at.elapsed().as_secs_f64()),
            restarts: self.restarts.load(Ordering::Relaxed),
            last_exit: told.last_exit.as_ref().map(|(how, at)| Ago::new(how, *at)),
            told_to_stop: stop.map(|(what, took)| Ago {
                what,
                seconds_ago: took.as_secs_f64(),
            }),
            waits_for: row
                .as_ref()
                .map(|row| row.waited_for.clone())
                .unwrap_or_default(),
            unstopped: row
                .as_ref()
                .map(|row| row.unstopped.clone())
                .unwrap_or_default(),
            killed: row.map(|row| row.killed).unwrap_or_default(),
            usage: locked(&self.usage).shown(pid),
            lines: told.lines.iter().map(|line| shown(line)).collect(),
        }
    }
}

/// Returns a line of output without secrets and without what could change a terminal, cut to
/// [`SHOWN`] characters.
fn shown(line: &str) -> String {
    let line = without_user_info(line);
    let line = without_secrets(&line);
    plain(&line).chars().take(SHOWN).collect()
}
