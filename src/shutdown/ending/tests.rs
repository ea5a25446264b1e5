use super::*;
use crate::audit::Baseline;
use crate::registry::root::Root;
use crate::report::Outcome;
use crate::runtime::Builder;
use crate::shutdown::{Control, Owned, Plan};
use crate::threads::ThreadRule;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

const AMPLE: Duration = Duration::from_secs(20);

/// Does what the test says, and notes what it was called for.
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

impl Ending for Planted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn budget(&self) -> Duration {
        self.budget
    }

    fn begun(&self, reason: &Reason) {
        self.note(format!("begun: {reason}"));
    }

    fn end(&self, report: &Report, _until: Instant) -> Vec<Flush> {
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
    let mut plan = Builder::new().print(false).signals(false).into_plan();
    plan.may_exit = false;
    plan.deadline = deadline;
    plan.drain = deadline;
    plan.cancel = deadline;
    plan.close = deadline;
    // Other tests begin and end beside this one.
    let others = ThreadRule::named("*", "threads of other tests");
    plan.expected.push(others);
    plan
}

/// Stops a root that has no task, and returns the report.
fn stop(list: Vec<Arc<dyn Ending>>, deadline: Duration) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("the system has descriptors");
    let endings = Endings {
        list,
        scrapes: Arc::default(),
    };
    let (root, owned) = (Root::new(), Arc::new(Owned::new(None)));
    let handle = runtime.handle().clone();
    let plan = plan(deadline);
    let control = Control::start(plan, &root, Baseline::take(), &owned, handle, endings)
        .expect("the system has threads");
    control.stop(Reason::Requested("done".to_owned()));
    let report = control.report().expect("asked once");
    report.blocking_recv().expect("the control thread reports")
}

/// Blocks until the sender is gone.
fn blocked_by(gate: Receiver<()>) -> impl Fn() -> Vec<Flush> + Send + Sync + 'static {
    let gate = Mutex::new(gate);
    move || {
        gate.lock().expect("not poisoned").recv().ok();
        Vec::new()
    }
}

#[test]
fn what_endings_say_is_in_the_report_and_they_see_it_at_the_end() {
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
fn an_ending_that_blocks_is_left_behind_after_its_budget_and_the_others_are_not() {
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
fn the_deadline_comes_before_the_budget_of_an_ending() {
    let (gate, closed) = std::sync::mpsc::channel();
    let stuck = Planted::new("traces", AMPLE * 1000, blocked_by(closed));
    let report = stop(vec![stuck], Duration::from_millis(400));
    assert_eq!(report.flush[0].result, FlushResult::TimedOut);
    drop(gate);
}

#[test]
fn an_ending_that_panics_is_reported() {
    let broken = Planted::new("traces", AMPLE, || panic!("planted"));
    let report = stop(vec![broken], AMPLE);
    assert_eq!(report.flush[0].result, FlushResult::Failed);
    assert_eq!(report.flush[0].text, "traces not done: it panicked");
}

#[test]
fn a_report_shows_what_was_lost_in_rows_and_what_was_not_in_its_last_line() {
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
