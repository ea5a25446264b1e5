//! Every interleaving of owner, cancellers and readers of one slot.
//!
//! `RUSTFLAGS="--cfg headcount_loom --cfg tokio_unstable" cargo test --lib --release --no-default-features
//! --target-dir target/loom loom`

use super::{Entry, Free, Reading, Slot};
use crate::registry::cancels;
use crate::registry::loom_notice::{Notice, notice};
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

/// Three threads that loop have too many interleavings for all of them.
fn switching_at_most(times: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(model);
}

/// A slot in which task 1 lives, and a canceller's look at it.
fn occupied() -> (Arc<Slot>, Reading) {
    let slot = Arc::new(Slot::new());
    slot.occupy(Free::NEW, entry(1));
    let reading = slot.read().expect("it is live");
    (slot, reading)
}

/// A life that ends only by cancel, as `Row` and `Tracked` lead it: polled when woken, parked in between. When a cancel
/// is lost it never returns, which is a deadlock to loom.
fn live_until_cancelled(slot: &Slot) {
    live_until(slot, false, notice(), |slot| {
        // As `look` does; the answer is a poll, and another follows.
        slot.was_asked();
        slot.is_cancelling()
    });
}

/// The same life, which ends when it finds at a look what it waits for. A task that is parked has left its waker.
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
    let mut seen = cancels::NEVER;
    loop {
        let word = cancels::now();
        if word != seen {
            if !cancels::is_under_way(word) {
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

/// A walk over the tasks that finds one.
fn cancel(slot: &Slot, reading: &Reading) -> bool {
    let _walk = cancels::Walk::begin();
    slot.cancel(reading)
}

/// A walk over the tasks that asks one what it awaits.
fn ask(slot: &Slot, reading: &Reading) {
    let _walk = cancels::Walk::begin();
    slot.ask(reading);
}

#[test]
fn who_is_parked_hears_a_question() {
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
fn a_question_does_not_cost_a_cancel() {
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
fn a_question_to_a_task_that_is_over_does_not_reach_the_next_nor_cost_it_its_cancel() {
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
fn of_two_cancellers_one_is_the_first() {
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
fn who_cancels_a_task_that_is_over_does_not_cancel_the_next_in_its_slot() {
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
fn who_cancels_a_task_that_is_over_does_not_cost_the_next_its_cancel() {
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
fn a_slot_that_is_free_holds_no_waker() {
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
