//! The pipeline: a shutdown begins for a reason, drains, cancels, closes, and ends with a report, within one deadline.
//!
//! All of it runs on threads of its own with a clock of its own, so it goes on when no worker does and when `main` is
//! wedged. It cannot fail: whatever happens, it returns a [`Report`].

mod cancel;
mod close;
pub(crate) mod course;
pub(crate) mod dump;
pub(crate) mod ending;
pub(crate) mod hold;
mod last_resort;
mod lingering;
mod live_line;
mod panics;
mod pipeline;
mod roots;
mod signals;
mod symbols;
mod traces;
mod vigil;
pub(crate) mod voice;
mod watchdog;

pub(crate) use close::UnknownThreads;

use crate::audit::Baseline;
use crate::group::ControlSide;
use crate::registry::kind::Kind;
use crate::registry::root::{Event, PanicText, Root};
use crate::report::dump::Phase;
use crate::report::{Reason, Report};
use crate::threads::{self, ThreadClass, ThreadRule};
use course::Course;
use dump::{Dumper, Dumps};
use ending::Endings;
use panics::Panics;
use pipeline::{Pipeline, last_words};
use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use symbols::Symbols;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use vigil::Vigil;
use voice::{Stream, Voice};
use watchdog::Watchdog;

/// What the control side hears of.
#[derive(Debug)]
pub(crate) enum Message {
    Signal(i32),
    Stop(Reason),
    UntrackedSite(&'static Kind),
    Panicked(&'static Kind, PanicText),
}

/// How a shutdown is done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) service: String,
    pub(crate) pre_drain: Duration,
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
    pub(crate) close: Duration,
    pub(crate) deadline: Duration,
    pub(crate) print: Print,
    pub(crate) signals: bool,
    /// Whether the process may be ended when it would not end by itself.
    pub(crate) may_exit: bool,
    pub(crate) unknown_threads: UnknownThreads,
    /// Which of those are excused, besides what is [`threads::shipped`].
    pub(crate) expected: Vec<ThreadRule>,
    /// How long a task may hold its thread before it is warned of; `None` for as long as it likes.
    pub(crate) hold_limit: Option<Duration>,
    /// Whether the drain waits for untracked tasks too.
    pub(crate) wait_for_untracked: bool,
    /// How long `/metrics` may be kept open for a last scrape.
    pub(crate) scrape_hold: Duration,
}

/// Where the report goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Print {
    Nowhere,
    /// As text on standard error.
    Text,
    /// As a line of JSON on standard output.
    #[cfg(feature = "json")]
    Json,
}

/// The work runtime, for those who may close it, and what is known of `main`.
#[derive(Debug)]
pub(crate) struct Owned {
    /// Empty when somebody else owns it, and while `main` runs on it.
    pub(crate) runtime: Mutex<Option<Runtime>>,
    pub(crate) is_ours: bool,
    /// Whether the thread of `main` is still on the runtime.
    pub(crate) main_runs: watch::Sender<bool>,
    /// Whether the thread of `main` may leave the runtime, which then has nobody to run its tasks.
    pub(crate) released: watch::Sender<bool>,
}

/// Where the shutdown stands, for dumps and the watchdog's last words; and its course, for those who may wait for a lock.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    phase: AtomicU8,
    course: Course,
}

/// The control side of one root. Dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Control {
    inbox: UnboundedSender<Message>,
    handle: Handle,
    report: Mutex<Option<oneshot::Receiver<Report>>>,
    watchdog: Arc<Watchdog>,
    signals: Mutex<Option<signals::Watching>>,
    dumper: Dumper,
    #[cfg_attr(
        not(feature = "admin"),
        expect(dead_code, reason = "nobody else looks at it")
    )]
    standing: Arc<Standing>,
    #[cfg(feature = "json")]
    voice: Voice,
}

// === impl Owned ===

impl Owned {
    pub(crate) fn new(runtime: Option<Runtime>) -> Self {
        Self {
            is_ours: runtime.is_some(),
            runtime: Mutex::new(runtime),
            main_runs: watch::channel(false).0,
            released: watch::channel(false).0,
        }
    }

    pub(crate) fn take(&self) -> Option<Runtime> {
        self.runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Ends the runtime, if it is here, and waits for none of its threads: whoever is last may be in a task, where that
    /// must not be done.
    pub(crate) fn shutdown_background(&self) {
        if let Some(runtime) = self.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn has_runtime(&self) -> bool {
        let runtime = self.runtime.lock();
        runtime.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn put(&self, runtime: Runtime) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.shutdown_background();
    }
}

// === impl Standing ===

impl Standing {
    pub(crate) const PHASES: [Phase; 5] = [
        Phase::Running,
        Phase::Draining,
        Phase::Cancelling,
        Phase::Closing,
        Phase::Done,
    ];

    fn set(&self, phase: Phase) {
        self.course.enter(phase);
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    pub(crate) fn phase(&self) -> Phase {
        Self::PHASES[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    pub(crate) fn course(&self) -> &Course {
        &self.course
    }

    fn publish(&self, report: &Arc<Report>) {
        self.course.publish(report);
    }

    /// Whether a layer is under way that the second signal cuts short.
    fn is_before_cancel(&self) -> bool {
        matches!(self.phase(), Phase::Running | Phase::Draining)
    }

    /// When that is, in last words.
    fn when(&self) -> &'static str {
        match self.phase() {
            Phase::Running => "before the first layer",
            Phase::Draining => "in layer 'drain'",
            Phase::Cancelling => "in layer 'cancel'",
            Phase::Closing => "in layer 'close'",
            Phase::Done => "after the last layer",
        }
    }
}

// === impl Control ===

impl Control {
    /// Starts the control side: from here on signals are answered and the shutdown can begin.
    pub(crate) fn start(
        plan: Plan,
        root: &Arc<Root>,
        baseline: Baseline,
        owned: &Arc<Owned>,
        work: Handle,
        endings: Endings,
    ) -> io::Result<Self> {
        let (inbox, messages) = unbounded_channel();
        let voice = Voice::start(root.number)?;
        #[cfg(feature = "json")]
        let said = voice.clone();
        let phase = Arc::new(Standing::default());
        let dumper = Dumper::new(&plan.service, root, &baseline, &phase, owned.is_ours);
        let watchdog = Arc::new(Watchdog::start(
            root.number,
            endings.list.clone(),
            last_words(&plan, &dumper, &phase),
        )?);
        let signals = plan
            .signals
            .then(|| {
                let dumps = Dumps::new(dumper.clone(), voice.clone(), plan.print);
                signals::watch(root.number, inbox.clone(), move || dumps.begin())
            })
            .transpose()?;
        listen(root, &inbox);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let vigil = Vigil::new(root, &work, owned.is_ours, plan.hold_limit);
        begin_vigil(&handle, vigil, &voice);
        let standing = Arc::clone(&phase);
        let (reporting, report) = oneshot::channel();
        let pipeline = Pipeline {
            plan,
            root: Arc::clone(root),
            baseline,
            owned: Arc::clone(owned),
            work,
            voice,
            phase,
            watchdog: Arc::clone(&watchdog),
            endings,
            messages,
            signals_seen: 0,
            main_stays: false,
            panics: Panics::default(),
            children: HashSet::new(),
            symbols: Symbols::new(root.number),
            calls: HashMap::new(),
        };
        let site = Location::caller();
        threads::start(
            root.number,
            "headcount-control",
            ThreadClass::Control,
            site,
            move || {
                runtime.block_on(control(pipeline, reporting));
            },
        )?;
        Ok(Self {
            inbox,
            handle,
            report: Mutex::new(Some(report)),
            watchdog,
            signals: Mutex::new(signals),
            dumper,
            standing,
            #[cfg(feature = "json")]
            voice: said,
        })
    }

    #[cfg(feature = "admin")]
    pub(crate) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// For groups: they keep the control thread alive as long as they may need it.
    pub(crate) fn side(self: &Arc<Self>) -> ControlSide {
        ControlSide {
            handle: self.handle.clone(),
            keep: Arc::<Self>::clone(self),
        }
    }

    pub(crate) fn dumper(&self) -> &Dumper {
        &self.dumper
    }

    /// Emits a log event, which may block, elsewhere.
    #[cfg(feature = "json")]
    pub(crate) fn log(&self, event: impl FnOnce() + Send + 'static) {
        self.voice.log(event);
    }

    /// Begins the shutdown, unless it has begun.
    pub(crate) fn stop(&self, reason: Reason) {
        // Nobody hears it after the end.
        self.inbox.send(Message::Stop(reason)).ok();
    }

    /// The report, for the first who asks.
    pub(crate) fn report(&self) -> Option<oneshot::Receiver<Report>> {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The process may live on after the shutdown: no deadline, and signals have their default effect.
    pub(crate) fn release(&self) {
        self.watchdog.disarm();
        self.signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Has what the root tells put into the inbox.
fn listen(root: &Root, inbox: &UnboundedSender<Message>) {
    // Not a strong one: the pipeline keeps the root, and would wait for itself.
    let events = inbox.downgrade();
    root.listen(move |event| {
        if let Some(events) = events.upgrade() {
            // Nobody hears it after the end.
            events.send(Message::from(event)).ok();
        }
    });
}

/// The vigil ends with the control thread, whose runtime runs it.
#[expect(
    clippy::disallowed_methods,
    reason = "on our own control runtime, not on the work runtime"
)]
fn begin_vigil(control: &Handle, vigil: Vigil, voice: &Voice) {
    let (news, heard) = unbounded_channel();
    drop(control.spawn(vigil.teller(voice).run(heard)));
    drop(control.spawn(vigil.run(news)));
}

/// Waits for a reason, and then stops the service. Ends when the [`Control`] is gone.
async fn control(mut pipeline: Pipeline, reporting: oneshot::Sender<Report>) {
    let Some(reason) = pipeline.wait_for_reason().await else {
        return;
    };
    let report = pipeline.run(reason).await;
    // Whoever asked may have given up.
    reporting.send(Arc::unwrap_or_clone(report)).ok();
    pipeline.serve_on().await;
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        match event {
            Event::UntrackedSite(kind) => Self::UntrackedSite(kind),
            Event::Panicked(kind, text) => Self::Panicked(kind, text),
            Event::Requested(reason) => Self::Stop(Reason::Requested(reason)),
            Event::RequiredEnded(kind, outcome) => Self::Stop(Reason::RequiredEnded {
                task: pipeline::path(kind),
                outcome,
            }),
        }
    }
}

impl Print {
    fn stream(self) -> Stream {
        match self {
            #[cfg(feature = "json")]
            Self::Json => Stream::Stdout,
            Self::Nowhere | Self::Text => Stream::Stderr,
        }
    }
}

type Messages = UnboundedReceiver<Message>;
