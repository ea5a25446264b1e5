//! The context of a shutdown: the state that every step shares, and the wait for the work of a layer.
//!
//! A `Context` exists from the start of the control side until the control thread ends, so it also
//! holds the wait for the first reason. It is never shared: only the control thread has it, and no
//! lock guards it.
//!
//! It decides nothing about tasks or threads. The layers do, through what it lends them.

use super::layer::progress_line::ProgressLine;
use super::layer::{Layer, Step, select};
use super::panics::Panics;
use crate::audit::Baseline;
use crate::control::exit_hook::ExitHooks;
use crate::control::message::{Message, Messages};
use crate::control::output::Output;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::plan::{Plan, Print};
use crate::control::progress::Progress;
use crate::control::watchdog::Watchdog;
use crate::dump::symbols::Symbolizer;
use crate::recorder::{self, Subject, What};
use crate::registry::count::warnings::Warning;
use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::report::dump::Phase;
use crate::report::mishaps::Mishaps;
use crate::report::{PanicRow, Reason};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

/// The time between two updates of the status line. A tick costs a walk over the live tasks once
/// the line is shown.
const TICK: Duration = Duration::from_millis(100);

/// The state of the control thread. Every step of a shutdown takes it by `&mut`.
///
/// It does not keep the findings of a step that a later one needs: steps return them.
pub(super) struct Context {
    /// The settings, with the deadline resolved. They do not change after the start.
    pub(super) plan: Plan,
    /// The root of the registry. Holding it here keeps its scope valid for every step.
    pub(super) root: Arc<Root>,
    /// The threads and children from before the start, which no layer waits for.
    pub(super) baseline: Baseline,
    /// The runtime to close, and the state of `main`.
    pub(super) owned: Arc<OwnedRuntime>,
    /// The work runtime. Its metrics are read even while the runtime is being closed.
    pub(super) work: Handle,
    /// The output for the status line, the log and the report.
    pub(super) output: Output,
    /// Read by other threads at any time, so it is updated before the step that it announces.
    pub(super) progress: Arc<Progress>,
    /// Armed in [`Context::begin`], if the process may be ended.
    pub(super) watchdog: Arc<Watchdog>,
    /// The exit hooks and the record of scrapes.
    pub(super) hooks: ExitHooks,
    /// Shared with the dumps. The evidence ends its thread.
    pub(super) symbolizer: Symbolizer,
    /// The inbox. Receiving is cancel safe, so a layer may drop the wait at any await.
    pub(super) messages: Messages,
    /// The time when the shutdown began, from which the deadline counts. Before that, the time of
    /// the start.
    pub(super) begun: Instant,
    /// The number of SIGTERM and SIGINT received, and of SIGHUP if it was first. A shutdown that began for another reason has 0
    /// here, so its first signal cuts nothing. The signal thread counts on its own, because its
    /// count must be there before the third signal.
    pub(super) signals_seen: u32,
    /// The panics in the current layer. Taken at the end of the drain, and after the close layer
    /// for the cancel layer's part of the report.
    pub(super) panics: Panics,
    /// The counters of tasks at the start, to report what failed in the whole run.
    pub(super) mishaps: Mishaps,
}

// === impl Context ===

impl Context {
    /// Waits for a reason to stop. Returns `None` when all senders are gone.
    ///
    /// Waits without a timer, so an idle service costs no wake-up here.
    ///
    /// # Cancel safety
    ///
    /// No message is lost if the future is dropped.
    pub(super) async fn wait_for_reason(&mut self) -> Option<Reason> {
        loop {
            match self.messages.recv().await? {
                Message::Stop(reason) => {
                    recorder::note(What::StopAsked, None, &reason.to_string());
                    return Some(reason);
                }
                Message::Signal(number) => {
                    self.signals_seen = 1;
                    let reason = Reason::Signal(number);
                    recorder::note(What::StopAsked, None, &reason.to_string());
                    return Some(reason);
                }
                Message::UntrackedSite(kind) => self.warn_untracked(kind),
                // Panics before the shutdown are counted, and have no row.
                Message::Panicked(..) => {}
            }
        }
    }

    /// Begins the shutdown: from here on the deadline counts.
    ///
    /// The watchdog is armed before anything that may take time, so that all of it is bounded.
    pub(super) fn begin(&mut self, reason: &Reason) {
        self.begun = Instant::now();
        recorder::stopping(self.root.number, &reason.to_string());
        self.progress.begin(reason);
        if self.plan.may_exit {
            self.watchdog.arm(self.plan.deadline);
        }
    }

    /// Fails readiness, and tells the exit hooks that the shutdown begins. Comes after the threads
    /// were counted: one that ends because of it is a thread of the service that has ended.
    pub(super) fn stop_serving(&self, reason: &Reason) {
        self.root.stop();
        self.hooks.begun(reason);
    }

    /// Enters a phase, and logs it at the debug level. Each layer calls it before its first effect,
    /// so an effect is never seen in the phase before.
    pub(super) fn enter(&self, phase: Phase) {
        self.progress.enter(phase);
        recorder::phase(self.root.number, phase as u8, phase.as_str());
        // The first log event starts a thread, so none is sent that would be filtered out.
        if LevelFilter::current() < LevelFilter::DEBUG {
            return;
        }
        self.output.log(move || {
            tracing::debug!(
                name: "headcount.shutdown.phase_changed",
                target: "headcount::shutdown",
                phase = phase.as_str(),
                "shutdown phase changed"
            );
        });
    }

    /// Returns the end of the deadline. The watchdog is armed a moment after `begun`, so its
    /// deadline is never before this one.
    pub(super) fn deadline(&self) -> Instant {
        self.begun + self.plan.deadline
    }

    /// Returns the part of a budget that the deadline leaves.
    ///
    /// Zero once the deadline has passed, so that a later step returns at its first look instead of
    /// being skipped. Without a watchdog, such as in tests, it is the only bound.
    pub(super) fn within_deadline(&self, budget: Duration) -> Duration {
        budget.min(self.deadline().saturating_duration_since(Instant::now()))
    }

    /// Begins a layer that ends with its budget or the deadline.
    pub(super) fn layer(&self, name: &'static str, budget: Duration) -> Layer {
        let line = ProgressLine::new(name, budget, self.plan.print == Print::Text);
        Layer::new(budget, self.within_deadline(budget), line)
    }

    /// Waits for `work`, and meanwhile handles messages and draws the status line. Returns `None`
    /// if a second signal cuts the layer short.
    ///
    /// Dropping `work` on a second signal must be safe at any await. `work` is polled first, so a
    /// result that is ready is not lost to a signal.
    ///
    /// It does not end `work` at [`Layer::until`]: the work itself must. The tick starts over with
    /// each message, so the status line waits while messages arrive without a pause.
    ///
    /// While it runs, the same thread drives the watch and the drains of single groups, because
    /// nothing here blocks.
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
                // A channel without senders would return `None` again and again.
                if deaf {
                    std::future::pending::<()>().await;
                }
                self.messages.recv().await
            };
            match select(work.as_mut(), heard, tick).await {
                Step::Done(result) => {
                    layer.line.clear(&self.output);
                    return Some(result);
                }
                Step::Heard(Some(message)) => {
                    if self.handle(message) {
                        layer.cut = true;
                        layer.line.clear(&self.output);
                        return None;
                    }
                }
                Step::Heard(None) => deaf = true,
                Step::Tick => layer.line.draw(&self.output, &self.root),
            }
        }
    }

    /// Handles a message. Returns whether it cuts the layer short.
    ///
    /// Only a second signal does, and only before the cancel layer. From then on there is nothing
    /// to cut short: what is left is being ended already. The third signal ends the process in its
    /// handler.
    ///
    /// Panics are noted for the report, and untracked sites are warned of, in every phase. A
    /// counted request never replaces the first reason.
    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Signal(number) => {
                self.signals_seen += 1;
                let is_second = self.signals_seen == 2;
                let cuts = is_second && self.progress.is_before_cancel();
                let signal = Reason::Signal(number);
                recorder::note(What::StopAsked, None, &signal.to_string());
                self.progress.request(&signal, cuts);
                if is_second {
                    self.hooks.second_signal(&signal);
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
            // Counted, but the first reason stays.
            Message::Stop(reason @ Reason::Requested(_)) => {
                self.progress.request(&reason, false);
                false
            }
            // The end of `main` or of a required task during the shutdown is not a request.
            Message::Stop(_) => false,
        }
    }

    /// Handles the messages that have arrived.
    ///
    /// Called between the layers, where no wait handles messages. A cut that a message asks for
    /// here is applied to no layer: the drain reads `signals_seen` before it begins.
    pub(super) fn catch_up(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.handle(message);
        }
    }

    /// Returns the panics since the last call. Messages are handled first, since a task notifies of
    /// its panic before it counts as ended.
    pub(super) fn take_panics(&mut self) -> Vec<PanicRow> {
        self.catch_up();
        self.panics.take()
    }

    /// Logs a warning about an untracked task at a spawn site. The root notifies of a spawn site
    /// once, so a site is warned of once.
    fn warn_untracked(&self, kind: &'static Kind) {
        Warning::Untracked.note();
        let (kind_number, site) = (kind.number, kind.site.to_string());
        let of = Subject {
            kind: kind_number,
            id: 0,
        };
        recorder::note(What::UntrackedSite, Some(of), &site);
        self.output.log(move || {
            tracing::warn!(
                name: "headcount.task.untracked_detected",
                target: "headcount::task",
                spawned = %kind.site,
                "untracked task: it bypasses headcount, so shutdown will drop it without draining"
            );
        });
    }

    /// Discards messages until the [`Control`](super::Control) is dropped.
    ///
    /// The inbox must be drained: it is unbounded, and the root's listener still sends panics and
    /// requests.
    pub(super) async fn serve_on(&mut self) {
        while self.messages.recv().await.is_some() {}
    }
}
