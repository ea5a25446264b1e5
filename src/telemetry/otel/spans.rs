//! The spans of tasks: which tasks have one, what it is a part of, and what is told of those that have none and end badly.
//!
//! The numbers of a task's trace and span follow from the task's id, so nothing has to be kept for one without a span.

use super::Inner;
use super::record::{Ids, Origin, SpanEnd, SpanRecord, TaskRecord};
use crate::registry::kind::Kind;
use crate::registry::observer::{Current, End, NewTask, Observer, TaskSpan, current, within};
use crate::registry::{self, clock, root::Root};
use crate::task::{TaskId, TaskKind, TaskOutcome};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is kept of what is logged in a task directly; the rest is counted.
const EVENTS: usize = 128;
const PARTS: usize = 16;

/// Makes numbers of traces and spans, and says which are exported.
#[derive(Debug)]
pub(super) struct Numbers {
    seeds: [u64; 3],
    /// Traces whose lower half is below it, of 63 bits.
    bound: u64,
}

/// Spans that hang on others: their numbers follow from nothing.
#[derive(Debug, Default)]
pub(super) struct Hanging([Mutex<HashMap<TaskId, (Ids, Origin)>>; PARTS]);

/// The span of one live task.
#[derive(Debug)]
struct Live {
    inner: Arc<Inner>,
    ids: Ids,
    origin: Origin,
    is_long: bool,
    context: Context,
    /// A reading of the clock; 0 before the first poll.
    polled: Cell<u64>,
    events: RefCell<Vec<Event>>,
}

/// What a task is started in.
enum Spawner {
    Nobody,
    Unsampled,
    LongLived(Ids),
    Span(SpanContext),
}

thread_local! {
    /// What was logged in the poll under way.
    static LOGGED: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

// === impl Numbers ===

impl Numbers {
    pub(super) fn new(ratio: f64) -> Self {
        let state = RandomState::new();
        Self {
            seeds: [1_u8, 2, 3].map(|number| state.hash_one(number)),
            // As the SDK's own sampler decides.
            bound: (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64,
        }
    }

    pub(super) fn of(&self, task: TaskId) -> Ids {
        let [span, high, low] = self.seeds.map(|seed| mixed(seed ^ task.get()));
        Ids {
            trace: u128::from(high) << 64 | u128::from(low),
            // Zero is no number.
            span: span.max(1),
        }
    }

    fn samples(&self, trace: u128) -> bool {
        (trace as u64) >> 1 < self.bound
    }
}

/// The finalizer of splitmix64: <https://prng.di.unimi.it/splitmix64.c>.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

// === impl Hanging ===

impl Hanging {
    fn part(&self, task: TaskId) -> MutexGuard<'_, HashMap<TaskId, (Ids, Origin)>> {
        let part = &self.0[task.get() as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Observer for Arc<Inner> {
    fn spawned(&self, task: &NewTask) -> Option<Box<dyn TaskSpan>> {
        let own = self.numbers.of(task.id);
        let is_long = task.kind.is_long_lived();
        let (ids, origin, sampled) = match (spawner(task), is_long) {
            (Spawner::Span(parent), false) => {
                let trace = u128::from_be_bytes(parent.trace_id().to_bytes());
                let span = u64::from_be_bytes(parent.span_id().to_bytes());
                let origin = Origin::Child(span, parent.is_remote());
                (Ids { trace, ..own }, origin, parent.is_sampled())
            }
            (Spawner::Unsampled, false) => return None,
            (Spawner::Span(parent), true) => (own, Origin::Root(Some(ids_of(&parent))), true),
            (Spawner::LongLived(cause), _) => {
                let sampled = is_long || self.numbers.samples(own.trace);
                (own, Origin::Root(Some(cause)), sampled)
            }
            (Spawner::Nobody | Spawner::Unsampled, _) => {
                let sampled = is_long || self.numbers.samples(own.trace);
                (own, Origin::Root(None), sampled)
            }
        };
        if !sampled {
            return None;
        }
        if is_long || matches!(origin, Origin::Child(..)) {
            self.hanging.part(task.id).insert(task.id, (ids, origin));
        }
        if is_long {
            announce(task);
        }
        Some(Box::new(Live {
            inner: Self::clone(self),
            ids,
            origin,
            is_long,
            context: match is_long {
                true => Context::new(),
                false => Context::new().with_remote_span_context(context_of(ids)),
            },
            polled: Cell::new(0),
            events: RefCell::default(),
        }))
    }

    fn ended(&self, end: &End<'_>) {
        tell(end);
        let ids = self.numbers.of(end.id);
        self.push_task(end, ids, Origin::Root(None), None, Vec::new());
    }
}

impl Inner {
    /// The trace and the span of a task.
    pub(super) fn ids_of_task(&self, task: TaskId) -> Ids {
        let known = self.hanging.part(task).get(&task).map(|(ids, _)| *ids);
        known.unwrap_or_else(|| self.numbers.of(task))
    }

    fn push_task(
        &self,
        end: &End<'_>,
        ids: Ids,
        origin: Origin,
        polled: Option<u64>,
        events: Vec<Event>,
    ) {
        self.push_span(SpanRecord::Task(TaskRecord {
            ids,
            origin,
            id: end.id,
            kind: end.kind,
            started: end.started,
            polled,
            told: end.told,
            ended: end.ended,
            end: SpanEnd::Ended(end.outcome),
            error: end.error.map(Box::from),
            thread: thread_name(),
            events,
        }));
    }

    /// The spans of those that have not ended, and will not.
    pub(super) fn push_lingering(&self, root: &Root) {
        let now = clock::raw();
        for task in registry::live_tasks(root.scope) {
            let hanging = self.hanging.part(task.id).get(&task.id).copied();
            let (ids, origin) =
                hanging.unwrap_or_else(|| (self.numbers.of(task.id), Origin::Root(None)));
            self.push_span(SpanRecord::Task(TaskRecord {
                ids,
                origin,
                id: task.id,
                kind: task.kind,
                started: task.started,
                polled: None,
                told: None,
                ended: now,
                end: SpanEnd::Lingering,
                error: None,
                thread: "",
                events: Vec::new(),
            }));
        }
    }
}

// === impl Live ===

impl TaskSpan for Live {
    fn around(&self, poll: &mut dyn FnMut()) {
        if self.polled.get() == 0 {
            self.polled.set(clock::raw());
        }
        let Ids { trace, span } = self.ids;
        let task = match self.is_long {
            true => Current::LongLived(trace, span),
            false => Current::Short(trace, span),
        };
        let outer = LOGGED.take();
        let logged = Logged { live: self, outer };
        {
            let _attached = self.context.clone().attach();
            within(task, poll);
        }
        drop(logged);
    }

    fn end(self: Box<Self>, end: &End<'_>) {
        if self.is_long || matches!(self.origin, Origin::Child(..)) {
            self.inner.hanging.part(end.id).remove(&end.id);
        }
        if end.outcome == TaskOutcome::Cancelled {
            tell(end);
        }
        let polled = Some(self.polled.get()).filter(|polled| *polled > 0);
        let events = self.events.take();
        self.inner
            .push_task(end, self.ids, self.origin, polled, events);
    }
}

/// The name of this thread. Names are few; those beyond a bound are left out.
fn thread_name() -> &'static str {
    const MOST: usize = 256;
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    thread_local! {
        static OWN: &'static str = {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
            match names.iter().find(|known| **known == name) {
                Some(known) => known,
                None if names.len() < MOST => {
                    let name: &'static str = name.to_owned().leak();
                    names.push(name);
                    name
                }
                None => "",
            }
        };
    }
    OWN.try_with(|own| *own).unwrap_or_default()
}

/// Gives what was logged in a poll to its task.
struct Logged<'a> {
    live: &'a Live,
    outer: Vec<Event>,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let mut logged = LOGGED.replace(std::mem::take(&mut self.outer));
        if !logged.is_empty() {
            let mut events = self.live.events.borrow_mut();
            let room = EVENTS.saturating_sub(events.len());
            logged.truncate(room);
            events.append(&mut logged);
        }
    }
}

/// Keeps what is logged in the task that this thread is in, and in no span of it.
pub(super) fn log_in_task(event: impl FnOnce() -> Event) {
    let mut logged = LOGGED.take();
    if logged.len() < EVENTS {
        logged.push(event());
    }
    LOGGED.set(logged);
}

fn spawner(task: &NewTask) -> Spawner {
    if let Some(parent) = &task.parent {
        return Spawner::Span(SpanContext::new(
            TraceId::from_bytes(parent.trace.to_be_bytes()),
            SpanId::from_bytes(parent.span.to_be_bytes()),
            TraceFlags::new(parent.flags),
            true,
            TraceState::NONE,
        ));
    }
    let active = || {
        Context::map_current(|context| {
            let span = context.span().span_context().clone();
            span.is_valid().then_some(span)
        })
    };
    match current() {
        Current::Unsampled => Spawner::Unsampled,
        Current::Short(..) | Current::Outside => active().map_or(Spawner::Nobody, Spawner::Span),
        Current::LongLived(trace, span) => {
            active().map_or(Spawner::LongLived(Ids { trace, span }), Spawner::Span)
        }
    }
}

fn ids_of(context: &SpanContext) -> Ids {
    Ids {
        trace: u128::from_be_bytes(context.trace_id().to_bytes()),
        span: u64::from_be_bytes(context.span_id().to_bytes()),
    }
}

pub(super) fn context_of(ids: Ids) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(ids.trace.to_be_bytes()),
        SpanId::from_bytes(ids.span.to_be_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

/// A long-lived task's span is seen when it ends, which may be in months: its start is logged.
fn announce(task: &NewTask) {
    let kind = task.kind;
    tracing::debug!(
        name: "headcount.task.started",
        target: "headcount::task",
        group = kind.group(), task = kind.name, id = task.id.get(), spawned = %kind.site,
        "long-lived task started"
    );
}

/// Logs an end that nobody else logs.
fn tell(end: &End<'_>) {
    if end.outcome != TaskOutcome::Cancelled {
        return;
    }
    let kind = end.kind;
    let age = Duration::from_nanos(clock::nanos_between(end.started, end.ended));
    tracing::debug!(
        name: "headcount.task.cancelled",
        target: "headcount::task",
        group = kind.group(), task = kind.name, id = end.id.get(), age_seconds = age.as_secs_f64(),
        "task cancelled"
    );
}

impl Kind {
    fn is_long_lived(&self) -> bool {
        self.options.long_lived || self.options.runs == TaskKind::Main
    }
}
