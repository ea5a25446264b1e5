//! Handling of SIGTERM, SIGINT, SIGHUP and SIGQUIT on a separate thread.
//!
//! The first SIGTERM or SIGINT starts the drain, and the second cuts it short. The third ends the
//! process with exit code 128 + n from inside the signal handler, which needs no thread. SIGQUIT
//! takes a dump.
//!
//! SIGHUP starts the drain too, but cuts none short: when a terminal closes, the kernel and the
//! shell may each send one. It is left alone where the process was started with SIGHUP ignored, as
//! by nohup(1).
//!
//! The thread handles signals even when every worker is blocked or `main` hangs. It also makes
//! SIGTERM work in process 1, for which the kernel ignores signals without a handler
//! (pid_namespaces(7)).
//!
//! ```text
//! signal   in the handler, on any thread       on headcount-signal
//! first    wakes headcount-signal              sends it to the inbox
//! second   wakes headcount-signal              sets `exits`, sends it to the inbox
//! third    _exit(128 + n), if `exits` is set   -
//! SIGHUP   wakes headcount-signal              sends it to the inbox if it is the first
//! SIGQUIT  wakes headcount-signal              takes a dump
//! ```
//!
//! SIGTERM and SIGINT count together. The kernel does not queue standard signals (signal(7)): two
//! that arrive before the thread has run once may count as one.
//!
//! Handlers belong to the process, but each root has its own count and thread. The exit code 128 +
//! n is that of a shell for a command that a signal ended (bash(1), "exit status").

use crate::audit::nudge;
use crate::control::message::Message;
use crate::threads;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, flag, low_level};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

/// Signal handling of one root. While any `Watching` is alive, the process handles signals as
/// described in the module; after the last one was dropped, they have their default effect again.
#[derive(Debug)]
pub(crate) struct Watching {
    /// Ends the loop of the signal thread when it is closed.
    handle: Handle,
    /// Unregisters the handlers that exit, after the handle was closed.
    _third_exits: Exits,
}

/// Handlers that end the process, registered until this is dropped. Those for the third signal must
/// not outlive the signal thread: with `exits` set, the first signal to the service of another root
/// would end the process.
#[derive(Debug)]
struct Exits(Vec<SigId>);

/// The process-wide state that restores the default effect of signals.
///
/// An installed handler is never removed, so the default effect must be emulated by a handler of
/// its own, which looks at `flag`. It is installed once for the process, because each further copy
/// would stay forever.
#[derive(Debug, Default)]
struct Unwatched {
    /// True inside when signals have their default effect.
    flag: Option<Arc<AtomicBool>>,
    /// The signals that have the handler.
    covered: Vec<i32>,
    /// The number of live [`Watching`] values.
    watching: usize,
}

/// A lock is enough, because handlers touch the flag alone.
static UNWATCHED: Mutex<Unwatched> = Mutex::new(Unwatched {
    flag: None,
    covered: Vec::new(),
    watching: 0,
});

/// The handlers of one root before a thread reads what they catch. Dropping it restores the default
/// effect of the signals.
#[derive(Debug)]
struct Caught {
    signals: Signals,
    /// Set by the thread at the second signal: the next one exits.
    exits: Arc<AtomicBool>,
    watching: Watching,
}

/// The handlers that [`hold_signals`] installed, until a root takes them.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Signals that are held.
#[derive(Debug)]
struct Held {
    caught: Caught,
    /// The handlers that exit at the second signal. They end with this value.
    second_exits: Exits,
}

/// Catches SIGTERM, SIGINT, SIGHUP and SIGQUIT from here on, until the first
/// [`Runtime`](crate::Runtime) is built that handles signals. It then acts on those that have come.
///
/// A runtime installs its handlers when it is built. Before that, a signal ends the process, and
/// process 1 of a container never sees it: the kernel drops signals to process 1 that have no
/// handler (pid_namespaces(7)), so the container is killed when its time to stop is over. Call this
/// in the first statement of `main`, so that no signal is lost while the service reads its
/// configuration and starts.
///
/// A start may hang, and there is nothing to drain or to cancel before it. So a second SIGTERM or
/// SIGINT ends the process at once while signals are held, with exit code 128 + n.
///
/// SIGHUP is left alone if it is ignored. A second call does nothing.
///
/// # Errors
///
/// Returns an error if the operating system refuses a handler or a file descriptor.
///
/// # Examples
///
/// ```no_run
/// fn main() -> headcount::Report {
///     headcount::runtime::hold_signals().ok();
///     // Reads the configuration, opens files, …
///     headcount::run("orders", async |tasks| tasks.draining().await)
/// }
/// ```
pub fn hold_signals() -> io::Result<()> {
    let mut held = held();
    if held.is_none() {
        let caught = Caught::begin(true)?;
        *held = Some(Held {
            caught,
            second_exits: Exits::at_second()?,
        });
    }
    Ok(())
}

/// Ends [`hold_signals`] without a runtime: the signals have their default effect, and those that
/// have come take it at once. Does nothing if no signals are held.
///
/// # Examples
///
/// ```
/// use headcount::runtime::{hold_signals, release_signals};
///
/// hold_signals()?;
/// // The arguments are wrong: no runtime is built, and a signal ends the process again.
/// release_signals();
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn release_signals() {
    let Some(Held {
        mut caught,
        second_exits,
    }) = held().take()
    else {
        return;
    };
    drop(second_exits);
    let came: Vec<i32> = caught.signals.pending().collect();
    drop(caught);
    for signal in came {
        // Fails only for a number that is no signal.
        low_level::raise(signal).ok();
    }
}

/// Starts to handle signals. SIGTERM, SIGINT and, if `hangup` is true, SIGHUP are sent to `inbox`;
/// for SIGQUIT `dump` is called on the signal thread, and must not block for long. Signals that
/// were held until now are handled too.
///
/// # Errors
///
/// Fails if a handler cannot be installed or the thread cannot be started. In the latter case the
/// default effect of signals is restored.
///
/// The thread ends when the returned value is dropped, or at the first signal after the inbox was
/// closed.
pub(crate) fn watch(
    root: u64,
    hangup: bool,
    inbox: UnboundedSender<Message>,
    dump: impl Fn() + Send + 'static,
) -> io::Result<Watching> {
    let held = held().take().map(|held| held.caught);
    let Caught {
        mut signals,
        exits,
        watching,
    } = held.map_or_else(|| Caught::begin(hangup), Ok)?;
    threads::start_own(root, "headcount-signal", move || {
        let mut seen = 0;
        for signal in signals.forever() {
            if signal == SIGQUIT {
                dump();
                continue;
            }
            if signal == SIGHUP && (seen > 0 || !hangup) {
                continue;
            }
            seen += 1;
            exits.store(seen >= 2, Ordering::SeqCst);
            if inbox.send(Message::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    Ok(watching)
}

// === impl Caught ===

impl Caught {
    /// Installs the handlers, those that exit first, and then ends the default effect. SIGHUP is
    /// left alone if it is ignored or `hangup` is false.
    ///
    /// A signal that arrives from here on waits for the thread.
    fn begin(hangup: bool) -> io::Result<Self> {
        let exits = Arc::new(AtomicBool::new(false));
        // Handlers run in the order of their registration. This one must run before the signal
        // thread is woken: the second signal makes that thread set `exits`, and the same signal
        // would otherwise already count as the third.
        let mut third_exits = Exits(Vec::new());
        for signal in [SIGTERM, SIGINT] {
            let exit =
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&exits))?;
            third_exits.0.push(exit);
        }
        let mut handled = vec![SIGTERM, SIGINT, SIGQUIT];
        if hangup && nudge::handler_of(SIGHUP) != Some(libc::SIG_IGN) {
            handled.push(SIGHUP);
        }
        let signals = Signals::new(&handled)?;
        unwatched().begin(&handled)?;
        let watching = Watching {
            handle: signals.handle(),
            _third_exits: third_exits,
        };
        Ok(Self {
            signals,
            exits,
            watching,
        })
    }
}

// === impl Watching ===

impl Drop for Watching {
    fn drop(&mut self) {
        unwatched().end();
        self.handle.close();
    }
}

// === impl Exits ===

impl Exits {
    /// Installs handlers that end the process at the second SIGTERM or SIGINT from here on.
    fn at_second() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let mut exits = Self(Vec::new());
        for signal in [SIGTERM, SIGINT] {
            // They run in this order, so the first signal only sets the flag.
            let exit = flag::register_conditional_shutdown(signal, 128 + signal, came.clone())?;
            exits.0.push(exit);
            exits.0.push(flag::register(signal, came.clone())?);
        }
        Ok(exits)
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            low_level::unregister(id);
        }
    }
}

// === impl Unwatched ===

impl Unwatched {
    /// Counts one more `Watching`, and suspends the default effect of these signals. The store is
    /// `SeqCst`, as the loads of `signal-hook` in the handlers are.
    fn begin(&mut self, signals: &[i32]) -> io::Result<()> {
        let flag = self.flag.get_or_insert_default();
        for signal in signals {
            if !self.covered.contains(signal) {
                flag::register_conditional_default(*signal, Arc::clone(flag))?;
                self.covered.push(*signal);
            }
        }
        flag.store(false, Ordering::SeqCst);
        self.watching += 1;
        Ok(())
    }

    /// Counts one fewer, and restores the default effect after the last.
    ///
    /// Until then another root keeps all signals from ending the process.
    fn end(&mut self) {
        self.watching -= 1;
        if let Some(flag) = &self.flag {
            flag.store(self.watching == 0, Ordering::SeqCst);
        }
    }
}

/// Locks the handlers that are held. Handlers never take this lock.
fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks the state of the process. Handlers never take this lock.
fn unwatched() -> MutexGuard<'static, Unwatched> {
    UNWATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}
