//! A task that starts while somebody walks over the tasks. The command is in `slot/loom.rs`.

use super::Notes;
use crate::registry::cancels;
use crate::registry::slot::{Entry, Free, Slot};
use ::loom::sync::Arc;
use ::loom::thread;

/// What was asked for before the first poll is looked for by it, which reads the slot only when the word has changed.
#[test]
fn who_was_asked_before_the_first_poll_looks() {
    ::loom::model(|| {
        let slot = Arc::new(Slot::new());
        let shared = Arc::clone(&slot);
        let canceller = thread::spawn(move || {
            let _walk = cancels::Walk::begin();
            shared.read().is_some_and(|reading| shared.cancel(&reading))
        });
        let notes = Notes::new(cancels::now());
        let entry = Entry {
            id: 1,
            started: 1,
            kind: 1,
            scope: 1,
        };
        slot.occupy(Free::NEW, entry);
        let was_asked = canceller.join().expect("no panic");
        let looks = notes.word() != cancels::now();
        assert!(looks || !was_asked);
    });
}
