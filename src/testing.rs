//! [`check`]: a test that fails when it leaves a task, a thread or a child process behind, and names it.

use crate::group::TaskGroup;
use crate::report::{Report, TaskFinding, ThreadFinding, awaiting, brief, on_thread, stack};
use crate::runtime::{Dumper, MainOutput, Runtime};
use crate::shutdown::{Plan, UnknownThreads};
use crate::task::Panic;
use crate::threads::ThreadClass;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// What may be left behind, as a value: put what your suite needs in a `const`.
///
/// ```
/// use headcount::testing::Ignore;
///
/// const OURS: &[Ignore] = &[
///     Ignore::Thread("pool-worker"),
///     Ignore::Untracked("/h2-"),
/// ];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ignore {
    /// Tracked tasks whose group and name, `http/accept`, is this.
    Task(&'static str),
    /// Untracked tasks whose spawn site, `path/file.rs:line:column`, holds this text.
    Untracked(&'static str),
    /// Threads whose name begins with this. The kernel knows 15 bytes of a name that was not registered.
    Thread(&'static str),
    /// Child processes whose command line holds this text.
    Child(&'static str),
}

/// The settings of a check.
#[derive(Debug, Clone)]
#[must_use = "it checks nothing until `run`"]
pub struct Check {
    ignored: Vec<Ignore>,
    grace: Duration,
    time_limit: Duration,
    worker_threads: usize,
    whole_process: bool,
}

/// What a check hears of the thread that runs the test.
enum Heard {
    Started(Dumper),
    Ended(Box<Report>, Option<Panic>),
    /// It panicked outside of the test's body.
    Broke(Box<dyn std::any::Any + Send>),
}

/// Runs a test on a runtime of its own, and fails it when something is left behind.
///
/// When `test` returns, everything is told to drain; what still lives after the grace of 1 s was left behind: tracked
/// tasks and blocking closures, untracked tasks, threads, child processes. What is left is named with its spawn site.
/// A test that hangs fails after 60 s, and all that lives is named. [`Check`] has settings for all of it.
///
/// # Guarantee, and its limit
///
/// Tests that run in parallel in one process do not see each other's leaks: a thread belongs to the test that started
/// it, at whatever remove. That is told by a mark in the thread's signal mask, so it needs Linux, and a thread that sets
/// its own signal mask escapes. A child process belongs to the test when a thread of the test forked it and lives when
/// the test ends; [`Check::whole_process`] has no such limits, for tests that are alone in their process.
/// Untracked tasks are seen with `--cfg tokio_unstable`; without it their number is estimated and their place unknown.
///
/// # Panics
///
/// When something is left behind, when the test hangs, when it returns `Err`; with the test's own panic when it panics.
///
/// # Examples
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
    /// The default settings.
    pub fn new() -> Self {
        Self {
            ignored: Vec::new(),
            grace: Duration::from_secs(1),
            time_limit: Duration::from_secs(60),
            worker_threads: 2,
            whole_process: false,
        }
    }

    /// Leaves these out of account.
    pub fn ignore(mut self, ignored: &[Ignore]) -> Self {
        self.ignored.extend_from_slice(ignored);
        self
    }

    /// How long what the test started may take to end. Default: 1 s. A test that leaves nothing behind does not wait.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long the test may run before it fails as hung. Default: 60 s.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How many workers. Default: 2.
    pub fn worker_threads(mut self, workers: usize) -> Self {
        self.worker_threads = workers;
        self
    }

    /// Every thread and child of the process that was not there before belongs to the test. For tests that are alone
    /// in their process, as under `cargo nextest`.
    pub fn whole_process(mut self) -> Self {
        self.whole_process = true;
        self
    }

    /// Runs the test. See [`check`].
    ///
    /// # Panics
    ///
    /// As [`check`] does.
    #[track_caller]
    pub fn run<F, T>(self, test: F)
    where
        F: AsyncFnOnce(TaskGroup) -> T + Send + 'static,
        T: MainOutput + 'static,
    {
        let (tell, heard) = channel();
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let settings = self.clone();
        // A thread of its own, which a test that hangs may keep.
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let broke = tell.clone();
            let ran = catch_unwind(AssertUnwindSafe(|| settings.run_here(test, &tell)));
            if let Err(payload) = ran {
                // The test waits for it.
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
                    panic!("test hangs: it still runs after {limit}; alive:\n{alive}");
                }
            }
        }
    }

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
            .close_budget(self.grace);
        let plan: &mut Plan = builder.plan_mut();
        plan.may_exit = false;
        plan.wait_for_untracked = true;
        plan.unknown_threads = unknown_threads;
        let runtime = builder
            .build()
            .unwrap_or_else(|error| panic!("failed to {error}"));
        // Whoever hears it may have given up.
        tell.send(Heard::Started(runtime.dumper())).ok();
        let (report, panic) = runtime.run_to_end(test);
        tell.send(Heard::Ended(Box::new(report), panic)).ok();
    }

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

    #[track_caller]
    fn judge(&self, report: &Report, panic: Option<Panic>) {
        if let Some(panic) = panic {
            resume_unwind(panic.into_payload());
        }
        if let crate::report::Reason::MainFailed(error) = &report.reason {
            panic!("test failed: {error}");
        }
        let left = self.left_behind(report).expect("a String takes any text");
        assert!(left.is_empty(), "test left behind:\n{left}");
    }

    fn left_behind(&self, report: &Report) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let mut named = HashSet::new();
        let lingering = &report.cancel.lingering;
        // Those that live on first: of the two stacks theirs is the later one.
        for task in lingering.iter().chain(&report.drain.ignored) {
            let is_named = !named.insert((&task.spawned, task.path()));
            if is_named
                || self.ignores(|rule| matches!(rule, Ignore::Task(path) if *path == task.path()))
            {
                continue;
            }
            let lives = lingering.iter().any(|other| std::ptr::eq(other, task));
            writeln!(text, "{}", task_left(task, lives))?;
        }
        for site in report.cancel.untracked.iter().flatten() {
            let at = site.spawned.as_str();
            if !self.ignores(|rule| matches!(rule, Ignore::Untracked(part) if at.contains(part))) {
                let place = if at.is_empty() {
                    "somewhere: build with tokio_unstable to see where"
                } else {
                    at
                };
                let count = site.dropped + site.lingering;
                writeln!(text, "  untracked task ×{count}  spawned {place}")?;
            }
        }
        let mut untracked_live = report.cancel.untracked.iter().flatten();
        let untracked_live = untracked_live.any(|site| site.lingering > 0);
        for thread in &report.close.threads {
            // A thread that a task holds is named with the task. A worker that none holds is ours, and on its way out: the
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

fn task_left(task: &TaskFinding, lives: bool) -> String {
    let (path, kind, age) = (task.path(), task.kind.as_str(), brief(task.age));
    let lives = if lives {
        ", and could not be cancelled"
    } else {
        ""
    };
    let on = on_thread(task.on_thread.as_deref(), task.held);
    let (count, spawned, awaiting) = (task.count, &task.spawned, awaiting(task.awaits.as_deref()));
    let head = format!(
        "  task {path} ×{count} ({kind})  age {age}{on}{lives}, spawned {spawned}{awaiting}"
    );
    head + &stack::below(&task.stack, task.stack_note.as_deref(), None)
}

fn thread_left(thread: &ThreadFinding) -> String {
    let (name, class, age) = (&thread.name, thread.class.as_str(), brief(thread.age));
    let started = thread
        .started
        .as_ref()
        .map_or_else(String::new, |at| format!(", started {at}"));
    let waits = &thread.waits;
    let head = format!("  thread \"{name}\" ({class})  {waits}, age {age}{started}");
    let (note, none) = (thread.stack_note.as_deref(), thread.no_stack.as_deref());
    head + &stack::below(&thread.stack, note, none)
}
