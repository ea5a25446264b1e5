//! The output of a command, forwarded to the log line by line.
//!
//! Each line is a `tracing` event at INFO with the target [`OUTPUT_TARGET`] and the fields `task`
//! and `stream`. So the lines go wherever the service's log goes (terminal, file, collector). The log
//! for people shows them as `name │ line` (`service/exports/log_lines.rs`). The last lines are also kept in
//! memory, by [`telemetry::Child::printed`], and written to a file if the process has one (`files`).
//!
//! A line that stays unterminated for [`PIECE`], such as a prompt, is shown as far as it goes, in an
//! event with the field `partial`. Its end is an event of the whole line with the field `in_pieces`,
//! after another piece. Outputs for programs take the whole lines alone; see [`is_whole`].
//!
//! A command that prints faster than the log accepts lines blocks on its full pipe: nothing more is
//! read from it until the log has room for its lines. Each stream holds at most one read of
//! [`MAX_READ`] bytes and one line of 64 KiB.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::unix::pipe,
    time::{Instant, sleep_until},
};
use tracing::Metadata;

use self::{
    hidden::Hidden,
    lines::{Line, Lines},
};
use crate::service::secrets::Secrets;
use crate::telemetry::{self, LogSource};
use crate::text::plain;

mod files;
mod hidden;
mod lines;

pub(super) use files::{Files, LogFile};

/// The target of forwarded lines.
pub(crate) const OUTPUT_TARGET: &str = "headcount::output";
/// The largest read, in bytes. It is small so that a flood of output does not keep the supervising
/// task from its other work.
const MAX_READ: usize = 8 * 1024;

/// The most characters of a last line that are kept.
const LAST_LINE: usize = 200;

/// The places to which the output of a process goes, in all its runs.
#[derive(Debug)]
pub(super) struct Sink {
    name: String,
    /// The share of the log. A process that restarts while the log is not read thus waits, too.
    source: LogSource,
    /// Keeps the last lines. `None` for output that is not shown.
    child: Option<Arc<telemetry::Child>>,
    /// The last line of output that is not shown, unless it is blank.
    last: Mutex<String>,
    /// Left out of those that the admin server shows.
    hidden: Hidden,
    /// The file of the process, if it has one.
    file: Option<LogFile>,
}

/// The longest time for which an unterminated line is held back.
const PIECE: Duration = Duration::from_millis(200);

/// The standard output or standard error of one command.
#[derive(Debug)]
pub(super) struct Output {
    sink: Arc<Sink>,
    stream: &'static str,
    /// The reading end; `None` after the end of the stream or a read error.
    pipe: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
    lines: Lines,
    /// The time at which the unterminated line is shown.
    piece_due: Option<Instant>,
}

/// Returns true unless this is the call site of pieces of lines. An output that takes whole lines
/// only is filtered with it.
pub(crate) fn is_whole(metadata: &Metadata<'_>) -> bool {
    metadata.fields().field("partial").is_none()
}

// === impl Sink ===

impl Sink {
    pub(super) fn new(name: &str, child: &Arc<telemetry::Child>, file: Option<LogFile>) -> Self {
        Self {
            name: name.to_owned(),
            source: LogSource::default(),
            child: Some(Arc::clone(child)),
            last: Mutex::default(),
            hidden: Hidden::default(),
            file,
        }
    }

    /// Returns a sink that shows nothing, and keeps the last line.
    pub(super) fn quiet(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            source: LogSource::default(),
            child: None,
            last: Mutex::default(),
            hidden: Hidden::default(),
            file: None,
        }
    }

    /// Returns the start of the last line that is not blank, of a sink that shows nothing.
    pub(super) fn last_line(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// Hides the values of this environment from the admin server.
    pub(super) fn hiding(mut self, environment: &Secrets) -> Self {
        self.hidden = Hidden::of(environment);
        self
    }

    /// Waits until the log and the file have room for more lines.
    async fn room(&self) {
        self.source.room().await;
        if let Some(file) = &self.file {
            file.room().await;
        }
    }

    /// Passes on one line. In the log, it is without what could change a terminal.
    fn take(&self, stream: &'static str, line: &Line<'_>) {
        let Some(child) = &self.child else {
            let text = line.whole.trim();
            if !text.is_empty() {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = text.chars().take(LAST_LINE).collect();
            }
            return;
        };
        child.said(&self.hidden.out_of(&line.whole));
        if let Some(file) = &self.file {
            file.write(&line.whole);
        }
        let (name, whole) = (&self.name, plain(&line.whole));
        let Some(rest) = &line.rest else {
            child.printed(stream, &line.whole);
            self.source.log(
                || tracing::info!(target: OUTPUT_TARGET, task = %name, stream = %stream, "{whole}"),
            );
            return;
        };
        if !rest.is_empty() {
            self.take_piece(stream, rest);
        }
        self.source.log(|| {
            tracing::info!(
                target: OUTPUT_TARGET, task = %name, stream = %stream, in_pieces = true, "{whole}"
            );
        });
    }

    /// Passes on a piece of a line.
    fn take_piece(&self, stream: &'static str, piece: &str) {
        let Some(child) = &self.child else {
            return;
        };
        child.printed(stream, piece);
        let (name, piece) = (&self.name, plain(piece));
        self.source.log(|| {
            tracing::info!(
                target: OUTPUT_TARGET, task = %name, stream = %stream, partial = true, "{piece}"
            );
        });
    }
}

// === impl Output ===

impl Output {
    /// Prepares to forward `pipe`, which is the stream `stream`: `stdout` or `stderr`.
    pub(super) fn new(
        sink: &Arc<Sink>,
        stream: &'static str,
        pipe: io::PipeReader,
    ) -> io::Result<Self> {
        Ok(Self {
            sink: Arc::clone(sink),
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(pipe.into())?),
            buffer: vec![0; MAX_READ].into(),
            lines: Lines::default(),
            piece_due: None,
        })
    }

    /// Forwards output until a line contains `needle`. Never returns if `needle` is `None` or the
    /// stream has ended.
    ///
    /// # Cancel safety
    /// No output is lost: there is no await between a read and its forwarding.
    pub(super) async fn forward(&mut self, needle: Option<&str>) {
        loop {
            self.sink.room().await;
            let piece_due = self.piece_due;
            let is_found = tokio::select! {
                is_found = self.read(needle) => is_found,
                () = at(piece_due) => self.show_piece(needle),
            };
            if is_found {
                break;
            }
        }
        if self.pipe.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Forwards the rest of the stream, up to its end. Lines for which the log has no room are
    /// dropped and counted.
    ///
    /// It may never return, because a process outside of the tree can hold the stream open. Call it
    /// with a timeout, and call [`Self::flush`] afterwards for an unterminated last line.
    pub(super) async fn finish(&mut self) {
        while !self.read(None).await {}
    }

    /// Forwards the last line if it is unterminated.
    pub(super) fn flush(&mut self) {
        let (sink, stream) = (&self.sink, self.stream);
        self.lines.finish(|line| sink.take(stream, &line));
        self.piece_due = None;
    }

    /// Reads once and forwards the lines that are complete. Returns true if a line contained
    /// `needle`, or at the end of the stream.
    async fn read(&mut self, needle: Option<&str>) -> bool {
        let Some(pipe) = &self.pipe else {
            return true;
        };
        // A ready pipe uses up none of tokio's cooperative budget. Without this yield, a command
        // that prints faster than it is logged would starve the rest of the task, including the
        // stop.
        tokio::task::yield_now().await;
        // `try_read` returns the same error again.
        pipe.readable().await.ok();
        match pipe.try_read(&mut self.buffer) {
            Ok(length @ 1..) => {
                let (mut found, mut has_ended) = (false, false);
                let (sink, stream) = (&self.sink, self.stream);
                self.lines.push(&self.buffer[..length], |line| {
                    sink.take(stream, &line);
                    has_ended = true;
                    found |= needle.is_some_and(|needle| line.whole.contains(needle));
                });
                // The time of a line that has ended is not that of the next one.
                let due = self.piece_due.filter(|_| !has_ended);
                let due = due.unwrap_or_else(|| Instant::now() + PIECE);
                self.piece_due = self.lines.has_piece().then_some(due);
                found
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                self.pipe = None;
                true
            }
        }
    }

    /// Shows the unterminated line as far as it goes. Returns true if it contains `needle`.
    fn show_piece(&mut self, needle: Option<&str>) -> bool {
        self.piece_due = None;
        self.sink.take_piece(self.stream, &self.lines.take_piece());
        needle.is_some_and(|needle| self.lines.unterminated().contains(needle))
    }
}

/// Waits until a time. Never returns if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
