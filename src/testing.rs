//! Leak checks for tests: a test fails if it leaves a task, a thread or a child process behind.
//!
//! [`check`] runs the test's async closure on a runtime of its own and then shuts that runtime
//! down. Everything that the report finds still alive was left behind, and the failure names it
//! with its spawn site. [`Check`] has the settings, [`Ignore`] the exceptions.
//!
//! The runtime is a multi-thread one, so a test cannot pause tokio's clock. Open files and sockets
//! are not checked.

use crate::audit::ownership::UnknownThreads;
use crate::control::plan::Plan;
use crate::group::TaskGroup;
use crate::report::{KindRow, Report, ThreadRow, awaiting, brief, on_thread, stack};
use crate::runtime::{Dumper, MainOutput, Runtime};
use crate::task::Panic;
use crate::threads::ThreadClass;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The longest time for the names of stacks. A busy machine needs seconds in a debug build.
const NAMES: Duration = Duration::from_secs(60);

/// An exception from the check: something that a test may leave behind.
///
/// It is a plain value, so a test suite can keep its exceptions in a `const`.
///
/// # Examples
///
/// ```
/// use headcount::testing::{Check, Ignore};
///
/// const OURS: &[Ignore] = &[
///     Ignore::Thread("pool-worker"),
///     Ignore::Untracked("/h2-"),
/// ];
///
/// Check::new().ignore(OURS).run(async |tasks| {
///     let answer = tasks.spawn("answer", async { 42 });
///     assert_eq!(answer.await.unwrap(), 42);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ignore {
    /// Tracked tasks with exactly this path of group and name, such as `http/accept`.
    Task(&'static str),
    /// Untracked tasks with a spawn site, `path/file.rs:line:column`, that contains this text.
    Untracked(&'static str),
    /// Threads with a name that begins with this text. The kernel keeps only 15 bytes of the name
    /// of a thread that is not registered.
    Thread(&'static str),
    /// Child processes with a command line that contains this text.
    Child(&'static str),
}

/// The settings of a check. Start from [`Check::new`], and end with [`Check::run`].
///
/// # Examples
///
/// ```
/// use headcount::testing::Check;
/// use std::time::Duration;
///
/// Check::new().grace(Duration::from_secs(2)).worker_threads(4).run(async |tasks| {
///     let answer = tasks.spawn("answer", async { 42 });
///     assert_eq!(answer.await.unwrap(), 42);
///     assert_eq!(tokio::runtime::Handle::current().metrics().num_workers(), 4);
/// });
/// ```
#[derive(Debug, Clone)]
#[must_use = "it checks nothing until `run`"]
pub struct Check {
    ignored: Vec<Ignore>,
    grace: Duration,
    time_limit: Duration,
    worker_threads: usize,
    whole_process: bool,
}

/// A message from the thread that runs the test.
enum Heard {
    /// The runtime has been built. The dumper serves to name what is alive if the test hangs.
    Started(Dumper),
    /// The runtime has been shut down, with the panic of the test's body, if it panicked.
    Ended(Box<Report>, Option<Panic>),
    /// The thread panicked outside of the test's body. The payload is that of the panic.
    Broke(Box<dyn std::any::Any + Send>),
}

/// Runs a test on a runtime of its own, and fails it if it leaves something behind.
///
/// When `test` returns, everything is told to drain. Whatever is still alive after the grace
/// period, 1 s by default, was left behind: tracked tasks and blocking closures, untracked tasks,
/// threads, child processes. The failure names each with its spawn site. A test that hangs fails
/// after 60 s, and the failure lists everything that is still alive. All of this can be changed
/// with [`Check`].
///
/// # Guarantee, and its limit
///
/// Tests that run in parallel in one process do not see each other's leaks. A thread belongs to the
/// test that started it, directly or through other threads. It is recognized by a mark in its
/// signal mask, which a thread inherits from its creator: this needs Linux, and misses a thread
/// that sets its own mask. On other systems unknown threads are not checked. A child process
/// belongs to the test if the thread of the test that forked it is still alive when the test ends.
/// [`Check::whole_process`] has neither limit, for a test that is alone in its process.
///
/// Untracked tasks are read from tokio's own list of tasks. Their spawn sites are known with
/// `--cfg tokio_unstable` only; without it the failure has the types of their futures.
///
/// # Panics
///
/// Panics if something is left behind, if the test hangs, if it returns `Err`, or if no thread can
/// be created. If the test itself panics, that panic is resumed.
///
/// # Examples
///
/// A test that awaits what it starts passes:
///
/// ```
/// headcount::testing::check(async |tasks| {
///     let answer = tasks.spawn("answer", async { 42 });
///     assert_eq!(answer.await.unwrap(), 42);
/// });
/// ```
///
/// A test that leaves a task behind fails:
///
/// ```should_panic
/// headcount::testing::check(async |tasks| {
///     tasks.spawn("forgotten", std::future::pending::<()>());
/// });
/// ```
#[track_caller]
pub fn check<F, T>(test: F)
where
    F: AsyncFnOnce(TaskGroup) -> T + Send + 'static,
    T: MainOutput + 'static,
{
    Check::new().run(test);
}

// === impl Check ===

impl Check {
    /// Creates a check with the default settings.
    pub fn new() -> Self {
        Self {
            ignored: Vec::new(),
            grace: Duration::from_secs(1),
            time_limit: Duration::from_secs(60),
            worker_threads: 2,
            whole_process: false,
        }
    }

    /// Adds exceptions: what they match may be left behind. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// use headcount::testing::{Check, Ignore};
    ///
    /// let check = Check::new().ignore(&[Ignore::Task("forgotten")]);
    /// check.grace(Duration::from_millis(20)).run(async |tasks| {
    ///     tasks.spawn("forgotten", std::future::pending::<()>());
    /// });
    /// ```
    pub fn ignore(mut self, ignored: &[Ignore]) -> Self {
        self.ignored.extend_from_slice(ignored);
        self
    }

    /// Sets how long each layer of the shutdown may take after the test has returned. Default: 1 s.
    ///
    /// It is the time for tasks to drain, then for cancelled tasks to end, then for threads and
    /// children to end. A test that leaves nothing behind does not wait.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how long the test may run before it fails as hung. Default: 60 s.
    ///
    /// Three times the grace period is added for the shutdown. The thread of a test that hangs is
    /// left behind.
    ///
    /// # Examples
    ///
    /// ```should_panic
    /// # use std::time::Duration;
    /// let check = headcount::testing::Check::new().grace(Duration::from_millis(20));
    /// check.time_limit(Duration::from_millis(20)).run(async |_tasks| {
    ///     std::future::pending::<()>().await;
    /// });
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets the number of the runtime's workers, at least 1. Default: 2.
    pub fn worker_threads(mut self, workers: usize) -> Self {
        self.worker_threads = workers;
        self
    }

    /// Makes every thread and child process that appears during the test belong to it. Default:
    /// off.
    ///
    /// Use it for a test that is alone in its process, as under `cargo nextest`.
    ///
    /// # Examples
    ///
    /// ```
    /// headcount::testing::Check::new().whole_process().run(async |_tasks| {
    ///     let thread = std::thread::spawn(|| 42);
    ///     assert_eq!(thread.join().unwrap(), 42);
    /// });
    /// ```
    pub fn whole_process(mut self) -> Self {
        self.whole_process = true;
        self
    }

    /// Runs the test as [`check`] does, with these settings.
    ///
    /// # Panics
    ///
    /// Panics in the cases that [`check`] lists.
    ///
    /// # Examples
    ///
    /// ```
    /// let check = headcount::testing::Check::new();
    /// check.run(async |tasks| {
    ///     let jobs = tasks.group("jobs");
    ///     jobs.spawn("import", async {}).await?;
    ///     assert_eq!(jobs.counters()[0].completed, 1);
    ///     Ok::<(), headcount::TaskError>(())
    /// });
    /// ```
    #[track_caller]
    pub fn run<F, T>(self, test: F)
    where
        F: AsyncFnOnce(TaskGroup) -> T + Send + 'static,
        T: MainOutput + 'static,
    {
        let (tell, heard) = channel();
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let settings = self.clone();
        // A separate thread, so that the caller can fail while a test that hangs keeps that thread.
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let broke = tell.clone();
            let ran = catch_unwind(AssertUnwindSafe(|| settings.run_here(test, &tell)));
            if let Err(payload) = ran {
                // It fails only if the caller has given up on the test.
                broke.send(Heard::Broke(payload)).ok();
            }
        });
        thread.unwrap_or_else(|error| panic!("failed to start a thread for the test: {error}"));
        let mut running = None;
        let layers = self.grace.saturating_mul(3);
        loop {
            match heard.recv_timeout(self.time_limit.saturating_add(layers)) {
                Ok(Heard::Started(dumper)) => running = Some(dumper),
                Ok(Heard::Ended(report, panic)) => return self.judge(&report, panic),
                Ok(Heard::Broke(payload)) => resume_unwind(payload),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let limit = brief(self.time_limit);
                    let alive = running.map_or_else(
                        || "nothing had started".to_owned(),
                        |dumper| dumper.dump().tree(),
                    );
                    panic!("test hangs: still running after {limit}; alive:\n{alive}");
                }
            }
        }
    }

    /// Runs the test on the calling thread, and reports to the caller of [`Check::run`] through
    /// `tell`.
    fn run_here<F, T>(&self, test: F, tell: &Sender<Heard>)
    where
        F: AsyncFnOnce(TaskGroup) -> T,
        T: MainOutput,
    {
        let unknown_threads = self.own_threads();
        let mut builder = Runtime::builder().print(false).signals(false);
        builder = builder
            .name("test")
            .worker_threads(self.worker_threads)
            .drain_budget(self.grace)
            .cancel_budget(self.grace)
            .close_budget(self.grace)
            .deadline(self.grace.saturating_mul(3).saturating_add(NAMES * 2));
        let plan: &mut Plan = &mut builder.plan;
        plan.may_exit = false;
        // Without names a thread of a library cannot be told from one that leaks.
        plan.names = NAMES;
        plan.untracked = Some(Duration::MAX);
        plan.unknown_threads = unknown_threads;
        let runtime = builder
            .build()
            .unwrap_or_else(|error| panic!("failed to {error}"));
        // It fails if the caller has given up on the test.
        tell.send(Heard::Started(runtime.dumper())).ok();
        let (report, panic) = runtime.run_to_end(test);
        tell.send(Heard::Ended(Box::new(report), panic)).ok();
    }

    /// Returns how the audit treats unknown threads, after marking the calling thread if marks are
    /// used.
    fn own_threads(&self) -> UnknownThreads {
        #[cfg(target_os = "linux")]
        if !self.whole_process {
            let tag = crate::audit::tag::Tag::new();
            tag.mark_own_thread();
            return UnknownThreads::LingerIfTagged(tag);
        }
        if self.whole_process {
            UnknownThreads::Linger
        } else {
            UnknownThreads::Expect
        }
    }

    /// Fails the test if it panicked, returned an error or left something behind.
    #[track_caller]
    fn judge(&self, report: &Report, panic: Option<Panic>) {
        if let Some(panic) = panic {
            resume_unwind(panic.into_payload());
        }
        if let crate::report::Reason::MainFailed(error) = &report.reason {
            panic!("test failed: {error}");
        }
        let left = self
            .left_behind(report)
            .expect("writing to a String cannot fail");
        assert!(left.is_empty(), "test left behind:\n{left}");
    }

    /// Lists what the test left behind, one line or block each; empty if there is nothing.
    fn left_behind(&self, report: &Report) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let mut named = HashSet::new();
        let lingering = &report.cancel.lingering;
        // A task can be in both lists. The tasks that are still alive come first, because their
        // stack is the later one.
        for task in lingering.iter().chain(&report.drain.ignored) {
            let is_named = !named.insert((task.spawned, task.path()));
            if is_named
                || self.ignores(|rule| matches!(rule, Ignore::Task(path) if *path == task.path()))
            {
                continue;
            }
            let lives = lingering.iter().any(|other| std::ptr::eq(other, task));
            writeln!(text, "{}", task_left(task, lives))?;
        }
        for site in report.cancel.untracked.iter().flatten() {
            let at = site.spawned.map(ToString::to_string).unwrap_or_default();
            if !self.ignores(|rule| matches!(rule, Ignore::Untracked(part) if at.contains(part))) {
                let place = match (at.as_str(), &site.future) {
                    ("", Some(future)) => future.clone(),
                    ("", None) => {
                        "spawned at an unknown place: build with `--cfg tokio_unstable` to see it"
                            .to_owned()
                    }
                    (at, _) => format!("spawned {at}"),
                };
                let count = site.dropped + site.live;
                writeln!(text, "  untracked task ×{count}  {place}")?;
                for awaits in site.awaiting() {
                    writeln!(text, "    {awaits}")?;
                }
            }
        }
        let mut untracked_live = report.cancel.untracked.iter().flatten();
        let untracked_live = untracked_live.any(|site| site.live > 0);
        // No name in time, and no rule: better a failed test than a leak that passes.
        for thread in report.close.threads.iter().chain(&report.close.undecided) {
            // A thread that a task blocks is named with the task. A worker that no task blocks
            // belongs to the check's own runtime and is about to end; it is late because the
            // machine is busy.
            let held = thread.task.is_some();
            let is_idle = thread.class == ThreadClass::Worker && !untracked_live;
            if held
                || is_idle
                || self.ignores(
                    |rule| matches!(rule, Ignore::Thread(name) if thread.name.starts_with(name)),
                )
            {
                continue;
            }
            writeln!(text, "{}", thread_left(thread))?;
        }
        for child in &report.close.children {
            if !self
                .ignores(|rule| matches!(rule, Ignore::Child(part) if child.command.contains(part)))
            {
                writeln!(text, "  child process {}  {}", child.pid, child.command)?;
            }
        }
        Ok(text)
    }

    fn ignores(&self, matches: impl Fn(&Ignore) -> bool) -> bool {
        self.ignored.iter().any(matches)
    }
}

impl Default for Check {
    fn default() -> Self {
        Self::new()
    }
}

/// Describes a task that was left behind. `lives` is true if it is still alive after the cancel.
fn task_left(task: &KindRow, lives: bool) -> String {
    let (path, kind, age) = (task.path(), task.kind.as_str(), brief(task.oldest));
    let lives = match (lives, task.is_dropping()) {
        (true, true) => ", cancelled, and its drop has not returned",
        (true, false) => ", and could not be cancelled",
        (false, _) => "",
    };
    let on = on_thread(task.on_thread.as_deref(), task.held());
    let (count, spawned, awaiting) = (
        task.count,
        task.spawned,
        awaiting(task.awaits(), task.always_ready()),
    );
    let head = format!(
        "  task {path} ×{count} ({kind})  age {age}{on}{lives}, spawned {spawned}{awaiting}"
    );
    head + &stack::below(&task.stack, task.stack_note.as_deref(), None)
}

/// Describes a thread that was left behind.
fn thread_left(thread: &ThreadRow) -> String {
    let (name, class, age) = (&thread.name, thread.class.as_str(), brief(thread.age));
    let started = thread
        .started
        .as_ref()
        .map_or_else(String::new, |at| format!(", started {at}"));
    let waits = thread.waits();
    let head = format!("  thread \"{name}\" ({class})  {waits}, age {age}{started}");
    let (note, none) = (thread.stack_note.as_deref(), thread.no_stack.as_deref());
    head + &stack::below(&thread.stack, note, none)
}
