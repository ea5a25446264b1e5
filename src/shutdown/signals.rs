//! SIGTERM, SIGINT and SIGQUIT, on a thread of their own: they work when every worker is stuck, when `main` is wedged,
//! and as process 1, for which the kernel ignores a signal without a handler (pid_namespaces(7)).
//!
//! First SIGTERM or SIGINT: drain. Second: cancel. Third: the handler itself exits with 128 + n.

use super::Message;
use crate::threads::{self, ThreadClass};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::UnboundedSender;

/// While it lives the process answers to signals as above; afterwards they have their default effect again.
#[derive(Debug)]
pub(crate) struct Watching {
    handle: Handle,
    over: Arc<AtomicBool>,
}

/// Begins to answer to signals. `dump` is called on the signal thread for SIGQUIT.
pub(crate) fn watch(
    root: u64,
    inbox: UnboundedSender<Message>,
    dump: impl Fn() + Send + 'static,
) -> io::Result<Watching> {
    let third_exits = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // Handlers run in this order; both are silent while their flag is not set.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&third_exits))?;
        flag::register_conditional_default(signal, Arc::clone(&over))?;
    }
    flag::register_conditional_default(SIGQUIT, Arc::clone(&over))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT])?;
    let handle = signals.handle();
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
                third_exits.store(seen >= 2, Ordering::SeqCst);
                if inbox.send(Message::Signal(signal)).is_err() {
                    break;
                }
            }
        },
    )?;
    Ok(Watching { handle, over })
}

// === impl Watching ===

impl Drop for Watching {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.handle.close();
    }
}
