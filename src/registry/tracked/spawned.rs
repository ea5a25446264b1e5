//! The start of a task: it is counted, a free slot is taken, the attention word is loaded, and the
//! slot is occupied.

#[cfg(feature = "otel")]
use super::flags::OBSERVED;
use super::flags::{Flags, REFUSED, TIMED};
use super::owner::{OwnerState, Span};
use super::registration::Registration;
use crate::registry::count::{counter, shard};
#[cfg(any(feature = "otel", all(tokio_unstable, feature = "console")))]
use crate::registry::kind;
use crate::registry::kind::Found;
#[cfg(feature = "otel")]
use crate::registry::observer::{NewTask, Observer};
use crate::registry::scope::Scope;
use crate::registry::slots::slot::{Entry, Slot};
use crate::registry::slots::{self, attention};
use crate::registry::{clock, heartbeats};
#[cfg(feature = "otel")]
use crate::task::{TaskId, Traceparent};
use std::time::Duration;

/// One first poll in this many is timed, by the task's id. Of later polls the first one after each
/// pulse is timed. Ids are given out in blocks of 256, so each thread times four in a block.
const FIRST_POLLS: u64 = 64;

/// A task that is in the registry, but has no owner yet. The caller makes a [`Registration`] or a
/// tracked future of it.
///
/// It is two words, so it is passed in registers. It has no `Drop`: if it is lost, its task stays
/// live forever.
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing else ends the task"]
pub(crate) struct Spawned {
    /// The slot of the task.
    pub(super) slot: &'static Slot,
    /// The flags of the task.
    pub(super) flags: Flags,
}

// === impl Spawned ===

impl Spawned {
    /// Enters a task in the registry. From here on it is counted and listed.
    ///
    /// Takes no lock, unless the thread has no free slot or no shard of its own.
    #[inline]
    pub(crate) fn start(found: Found, scope: &'static Scope) -> Self {
        let started = clock::raw();
        let kind = found.kind;
        found.bump(|counters| &counters.started);
        let (slot, free) = slots::take();
        // Loaded before the slot can be seen: a walk that asks this task must find its slot first,
        // so it changes the word after this load, or is under way.
        let mut flags = Flags::new(attention::now());
        if scope.is_cancelling() {
            flags.add(REFUSED);
        }
        let id = shard::with(move |shard| {
            let id = shard.next_id();
            let entry = Entry {
                id,
                started,
                kind: kind.number,
                scope: scope.number,
            };
            let counters = shard.scope(scope.number).of(kind.options.daemon);
            counter::bump(&counters.started);
            slot.occupy(free, entry);
            id
        });
        if id.is_multiple_of(FIRST_POLLS) {
            flags.add(TIMED);
        }
        Self { slot, flags }
    }

    /// Makes the root's observer create a span of the task, if it wants one. If the observer
    /// panics, the task is ended.
    #[cfg(feature = "otel")]
    #[inline(never)]
    pub(crate) fn observed(
        self,
        observer: &dyn Observer,
        parent: Option<Traceparent>,
    ) -> (Self, Span) {
        // The registration ends the task if the observer panics.
        let mut registration = self.into_registration(None);
        let entry = registration.slot.own_entry();
        let span = observer.spawned(&NewTask {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            parent,
        });
        let mut flags = std::mem::take(&mut registration.state).flags;
        flags.add(OBSERVED);
        (Self { flags, ..self }, span)
    }

    /// Returns the registration of a task that is not a future.
    pub(crate) fn into_registration(self, span: Span) -> Registration {
        let state = OwnerState::new(self.flags, span);
        Registration::new(self.slot, state)
    }

    /// Returns the name under which tokio shows the task, if tokio-console is in use.
    #[cfg(all(tokio_unstable, feature = "console"))]
    #[inline]
    pub(crate) fn name_for_tokio(self) -> Option<String> {
        super::console_name::name(|| kind::at(self.slot.own_entry().kind))
    }

    /// Returns the task's id.
    #[cfg(all(test, feature = "otel"))]
    pub(crate) fn id(self) -> TaskId {
        TaskId(self.slot.own_id())
    }

    /// Declares that the task beats at least this often. See [`heartbeats`].
    pub(crate) fn expect_beats(self, every: Duration) {
        heartbeats::declare(self.slot, every);
    }
}
