//! A queue between the threads that log and the stream that the log is written to.
//!
//! A stream may block: a pipe that is not read, a terminal stopped with Ctrl-S, a full disk. The
//! threads that log then go on, and a thread of the queue's own waits. What does not fit into the
//! queue is dropped and counted.
//!
//! Lines that belong to a [`LogSource`], such as the output of a child process, are bounded apart, by
//! source. Its producer waits for room before it reads on, so that a child that floods the log is
//! slowed down, and only that child.
//!
//! ```text
//! tracing events ──► LogLine ──► lines, at most OWN bytes ──────────┐
//! output of child ─► LogSource ► lines, at most SHARE bytes of each ┴─► headcount-stderr ─► fd 2
//! ```

use crate::control::log_drops::{Reason, count};
use crate::control::output::{self, Stream};
use crate::text::plain_lines;
use crate::threads;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

/// The most bytes that wait without a source. Further lines are dropped.
const OWN: usize = 1024 * 1024;
/// The bytes of one source that wait before its producer is slowed down.
const SHARE: usize = 128 * 1024;
/// The most bytes of one source that wait. It is above [`SHARE`] by more than a producer logs
/// between two looks at the room; what is beyond is dropped.
const MOST: usize = SHARE + OWN;

thread_local! {
    /// The source of the lines that this thread is logging.
    static SOURCE: RefCell<Option<LogSource>> = const { RefCell::new(None) };
}

/// A writer for the layer of a log that never blocks the thread that logs.
///
/// A thread of its own writes the lines to standard error, in their order. Lines that do not fit
/// into the queue are dropped, and counted by `headcount_log_dropped_total`. Control characters in
/// the lines are replaced; see [`plain`](crate::text::plain).
///
/// Call [`LogQueue::flush`] before the process ends. Clones share the queue. When a third signal or
/// the deadline of the shutdown ends the process, nothing is flushed, because that could wait for a
/// lock: lines that wait at that moment are lost.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::LogQueue;
/// use std::time::Duration;
/// use tracing_subscriber::layer::SubscriberExt as _;
///
/// let queue = LogQueue::stderr()?;
/// let log = tracing_subscriber::fmt::layer().with_writer(queue.clone());
/// let subscriber = tracing_subscriber::registry().with(log);
/// tracing::subscriber::with_default(subscriber, || tracing::info!("started"));
/// assert!(queue.flush(Duration::from_secs(10)));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

/// A producer of log lines that can wait, such as the reader of a child's output.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let source = headcount::telemetry::LogSource::default();
/// source.room().await;
/// source.log(|| tracing::info!("a line of the child"));
/// # }
/// ```
#[derive(Clone, Default)]
pub struct LogSource(Arc<Producer>);

/// A writer of one event, which adds it to the queue as a whole. Made by [`LogQueue`] for a layer of
/// `tracing-subscriber`.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::LogQueue;
/// use std::io::Write as _;
/// use std::time::Duration;
/// use tracing_subscriber::fmt::MakeWriter as _;
///
/// let queue = LogQueue::stderr()?;
/// queue.make_writer().write_all(b"one line\n")?;
/// assert!(queue.flush(Duration::from_secs(10)));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LogLine<'a>(&'a LogQueue);

/// The state of a source.
#[derive(Default)]
struct Producer {
    /// The bytes that wait.
    waiting: AtomicUsize,
    /// Notified when fewer bytes wait.
    room: Notify,
}

/// The state of a queue.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a line is added, and when all are written.
    changed: Condvar,
}

/// The lines that wait.
#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// The bytes of the lines without a source.
    own: usize,
    /// True while the thread is writing a line.
    is_writing: bool,
}

/// A line, or several, with the last line feed.
struct Line {
    text: String,
    source: Option<LogSource>,
}

// === impl LogQueue ===

impl LogQueue {
    /// Starts a queue for standard error. Its thread ends with the process.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system fails to create the thread.
    #[track_caller]
    pub fn stderr() -> io::Result<Self> {
        Self::start(|text| output::write(Stream::Stderr, text.as_bytes()))
    }

    /// Starts a queue in front of any writer.
    #[track_caller]
    fn start(write: impl FnMut(&str) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let queue = Self(Arc::default());
        let shared = Arc::clone(&queue.0);
        // Never joined: it may be blocked forever.
        threads::start_own(0, "headcount-stderr", move || shared.write_all(write))?;
        Ok(queue)
    }

    /// Adds text that is written as it is, behind the lines that wait.
    pub fn print(&self, text: String) {
        self.0.push(text, None);
    }

    /// Waits until all lines are written, for at most `budget`. Returns whether they were.
    ///
    /// Blocks the calling thread.
    pub fn flush(&self, budget: Duration) -> bool {
        let until = Instant::now() + budget;
        let mut queue = self.0.queue();
        while queue.is_writing || !queue.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.changed.wait_timeout(queue, left);
            (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine(self)
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").finish_non_exhaustive()
    }
}

// === impl LogLine ===

impl io::Write for LogLine<'_> {
    /// Adds the bytes as one line. A layer of `tracing_subscriber` writes each event at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        // In text of others, the layer has escaped what starts an escape sequence.
        let text = plain_lines(&text, true).into_owned();
        let source = SOURCE.try_with(|source| source.try_borrow().ok()?.clone());
        self.0.0.push(text, source.ok().flatten());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl LogSource ===

impl LogSource {
    /// Waits until the log has room for more lines of this source. Returns at once if its log has
    /// no [`LogQueue`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn room(&self) {
        loop {
            // Created before the look, so that a change in between is not missed.
            let changed = self.0.room.notified();
            if self.0.waiting.load(Ordering::SeqCst) < SHARE {
                return;
            }
            changed.await;
        }
    }

    /// Calls `log`; the lines that it logs on this thread belong to this source.
    pub fn log<T>(&self, log: impl FnOnce() -> T) -> T {
        /// Puts the source back that was there before, also after a panic.
        struct Before(Option<LogSource>);
        impl Drop for Before {
            fn drop(&mut self) {
                SOURCE.replace(self.0.take());
            }
        }
        let _before = Before(SOURCE.replace(Some(self.clone())));
        log()
    }

    /// Changes the bytes that wait after a line was written.
    fn written(&self, bytes: usize) {
        self.0.waiting.fetch_sub(bytes, Ordering::SeqCst);
        self.0.room.notify_waiters();
    }
}

impl fmt::Debug for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.0.waiting.load(Ordering::Relaxed);
        f.debug_struct("LogSource")
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Adds a line, or drops and counts it if there is no room.
    fn push(&self, text: String, source: Option<LogSource>) {
        let bytes = text.len();
        let mut queue = self.queue();
        let (waiting, most) = match &source {
            Some(source) => (source.0.waiting.load(Ordering::SeqCst), MOST),
            None => (queue.own, OWN),
        };
        if waiting + bytes > most {
            drop(queue);
            count(Reason::QueueFull);
            return;
        }
        match &source {
            Some(source) => {
                source.0.waiting.fetch_add(bytes, Ordering::SeqCst);
            }
            None => queue.own += bytes,
        }
        queue.lines.push_back(Line { text, source });
        drop(queue);
        self.changed.notify_all();
    }

    /// Writes lines until the process ends. The lock is not held during a write.
    fn write_all(&self, mut write: impl FnMut(&str) -> io::Result<()>) {
        loop {
            let mut queue = self.queue();
            queue.is_writing = false;
            let line = loop {
                match queue.lines.pop_front() {
                    Some(line) => break line,
                    None => {
                        self.changed.notify_all();
                        let waited = self.changed.wait(queue);
                        queue = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            queue.is_writing = true;
            drop(queue);
            if write(&line.text).is_err() {
                count(Reason::Failed);
            }
            match &line.source {
                Some(source) => source.written(line.text.len()),
                None => self.queue().own -= line.text.len(),
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tracing_subscriber::layer::SubscriberExt as _;

    const LONG: Duration = Duration::from_secs(60);

    /// A queue whose writer waits for a permit before each line.
    fn held() -> (LogQueue, Sender<()>, Receiver<String>) {
        let (permit, permits) = channel();
        let (tell, told) = channel();
        let queue = LogQueue::start(move |text| {
            permits.recv().map_err(io::Error::other)?;
            tell.send(text.to_owned()).map_err(io::Error::other)
        });
        (queue.expect("the system has threads"), permit, told)
    }

    fn logged(queue: &LogQueue, work: impl FnOnce()) {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(queue.clone())
            .without_time()
            .with_ansi(false)
            .with_target(false);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, work);
    }

    #[test]
    fn a_stream_that_blocks_stops_no_thread_that_logs() {
        let (queue, permit, told) = held();
        let long = "x".repeat(100_000);
        logged(&queue, || {
            for _ in 0..20 {
                tracing::info!("{long}");
            }
        });
        assert!(!queue.flush(Duration::ZERO));
        for _ in 0..20 {
            permit.send(()).expect("the queue runs");
        }
        assert!(queue.flush(LONG));
        let written = told.try_iter().count();
        assert_eq!(written, OWN / (long.len() + 7), "the others are dropped");
    }

    #[tokio::test]
    async fn a_source_that_floods_waits_and_the_others_do_not() {
        let (queue, permit, told) = held();
        let (flood, quiet) = (LogSource::default(), LogSource::default());
        let long = "x".repeat(SHARE);
        logged(&queue, || flood.log(|| tracing::info!("{long}")));
        logged(&queue, || quiet.log(|| tracing::info!("quiet")));
        logged(&queue, || tracing::info!("own"));
        quiet.room().await;
        tokio::select! {
            biased;
            () = flood.room() => panic!("it does not wait"),
            () = std::future::ready(()) => {}
        }
        permit.send(()).expect("the queue runs");
        flood.room().await;
        drop(permit);
        assert!(queue.flush(LONG));
        assert!(
            told.recv()
                .expect("it was written")
                .starts_with(" INFO xxx")
        );
    }

    #[test]
    fn control_characters_are_not_written() {
        let (queue, permit, told) = held();
        logged(&queue, || tracing::info!("a\rb\u{9b}c\u{202e}d"));
        permit.send(()).expect("the queue runs");
        let line = told.recv_timeout(LONG).expect("it is written");
        assert_eq!(line, " INFO a\u{fffd}b\\u{9b}c\u{fffd}d\n");
    }
}
