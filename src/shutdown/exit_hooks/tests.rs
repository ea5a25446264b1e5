use super::*;
use crate::audit::Baseline;
use crate::control::exit_hook::ExitHooks;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::plan::Plan;
use crate::registry::root::Root;
use crate::report::{Outcome, Reason};
use crate::runtime::Builder;
use crate::shutdown::Control;
use crate::threads::ThreadRule;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

const AMPLE: Duration = Duration::from_secs(20);

/// A hook that does the given work and records its calls.
struct Planted {
    name: &'static str,
    budget: Duration,
    work: Box<dyn Fn() -> Vec<Flush> + Send + Sync>,
    calls: Mutex<Vec<String>>,
}

impl Debug for Planted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Planted {
    fn new(
        name: &'static str,
        budget: Duration,
        work: impl Fn() -> Vec<Flush> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            budget,
            work: Box::new(work),
            calls: Mutex::default(),
        })
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().expect("not poisoned").push(call.into());
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("not poisoned").clone()
    }
}

impl ExitHook for Planted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn budget(&self) -> Duration {
        self.budget
    }

    fn begun(&self, reason: &Reason) {
        self.note(format!("begun: {reason}"));
    }

    fn run(&self, report: &Report, _until: Instant) -> Vec<Flush> {
        self.note(format!("end: {} rows", report.flush.len()));
        (self.work)()
    }

    fn seal(&self, report: &Report) {
        self.note(format!("seal: {} rows", report.flush.len()));
    }
}

fn row(signal: &str, result: FlushResult, text: &str) -> Flush {
    Flush::new(signal, result, text, Duration::from_millis(7))
}

fn plan(deadline: Duration) -> Plan {
    let mut plan = Builder::new().print(false).signals(false).plan;
    plan.may_exit = false;
    plan.deadline = deadline;
    plan.drain = deadline;
    plan.cancel = deadline;
    plan.close = deadline;
    // Other tests in this process start and end threads at the same time.
    let others = ThreadRule::named("*", "threads of other tests");
    plan.expected.push(others);
    plan
}

/// Stops a root that has no tasks, and returns the report.
fn stop(list: Vec<Arc<dyn ExitHook>>, deadline: Duration) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("the system has descriptors");
    let hooks = ExitHooks {
        list,
        scrapes: Arc::default(),
    };
    let (root, owned) = (Root::new(), Arc::new(OwnedRuntime::new(None)));
    let handle = runtime.handle().clone();
    let plan = plan(deadline);
    let control = Control::start(plan, &root, Baseline::take(), &owned, handle, hooks)
        .expect("the system has threads");
    control.stop(Reason::Requested("done".to_owned()));
    let report = control.report().expect("asked once");
    report.blocking_recv().expect("the control thread reports")
}

/// Returns work that blocks until the sender is dropped.
fn blocked_by(gate: Receiver<()>) -> impl Fn() -> Vec<Flush> + Send + Sync + 'static {
    let gate = Mutex::new(gate);
    move || {
        gate.lock().expect("not poisoned").recv().ok();
        Vec::new()
    }
}

#[test]
fn results_of_hooks_are_in_the_report_and_hooks_see_it_last() {
    let saved = row("state", FlushResult::Delivered, "state saved");
    let lost = row("traces", FlushResult::Failed, "12 spans not delivered");
    let (one, two) = (saved.clone(), lost.clone());
    let state = Planted::new("state", AMPLE, move || vec![one.clone()]);
    let traces = Planted::new("traces", AMPLE, move || vec![two.clone()]);
    let report = stop(vec![state.clone(), traces.clone()], AMPLE);
    assert_eq!(report.flush, [saved, lost]);
    let calls = ["begun: done", "end: 0 rows", "seal: 2 rows"];
    assert_eq!(state.calls(), calls);
    assert_eq!(traces.calls(), calls);
}

#[test]
fn a_hook_that_blocks_is_left_behind_after_its_budget_and_the_others_are_not() {
    let (gate, closed) = std::sync::mpsc::channel();
    let stuck = Planted::new("traces", Duration::from_millis(20), blocked_by(closed));
    let saved = row("state", FlushResult::Delivered, "state saved");
    let one = saved.clone();
    let state = Planted::new("state", AMPLE, move || vec![one.clone()]);
    let report = stop(vec![stuck, state], AMPLE);
    let [late, other] = &*report.flush else {
        panic!("{report:#?}")
    };
    assert_eq!(late.result, FlushResult::TimedOut);
    assert!(
        late.text.starts_with("traces not done within "),
        "{report:#?}"
    );
    assert_eq!(*other, saved);
    assert_eq!(report.outcome, Outcome::Clean);
    drop(gate);
}

#[test]
fn the_deadline_limits_the_budget_of_a_hook() {
    let (gate, closed) = std::sync::mpsc::channel();
    let stuck = Planted::new("traces", AMPLE * 1000, blocked_by(closed));
    let report = stop(vec![stuck], Duration::from_millis(400));
    assert_eq!(report.flush[0].result, FlushResult::TimedOut);
    drop(gate);
}

#[test]
fn a_hook_that_panics_is_reported() {
    let broken = Planted::new("traces", AMPLE, || panic!("planted"));
    let report = stop(vec![broken], AMPLE);
    assert_eq!(report.flush[0].result, FlushResult::Failed);
    assert_eq!(report.flush[0].text, "traces not done: its thread panicked");
}

#[test]
fn a_report_shows_losses_in_rows_and_successes_in_its_last_line() {
    let rows = vec![
        row("state", FlushResult::Delivered, "state saved"),
        row(
            "traces",
            FlushResult::Failed,
            "12 spans not delivered: connection refused",
        ),
    ];
    let mut report = stop(Vec::new(), AMPLE);
    report.flush = rows;
    report.total = Duration::from_millis(12);
    let text = report.to_text(false);
    let lines: Vec<&str> = text.lines().collect();
    insta::assert_snapshot!(lines[lines.len() - 2..].join("\n"), @r"
    ├─ ! 12 spans not delivered: connection refused (7ms)
    └─ clean                              total 12ms, state saved in 7ms
    ");
}
