//! Models of one slot: the interleavings of its owner, cancellers and readers, all of them where
//! two threads meet, and those with few preemptions where three do.
//!
//! `RUSTFLAGS="--cfg headcount_loom --cfg tokio_unstable" cargo test --lib --release
//! --no-default-features --target-dir target/loom loom`

use super::{Entry, Free, Reading, Slot};
use crate::registry::slots::attention;
use crate::registry::slots::loom_notice::{Notice, notice};
use ::loom::sync::Arc;
use ::loom::thread;
use std::task::Waker;

fn entry(n: u8) -> Entry {
    Entry {
        id: u64::from(n),
        started: u64::from(n),
        kind: u32::from(n),
        scope: u32::from(n),
    }
}

/// Checks a model with at most this many preemptions: three threads that loop have too many
/// interleavings to check all of them.
fn switching_at_most(times: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(model);
}

/// Returns a slot that is occupied by task 1, and a canceller's reading of it.
fn occupied() -> (Arc<Slot>, Reading) {
    let slot = Arc::new(Slot::new());
    slot.occupy(Free::NEW, entry(1));
    let reading = slot.read().expect("it is live");
    (slot, reading)
}

/// Runs a task that ends only when cancelled, as `Registration` and `Tracked` do: it is polled when
/// woken and parked in between. If a cancel is lost this never returns, which loom reports as a
/// deadlock.
fn live_until_cancelled(slot: &Slot) {
    live_until(slot, false, notice(), |slot| {
        // As `OwnerState::look` does: an answer is a poll, and another poll follows.
        slot.was_asked();
        slot.is_cancelling()
    });
}

/// Runs a task that ends when `is_over` returns true at a look into the slot. A task that starts
/// parked has already published its waker.
fn live_until(
    slot: &Slot,
    is_parked: bool,
    (notice, waker): (std::sync::Arc<Notice>, Waker),
    is_over: fn(&Slot) -> bool,
) {
    let mut published = is_parked;
    if is_parked {
        notice.wait();
    }
    let mut seen = attention::NEVER;
    loop {
        let word = attention::now();
        if word != seen {
            if !attention::is_under_way(word) {
                seen = word;
            }
            if slot.lost_waker() {
                published = false;
            }
            if is_over(slot) {
                break;
            }
        }
        if !published {
            published = true;
            slot.publish(&waker);
            if slot.is_cancelling() {
                break;
            }
        }
        notice.wait();
    }
    slot.vacate(published);
}

/// Cancels one task within a walk over the tasks.
fn cancel(slot: &Slot, reading: &Reading) -> bool {
    let _walk = attention::Walk::begin();
    slot.cancel(reading)
}

/// Asks one task what it awaits, within a walk over the tasks.
fn ask(slot: &Slot, reading: &Reading) {
    let _walk = attention::Walk::begin();
    slot.ask(reading);
}

#[test]
fn a_parked_task_sees_a_question() {
    ::loom::model(|| {
        let (slot, reading) = occupied();
        let (notice, waker) = notice();
        slot.publish(&waker);
        let shared = Arc::clone(&slot);
        let asker = thread::spawn(move || ask(&shared, &reading));
        live_until(&slot, true, (notice, waker), Slot::was_asked);
        asker.join().expect("no panic");
        assert!(slot.read().is_none());
    });
}

#[test]
fn a_question_does_not_lose_a_cancel() {
    switching_at_most(3, || {
        let (slot, reading) = occupied();
        let shared = Arc::clone(&slot);
        let asker = thread::spawn(move || ask(&shared, &reading));
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || assert!(cancel(&shared, &reading)));
        live_until_cancelled(&slot);
        asker.join().expect("no panic");
        canceller.join().expect("no panic");
    });
}

#[test]
fn a_late_question_neither_reaches_the_next_task_nor_loses_its_cancel() {
    switching_at_most(3, || {
        let (slot, reading) = occupied();
        let (_, waker) = notice();
        slot.publish(&waker);
        let shared = Arc::clone(&slot);
        let late = thread::spawn(move || ask(&shared, &reading));
        let free = slot.vacate(true);
        slot.occupy(free, entry(2));
        assert!(!slot.was_asked(), "task 2 was not asked");
        let next = slot.read().expect("it is live");
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || assert!(cancel(&shared, &next)));
        live_until_cancelled(&slot);
        late.join().expect("no panic");
        canceller.join().expect("no panic");
    });
}

#[test]
fn a_cancel_is_never_lost() {
    ::loom::model(|| {
        let (slot, reading) = occupied();
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || assert!(cancel(&shared, &reading)));
        live_until_cancelled(&slot);
        canceller.join().expect("no panic");
        assert!(slot.read().is_none());
    });
}

#[test]
fn exactly_one_of_two_cancellers_is_first() {
    switching_at_most(3, || {
        let (slot, reading) = occupied();
        let cancellers = [0, 1].map(|_| {
            let shared = Arc::clone(&slot);
            thread::spawn(move || cancel(&shared, &reading))
        });
        live_until_cancelled(&slot);
        let first = cancellers.map(|canceller| canceller.join().expect("no panic"));
        assert_eq!(first.iter().filter(|first| **first).count(), 1);
    });
}

#[test]
fn a_late_cancel_does_not_cancel_the_next_task_in_the_slot() {
    ::loom::model(|| {
        let (slot, reading) = occupied();
        let (_, waker) = notice();
        slot.publish(&waker);
        let shared = Arc::clone(&slot);
        let late = thread::spawn(move || cancel(&shared, &reading));
        let free = slot.vacate(true);
        slot.occupy(free, entry(2));
        slot.publish(&waker);
        assert!(!slot.is_cancelling(), "task 2 was not cancelled");
        late.join().expect("no panic");
        assert!(!slot.is_cancelling(), "task 2 was not cancelled");
        let next = slot.read().expect("it is live");
        assert!(!next.cancelling);
        assert_eq!(next.entry.id, 2);
    });
}

#[test]
fn a_late_cancel_does_not_lose_the_cancel_of_the_next_task() {
    switching_at_most(3, || {
        let (slot, reading) = occupied();
        let (_, waker) = notice();
        slot.publish(&waker);
        let shared = Arc::clone(&slot);
        let late = thread::spawn(move || cancel(&shared, &reading));
        let free = slot.vacate(true);
        slot.occupy(free, entry(2));
        let next = slot.read().expect("it is live");
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || assert!(cancel(&shared, &next)));
        live_until_cancelled(&slot);
        late.join().expect("no panic");
        canceller.join().expect("no panic");
    });
}

#[test]
fn a_free_slot_holds_no_waker() {
    ::loom::model(|| {
        let (slot, reading) = occupied();
        let (first, waker) = notice();
        slot.publish(&waker);
        drop(waker);
        let shared = Arc::clone(&slot);
        let late = thread::spawn(move || cancel(&shared, &reading));
        let free = slot.vacate(true);
        slot.occupy(free, entry(2));
        let (second, waker) = notice();
        slot.publish(&waker);
        drop(waker);
        let published = !slot.lost_waker();
        slot.vacate(published);
        late.join().expect("no panic");
        let held = [first, second].map(|notice| std::sync::Arc::strong_count(&notice) - 1);
        assert_eq!(held, [0, 0]);
    });
}

#[test]
fn a_reading_is_of_one_task() {
    ::loom::model(|| {
        let (slot, _) = occupied();
        let shared = Arc::clone(&slot);
        let reader = thread::spawn(move || {
            if let Some(Reading { entry, .. }) = shared.read() {
                let n = entry.kind;
                assert!(matches!(n, 1 | 2), "{entry:?}");
                assert_eq!(
                    (entry.id, entry.started, entry.scope),
                    (n.into(), n.into(), n)
                );
            }
        });
        let free = slot.vacate(false);
        slot.occupy(free, entry(2));
        reader.join().expect("no panic");
    });
}
