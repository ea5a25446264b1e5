//! What scenarios share: a process of their own, gates that the test holds, and a report in one line.

pub(crate) use crate::alone::alone;
use headcount::report::{Report, TaskFinding};
#[cfg(feature = "otel")]
use headcount::threads::ThreadRule;
use headcount::{Builder, Runtime, TaskKind};
use std::fmt::Write;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Only a test that hangs takes so long.
pub(crate) const GUARD: Duration = Duration::from_secs(60);
/// What a task is given that must be seen ignoring the drain.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A quiet runtime: long budgets, so that a slow machine changes nothing.
pub(crate) fn quiet() -> Builder {
    Runtime::builder()
        .print(false)
        .signals(false)
        .worker_threads(2)
        .drain_budget(GUARD)
        .cancel_budget(GUARD)
        .close_budget(GUARD)
}

/// A quiet runtime that does not wait for a task that ignores the drain.
pub(crate) fn impatient() -> Builder {
    quiet().drain_budget(SHORT)
}

/// Short budgets for all layers: for what outlives them. Names of stacks have time: a debug build's take seconds.
pub(crate) fn hasty() -> Builder {
    impatient()
        .cancel_budget(Duration::from_millis(500))
        .close_budget(Duration::from_millis(300))
        .deadline(GUARD)
}

/// Lets threads of other tests be, where a test has no process of its own.
#[cfg(feature = "otel")]
pub(crate) fn others() -> ThreadRule {
    ThreadRule::named("*", "threads of other tests")
}

/// Holds threads back until the test opens it; clones are the same gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("nobody panics with it") = true;
        self.0.1.notify_all();
    }

    /// Blocks the thread.
    pub(crate) fn wait(&self) {
        let open = self.0.0.lock().expect("nobody panics with it");
        let waited = self.0.1.wait_timeout_while(open, GUARD, |open| !*open);
        assert!(!waited.expect("nobody panics with it").1.timed_out());
    }
}

/// Fails the test instead of hanging it.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}

/// Waits on this thread until it is so.
#[track_caller]
pub(crate) fn wait_until(mut so: impl FnMut() -> bool, or_else: impl Fn() -> String) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < GUARD, "{}", or_else());
        std::thread::yield_now();
    }
}

/// Lets other tasks run until it is so.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    in_time(async {
        while !so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The whole outcome in one line, without what differs from run to run.
pub(crate) fn told(report: &Report) -> String {
    let mut text = format!(
        "{} {}: {}; {} of {} ended{}; {} cancelled{}",
        report.outcome.as_str(),
        report.exit_code(),
        report.reason,
        report.drain.ended,
        report.drain.tasks,
        listed(", ignored", &report.drain.ignored),
        report.cancel.cancelled,
        listed(", lingering", &report.cancel.lingering),
    );
    for site in report.cancel.untracked.iter().flatten() {
        let (dropped, lingering) = (site.dropped, site.lingering);
        write!(text, "; untracked ×{dropped} +{lingering}").expect("a String takes any text");
    }
    for thread in &report.close.threads {
        let (name, class) = (&thread.name, thread.class.as_str());
        let task = thread.task.as_deref().unwrap_or("nothing");
        write!(text, "; thread {name} ({class}) holds {task}").expect("a String takes any text");
    }
    for child in &report.close.children {
        write!(text, "; child {}", child.command).expect("a String takes any text");
    }
    text
}

fn listed(what: &str, findings: &[TaskFinding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut rows: Vec<String> = findings
        .iter()
        .map(|task| {
            let kind = match task.kind {
                TaskKind::Async => "",
                kind => &format!(" ({})", kind.as_str()),
            };
            let daemon = if task.daemon { " (daemon)" } else { "" };
            let path = task.path();
            match task.count {
                1 => format!("{path}{kind}{daemon}"),
                n => format!("{path}{kind}{daemon} ×{n}"),
            }
        })
        .collect();
    rows.sort();
    format!("{what} {}", rows.join(" "))
}
