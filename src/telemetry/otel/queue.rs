//! What waits to be exported: a bounded heap of records that any thread adds to and one takes from.
//!
//! In no order: records have times. A thread adds to a part that few others add to, under a lock held for nanoseconds, and
//! the part has room set aside for some records, so that threads seldom write to the count that they share.

use super::striped::{self, STRIPES, Striped};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// For so many records at most a part has room set aside: less than a sixteenth of all room, in all parts together.
const ASIDE: usize = 32;

#[derive(Debug)]
pub(super) struct Queue<T> {
    parts: Striped<Records<T>>,
    /// The room that records have, or that is set aside.
    used: AtomicUsize,
    capacity: usize,
    batch: usize,
    aside: usize,
    /// What was taken out of the parts and not yet exported.
    taken: Mutex<Vec<T>>,
    wake: Notify,
}

#[derive(Debug)]
struct Records<T> {
    waiting: Vec<T>,
    /// For so many more there is room.
    aside: usize,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize, batch: usize) -> Self {
        let batch = batch.max(1);
        Self {
            parts: Striped::default(),
            used: AtomicUsize::new(0),
            capacity,
            batch,
            // A request is begun that much too early.
            aside: (capacity / (16 * STRIPES))
                .min(batch / STRIPES)
                .clamp(1, ASIDE),
            taken: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Adds a record; false when there is no room, and the record is gone.
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

    /// How many more records there is room for, up to what a part has set aside.
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

    /// Has what waits exported at once.
    pub(super) fn hasten(&self) {
        self.wake.notify_one();
    }

    /// Until there is enough for a request, or somebody is in haste.
    pub(super) async fn ready(&self) {
        self.wake.notified().await;
    }

    pub(super) fn len(&self) -> usize {
        let waiting = self.parts.each().map(|part| part.waiting.len());
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.len() + waiting.sum::<usize>()
    }

    /// Takes what goes into one request; empty when nothing waits.
    pub(super) fn take(&self) -> Vec<T> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() < self.batch {
            // Who adds waits for an exchange of lists, and not for a copy of records.
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
    fn what_is_beyond_the_bound_is_refused_and_counted_by_who_adds() {
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
    fn all_room_is_used_but_what_is_set_aside_and_none_is_used_twice() {
        let queue = Queue::new(2048, 512);
        let full = || (0..).take_while(|number| queue.push(*number)).count();
        assert_eq!(full(), 2048, "one thread has the room of all");
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
    fn who_takes_hears_of_a_batch_in_time() {
        let queue = Queue::new(2048, 512);
        let hears = |queue: &Queue<u32>| {
            let ready = std::pin::pin!(queue.ready());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            ready.poll(&mut context).is_ready()
        };
        for round in 0..4 {
            let early = (0..512).find(|number| queue.push(*number) && hears(&queue));
            let early = early.expect("it hears of the first 512");
            assert!(early >= 512 - ASIDE as u32 * 2, "round {round}: {early}");
            while !queue.take().is_empty() {}
        }
        let single = Queue::new(2048, 1);
        for number in 0..4 {
            assert!(single.push(number) && hears(&single));
        }
    }

    #[test]
    fn records_of_many_threads_arrive_once_each() {
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
