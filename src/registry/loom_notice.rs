//! A waker for models.

use loom::sync::{Condvar, Mutex};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// A task's notice that it should be polled. Not `thread::park`: loom forgets an `unpark` that comes first.
pub(super) struct Notice {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Notice {
    pub(super) fn wait(&self) {
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

pub(super) fn notice() -> (Arc<Notice>, Waker) {
    let notice = Arc::new(Notice {
        woken: Mutex::new(false),
        changed: Condvar::new(),
    });
    (Arc::clone(&notice), Waker::from(notice))
}
