//! A waker for loom models.

use loom::sync::{Condvar, Mutex};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// The notice that a task should be polled again. It does not use `thread::park`: loom forgets an
/// `unpark` that comes before the `park`.
pub(crate) struct Notice {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Notice {
    /// Waits for the next wake, and consumes it.
    pub(crate) fn wait(&self) {
        let mut woken = self.woken.lock().expect("no panic");
        while !*woken {
            woken = self.changed.wait(woken).expect("no panic");
        }
        *woken = false;
    }
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().expect("no panic") = true;
        self.changed.notify_one();
    }
}

/// Returns a notice, and a waker that gives it.
pub(crate) fn notice() -> (Arc<Notice>, Waker) {
    let notice = Arc::new(Notice {
        woken: Mutex::new(false),
        changed: Condvar::new(),
    });
    (Arc::clone(&notice), Waker::from(notice))
}
