//! The deadline of the whole shutdown, kept by a thread that depends on nothing that may hang.
//!
//! Once armed it takes no lock and allocates nothing. The last words, which may do both, are said by a second thread,
//! and get half a second. Then `_exit`, not `exit`: exit handlers and the locks of standard streams can hang.

use super::ending::Ending;
use crate::threads::{self, ThreadClass};
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The exit code of a process that the watchdog ended.
pub(crate) const EXIT_CODE: i32 = 70;
const LAST_WORDS: Duration = Duration::from_millis(500);
const UNARMED: u64 = u64::MAX;
const OVER: u64 = u64::MAX - 1;
const FIRED: u64 = u64::MAX - 2;

/// Ends the process at a deadline, unless it is disarmed before.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    base: Instant,
    /// Nanoseconds after `base`, or one of the three words above.
    deadline: AtomicU64,
    /// How many nanoseconds after the deadline it fired.
    late: AtomicU64,
    said: AtomicBool,
}

// === impl Watchdog ===

impl Watchdog {
    /// Starts the thread, unarmed. When the deadline has passed, `endings` are told, and `last_words` is called, with how
    /// long ago that was.
    pub(crate) fn start(
        root: u64,
        endings: Vec<Arc<dyn Ending>>,
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
        threads::start(
            root,
            "headcount-watchdog",
            ThreadClass::Control,
            Location::caller(),
            move || {
                // The other side waits for it.
                tell.send(thread::current()).ok();
                watching.watch(root, &endings, last_words);
            },
        )?;
        let thread = told
            .recv()
            .map_err(|_| io::Error::other("the watchdog ended before it began"))?;
        Ok(Self { shared, thread })
    }

    /// From now on the process has so long.
    pub(crate) fn arm(&self, deadline: Duration) {
        let at = self.shared.now().saturating_add(nanos(deadline));
        self.change(UNARMED, at.min(FIRED - 1));
    }

    /// The process may live on.
    pub(crate) fn disarm(&self) {
        let armed = self.shared.deadline.load(Ordering::SeqCst);
        if armed < FIRED {
            self.change(armed, UNARMED);
        }
    }

    fn change(&self, from: u64, to: u64) {
        // It fails when the deadline has passed: then there is nothing to change any more.
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
    fn now(&self) -> u64 {
        nanos(self.base.elapsed())
    }

    fn watch(
        self: &Arc<Self>,
        root: u64,
        endings: &[Arc<dyn Ending>],
        last_words: impl FnOnce(Duration) + Send + 'static,
    ) {
        let mut speaker = Some(last_words);
        let mut mouth: Option<Thread> = None;
        loop {
            match self.deadline.load(Ordering::SeqCst) {
                OVER => break,
                UNARMED => thread::park(),
                deadline => {
                    if let Some(last_words) = speaker.take() {
                        mouth = self.start_mouth(root, last_words);
                    }
                    match deadline.checked_sub(self.now()) {
                        Some(left) if left > 0 => thread::park_timeout(Duration::from_nanos(left)),
                        _ => self.fire(deadline, endings, mouth.as_ref()),
                    }
                }
            }
        }
        if let Some(mouth) = mouth {
            self.said.store(true, Ordering::SeqCst);
            mouth.unpark();
        }
    }

    /// The thread for the last words, made before the deadline: afterwards there may be none to be had.
    fn start_mouth(
        self: &Arc<Self>,
        root: u64,
        last_words: impl FnOnce(Duration) + Send + 'static,
    ) -> Option<Thread> {
        let shared = Arc::clone(self);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let started = threads::start(
            root,
            "headcount-last",
            ThreadClass::Control,
            Location::caller(),
            move || {
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
            },
        );
        started.ok().and_then(|_| told.recv().ok())
    }

    fn fire(&self, deadline: u64, endings: &[Arc<dyn Ending>], mouth: Option<&Thread>) {
        let late = self.now().saturating_sub(deadline);
        self.late.store(late, Ordering::SeqCst);
        let fired =
            self.deadline
                .compare_exchange(deadline, FIRED, Ordering::SeqCst, Ordering::SeqCst);
        if fired.is_err() {
            return;
        }
        for ending in endings {
            ending.forced();
        }
        let begun = Instant::now();
        if let Some(mouth) = mouth {
            mouth.unpark();
            while !self.said.load(Ordering::SeqCst) && begun.elapsed() < LAST_WORDS {
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        signal_hook::low_level::exit(EXIT_CODE);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FIRED - 1)
}
