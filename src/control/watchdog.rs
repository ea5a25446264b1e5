//! The watchdog: ends the process with exit code 70 when the deadline of the shutdown has passed.
//!
//! A dedicated thread waits for the deadline. Its state is one atomic word, and between arming and
//! the exit it takes no lock and allocates nothing, except to start one more thread right after it
//! was armed. That second thread prints the last words, which may need both, and has half a second
//! for it. The process then ends with `_exit` rather than `exit`, because exit handlers and the
//! locks of the standard streams can hang.
//!
//! ```text
//! UNARMED ──arm──► deadline ──passes──► FIRED ──forced, last words──► _exit(70)
//!    ▲                │
//!    └────disarm──────┘          UNARMED ──drop──► OVER, the threads end
//! ```
//!
//! Every arrow is one compare-and-swap on the same word, so of a disarm and a firing that race
//! exactly one wins. The deadline is measured by `Instant`, on Linux `CLOCK_MONOTONIC`: it stands
//! still while the machine is suspended (clock_gettime(2)), but not while the process is stopped.
//!
//! It cannot end a process in which its own thread gets no CPU time, or in which
//! [`ExitHook::forced`] blocks.

use crate::control::exit_hook::ExitHook;
use crate::threads::{self};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The exit code of a process that the watchdog has ended. The pipeline uses it too, for a `main`
/// that blocks the thread that would return the report. 70 is `EX_SOFTWARE`, "internal software
/// error", of sysexits(3).
pub(crate) const EXIT_CODE: i32 = 70;
/// The longest wait for the last words. So the process ends at most this long after the deadline,
/// and the hooks' `forced`.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The value of `deadline` before the watchdog is armed and after it is disarmed. The thread parks.
const UNARMED: u64 = u64::MAX;
/// The value of `deadline` when the [`Watchdog`] was dropped. The thread ends.
const OVER: u64 = u64::MAX - 1;
/// The value of `deadline` after it has passed. This is final: the process is about to end.
const FIRED: u64 = u64::MAX - 2;

/// A handle to the watchdog thread. Dropping it disarms the watchdog and ends the thread.
///
/// The control side and the pipeline share one. Every method may be called on any thread, and none
/// blocks.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// The state that the two threads read too.
    shared: Arc<Shared>,
    /// The watchdog thread, to wake it after a change.
    thread: Thread,
}

/// The state that the handle and both threads share.
///
/// All operations on it are `SeqCst`. They are rare, and `late` must be visible to a thread that
/// sees `FIRED`.
#[derive(Debug)]
struct Shared {
    /// The origin of `deadline`. A `u64` of nanoseconds from it lasts for 584 years.
    base: Instant,
    /// Nanoseconds after `base`, or one of `UNARMED`, `OVER` and `FIRED`. Changed by
    /// compare-and-swap only, so that disarming and firing exclude each other.
    deadline: AtomicU64,
    /// Nanoseconds between the deadline and the moment when the thread noticed it. Written before
    /// `FIRED`.
    late: AtomicU64,
    /// True when the last words were printed, or are not needed any more. Polled every 5 ms once
    /// the deadline has passed.
    said: AtomicBool,
}

// === impl Watchdog ===

impl Watchdog {
    /// Starts the thread, unarmed. At the deadline it calls [`ExitHook::forced`] for each hook,
    /// then `last_words` with the time that has passed since the deadline.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses a thread.
    ///
    /// Returns once the thread runs, because its `Thread` is needed to wake it. `last_words` runs
    /// on a second thread, so a lock that it waits for does not keep the process from ending.
    pub(crate) fn start(
        root: u64,
        hooks: Vec<Arc<dyn ExitHook>>,
        last_words: impl FnOnce(Duration) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            base: Instant::now(),
            deadline: AtomicU64::new(UNARMED),
            late: AtomicU64::new(0),
            said: AtomicBool::new(false),
        });
        let watching = Arc::clone(&shared);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        threads::start_own(root, "headcount-watchdog", move || {
            // Cannot fail: the starter waits for it.
            tell.send(thread::current()).ok();
            watching.watch(root, &hooks, last_words);
        })?;
        let thread = told
            .recv()
            .map_err(|_| io::Error::other("the watchdog ended before it began"))?;
        Ok(Self { shared, thread })
    }

    /// Sets the deadline, counted from now. Does nothing if the watchdog is armed. Costs one
    /// compare-and-swap and an unpark; the thread starts the second one on its own time.
    pub(crate) fn arm(&self, deadline: Duration) {
        let at = self.shared.now().saturating_add(nanos(deadline));
        self.change(UNARMED, at.min(FIRED - 1));
    }

    /// Cancels the deadline. Does nothing if it has passed.
    ///
    /// It may be armed again afterwards; the thread for the last words is kept.
    pub(crate) fn disarm(&self) {
        let armed = self.shared.deadline.load(Ordering::SeqCst);
        if armed < FIRED {
            self.change(armed, UNARMED);
        }
    }

    /// Changes the state if it is still `from`, and wakes the thread. `unpark` without a `park` is
    /// kept as a token, so no wake-up is lost.
    fn change(&self, from: u64, to: u64) {
        // The exchange fails if the deadline has passed meanwhile, which cannot be undone.
        self.shared
            .deadline
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .ok();
        self.thread.unpark();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.disarm();
        self.change(UNARMED, OVER);
    }
}

// === impl Shared ===

impl Shared {
    /// Returns the nanoseconds since `base`.
    fn now(&self) -> u64 {
        nanos(self.base.elapsed())
    }

    /// Runs the watchdog thread until the handle is dropped or the process ends.
    ///
    /// Each state but `FIRED` is read in a loop around `park`, so an early wake-up is harmless. The
    /// thread for the last words is started in the first round after arming, and ended with the
    /// loop.
    fn watch(
        self: &Arc<Self>,
        root: u64,
        hooks: &[Arc<dyn ExitHook>],
        last_words: impl FnOnce(Duration) + Send + 'static,
    ) {
        let mut speaker = Some(last_words);
        let mut last_words_thread: Option<Thread> = None;
        loop {
            match self.deadline.load(Ordering::SeqCst) {
                OVER => break,
                UNARMED => thread::park(),
                deadline => {
                    if let Some(last_words) = speaker.take() {
                        last_words_thread = self.start_last_words(root, last_words);
                    }
                    match deadline.checked_sub(self.now()) {
                        Some(left) if left > 0 => thread::park_timeout(Duration::from_nanos(left)),
                        _ => self.fire(deadline, hooks, last_words_thread.as_ref()),
                    }
                }
            }
        }
        if let Some(last_words_thread) = last_words_thread {
            self.said.store(true, Ordering::SeqCst);
            last_words_thread.unpark();
        }
    }

    /// Starts the thread that prints the last words. It is started when the watchdog is armed,
    /// because at the deadline the system may refuse a thread. Returns `None` if it refuses one;
    /// the process then ends without last words. It parks until the deadline or the end, and costs
    /// nothing else. It waits for the thread to begin, for the same reason as [`Watchdog::start`].
    fn start_last_words(
        self: &Arc<Self>,
        root: u64,
        last_words: impl FnOnce(Duration) + Send + 'static,
    ) -> Option<Thread> {
        let shared = Arc::clone(self);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let started = threads::start_own(root, "headcount-last", move || {
            tell.send(thread::current()).ok();
            loop {
                thread::park();
                if shared.said.load(Ordering::SeqCst) {
                    return;
                }
                if shared.deadline.load(Ordering::SeqCst) == FIRED {
                    last_words(Duration::from_nanos(shared.late.load(Ordering::SeqCst)));
                    shared.said.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        started.ok().and_then(|_| told.recv().ok())
    }

    /// Ends the process, unless the watchdog was disarmed since `deadline` was read.
    ///
    /// `late` is stored before the state becomes `FIRED`, because the thread for the last words
    /// reads it as soon as it sees that state. If the exchange fails the caller reads the state
    /// again. Otherwise this never returns.
    ///
    /// The hooks come first, because they are quick and leave a mark for the next run. Then the
    /// last words get up to [`LAST_WORDS`]. `_exit` runs no exit handlers and no destructors, and
    /// flushes nothing.
    fn fire(&self, deadline: u64, hooks: &[Arc<dyn ExitHook>], last_words_thread: Option<&Thread>) {
        let late = self.now().saturating_sub(deadline);
        self.late.store(late, Ordering::SeqCst);
        let fired =
            self.deadline
                .compare_exchange(deadline, FIRED, Ordering::SeqCst, Ordering::SeqCst);
        if fired.is_err() {
            return;
        }
        for hook in hooks {
            hook.forced();
        }
        let begun = Instant::now();
        if let Some(last_words_thread) = last_words_thread {
            last_words_thread.unpark();
            while !self.said.load(Ordering::SeqCst) && begun.elapsed() < LAST_WORDS {
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        signal_hook::low_level::exit(EXIT_CODE);
    }
}

/// Converts to nanoseconds. Saturates below the reserved values.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FIRED - 1)
}
