//! SIGTERM, SIGINT and SIGQUIT, on a thread of their own: they work when every worker is stuck, when `main` is wedged,
//! and as process 1, for which the kernel ignores a signal without a handler (pid_namespaces(7)).
//!
//! First SIGTERM or SIGINT: drain. Second: cancel. Third: the handler itself exits with 128 + n.

use super::Message;
use crate::threads::{self, ThreadClass};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, flag, low_level};
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

/// While it lives the process answers to signals as above; after the last one they have their default effect again.
#[derive(Debug)]
pub(crate) struct Watching {
    handle: Handle,
    third_exits: Vec<SigId>,
}

/// Whether signals have their default effect, which a handler must bring about: one that is installed is never removed.
/// One for the process, because each runtime of it that was watched once would have its say for ever.
#[derive(Debug, Default)]
struct Unwatched {
    /// Empty until the handlers are installed.
    flag: Option<Arc<AtomicBool>>,
    watching: usize,
}

static UNWATCHED: Mutex<Unwatched> = Mutex::new(Unwatched {
    flag: None,
    watching: 0,
});

/// Begins to answer to signals. `dump` is called on the signal thread for SIGQUIT.
pub(crate) fn watch(
    root: u64,
    inbox: UnboundedSender<Message>,
    dump: impl Fn() + Send + 'static,
) -> io::Result<Watching> {
    let exits = Arc::new(AtomicBool::new(false));
    // Handlers run in this order. This one must look before the signal thread hears: else the second signal, which
    // makes it exit at the next, would be that next one itself.
    let third_exits = [SIGTERM, SIGINT]
        .into_iter()
        .map(|signal| flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&exits)))
        .collect::<io::Result<Vec<SigId>>>()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT])?;
    unwatched().begin()?;
    let watching = Watching {
        handle: signals.handle(),
        third_exits,
    };
    threads::start(
        root,
        "headcount-signal",
        ThreadClass::Control,
        Location::caller(),
        move || {
            let mut seen = 0;
            for signal in signals.forever() {
                if signal == SIGQUIT {
                    dump();
                    continue;
                }
                seen += 1;
                exits.store(seen >= 2, Ordering::SeqCst);
                if inbox.send(Message::Signal(signal)).is_err() {
                    break;
                }
            }
        },
    )?;
    Ok(watching)
}

// === impl Watching ===

impl Drop for Watching {
    fn drop(&mut self) {
        unwatched().end();
        for id in self.third_exits.drain(..) {
            low_level::unregister(id);
        }
        self.handle.close();
    }
}

// === impl Unwatched ===

impl Unwatched {
    fn begin(&mut self) -> io::Result<()> {
        let flag = match &self.flag {
            Some(flag) => flag,
            None => {
                let flag = Arc::new(AtomicBool::new(false));
                for signal in [SIGTERM, SIGINT, SIGQUIT] {
                    flag::register_conditional_default(signal, Arc::clone(&flag))?;
                }
                self.flag.insert(flag)
            }
        };
        flag.store(false, Ordering::SeqCst);
        self.watching += 1;
        Ok(())
    }

    fn end(&mut self) {
        self.watching -= 1;
        if let Some(flag) = &self.flag {
            flag.store(self.watching == 0, Ordering::SeqCst);
        }
    }
}

fn unwatched() -> MutexGuard<'static, Unwatched> {
    UNWATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}
