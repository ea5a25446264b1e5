//! The shutdown: drains, cancels, closes and reports within one deadline; and the control thread that
//! runs it.
//!
//! The control side is a set of plain OS threads with a current-thread tokio runtime of their own,
//! separate from the work runtime. It therefore keeps running when every worker is blocked or
//! `main` hangs. Signals, the API and the events of the root reach it as [`Message`]s; the first
//! one that is a reason to stop starts the [`pipeline`]. Until then the [`watch`] looks for blocked
//! workers and missed heartbeats.
//!
//! A shutdown cannot fail: the pipeline always returns a [`Report`]. The one exception is the
//! [`Watchdog`], which ends the process at the deadline without a report.
//!
//! The threads, in the order in which they start. None is joined: each may be blocked in code of
//! the application or in the kernel.
//!
//! ```text
//! thread              starts with                       ends when
//! headcount-print     Control::start                    the last clone of the Output is dropped
//! headcount-watchdog  Control::start                    the Watchdog has no reference left
//! headcount-signal    Control::start, if plan.signals   Watching is dropped
//! headcount-control   Control::start                    the last sender of the inbox is dropped
//! headcount-log       the first log event               as headcount-print
//! headcount-last      arming the watchdog               as headcount-watchdog
//! others              a step of the shutdown            their work is done
//! ```
//!
//! Code of the application does not run on the control thread: its subscriber is called by
//! `headcount-log`, destructors of its tasks by workers and `headcount-close`, and closers by
//! `headcount-closer`. A destructor or subscriber that blocks therefore costs at most a budget.

mod cancel;
mod close;
mod context;
mod drain;
mod evidence;
mod exit_hooks;
mod last_scrape;
mod layer;
mod panics;
mod pipeline;
mod stop_threads;
mod thread_rules;

use crate::audit::Baseline;
use crate::control::exit_hook::ExitHooks;
use crate::control::message::Message;
use crate::control::output::Output;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::plan::Plan;
use crate::control::progress::Progress;
use crate::control::signals;
use crate::control::watchdog::Watchdog;
use crate::dump::last_words::last_words;
use crate::dump::symbols::Symbolizer;
use crate::dump::{Dumper, Dumps};
use crate::group::{ControlSide, ControlThread};
use crate::registry::root::Root;
use crate::report::mishaps::Mishaps;
use crate::report::{Reason, Report};
use crate::threads;
use crate::watch;
use context::Context;
use panics::Panics;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The control side of one root. Dropping it ends its threads, except those that are blocked.
///
/// The owner of the runtime and every group of it hold one in an `Arc` ([`ControlSide`]), so the
/// thread lives until the last of them is gone, even long after the shutdown. Dropping it closes
/// the inbox, because the listener of the root holds a weak sender only.
#[derive(Debug)]
pub(crate) struct Control {
    /// The sender for requests of the API. The signal thread has a clone.
    inbox: UnboundedSender<Message>,
    /// The control runtime. Groups run their drains and cancels on it.
    handle: Handle,
    /// The receiver of the report, until it is taken by the caller of `run` or `shutdown`.
    report: Mutex<Option<oneshot::Receiver<Report>>>,
    /// Shared with the context, which arms it. It is disarmed from the thread of `main`.
    watchdog: Arc<Watchdog>,
    /// Signal handling, until [`Control::release`]. `None` from the start if it is disabled.
    signals: Mutex<Option<signals::Watching>>,
    /// Takes dumps on the calling thread, so it works after the control thread has ended.
    dumper: Dumper,
    /// Written by the pipeline alone.
    progress: Arc<Progress>,
    /// Shared with the pipeline and the parts, so that all output of one root stays in order.
    output: Output,
}

// === impl Control ===

impl ControlThread for Control {}

impl Control {
    /// Starts the control side. When it returns, signals are handled and a shutdown can begin.
    ///
    /// The watchdog and the signal thread are started before the control thread. Messages that
    /// arrive before the control thread runs wait in the inbox.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses a thread, a signal handler or a runtime.
    ///
    /// The listener is set before the control thread runs and before the first task can exist, so
    /// no event of the root is missed. The watch gives its first pulse here for the same reason.
    ///
    /// If a step fails, dropping what was started before ends those threads, and signals have their
    /// default effect again.
    pub(crate) fn start(
        plan: Plan,
        root: &Arc<Root>,
        baseline: Baseline,
        owned: &Arc<OwnedRuntime>,
        work: Handle,
        hooks: ExitHooks,
    ) -> io::Result<Self> {
        let (inbox, messages) = unbounded_channel();
        let output = Output::start(root.number)?;
        let progress = Arc::new(Progress::default());
        let symbolizer = Symbolizer::new(root.number);
        let dumper = Dumper::new(
            &plan.service,
            root,
            &baseline,
            &progress,
            (&work, owned.is_ours),
            &symbolizer,
        );
        let watchdog = Arc::new(Watchdog::start(
            root.number,
            hooks.list.clone(),
            last_words(&plan, &dumper, &progress),
        )?);
        let signals = plan
            .signals
            .then(|| {
                let dumps = Dumps::new(dumper.clone(), output.clone(), plan.print);
                signals::watch(root.number, plan.hangup, inbox.clone(), move || {
                    dumps.begin();
                })
            })
            .transpose()?;
        listen(root, &inbox);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let watched = (&work, owned.is_ours);
        let means = (&output, &symbolizer);
        watch::begin(&handle, root, watched, plan.hold_limit, means);
        let (reporting, report) = oneshot::channel();
        let context = Context {
            plan,
            root: Arc::clone(root),
            baseline,
            owned: Arc::clone(owned),
            work,
            output: output.clone(),
            progress: Arc::clone(&progress),
            watchdog: Arc::clone(&watchdog),
            hooks,
            symbolizer,
            messages,
            begun: Instant::now(),
            signals_seen: 0,
            panics: Panics::default(),
            mishaps: Mishaps::begin(),
        };
        threads::start_own(root.number, "headcount-control", move || {
            runtime.block_on(control(context, reporting));
        })?;
        Ok(Self {
            inbox,
            handle,
            report: Mutex::new(Some(report)),
            watchdog,
            signals: Mutex::new(signals),
            dumper,
            progress,
            output,
        })
    }

    /// Returns the progress of the shutdown, for metrics, the admin server and the parts.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Returns the handle that groups use. It keeps the control thread alive as long as a group may
    /// need it.
    pub(crate) fn side(self: &Arc<Self>) -> ControlSide {
        ControlSide::new(self.handle.clone(), Arc::<Self>::clone(self))
    }

    /// Returns the handle for dumps. It stays valid after this value is dropped.
    pub(crate) fn dumper(&self) -> &Dumper {
        &self.dumper
    }

    /// Returns the output that the parts of the runtime share.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Begins the shutdown, unless it has begun. Does not block: the inbox is unbounded. Every
    /// thread may call it, a worker in a poll too. Later requests are counted in the progress; the
    /// first reason stays.
    pub(crate) fn stop(&self, reason: Reason) {
        // Fails only if the control thread has ended.
        self.inbox.send(Message::Stop(reason)).ok();
    }

    /// Returns the receiver of the report on the first call, and `None` afterwards. The receiver
    /// fails only if the control thread panicked: otherwise it reports before it ends.
    pub(crate) fn report(&self) -> Option<oneshot::Receiver<Report>> {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Lets the process outlive the shutdown: disarms the deadline, and restores the default effect
    /// of signals.
    ///
    /// Called on the thread of `main` once it has the report. The signal thread ends here, so a
    /// SIGTERM that arrives later ends the process as it would without headcount, unless another
    /// root still handles signals.
    pub(crate) fn release(&self) {
        self.watchdog.disarm();
        self.signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Forwards the root's events to the inbox.
///
/// The listener runs on the thread where the event happens, usually a worker, so it only sends. It
/// upgrades the weak sender and sends: no lock, no wait.
fn listen(root: &Root, inbox: &UnboundedSender<Message>) {
    // A weak sender: the context keeps the root alive, so a strong one would keep the context's
    // own channel open forever.
    let events = inbox.downgrade();
    root.listen(move |event| {
        if let Some(events) = events.upgrade() {
            // Fails only if the control thread has ended.
            events.send(Message::from(event)).ok();
        }
    });
}

/// Waits for a reason, then stops the service. Returns when the [`Control`] is gone.
///
/// The report is sent before the wait for the end, because the receiver drops the `Control` only
/// after it has received it. The clone is real: the progress keeps the published report. After the
/// report the thread goes on serving groups, which may drain and cancel even then.
async fn control(mut context: Context, reporting: oneshot::Sender<Report>) {
    let Some(reason) = context.wait_for_reason().await else {
        return;
    };
    let report = pipeline::run(&mut context, reason).await;
    // The receiver may have been dropped.
    reporting.send(Arc::unwrap_or_clone(report)).ok();
    context.serve_on().await;
}
