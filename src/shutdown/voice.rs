//! Everything that the control side says, on a thread that may block: a full pipe, a stopped terminal or a lock that
//! somebody holds must not stop the shutdown.
//!
//! It writes to the file descriptors themselves, so a task that holds the lock of `std::io::stderr` does not matter.

use crate::threads::{self, ThreadClass, ThreadHandle};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What waits to be said; what comes on top is dropped.
const WAITING: usize = 256;
/// Between attempts to write to a descriptor that does not block.
const RETRY: Duration = Duration::from_millis(5);
const RETRIES: usize = 200;

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    #[cfg(feature = "json")]
    Stdout,
    Stderr,
}

enum Said {
    Text(Stream, String),
    Log(Box<dyn FnOnce() + Send>),
    Flush(SyncSender<()>),
}

/// The control side's voice. Clones speak in order.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    text: SyncSender<Said>,
    logs: Arc<Logs>,
}

/// Log events have a thread of their own, begun with the first: the subscriber is the user's, and one that waits for
/// ever must not keep the report from being written.
#[derive(Debug)]
struct Logs {
    root: u64,
    sender: OnceLock<Option<SyncSender<Said>>>,
}

// === impl Voice ===

impl Voice {
    /// Starts the thread that writes; it ends when the last clone is gone.
    pub(crate) fn start(root: u64) -> std::io::Result<Self> {
        Ok(Self {
            text: begin(root, "headcount-voice")?,
            logs: Arc::new(Logs {
                root,
                sender: OnceLock::new(),
            }),
        })
    }

    pub(crate) fn text(&self, stream: Stream, text: String) {
        say(&self.text, Said::Text(stream, text));
    }

    /// Emits a log event. The subscriber is the user's, and may block.
    pub(crate) fn log(&self, event: impl FnOnce() + Send + 'static) {
        let begun = || begin(self.logs.root, "headcount-log").ok();
        if let Some(logs) = self.logs.sender.get_or_init(begun) {
            say(logs, Said::Log(Box::new(event)));
        }
    }

    /// Waits until all that was said and logged is written, at most so long together.
    pub(crate) fn flush(&self, budget: Duration) {
        let until = Instant::now() + budget;
        self.flush_text(budget);
        self.flush_logs(until.saturating_duration_since(Instant::now()));
    }

    /// Waits until all that was said is written, at most so long; whether it is.
    pub(crate) fn flush_text(&self, budget: Duration) -> bool {
        flush(&self.text, budget)
    }

    /// Waits until all that was logged is written, at most so long.
    pub(crate) fn flush_logs(&self, budget: Duration) {
        if let Some(logs) = self.logs.sender.get().and_then(Option::as_ref) {
            flush(logs, budget);
        }
    }
}

/// Waits until all that was sent is said, at most so long; whether it is.
fn flush(to: &SyncSender<Said>, budget: Duration) -> bool {
    let (tell, done) = sync_channel(1);
    to.try_send(Said::Flush(tell)).is_ok() && done.recv_timeout(budget).is_ok()
}

/// Starts a thread that says what it is sent; it ends when the last sender is gone.
fn begin(root: u64, name: &'static str) -> std::io::Result<SyncSender<Said>> {
    let (sender, receiver) = sync_channel(WAITING);
    // Nobody joins it: it may be blocked for ever.
    let _detached: ThreadHandle<()> = threads::start(
        root,
        name,
        ThreadClass::Control,
        Location::caller(),
        move || speak(&receiver),
    )?;
    Ok(sender)
}

fn say(to: &SyncSender<Said>, said: Said) {
    match to.try_send(said) {
        // Full: whoever reads is not reading. Gone: the process ends.
        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
    }
}

fn speak(receiver: &Receiver<Said>) {
    for said in receiver {
        match said {
            Said::Text(stream, text) => write_or_tell(stream, &text),
            Said::Log(event) => {
                // A subscriber that panics must not take the voice with it.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(
                    event,
                )));
            }
            // Nobody may be waiting any more.
            Said::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// What cannot be written to standard output goes to standard error, with the reason: a report that a full disk took
/// nothing of is not lost.
fn write_or_tell(stream: Stream, text: &str) {
    let Err(error) = write(stream, text.as_bytes()) else {
        return;
    };
    if stream != Stream::Stderr {
        let error = error.kind();
        let note = format!("headcount: failed to write this to standard output: {error}\n{text}");
        write(Stream::Stderr, note.as_bytes()).ok();
    }
}

/// Writes all of it, unless the descriptor is closed or stays full.
pub(crate) fn write(stream: Stream, mut bytes: &[u8]) -> std::io::Result<()> {
    let mut retries = RETRIES;
    while !bytes.is_empty() {
        match rustix::io::write(descriptor(stream), bytes) {
            Ok(n) if n > 0 => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if retries > 0 => {
                retries -= 1;
                std::thread::sleep(RETRY);
            }
            Ok(_) => return Err(Errno::IO.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn descriptor(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        #[cfg(feature = "json")]
        Stream::Stdout => rustix::stdio::stdout(),
        Stream::Stderr => rustix::stdio::stderr(),
    }
}

/// Whether people look at it, and colours are wanted: <https://no-color.org>.
pub(crate) fn is_terminal(stream: Stream) -> bool {
    rustix::termios::isatty(descriptor(stream))
}

/// Whether to use colours on it.
pub(crate) fn has_colours(stream: Stream) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal(stream) && !no_color && !dumb
}
