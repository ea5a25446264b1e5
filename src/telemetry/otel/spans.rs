//! The spans of tasks: which tasks have one, what it is a part of, and what is told of those that have none and end badly.
//!
//! The numbers of a task's trace and span follow from the task's id, so nothing has to be kept for one without a span.

use super::Inner;
use super::record::{Rare, SpanEnd, SpanRecord, TaskRecord};
use super::striped::{self, Striped};
use crate::registry::kind::Kind;
use crate::registry::observer::{Current, End, Ids, NewTask, Observer, Origin, TaskSpan, current};
use crate::registry::{self, clock, root::Root};
use crate::task::{TaskId, TaskKind, TaskOutcome};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Makes numbers of traces and spans, and says which are exported.
#[derive(Debug)]
pub(super) struct Numbers {
    seeds: [u64; 3],
    /// Traces whose lower half is below it, of 63 bits.
    bound: u64,
}

/// Spans that hang on others: their numbers follow from nothing. By the threads that started them, which so do not wait
/// for each other.
#[derive(Debug, Default)]
pub(super) struct Hanging(Striped<HashMap<TaskId, (Ids, Origin), BuildHasherDefault<Mixing>>>);

/// Numbers of tasks need no hash that resists an attacker.
#[derive(Debug, Default)]
struct Mixing(u64);

/// What a task is started in.
enum Spawner {
    Nobody,
    Unsampled,
    LongLived(Ids),
    Span(SpanContext),
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
    /// Keeps them while the task lives; where.
    fn put(&self, task: TaskId, ids: Ids, origin: Origin) -> u8 {
        let part = striped::own();
        self.0.lock(part).insert(task, (ids, origin));
        part as u8
    }

    fn remove(&self, task: TaskId, part: u8) {
        self.0.lock(usize::from(part)).remove(&task);
    }

    pub(super) fn get(&self, task: TaskId) -> Option<(Ids, Origin)> {
        let mut parts = self.0.each();
        parts.find_map(|part| part.get(&task).copied())
    }
}

// === impl Mixing ===

impl Hasher for Mixing {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mixed(self.0 ^ number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

// === impl Inner ===

impl Observer for Arc<Inner> {
    fn spawned(&self, task: &NewTask) -> Option<Box<TaskSpan>> {
        let own = self.numbers.of(task.id);
        let is_long = task.kind.is_long_lived();
        let (ids, origin, sampled) = match (spawner(task), is_long) {
            (Spawner::Span(parent), false) => {
                let Ids { trace, span } = Ids::of(&parent);
                let origin = Origin::Child(span, parent.is_remote());
                (Ids { trace, ..own }, origin, parent.is_sampled())
            }
            (Spawner::Unsampled, false) => return None,
            (Spawner::Span(parent), true) => (own, Origin::Root(Some(Ids::of(&parent))), true),
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
        let is_hanging = is_long || origin != Origin::Root(None);
        let hangs = is_hanging.then(|| self.hanging.put(task.id, ids, origin));
        let span = Box::new(TaskSpan::new(ids, origin, is_long, hangs));
        if is_long {
            announce(task);
        }
        Some(span)
    }

    fn ended(&self, end: &End<'_>, span: Option<Box<TaskSpan>>) {
        if end.outcome == TaskOutcome::Cancelled {
            tell(end);
        }
        if let Some(part) = span.as_ref().and_then(|span| span.hangs) {
            self.hanging.remove(end.id, part);
        }
        let (ids, origin) = span.as_ref().map_or_else(
            || (self.numbers.of(end.id), Origin::Root(None)),
            |span| (span.ids, span.origin),
        );
        let events = span.as_ref().map(|span| span.take_events());
        let rare = Rare {
            error: end.error.map(Box::from),
            events: events.unwrap_or_default(),
        };
        let is_rare = rare.error.is_some() || !rare.events.is_empty();
        self.push_span(SpanRecord::Task(TaskRecord {
            ids,
            origin,
            id: end.id,
            kind: end.kind,
            started: end.started,
            polled: span.and_then(|span| span.polled()),
            told: end.told,
            ended: end.ended,
            end: SpanEnd::Ended(end.outcome),
            thread: thread_name(),
            rare: is_rare.then(|| Box::new(rare)),
        }));
    }
}

impl Inner {
    /// The trace and the span of a task.
    pub(super) fn ids_of_task(&self, task: TaskId) -> Ids {
        let known = self.hanging.get(task);
        known.map_or_else(|| self.numbers.of(task), |(ids, _)| ids)
    }

    /// The spans of those that have not ended, and will not.
    pub(super) fn push_lingering(&self, root: &Root) {
        let now = clock::raw();
        for task in registry::live_tasks(root.scope) {
            let hanging = self.hanging.get(task.id);
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
                thread: "",
                rare: None,
            }));
        }
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
        Current::LongLived(ids) => active().map_or(Spawner::LongLived(ids), Spawner::Span),
    }
}

/// A long-lived task's span is seen when it ends, which may be in months: its start is logged.
fn announce(task: &NewTask) {
    let kind = task.kind;
    log(|| {
        tracing::debug!(
            name: "headcount.task.started",
            target: "headcount::task",
            group = kind.group(), task = kind.name, id = task.id.get(), spawned = %kind.site,
            "long-lived task started"
        );
    });
}

/// Logs an end that nobody else logs.
fn tell(end: &End<'_>) {
    let kind = end.kind;
    let age = Duration::from_nanos(clock::nanos_between(end.started, end.ended));
    log(|| {
        tracing::debug!(
            name: "headcount.task.cancelled",
            target: "headcount::task",
            group = kind.group(), task = kind.name, id = end.id.get(), age_seconds = age.as_secs_f64(),
            "task cancelled"
        );
    });
}

/// A subscriber that panics must not take the span with it.
fn log(event: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(event)));
}

impl Kind {
    fn is_long_lived(&self) -> bool {
        self.options.long_lived || self.options.runs == TaskKind::Main
    }
}
