//! Shared parts of the tests: a separate process, gates that the test holds, and a report in one
//! line.

pub(crate) use crate::alone::alone;
use headcount::report::{KindRow, Report};
#[cfg(feature = "otel")]
use headcount::threads::ThreadRule;
use headcount::{Builder, Runtime, TaskKind};
use std::fmt::Write;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A timeout that only a hanging test reaches.
pub(crate) const GUARD: Duration = Duration::from_secs(60);
/// The time for a task that must be seen ignoring the drain.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// Returns a builder with long budgets, so that a slow machine changes nothing.
pub(crate) fn quiet() -> Builder {
    Runtime::builder()
        .print(false)
        .signals(false)
        .worker_threads(2)
        .drain_budget(GUARD)
        .cancel_budget(GUARD)
        .close_budget(GUARD)
}

/// Returns a quiet builder that does not wait for a task that ignores the drain.
pub(crate) fn impatient() -> Builder {
    quiet().drain_budget(SHORT)
}

/// Returns a builder with short budgets for all layers, for things that outlive them. The deadline
/// leaves time to symbolize, which takes seconds in a debug build.
pub(crate) fn hasty() -> Builder {
    impatient()
        .cancel_budget(Duration::from_millis(500))
        .close_budget(Duration::from_millis(300))
        .deadline(GUARD)
}

/// Returns a rule that expects threads of other tests, for tests without their own process.
#[cfg(feature = "otel")]
pub(crate) fn others() -> ThreadRule {
    ThreadRule::named("*", "threads of other tests")
}

/// Blocks threads until the test opens it; clones share the same gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("no holder panics") = true;
        self.0.1.notify_all();
    }

    /// Blocks the current thread.
    pub(crate) fn wait(&self) {
        let open = self.0.0.lock().expect("no holder panics");
        let waited = self.0.1.wait_timeout_while(open, GUARD, |open| !*open);
        assert!(!waited.expect("no holder panics").1.timed_out());
    }
}

/// Fails the test if the future hangs.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}

/// Waits on this thread until the condition is true.
#[track_caller]
pub(crate) fn wait_until(mut so: impl FnMut() -> bool, or_else: impl Fn() -> String) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < GUARD, "{}", or_else());
        std::thread::yield_now();
    }
}

/// Lets other tasks run until the condition is true.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    in_time(async {
        while !so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Returns the whole outcome in one line, without values that vary.
pub(crate) fn told(report: &Report) -> String {
    let mut text = format!(
        "{} {}: {}; {} of {} ended{}{}; {} cancelled{}{}{}",
        report.outcome.as_str(),
        report.exit_code(),
        report.reason,
        report.drain.ended,
        report.drain.tasks,
        listed(", ignored", &report.drain.ignored),
        listed(", not polled", &report.drain.not_polled),
        report.cancel.cancelled,
        listed(", lingering", &report.cancel.lingering),
        listed(", still not polled", &report.cancel.not_polled),
        listed(", late", &report.cancel.late),
    );
    for site in report.cancel.untracked.iter().flatten() {
        let (dropped, lingering) = (site.dropped, site.live);
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

fn listed(what: &str, findings: &[KindRow]) -> String {
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
