//! From a reason to a report.

use super::dump::Dumper;
use super::ending::Endings;
use super::lingering;
use super::live_line::LiveLine;
use super::panics::Panics;
use super::symbols::Symbols;
use super::voice::{self, Stream, Voice};
use super::watchdog::{EXIT_CODE, Watchdog};
use super::{Message, Messages, Owned, Plan, Print, Standing};
use crate::audit::{self, Baseline, ThreadKey};
use crate::group::Drain;
use crate::registry::chains::Answers;
use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::registry::warnings::Warning;
use crate::registry::{Tally, TallyRow};
use crate::report::dump::Phase;
use crate::report::{
    self, CloseLayer, DrainLayer, Outcome, PanicFinding, Reason, Report, TaskFinding, Timing,
};
use crate::threads::{self, ThreadClass};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

/// How long the last text may take to be written.
const PRINT_BUDGET: Duration = Duration::from_millis(500);
/// What the deadline keeps for the way out.
const EXIT: Duration = Duration::from_millis(100);
/// How long the report waits for the log.
const LOG_BUDGET: Duration = Duration::from_millis(200);
/// How long the last words wait for what the kernel knows of threads and children.
const LOOK_BUDGET: Duration = Duration::from_millis(250);
/// How long the last words take for names, counted from their beginning: the watchdog waits for half a second.
const NAMES_BUDGET: Duration = Duration::from_millis(430);
/// How often the live line is drawn anew.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Pipeline {
    pub(super) plan: Plan,
    pub(super) root: Arc<Root>,
    pub(super) baseline: Baseline,
    pub(super) owned: Arc<Owned>,
    pub(super) work: Handle,
    pub(super) voice: Voice,
    pub(super) phase: Arc<Standing>,
    pub(super) watchdog: Arc<Watchdog>,
    pub(super) endings: Endings,
    pub(super) messages: Messages,
    pub(super) signals_seen: u32,
    /// `main` ran when the tasks were cancelled, and did not end in the time that it had.
    pub(super) main_stays: bool,
    /// Those of the layer under way.
    pub(super) panics: Panics,
    /// Children that were seen to be ours while the threads that forked them lived.
    pub(super) children: HashSet<u32>,
    pub(super) symbols: Symbols,
    /// Those of the stacks of unknown threads, as far as they were looked up.
    pub(super) calls: HashMap<ThreadKey, Vec<String>>,
}

/// What was there when the shutdown began.
pub(super) struct Before {
    pub(super) begun: Instant,
    pub(super) threads: HashSet<ThreadKey>,
}

/// A layer under way.
pub(super) struct Layer {
    begun: Instant,
    budget: Duration,
    pub(super) until: Instant,
    cut: bool,
    line: LiveLine,
}

// === impl Layer ===

impl Layer {
    /// What the budget and the deadline leave.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            took: self.begun.elapsed(),
            budget: self.budget,
            cut: self.cut,
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Until somebody gives a reason to stop; `None` when there is nobody left who could.
    pub(super) async fn wait_for_reason(&mut self) -> Option<Reason> {
        loop {
            match self.messages.recv().await? {
                Message::Stop(reason) => return Some(self.begin(reason)),
                Message::Signal(number) => {
                    self.signals_seen = 1;
                    return Some(self.begin(Reason::Signal(number)));
                }
                Message::UntrackedSite(kind) => self.warn_untracked(kind),
                // Those before the shutdown are not for its report.
                Message::Panicked(..) => {}
            }
        }
    }

    fn begin(&self, reason: Reason) -> Reason {
        self.phase.course().begin(&reason);
        reason
    }

    /// Stops the service.
    pub(super) async fn run(&mut self, reason: Reason) -> Arc<Report> {
        let begun = Instant::now();
        if self.plan.may_exit {
            self.watchdog.arm(self.plan.deadline);
        }
        let before = Before {
            begun,
            threads: audit::threads(&self.baseline)
                .into_iter()
                // Ours come and go: one that takes a dump is no thread of the service that ended.
                .filter(|thread| thread.class() != ThreadClass::Control)
                .map(|thread| thread.os.key)
                .collect(),
        };
        self.root.stop();
        self.endings.begun(&reason);
        self.note_children();
        self.announce(&reason);
        let pre_drain = self.pre_drain(&before).await;
        self.enter(Phase::Draining);
        let (drain, awaits) = self.drain(&before).await;
        let looked = self.look(&drain.ignored, awaits).await;
        self.enter(Phase::Cancelling);
        let (mut cancel, closing) = self.cancel(&before, &drain).await;
        self.enter(Phase::Closing);
        let left = self.close(&before, closing).await;
        cancel.panicked = self.take_panics();
        self.enter(Phase::Done);
        let mut report = Report {
            schema: report::SCHEMA,
            service: self.plan.service.clone(),
            pid: std::process::id(),
            required_failed: reason.is_failure(),
            reason,
            outcome: Outcome::Clean,
            total: before.begun.elapsed(),
            pre_drain,
            drain,
            cancel,
            close: CloseLayer {
                timing: left.timing,
                ended: 0,
                expected: 0,
                excused: Vec::new(),
                threads: Vec::new(),
                hints: Vec::new(),
                children: left.children.clone(),
            },
            not_observed: Vec::new(),
            flush: Vec::new(),
        };
        self.identify(&mut report, left, looked, &before).await;
        report.outcome = self.outcome(&report);
        // Before the endings: one of them may push the log.
        self.log(&report);
        lingering::log(&self.voice, &report);
        self.voice.flush_logs(LOG_BUDGET);
        let report = self.end(report, begun).await;
        let published = std::time::Instant::now();
        self.print(&report, begun);
        self.hold(begun, published).await;
        if report.outcome == Outcome::Forced {
            // `main` holds its thread, so nobody can return the report.
            signal_hook::low_level::exit(EXIT_CODE);
        }
        report
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        // Nobody hears it by default, and the first event costs a thread.
        if LevelFilter::current() < LevelFilter::DEBUG {
            return;
        }
        self.voice.log(move || {
            tracing::debug!(
                name: "headcount.shutdown.phase_changed",
                target: "headcount::shutdown",
                phase = phase.as_str(),
                "shutdown phase changed"
            );
        });
    }

    fn outcome(&self, report: &Report) -> Outcome {
        let lingers = report.lingering_tasks() > 0
            || !report.close.threads.is_empty()
            || !report.close.children.is_empty();
        let dropped = report.cancel.dropped();
        // One that began later is on its way back: it is cancelled before its first poll.
        if self.main_stays && *self.owned.main_runs.borrow() && self.plan.may_exit {
            Outcome::Forced
        } else if lingers {
            Outcome::Lingering
        } else if report.drain.ignored.is_empty() && report.cancel.cancelled == 0 && dropped == 0 {
            Outcome::Clean
        } else {
            Outcome::Cancelled
        }
    }

    fn announce(&self, reason: &Reason) {
        if self.plan.print == Print::Text && self.plan.pre_drain > Duration::ZERO {
            let text = format!(
                "headcount {}: stopping ({reason}), not ready from here on, serving for {}\n",
                self.plan.service,
                report::brief(self.plan.pre_drain)
            );
            self.voice.text(Stream::Stderr, text);
        }
    }

    /// Readiness has failed; whoever sends requests may need a while to see it.
    async fn pre_drain(&mut self, before: &Before) -> Duration {
        let mut layer = self.layer("pre-drain", self.plan.pre_drain, before);
        if self.plan.pre_drain > Duration::ZERO {
            let until = layer.until;
            self.guarded(&mut layer, tokio::time::sleep_until(until))
                .await;
        }
        match self.plan.pre_drain {
            Duration::ZERO => Duration::ZERO,
            _ => layer.timing().took,
        }
    }

    /// The layer, and what tasks awaited that were cancelled in it.
    async fn drain(&mut self, before: &Before) -> (DrainLayer, Answers) {
        let scope = self.root.scope;
        let (live, started) = (scope.live(), scope.started());
        let mut layer = self.layer("drain", self.plan.drain, before);
        let drain = Drain::new(layer.left()).asking();
        if self.signals_seen < 2 {
            let (root, until) = (Arc::clone(&self.root), layer.until);
            let wait_for_untracked = self.plan.wait_for_untracked;
            self.guarded(&mut layer, async {
                drain.all(scope).await;
                if wait_for_untracked {
                    super::cancel::untracked_gone(&root, until).await;
                }
            })
            .await;
        } else {
            layer.cut = true;
        }
        let (ignored, awaits) = drain.ignored(scope);
        let tasks = live + (scope.started() - started);
        let layer = DrainLayer {
            timing: layer.timing(),
            tasks,
            ended: tasks.saturating_sub(ignored.count()),
            ignored: findings(&ignored),
            panicked: self.take_panics(),
        };
        (layer, awaits)
    }

    /// Begins a layer, which ends with its budget or with the deadline.
    pub(super) fn layer(&self, name: &'static str, budget: Duration, before: &Before) -> Layer {
        let begun = Instant::now();
        Layer {
            begun,
            budget,
            until: begun + self.within_deadline(before, budget),
            cut: false,
            line: LiveLine::new(name, budget, self.plan.print == Print::Text),
        }
    }

    /// So much of a budget as the deadline leaves.
    pub(super) fn within_deadline(&self, before: &Before, budget: Duration) -> Duration {
        let end = before.begun + self.plan.deadline;
        budget.min(end.saturating_duration_since(Instant::now()))
    }

    /// Waits for `work`, answers to messages meanwhile, and draws the live line. `None` when a second signal says not
    /// to wait for the drain.
    pub(super) async fn guarded<T>(
        &mut self,
        layer: &mut Layer,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut deaf = false;
        loop {
            let tick = tokio::time::sleep(TICK);
            let heard = async {
                // A channel without senders answers at once, for ever.
                if deaf {
                    std::future::pending::<()>().await;
                }
                self.messages.recv().await
            };
            let step = select(work.as_mut(), heard, tick).await;
            match step {
                Step::Done(result) => {
                    layer.line.clear(&self.voice);
                    return Some(result);
                }
                Step::Heard(Some(message)) => {
                    if self.hear(message) {
                        layer.cut = true;
                        layer.line.clear(&self.voice);
                        return None;
                    }
                }
                Step::Heard(None) => deaf = true,
                Step::Tick => layer.line.draw(&self.voice, self.root.scope),
            }
        }
    }

    /// Whether the message says not to wait for the drain. From the cancel on there is nothing to cut short: those that
    /// are left are being ended, and only the third signal gives up on them.
    pub(super) fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Signal(number) => {
                self.signals_seen += 1;
                let cuts = self.signals_seen == 2 && self.phase.is_before_cancel();
                self.phase.course().ask(&Reason::Signal(number), cuts);
                if self.signals_seen == 2 {
                    self.endings.told_twice(&Reason::Signal(number));
                }
                cuts
            }
            Message::UntrackedSite(kind) => {
                self.warn_untracked(kind);
                false
            }
            Message::Panicked(kind, text) => {
                self.panics.note(kind, text);
                false
            }
            // The first reason is kept.
            Message::Stop(reason @ Reason::Requested(_)) => {
                self.phase.course().ask(&reason, false);
                false
            }
            // What ends during the shutdown, most of it because of that, does not ask for one.
            Message::Stop(_) => false,
        }
    }

    /// The panics since it was called last.
    fn take_panics(&mut self) -> Vec<PanicFinding> {
        while let Ok(message) = self.messages.try_recv() {
            self.hear(message);
        }
        self.panics.take()
    }

    fn warn_untracked(&self, kind: &'static Kind) {
        Warning::Untracked.note();
        self.voice.log(move || {
            tracing::warn!(
                name: "headcount.task.untracked_detected",
                target: "headcount::task",
                spawned = %kind.site,
                "untracked task: spawned past headcount; the shutdown will drop it without a drain"
            );
        });
    }

    fn print(&self, report: &Report, begun: Instant) {
        for flush in report.flush.iter().filter(|flush| !flush.is_delivered()) {
            let (signal, text) = (flush.signal.clone(), flush.text.clone());
            self.voice
                .log(move || tracing::warn!(target: "headcount::shutdown", signal, "{text}"));
        }
        // Before the report, which is the last that people read; unless the log takes long.
        self.voice.flush_logs(LOG_BUDGET);
        let text = match self.plan.print {
            Print::Nowhere => None,
            Print::Text => Some(report.to_text(voice::has_colours(Stream::Stderr))),
            #[cfg(feature = "json")]
            Print::Json => Some(report.to_json() + "\n"),
        };
        if let Some(text) = text {
            self.voice.text(self.plan.print.stream(), text);
        }
        // If somebody does not read what we write, the report is returned all the same, and before the deadline.
        let left = (begun + self.plan.deadline).saturating_duration_since(Instant::now());
        self.voice
            .flush(PRINT_BUDGET.min(left.saturating_sub(EXIT)));
    }

    fn log(&self, report: &Report) {
        let (outcome, reason) = (report.outcome, report.reason.to_string());
        let service = report.service.clone();
        let total = report.total.as_secs_f64();
        let tasks = report.lingering_tasks();
        let threads = report.close.threads.len();
        self.voice.log(move || match outcome {
            Outcome::Clean | Outcome::Cancelled => tracing::info!(
                name: "headcount.shutdown.completed",
                target: "headcount::shutdown",
                service, reason, outcome = outcome.as_str(), total_seconds = total,
                "shutdown completed"
            ),
            Outcome::Lingering | Outcome::Forced => tracing::warn!(
                name: "headcount.shutdown.completed",
                target: "headcount::shutdown",
                service, reason, outcome = outcome.as_str(), total_seconds = total,
                lingering_tasks = tasks, lingering_threads = threads,
                "shutdown completed"
            ),
        });
    }

    /// After the report: answers nobody, until the owner goes.
    pub(super) async fn serve_on(&mut self) {
        while self.messages.recv().await.is_some() {}
    }
}

pub(super) enum Step<T> {
    Done(T),
    Heard(Option<Message>),
    Tick,
}

/// Whichever comes first; the work before the others.
pub(super) async fn select<T>(
    mut work: std::pin::Pin<&mut impl Future<Output = T>>,
    message: impl Future<Output = Option<Message>>,
    tick: impl Future<Output = ()>,
) -> Step<T> {
    use std::task::Poll;
    let (mut message, mut tick) = (pin!(message), pin!(tick));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(Step::Done(result));
        }
        if let Poll::Ready(message) = message.as_mut().poll(cx) {
            return Poll::Ready(Step::Heard(message));
        }
        tick.as_mut().poll(cx).map(|()| Step::Tick)
    })
    .await
}

/// Group and name of a kind.
pub(super) fn path(kind: &Kind) -> String {
    report::path(kind.group(), kind.name)
}

pub(super) fn findings(tally: &Tally) -> Vec<TaskFinding> {
    let known = threads::all();
    let finding = |row: &TallyRow| TaskFinding {
        group: row.kind.group().to_owned(),
        name: row.kind.name.to_owned(),
        kind: row.kind.options.runs,
        daemon: row.kind.options.daemon,
        spawned: row.kind.site.to_string(),
        count: row.count,
        ids: row.ids.clone(),
        age: row.oldest,
        draining: row.drained,
        on_thread: row.on_thread.map(|tid| {
            let name = known.iter().find(|thread| thread.tid == tid);
            let name = name.map_or("", |thread| thread.name.as_str());
            format!("\"{name}\" (tid {tid})")
        }),
        held: row.held,
        tid: row.on_thread,
        stack: Vec::new(),
        stack_note: None,
        awaits: None,
    };
    tally.rows().into_iter().map(finding).collect()
}

/// Who notices a deadline so late did not run when it passed.
const PAUSED: Duration = Duration::from_secs(1);

/// What the watchdog has said when the deadline has passed.
pub(super) fn last_words(
    plan: &Plan,
    dumper: &Dumper,
    phase: &Arc<Standing>,
) -> impl FnOnce(Duration) + Send + use<> {
    let (service, deadline) = (plan.service.clone(), plan.deadline);
    let (dumper, phase) = (dumper.clone(), Arc::clone(phase));
    move |late| {
        let (deadline, when) = (report::brief(deadline), phase.when());
        let paused = if late < PAUSED {
            String::new()
        } else {
            // Who is named below may have had no time to end.
            let late = report::brief(late);
            format!(" {late} ago, while the process was stopped or had no processor")
        };
        let head = format!(
            "headcount {service}: forced: the deadline of {deadline} has passed {when}{paused}; alive:\n"
        );
        let begun = std::time::Instant::now();
        let mut taken = dumper.take(LOOK_BUDGET);
        let text = head + &taken.dump().tree();
        voice::write(Stream::Stderr, text.as_bytes()).ok();
        // All that must be said is said: names may take longer than there is time.
        if taken.name(begun + NAMES_BUDGET) {
            let head = format!("headcount {service}: the same threads by name:\n");
            let text = head + &taken.dump().threads_tree();
            voice::write(Stream::Stderr, text.as_bytes()).ok();
        }
    }
}
