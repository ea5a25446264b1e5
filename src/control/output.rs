//! The output of the control side: text on standard output and error, and log events.
//!
//! Both are written by threads of their own, because a full pipe, a stopped terminal or a blocked
//! subscriber must not stop the shutdown. Text is written directly to the file descriptor, so a
//! task that holds the lock of `std::io::stderr` cannot delay it.
//!
//! Sending never blocks. If a queue is full, or its thread could not be started, the output is
//! dropped.
//!
//! The order within a queue is that of the calls. Between the two queues, and towards other writers
//! of the same descriptor, there is none: a text is written by one or more calls of `write`, so
//! lines of another process may stand between them.

use super::log_drops;
use crate::threads::{self, ThreadHandle};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The length of each queue. Output is dropped while the queue is full. A text may be of any
/// length, so it bounds the jobs, not the bytes.
const WAITING: usize = 256;
/// The pause before a write is retried on a non-blocking descriptor that is full.
///
/// The descriptor may be non-blocking without our doing: the flag belongs to the open file, which
/// other processes share (fcntl(2)).
const RETRY: Duration = Duration::from_millis(5);
/// The number of retries for one text: one second in all. Successful writes in between do not renew
/// them.
const RETRIES: usize = 200;

/// A destination of text.
///
/// The descriptors 1 and 2. They are used unbuffered, and are never closed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A job for one of the writing threads.
enum Said {
    /// Written as it is, without a newline of its own.
    Text(Stream, String),
    /// Called on the thread; a panic in it is caught.
    Log(Box<dyn FnOnce() + Send>),
    /// Answered when everything queued before it was written. It takes a place in the queue itself.
    Flush(SyncSender<()>),
}

/// A handle to the output. Clones share the queues, so their output stays in order.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// The queue of `headcount-print`.
    text: SyncSender<Said>,
    /// The queue of `headcount-log`, shared by all clones.
    logs: Arc<Logs>,
}

/// The queue of log events, with a thread that starts with the first event.
///
/// It is separate from text because the subscriber is the application's: one that blocks forever
/// must not keep the report from being written.
#[derive(Debug)]
struct Logs {
    /// The number of the root that the thread belongs to.
    root: u64,
    /// Holds `None` if the thread could not be started. Log events are dropped then. It is not
    /// tried again.
    sender: OnceLock<Option<SyncSender<Said>>>,
}

// === impl Output ===

impl Output {
    /// Starts the thread that writes text. It ends when the last clone is dropped.
    pub(crate) fn start(root: u64) -> std::io::Result<Self> {
        Ok(Self {
            text: begin(root, "headcount-print")?,
            logs: Arc::new(Logs {
                root,
                sender: OnceLock::new(),
            }),
        })
    }

    /// Queues text for a stream. The text is dropped without a trace if 256 jobs are waiting.
    pub(crate) fn text(&self, stream: Stream, text: String) {
        say(&self.text, Said::Text(stream, text));
    }

    /// Queues a log event. The closure runs on the log thread, where the application's subscriber
    /// may block.
    ///
    /// The values of the event must be copied into the closure: it runs later. The first call
    /// starts the thread, so a service that logs nothing through headcount has none. A thread that
    /// starts in the subscriber inherits the name `headcount-log` unless it is named.
    pub(crate) fn log(&self, event: impl FnOnce() + Send + 'static) {
        let begun = || begin(self.logs.root, "headcount-log").ok();
        if let Some(logs) = self.logs.sender.get_or_init(begun)
            && !say(logs, Said::Log(Box::new(event)))
        {
            log_drops::count(log_drops::Reason::QueueFull);
        }
    }

    /// Waits until all text and log events queued so far are written, for at most `budget` in
    /// total.
    ///
    /// Blocks the calling thread. Text comes first; the log gets what it leaves of the budget.
    /// Neither result is returned, since there is nothing left to try.
    pub(crate) fn flush(&self, budget: Duration) {
        let until = Instant::now() + budget;
        self.flush_text(budget);
        self.flush_logs(until.saturating_duration_since(Instant::now()));
    }

    /// Waits until all text queued so far is written, for at most `budget`. Returns whether it was;
    /// false if the queue is full. A budget that runs out leaves the text in the queue, where it is
    /// written later.
    pub(crate) fn flush_text(&self, budget: Duration) -> bool {
        flush(&self.text, budget)
    }

    /// Waits until all log events queued so far are emitted, for at most `budget`.
    ///
    /// Returns at once if no event was logged. "Emitted" means that the subscriber has returned; an
    /// exporter behind it may still have a queue.
    pub(crate) fn flush_logs(&self, budget: Duration) {
        if let Some(logs) = self.logs.sender.get().and_then(Option::as_ref) {
            flush(logs, budget);
        }
    }
}

/// Waits until everything queued so far is written, for at most `budget`. Returns whether it was;
/// false if the queue is full. False too if the thread has ended. Blocks the calling thread.
fn flush(to: &SyncSender<Said>, budget: Duration) -> bool {
    let (tell, done) = sync_channel(1);
    to.try_send(Said::Flush(tell)).is_ok() && done.recv_timeout(budget).is_ok()
}

/// Starts a writing thread. It ends when the last sender is dropped.
///
/// The queue is bounded, since its reader may be stuck while the service goes on for days.
fn begin(root: u64, name: &'static str) -> std::io::Result<SyncSender<Said>> {
    let (sender, receiver) = sync_channel(WAITING);
    // Never joined: it may be blocked forever.
    let _detached: ThreadHandle<()> = threads::start_own(root, name, move || speak(&receiver))?;
    Ok(sender)
}

/// Queues a job without blocking. Returns false if the queue is full.
fn say(to: &SyncSender<Said>, said: Said) -> bool {
    match to.try_send(said) {
        // The reader of the stream does not read. The job is dropped.
        Err(TrySendError::Full(_)) => false,
        // Disconnected: the process is ending.
        Ok(()) | Err(TrySendError::Disconnected(_)) => true,
    }
}

/// Runs a writing thread until all senders are dropped.
///
/// The jobs are done one after the other. The channel ends with its last sender, and what is queued
/// by then is still written.
fn speak(receiver: &Receiver<Said>) {
    for said in receiver {
        match said {
            Said::Text(stream, text) => write_or_tell(stream, &text),
            Said::Log(event) => {
                // A panic in the subscriber must not end this thread.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(
                    event,
                )));
            }
            // Fails if the flush has timed out.
            Said::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Writes text, and falls back to standard error with the reason if standard output fails. A report
/// is therefore not lost when standard output is a file on a full disk.
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

/// Writes all bytes to the descriptor, retrying interrupted and would-block writes.
///
/// # Errors
///
/// Fails if the descriptor refuses the write, or is non-blocking and stays full for about a second.
///
/// It neither locks nor allocates, so the watchdog's last words can use it. A write of zero bytes
/// is an error, because repeating it could go on for ever.
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

/// Returns the descriptor of the stream, without the lock and the buffer of `std::io`.
fn descriptor(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        Stream::Stdout => rustix::stdio::stdout(),
        Stream::Stderr => rustix::stdio::stderr(),
    }
}

/// Returns whether the stream is a terminal. One system call.
pub(crate) fn is_terminal(stream: Stream) -> bool {
    rustix::termios::isatty(descriptor(stream))
}

/// Returns whether to use colours: on a terminal, unless `NO_COLOR` (<https://no-color.org>) or
/// `TERM=dumb` is set.
pub(crate) fn has_colours(stream: Stream) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal(stream) && !no_color && !dumb
}
