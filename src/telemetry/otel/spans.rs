//! The spans of tasks: sampling, parents, and the record of each end.
//!
//! The ids of the trace and the span of a task are computed from the task id. So nothing has to be
//! stored for a task without a span, and one that ends badly can still be exported with the right
//! ids. A task is stored while it lives only if it is long-lived, or has a parent or a link.
//!
//! The decision at a spawn:
//!
//! | spawned in | short task | long-lived task |
//! |---|---|---|
//! | no span | own trace, sampled by ratio | own trace, always |
//! | a task without a span | no span | own trace, always |
//! | a long-lived task | own trace with a link, sampled by ratio | own trace with a link, always |
//! | a span, or a given parent | child, sampled as the parent is | own trace with a link, always |
//!
//! A task without a span costs no memory here. If it then ends badly, the ids are computed and a
//! span of its own trace is exported, without its first poll and its log events.
//!
//! All of this runs on workers, within spawn and end. It takes one uncontended lock for a task that
//! is stored, one for the record, and makes no system call.

pub(super) mod task_span;

use super::Inner;
use super::record::{Rare, SpanEnd, SpanRecord, TaskRecord};
use super::striped::{self, Striped};
use crate::registry::kind::Kind;
use crate::registry::observer::{Current, End, Ids, NewTask, Observer, Origin, TaskSpan, current};
use crate::registry::{self, clock, root::Root};
use crate::task::{TaskId, TaskKind, TaskOutcome};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The source of trace and span ids, and the sampler.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Random seeds of this exporter, so that ids differ between processes.
    ///
    /// One each for the span id and the two halves of the trace id.
    seeds: [u64; 3],
    /// A trace is sampled if the upper 63 bits of its lower half are below this bound. It is the
    /// ratio times 2⁶³, so 1 takes every trace and 0 none.
    bound: u64,
}

/// The live tasks that are long-lived, or have a parent or a link, with their ids and origins.
///
/// They are striped by the spawning thread, so that spawning threads seldom contend. A task keeps
/// the number of its stripe, so that its end locks only that one.
///
/// Its size is that of the live tasks that qualify. No bound is needed beyond that of the
/// registry's slots, since each entry is removed by the end of its task.
#[derive(Debug, Default)]
pub(super) struct Hanging(Striped<HashMap<TaskId, (Ids, Origin), BuildHasherDefault<Mixing>>>);

/// A fast hasher for task ids, which no attacker chooses. The default hasher of the standard
/// library resists chosen keys, at a cost that shows here.
#[derive(Debug, Default)]
struct Mixing(u64);

/// The context that a task is spawned in.
enum Spawner {
    /// Outside any task and any span.
    Nobody,
    /// In a task without a span.
    Unsampled,
    /// In a long-lived task, and in no span of `tracing`.
    LongLived(Ids),
    /// In a span, or with a parent that the spawn names.
    Span(SpanContext),
}

// === impl Numbers ===

impl Numbers {
    /// Creates the source with random seeds, and a sampler that takes this share of the traces.
    pub(super) fn new(ratio: f64) -> Self {
        let state = RandomState::new();
        Self {
            seeds: [1_u8, 2, 3].map(|number| state.hash_one(number)),
            // The sampler of the SDK decides in the same way.
            bound: (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64,
        }
    }

    /// Returns the ids of the trace that a task begins, and of its span. It returns the same ids
    /// for the same task.
    pub(super) fn of(&self, task: TaskId) -> Ids {
        let [span, high, low] = self.seeds.map(|seed| mixed(seed ^ task.get()));
        Ids {
            trace: u128::from(high) << 64 | u128::from(low),
            // A span id of 0 is invalid.
            span: span.max(1),
        }
    }

    /// Returns whether the sampler takes a trace.
    ///
    /// It depends on the trace id alone, so every process with the same ratio takes the same
    /// traces. `TraceIdRatioBased` of the SDK, which samples the spans of `tracing`, compares the
    /// same bits.
    fn samples(&self, trace: u128) -> bool {
        (trace as u64) >> 1 < self.bound
    }
}

/// Returns the splitmix64 finalizer of a number: <https://prng.di.unimi.it/splitmix64.c>.
///
/// It is a bijection: different task ids give different span ids, for one seed. It is not a
/// cryptographic function, and the ids are not secret.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

// === impl Hanging ===

impl Hanging {
    /// Stores the ids of a task until it ends, and returns the stripe.
    ///
    /// Called by the spawning thread, before the task can be polled. The end may come on another
    /// thread, which therefore needs the stripe.
    fn put(&self, task: TaskId, ids: Ids, origin: Origin) -> u8 {
        let part = striped::own();
        self.0.lock(part).insert(task, (ids, origin));
        part as u8
    }

    /// Removes a task that ended.
    ///
    /// `part` is the stripe that [`put`](Self::put) returned; another one would leave the entry
    /// forever.
    fn remove(&self, task: TaskId, part: u8) {
        self.0.lock(usize::from(part)).remove(&task);
    }

    /// Returns the ids of a stored task. It looks through all stripes. `None` for a task that has
    /// ended, or that has the computed ids and no origin.
    pub(super) fn get(&self, task: TaskId) -> Option<(Ids, Origin)> {
        let mut parts = self.0.each();
        parts.find_map(|part| part.get(&task).copied())
    }
}

// === impl Mixing ===

impl Hasher for Mixing {
    /// Not used by task ids, which are one `u64` each; the trait requires it.
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
    /// Decides whether the task has a span, by the table of the module.
    ///
    /// Called by the spawning thread, which is still in the task and the span that become the
    /// origin. The span is one allocation. A task without one is still passed to `ended` if it does
    /// not complete.
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
        let span = Box::new(TaskSpan {
            ids,
            origin,
            is_long,
            hangs,
            polled: Cell::new(0),
            kept: Cell::default(),
            poll: task_span::poll,
        });
        if is_long {
            announce(task);
        }
        Some(span)
    }

    /// Pushes the record of a task that ended.
    ///
    /// Called on the thread that dropped the future. The log event comes before the entry is
    /// removed from [`Hanging`], because the log layer looks the ids up there. If the queue is full
    /// the record is dropped and counted.
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
        let events = span.as_deref().map(task_span::take_events);
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
            polled: span
                .map(|span| span.polled.get())
                .filter(|polled| *polled > 0),
            told: end.drain_requested_at,
            ended: end.ended,
            end: SpanEnd::Ended(end.outcome),
            thread: thread_name(),
            rare: is_rare.then(|| Box::new(rare)),
        }));
    }
}

impl Inner {
    /// Returns the ids of the span of a task.
    ///
    /// For the log layer, which has only the id of the task. A stored task may have the trace of
    /// its parent; any other has the ids that its span would have. It locks up to eight stripes.
    pub(super) fn ids_of_task(&self, task: TaskId) -> Ids {
        let known = self.hanging.get(task);
        known.map_or_else(|| self.numbers.of(task), |(ids, _)| ids)
    }

    /// Pushes a span for each task of the root that is still alive. It is called after the
    /// shutdown, when none of them is expected to end.
    ///
    /// Called on the thread of the exit hook. The records have the ids that the tasks had all
    /// along, so children that were exported earlier find their parent. Poll and drain times stay
    /// in the slots and are not read.
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

/// Returns the name of this thread.
///
/// Names are leaked so that records can refer to them. After 256 different names, further ones are
/// reported as empty.
///
/// Each thread looks its name up once, at the end of its first task, under a global lock. The bound
/// limits the leak to 256 names, since some pools name threads by a running number. A thread that
/// is renamed later keeps the first name.
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

/// Returns the context that a task is spawned in. A parent that the spawn names takes precedence.
///
/// Inside a task the active context is that of the task, unless a span of `tracing` is entered
/// within it. So a short task with a span shows up as that span, and a long-lived one, which has an
/// empty context, as itself. A task without a span hides the context around it: its children are
/// not sampled either.
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

/// Logs the start of a long-lived task: its span is exported only when it ends, which may be months
/// later. The log layer exports it at once.
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

/// Logs the cancellation of a task, which nothing else logs.
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

/// Logs an event. A panic of the subscriber is caught, so that the span is not lost. The panic is
/// reported by the panic hook, as any other.
fn log(event: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(event)));
}

impl Kind {
    /// Returns whether tasks of this kind have their own traces: those declared so, and `main`.
    fn is_long_lived(&self) -> bool {
        self.options.long_lived || self.options.runs == TaskKind::Main
    }
}
