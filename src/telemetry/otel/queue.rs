//! What waits to be exported: a bounded heap of records that any thread adds to and one takes from.
//!
//! In no order: records have times. A thread adds to a part that few others add to, under a lock held for nanoseconds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

const PARTS: usize = 8;

#[derive(Debug)]
pub(super) struct Queue<T> {
    parts: [Part<T>; PARTS],
    waiting: AtomicUsize,
    capacity: usize,
    batch: usize,
    wake: Notify,
}

/// A line of the cache of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Part<T>(Mutex<Vec<T>>);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize, batch: usize) -> Self {
        Self {
            parts: std::array::from_fn(|_| Part(Mutex::default())),
            waiting: AtomicUsize::new(0),
            capacity,
            batch: batch.max(1),
            wake: Notify::new(),
        }
    }

    /// Adds a record; false when there is no room, and the record is gone.
    pub(super) fn push(&self, record: T) -> bool {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= self.capacity {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        // A thread that ends has lost its number.
        let own = OWN.try_with(|own| *own).unwrap_or(0);
        self.parts[own].lock().push(record);
        if (waiting + 1).is_multiple_of(self.batch) {
            self.wake.notify_one();
        }
        true
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
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes what goes into one request; empty when nothing waits.
    pub(super) fn take(&self) -> Vec<T> {
        let mut taken = Vec::with_capacity(self.len().min(self.batch));
        for part in &self.parts {
            let mut records = part.lock();
            let room = self.batch - taken.len();
            if records.len() <= room {
                taken.append(&mut records);
            } else {
                let at = records.len() - room;
                taken.extend(records.drain(at..));
                break;
            }
        }
        self.waiting.fetch_sub(taken.len(), Ordering::Relaxed);
        taken
    }
}

// === impl Part ===

impl<T> Part<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
