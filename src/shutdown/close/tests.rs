//! Tests of the verdict about a thread that could not be looked at in time.

use crate::audit::{Baseline, waits};
use crate::control::builder::Builder;
use crate::control::exit_hook::ExitHooks;
use crate::control::owned_runtime::OwnedRuntime;
use crate::registry::root::Root;
use crate::report::{Outcome, Reason, Report, ThreadRow};
use crate::shutdown::Control;
use crate::threads::{self, ThreadRule};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Stops a root without tasks, with no time for the close layer and none for the evidence.
/// `expected`: the rules of the service.
fn stop_at_once(baseline: Baseline, expected: Vec<ThreadRule>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("the system has descriptors");
    let mut plan = Builder::new().print(false).signals(false).plan;
    plan.may_exit = false;
    plan.deadline = Duration::from_millis(50);
    plan.close = Duration::ZERO;
    plan.expected = expected;
    let hooks = ExitHooks {
        list: Vec::new(),
        scrapes: Arc::default(),
    };
    let (root, owned) = (Root::new(), Arc::new(OwnedRuntime::new(None)));
    let handle = runtime.handle().clone();
    let control = Control::start(plan, &root, baseline, &owned, handle, hooks)
        .expect("the system has threads");
    control.stop(Reason::Requested("done".to_owned()));
    let report = control.report().expect("asked once");
    report.blocking_recv().expect("the control thread reports")
}

#[test]
fn an_unknown_thread_is_undecided_if_its_stack_is_not_symbolized_in_time() {
    let baseline = Baseline::take();
    let (tell, told) = channel();
    let (_hold, held) = channel::<()>();
    let thread = std::thread::Builder::new().name("stranger".to_owned());
    let thread = thread.spawn(move || {
        tell.send(()).expect("the test waits");
        // Until the test is over.
        held.recv().ok();
    });
    thread.expect("a thread");
    told.recv().expect("it begins");
    let report = stop_at_once(baseline, Vec::new());
    // Threads of other tests are unknown too.
    assert_eq!(report.close.threads, []);
    assert_ne!(report.outcome, Outcome::Lingering, "{report}");
    let mut undecided = report.close.undecided.iter();
    let stranger = undecided.find(|thread| thread.name == "stranger");
    let tid = stranger.expect("it is alive").tid;
    let text = report.to_text(false);
    let row =
        format!("· thread \"stranger\" (tid {tid}) undecided: names took too long; waiting on");
    assert!(text.contains(&row), "{text}");
    let count = format!(" ended, {} undecided)", report.close.undecided.len());
    assert!(text.contains(&count), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("it is JSON");
    let rows = json["close"]["undecided"].as_array().expect("a list");
    assert!(rows.iter().any(|row| row["tid"] == tid), "{json}");
}

/// Starts the thread `log-writer`, and waits until it is blocked in a write. Returns its id and the end
/// of the pipe that holds it.
fn blocked_writer(rule: &ThreadRule) -> (u32, std::io::PipeReader) {
    let (tell, told) = channel();
    let (held, mut full) = std::io::pipe().expect("the system has descriptors");
    let thread = std::thread::Builder::new().name("log-writer".to_owned());
    let thread = thread.spawn(move || {
        tell.send(threads::own_tid()).expect("the test waits");
        // Until the test is over.
        while full.write_all(&[0; 4096]).is_ok() {}
    });
    thread.expect("a thread");
    let tid = told.recv().expect("it begins");
    let begun = Instant::now();
    while !waits::read(tid).wait.is_blocked(rule.idle_calls()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is blocked");
        std::thread::yield_now();
    }
    (tid, held)
}

#[test]
fn a_blocked_thread_that_is_expected_only_while_idle_lingers_without_its_stack() {
    let baseline = Baseline::take();
    let rule = ThreadRule::named("log-writer", "it writes for ever").only_while_idle();
    let (tid, held) = blocked_writer(&rule);
    let report = stop_at_once(baseline, vec![rule]);
    let of = |threads: &[ThreadRow]| threads.iter().any(|thread| thread.tid == tid);
    assert!(of(&report.close.threads), "{report}");
    assert!(!of(&report.close.undecided), "{report}");
    assert_eq!(report.outcome, Outcome::Lingering, "{report}");
    drop(held);
}

/// A single look cannot tell a write that makes progress from one that is stuck.
#[test]
fn an_expected_thread_that_was_seen_blocked_once_is_not_called_blocked() {
    let baseline = Baseline::take();
    let rule = ThreadRule::named("log-writer", "it writes for ever");
    let (tid, held) = blocked_writer(&rule);
    let report = stop_at_once(baseline, vec![rule]);
    let is_it = |thread: &ThreadRow| thread.tid == tid;
    assert!(!report.close.blocked.iter().any(is_it), "{report}");
    drop(held);
}
