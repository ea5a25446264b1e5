use super::{ASKED, FREE, PLACES, SIGNAL, STATES, install, send};
use crate::stacks::reader::READER;
use crate::threads::own_tid;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Returns the state of a slot after a signal with `value` reached this thread, while `tid` was
/// asked.
fn after_signal(asked: u32, tid: u32, value: u32) -> u32 {
    install();
    let signal = SIGNAL.get().copied().flatten().expect("one is free");
    let index = PLACES.len() - 1;
    let slot = &PLACES[index];
    let before = slot.state.load(Ordering::SeqCst) & !STATES;
    slot.tid.store(tid, Ordering::SeqCst);
    slot.state.store(before | asked, Ordering::SeqCst);
    // The signal is handled before the call returns.
    send(own_tid(), signal, index, before.wrapping_add(value)).expect("it can be sent");
    let after = slot.state.load(Ordering::SeqCst);
    slot.state.store(before | FREE, Ordering::SeqCst);
    after - before
}

#[test]
fn a_signal_without_an_open_question_does_nothing() {
    // The lock of the reader keeps other tests from the slots.
    let _turn = READER.lock().unwrap_or_else(PoisonError::into_inner);
    let own = own_tid();
    let other_question = STATES + 1;
    assert_eq!(after_signal(FREE, own, 0), FREE, "it was taken back");
    assert_eq!(
        after_signal(ASKED, own, other_question),
        ASKED,
        "it is of an earlier question"
    );
    assert_eq!(
        after_signal(ASKED, own + 1, 0),
        ASKED,
        "another thread is asked"
    );
    assert_eq!(after_signal(ASKED, own, 0), super::DONE);
}
