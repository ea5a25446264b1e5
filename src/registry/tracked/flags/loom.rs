//! Models of a task that starts during walks over the tasks. The command that runs them is in
//! `slot/loom.rs`.

use super::{Flags, PUBLISHED};
use crate::registry::slots::attention;
use crate::registry::slots::loom_notice::notice;
use crate::registry::slots::slot::{Entry, Free, Slot};
use ::loom::sync::Arc;
use ::loom::thread;

fn entry() -> Entry {
    Entry {
        id: 1,
        started: 1,
        kind: 1,
        scope: 1,
    }
}

/// Runs a task that was just spawned and ends only when cancelled, as `Tracked` does: it is polled,
/// then parked until it is woken. If a cancel is lost this never returns, which loom reports as a
/// deadlock.
fn live_until_cancelled(slot: &Slot, mut flags: Flags) {
    let (notice, waker) = notice();
    loop {
        let word = attention::now();
        if !flags.is_calm(word) {
            flags.looked(word, false);
            if slot.lost_waker() {
                flags.remove(PUBLISHED);
            }
            if slot.is_cancelling() {
                break;
            }
        }
        if !flags.has(PUBLISHED) {
            flags.add(PUBLISHED);
            slot.publish(&waker);
            if slot.is_cancelling() {
                break;
            }
        }
        notice.wait();
    }
    slot.vacate(flags.has(PUBLISHED));
}

/// Checks that a second walk, which asks nothing of the task, does not hide the first.
#[test]
fn a_task_is_cancelled_by_one_of_two_walks() {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let slot = Arc::new(Slot::new());
        let flags = Flags::new(attention::now());
        slot.occupy(Free::NEW, entry());
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || {
            let _walk = attention::Walk::begin();
            let reading = shared.read().expect("it ends when it is cancelled");
            assert!(shared.cancel(&reading));
        });
        let other = thread::spawn(|| drop(attention::Walk::begin()));
        live_until_cancelled(&slot, flags);
        canceller.join().expect("no panic");
        other.join().expect("no panic");
    });
}

/// Checks that the first poll looks into the slot if the task was asked before: the word has
/// changed since the task started.
#[test]
fn a_task_asked_before_its_first_poll_looks() {
    ::loom::model(|| {
        let slot = Arc::new(Slot::new());
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || {
            let _walk = attention::Walk::begin();
            shared.read().is_some_and(|reading| shared.cancel(&reading))
        });
        let flags = Flags::new(attention::now());
        slot.occupy(Free::NEW, entry());
        let was_asked = canceller.join().expect("no panic");
        let looks = flags.seen() != attention::now();
        assert!(looks || !was_asked);
    });
}
