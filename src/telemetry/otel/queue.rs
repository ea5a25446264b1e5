//! A bounded queue of records, which any thread adds to and the exporting thread takes from.
//!
//! It keeps no order, since every record has its own time. A thread adds to one of several parts,
//! so its lock is mostly uncontended and held for nanoseconds. Each part reserves room for some
//! records at a time, so threads seldom write to the shared counter.
//!
//! Invariant: `used` is the number of records in the queue plus the reserved room, and never
//! exceeds the capacity.
//!
//! The way of a record:
//!
//! ```text
//! worker: push ─► part of the thread ─► take: swap all parts ─► taken ─► one batch ─► exporter
//!           │ room from `used`, 32 at a time                               └ `used` goes down
//! ```
//!
//! `used` goes up before records are in the queue and goes down when a batch leaves `take`. A batch
//! that is being sent, or retried for minutes, is therefore outside the bound: at most one for each
//! signal.
//!
//! Nothing here waits for room. A full queue refuses the record that comes, and keeps those that it
//! has.

use super::striped::{self, STRIPES, Striped};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// The most records that a part reserves room for at a time.
///
/// A thread thus writes to the shared counter for every 32nd record. The price is capacity: room
/// reserved by a part cannot be used by the others, even if its threads are idle.
const ASIDE: usize = 32;

/// A bounded queue of records without an order.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Written by any thread, and emptied by the exporting thread alone.
    parts: Striped<Records<T>>,
    /// The number of records in the queue, plus the room that the parts have reserved. Invariant:
    /// never above `capacity`. All accesses are relaxed.
    used: AtomicUsize,
    /// The most records in the queue. At least 1; `OTEL_BSP_MAX_QUEUE_SIZE`.
    capacity: usize,
    /// The most records that `take` returns. At least 1; `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    batch: usize,
    /// The room that a part reserves at a time: 1 to [`ASIDE`], and less for small queues.
    aside: usize,
    /// Records that were moved out of the parts and not yet returned by `take`. Only the exporting
    /// thread locks it, so it is never contended. Its records still count in `used`.
    taken: Mutex<Vec<T>>,
    /// Wakes the exporting thread. It stores one permit, so a wake-up while the thread is busy is
    /// not lost, and several of them are one.
    wake: Notify,
}

/// The records of one part.
#[derive(Debug)]
struct Records<T> {
    /// Each `take` exchanges its allocation for that of the part before; the first part gets an
    /// empty one.
    waiting: Vec<T>,
    /// The reserved room that is left. It is kept across `take`.
    aside: usize,
}

// === impl Queue ===

impl<T> Queue<T> {
    /// Allocates no room for records. The settings keep `batch` at most at `capacity`. Otherwise
    /// the room in use would never pass a multiple of it, and `ready` would return only through
    /// [`hasten`](Self::hasten).
    pub(super) fn new(capacity: usize, batch: usize) -> Self {
        let batch = batch.max(1);
        Self {
            parts: Striped::default(),
            used: AtomicUsize::new(0),
            capacity,
            batch,
            // All parts together reserve at most a sixteenth of the capacity, unless it is so small
            // that each reserves one. They also reserve at most one batch, since `ready` fires that
            // much too early.
            aside: (capacity / (16 * STRIPES))
                .min(batch / STRIPES)
                .clamp(1, ASIDE),
            taken: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Adds a record. Returns false if there is no room, and drops the record.
    ///
    /// Called by workers at the end of a task. It takes one lock, which is mostly uncontended, and
    /// writes to the shared counter only if the part has no reserved room. It allocates when the
    /// vector of the part grows.
    ///
    /// A record that is refused is dropped after the lock was released: parameters outlive local
    /// variables.
    #[inline]
    pub(super) fn push(&self, record: T) -> bool {
        let mut records = self.parts.lock(striped::own());
        if records.aside == 0 {
            records.aside = self.set_aside();
        }
        if records.aside == 0 {
            return false;
        }
        records.aside -= 1;
        records.waiting.push(record);
        true
    }

    /// Reserves room for a part and returns how much; 0 if the queue is full.
    ///
    /// It wakes the exporting thread when the room in use passes a multiple of the batch size. The
    /// counter only bounds the number of records, so relaxed ordering suffices; the records
    /// themselves are under locks.
    ///
    /// Called with the lock of the part held, and for that part. The wake-up is a check of the
    /// exporting thread's state and at most one wake, under the same lock.
    #[cold]
    fn set_aside(&self) -> usize {
        let more = |used: usize| self.aside.min(self.capacity.saturating_sub(used));
        let add = |used| Some(used + more(used));
        let added = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let used = added.unwrap_or_else(|used| used);
        let more = more(used);
        if (used + more) / self.batch > used / self.batch {
            self.wake.notify_one();
        }
        more
    }

    /// Wakes the exporting thread, to export the records in the queue at once.
    ///
    /// Does not wait. If the thread is exporting, its next [`ready`](Self::ready) returns at once.
    pub(super) fn hasten(&self) {
        self.wake.notify_one();
    }

    /// Waits until there are enough records for a request, or [`hasten`](Self::hasten) is called.
    ///
    /// It may return early, because parts reserve room that they have not used. It may also return
    /// for records that were taken already.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a permit that arrived stays for the next call, as of `Notify::notified`.
    pub(super) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Returns the queue length. It locks each part in turn, so it is exact only while no other
    /// thread adds records.
    ///
    /// Called by the exporting thread after each round, for the metric of the queue length.
    pub(super) fn len(&self) -> usize {
        let waiting = self.parts.each().map(|part| part.waiting.len());
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.len() + waiting.sum::<usize>()
    }

    /// Takes the records of one request; empty if the queue is empty.
    ///
    /// At most `batch` records, taken from the end of `taken`, so the newest ones leave first. In a
    /// flush the oldest ones are the last to be sent, and the first to be lost at its deadline.
    ///
    /// Called by the exporting thread alone. The swap hands the allocation of a part to `other`,
    /// which is empty again after `append`, so the next part receives that one.
    pub(super) fn take(&self) -> Vec<T> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() < self.batch {
            // The lock of a part is held for a swap of two vectors, not for a copy of the records.
            let mut other = Vec::new();
            for mut part in self.parts.each() {
                mem::swap(&mut part.waiting, &mut other);
                drop(part);
                taken.append(&mut other);
            }
        }
        let rest = taken.len().saturating_sub(self.batch);
        let batch: Vec<T> = taken.drain(rest..).collect();
        self.used.fetch_sub(batch.len(), Ordering::Relaxed);
        batch
    }
}

// === impl Records ===

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            aside: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_beyond_the_capacity_are_refused() {
        let queue = Queue::new(3, 2);
        let added: Vec<bool> = (0..5).map(|number| queue.push(number)).collect();
        assert_eq!(added, [true, true, true, false, false]);
        assert_eq!(queue.take().len(), 2);
        assert!(queue.push(5));
        let mut rest = queue.take();
        rest.sort_unstable();
        assert_eq!(rest.len(), 2);
        assert!(rest.contains(&5));
        assert_eq!((queue.take().len(), queue.len()), (0, 0));
    }

    #[test]
    fn the_capacity_is_used_except_for_reserved_room_and_never_exceeded() {
        let queue = Queue::new(2048, 512);
        let full = || (0..).take_while(|number| queue.push(*number)).count();
        assert_eq!(full(), 2048, "one thread can use the whole capacity");
        assert_eq!(queue.len(), 2048);
        for _ in 0..4 {
            assert_eq!(queue.take().len(), 512);
        }
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| queue.push(0));
            }
        });
        assert_eq!(queue.len(), 16);
        let most = 2048 - 16;
        let more = full();
        assert!((most - most / 16..=most).contains(&more), "{more}");
        assert_eq!(queue.len(), 16 + more);
    }

    #[test]
    fn the_exporting_thread_is_woken_in_time_for_a_batch() {
        let queue = Queue::new(2048, 512);
        let hears = |queue: &Queue<u32>| {
            let ready = std::pin::pin!(queue.ready());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            ready.poll(&mut context).is_ready()
        };
        for round in 0..4 {
            let early = (0..512).find(|number| queue.push(*number) && hears(&queue));
            let early = early.expect("the thread is woken within the first 512");
            assert!(early >= 512 - ASIDE as u32 * 2, "round {round}: {early}");
            while !queue.take().is_empty() {}
        }
        let single = Queue::new(2048, 1);
        for number in 0..4 {
            assert!(single.push(number) && hears(&single));
        }
    }

    #[test]
    fn each_record_of_many_threads_arrives_exactly_once() {
        let queue = Queue::new(100_000, 64);
        std::thread::scope(|scope| {
            for thread in 0..10_u32 {
                let queue = &queue;
                scope.spawn(move || {
                    for number in 0..1000 {
                        assert!(queue.push(thread * 1000 + number));
                    }
                });
            }
        });
        let mut all = Vec::new();
        loop {
            match queue.take() {
                taken if taken.is_empty() => break,
                taken => all.extend(taken),
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<u32>>());
    }
}
