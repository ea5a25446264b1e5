//! The export of one signal: takes records from the queue, sends them, retries, and counts the
//! result.
//!
//! A request starts when the queue has enough records for one, when something asks for haste, or
//! when `delay` is over. During a flush everything in the queue is sent and the deadline of the
//! flush replaces the usual timeout. The result then goes to the flushing thread.
//!
//! There are three pipes, for traces, logs and metrics. They run on one thread as one joined
//! future, so encoding is never parallel, but a collector that hangs for one signal does not delay
//! the others. A round of a pipe:
//!
//! ```text
//! wait ─► batch from the queue ─► encode ─► post ─► answer ─► delivered, or refused in part
//!  ▲         ▲     │ empty                   │ fails
//!  │         │     ▼                         ├ passing ─► back off ─► post, at most 5 times
//!  └─────────┼── length of the queue         └ final ───► the batch is lost and counted
//!            └── until the queue is empty
//! ```
//!
//! A batch is encoded once. All its attempts send the same bytes, so a collector that recognizes
//! duplicates can do so.
//!
//! Lost records are not put back into the queue, which would fill it with the records that fail.
//! They are counted as dropped, and the text of the failure is shown only in a report.

use super::exemplars::Exemplars;
use super::http::{Collector, Failure};
use super::queue::Queue;
use super::record::Moment;
use crate::telemetry::metrics::exports::{Drop as Why, Exports, SIGNALS, Signal};
use hyper::body::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// The pause before the second attempt; it doubles with each further one.
///
/// With [`ATTEMPTS`] the pauses are 0.5, 1, 2 and 4 s.
const BACKOFF: Duration = Duration::from_millis(500);
/// The shortest pause between attempts during a flush.
///
/// The flush has a budget of one second, so the usual pause would use it up.
const LAST_BACKOFF: Duration = Duration::from_millis(100);
/// The number of attempts before the records of a request are dropped.
///
/// A batch of a collector that is down holds its pipe for 7.5 s of pauses, or longer if attempts
/// time out. Meanwhile the queue takes new records, and refuses them once it is full.
const ATTEMPTS: u32 = 5;
/// The longest pause between attempts, even if the collector asks for more with `Retry-After`.
///
/// A collector that asks for an hour would otherwise stop the export for that long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The encoding of the records of a signal, and of the answer to them.
pub(super) struct Form<T> {
    /// Encodes records as the body of a request.
    ///
    /// Called on the exporting thread. It consumes the records, so their memory is freed before the
    /// request is sent.
    pub(super) write: fn(Vec<T>, &Writing<'_>) -> Bytes,
    /// Returns how many records the collector refused; `None` if the answer is not OTLP. An empty
    /// body is a valid answer, by which nothing was refused.
    pub(super) refused: fn(Bytes) -> Option<u64>,
}

/// The context of encoding a request.
pub(super) struct Writing<'a> {
    /// One value for all requests of an exporter.
    pub(super) resource: &'a Resource,
    /// The moment that converts clock readings into Unix times. It is taken anew for each request,
    /// so a system clock that was set affects only the records encoded before.
    pub(super) now: Moment,
    /// Collects exemplars from the spans that are encoded.
    pub(super) exemplars: &'a Exemplars,
}

/// The exporter of one signal.
pub(super) struct Pipe<T> {
    /// The index of its counters in [`Exports`].
    pub(super) signal: Signal,
    /// Shared with the workers that push.
    pub(super) queue: Arc<Queue<T>>,
    /// It keeps the connection of the last request until the queue is empty.
    pub(super) collector: Collector,
    /// True if requests are encoded but not sent. They count as delivered.
    pub(super) discard: bool,
    pub(super) form: Form<T>,
    pub(super) resource: Arc<Resource>,
    /// The timeout of one request. It covers lookup, connection, TLS and the answer. Default: 10 s.
    pub(super) timeout: Duration,
    /// The longest time that a record waits for others. It is 5 s for spans, and at most
    /// [`LOG_DELAY`](super::settings::LOG_DELAY) for logs and metrics.
    pub(super) delay: Duration,
    pub(super) exports: Arc<Exports>,
    pub(super) exemplars: Arc<Exemplars>,
    /// Announces a flush. The exporter ends when its sender is dropped.
    ///
    /// A `watch` channel keeps only the last value. If two runtimes flush at the same moment, the
    /// first request may be replaced before a pipe has seen it. Its reply channel is then closed,
    /// and that runtime reports the signal as timed out, although the flush of the other one sends
    /// its records.
    pub(super) hurry: watch::Receiver<Hurry>,
}

/// The flush that all exporters are asked for, if there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Hurry(pub(super) Option<Flushing>);

/// A flush.
#[derive(Debug, Clone)]
pub(super) struct Flushing {
    /// The deadline of the flush. No request runs beyond it.
    pub(super) until: Instant,
    /// True if the exporter ends after it. That is the flush of the last runtime which uses the
    /// exporter.
    pub(super) last: bool,
    /// The channel for the result of each signal. It has room for all of them. So sending never
    /// blocks the exporting thread.
    pub(super) reply: SyncSender<(Signal, Sent)>,
}

/// The result of a flush.
///
/// It also counts the records of an export that was under way when the flush began.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// The records that the collector accepted.
    ///
    /// Records without an answer are not among them, although the collector may have processed
    /// them.
    pub(super) delivered: u64,
    /// The records that were dropped.
    ///
    /// Records that the queue refused are not among them: they were counted when they were pushed.
    pub(super) lost: u64,
    /// The reason why the last records were dropped.
    pub(super) why: Option<String>,
}

// === impl Pipe ===

impl<T> Pipe<T> {
    /// Exports until the last flush, or until the sender of `hurry` is dropped.
    ///
    /// The sender of `hurry` is dropped when the last runtime ends, with or without a flush.
    /// `changed` still returns a value that was not seen before it reports the closed channel, so
    /// the last flush is not missed.
    ///
    /// Without a flush, records stay in the queue. The next runtime that uses the exporter starts a
    /// thread that sends them.
    pub(super) async fn run(mut self) {
        while let Ok(mut flushing) = self.wait().await {
            let mut sent = Sent::default();
            self.begin_anew(&flushing);
            self.send_all(&mut sent).await;
            // An error counts as a change: the sender is dropped together with the last flush.
            if flushing.is_none() && self.hurry.has_changed().unwrap_or(true) {
                // The flush began during the export, so its result includes that export.
                flushing = self.hurry.borrow_and_update().0.clone();
                self.begin_anew(&flushing);
                self.send_all(&mut sent).await;
            }
            let Some(flushing) = flushing else { continue };
            // The flushing thread may have given up.
            flushing.reply.try_send((self.signal, sent)).ok();
            if flushing.last {
                return;
            }
        }
    }

    /// Closes the connection before a flush. Its peer may be gone without notice, and a flush has
    /// no time to find out.
    ///
    /// A new connection costs one handshake. A dead one would cost the whole budget.
    fn begin_anew(&mut self, flushing: &Option<Flushing>) {
        if flushing.is_some() {
            self.collector.close();
        }
    }

    /// Waits until there is something to send. Returns the flush, if one is the reason.
    ///
    /// It is biased towards the flush: if several reasons are true at once, the flush is not
    /// delayed by a round for the others. `delay` begins anew at each call, so it bounds the wait
    /// since the end of the last round.
    async fn wait(&mut self) -> Result<Option<Flushing>, watch::error::RecvError> {
        tokio::select! {
            biased;
            changed = self.hurry.changed() => {
                changed.map(|()| self.hurry.borrow_and_update().0.clone())
            }
            () = self.queue.ready() => Ok(None),
            () = sleep(self.delay) => Ok(None),
        }
    }

    /// Sends all records in the queue. A connection that was idle for a whole round is closed.
    ///
    /// It ends only when `take` finds the queue empty. Records that are pushed meanwhile are sent
    /// too, so under constant load it may not end before a flush is asked for; the flush ends its
    /// requests by the deadline and then drains the queue quickly, as losses.
    ///
    /// The metric of the queue length is set here and nowhere else.
    async fn send_all(&mut self, sent: &mut Sent) {
        let mut is_idle = true;
        loop {
            let records = self.queue.take();
            if records.is_empty() {
                break;
            }
            is_idle = false;
            self.send(records, sent).await;
        }
        if is_idle {
            self.collector.close();
        }
        let waiting = self.queue.len() as u64;
        self.exports.set_queued(self.signal, waiting);
    }

    /// Sends one batch, with retries, and counts the result.
    ///
    /// Holds the whole batch in memory, encoded, until it is delivered or given up. Each failed
    /// attempt counts once in the failed exports, each record once in the dropped ones.
    async fn send(&mut self, records: Vec<T>, sent: &mut Sent) {
        let count = records.len() as u64;
        let writing = Writing {
            resource: &self.resource,
            now: Moment::now(),
            exemplars: &self.exemplars,
        };
        let body = (self.form.write)(records, &writing);
        let mut backoff = BACKOFF;
        for attempt in 1.. {
            let failure = match self.post(&body).await {
                Ok(answer) => match (self.form.refused)(answer) {
                    Some(refused) => {
                        self.delivered(count, refused.min(count), sent);
                        return;
                    }
                    None => Failure::NotOtlp,
                },
                Err(failure) => failure,
            };
            self.exports.failed(self.signal);
            if !failure.is_passing()
                || attempt == ATTEMPTS
                || !self.back_off(&failure, &mut backoff).await
            {
                self.lost(count, &failure, sent);
                return;
            }
        }
    }

    /// Counts a delivered request, of which the collector may have refused some records.
    ///
    /// A partial success is a delivered request by the protocol, and must not be retried:
    /// <https://opentelemetry.io/docs/specs/otlp/#partial-success-1>.
    fn delivered(&self, count: u64, refused: u64, sent: &mut Sent) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.exports
            .delivered(self.signal, since.unwrap_or_default().as_secs());
        sent.delivered += count - refused;
        if refused > 0 {
            self.exports.dropped(self.signal, Why::Refused, refused);
            sent.lost += refused;
            sent.why = Some("the collector refused them".to_owned());
        }
    }

    /// Counts the records of a request that was given up.
    ///
    /// The reason is `shutdown` if a flush is in progress, and `refused` otherwise, even if no
    /// collector was reached.
    fn lost(&self, count: u64, failure: &Failure, sent: &mut Sent) {
        let ends = self.hurry.borrow().0.is_some();
        let why = if ends { Why::Shutdown } else { Why::Refused };
        self.exports.dropped(self.signal, why, count);
        sent.lost += count;
        sent.why = Some(failure.to_string());
    }

    /// Sends one request. The timeout shrinks to the deadline of a flush, even if the flush begins
    /// while the request is running.
    ///
    /// On a timeout the future of the request is dropped, and with it the connection. A lookup that
    /// is still blocked stays with the client, for the next attempt.
    ///
    /// The answer comes first in the biased select: one that arrives together with the deadline
    /// counts as delivered.
    async fn post(&mut self, body: &Bytes) -> Result<Bytes, Failure> {
        if self.discard {
            return Ok(Bytes::new());
        }
        let mut hurry = self.hurry.clone();
        let usual = Instant::now() + self.timeout;
        let mut posted = std::pin::pin!(self.collector.post(body, usual));
        loop {
            let flushing = hurry
                .borrow_and_update()
                .0
                .as_ref()
                .map(|flushing| flushing.until);
            let until = flushing.map_or(usual, |until| until.min(usual));
            tokio::select! {
                biased;
                done = &mut posted => return done,
                () = sleep_until(until) => return Err(Failure::TimedOut),
                // A flush began: the loop computes the shorter deadline.
                Ok(()) = hurry.changed() => {}
            }
        }
    }

    /// Waits before the next attempt; returns false if there must be none.
    ///
    /// During a flush only an overloaded collector is asked again, and only if the pause ends
    /// before the deadline.
    ///
    /// Outside a flush it always returns true: the number of attempts is the only bound. A flush
    /// that begins during the pause ends it at once. The next attempt is then made under the
    /// deadline of the flush, and a further pause follows only if the collector said that it is
    /// busy.
    async fn back_off(&self, failure: &Failure, backoff: &mut Duration) -> bool {
        let asked = match failure {
            Failure::Status(_, asked) => asked.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let mut hurry = self.hurry.clone();
        let flushing = hurry.borrow_and_update().0.clone();
        if let Some(flushing) = flushing {
            // A collector that did not answer will not do so within this second; one that is
            // overloaded may recover.
            let again = Instant::now() + asked.max(LAST_BACKOFF);
            if !failure.is_busy() || again >= flushing.until {
                return false;
            }
            sleep_until(again).await;
            return true;
        }
        let wait = asked.max(*backoff).min(LONGEST_WAIT);
        *backoff *= 2;
        tokio::select! {
            () = sleep(wait) => {}
            // A flush began: the next attempt is the last one.
            Ok(()) = hurry.changed() => {}
        }
        true
    }
}

// === impl Sent ===

impl Sent {
    /// Returns the result in words, such as "12 spans not delivered: connection refused".
    ///
    /// It is the text of a row in the report. `why` is that of the last loss, if several batches
    /// were lost for different reasons.
    pub(super) fn text(&self, signal: Signal) -> String {
        let noun = ["span", "log record", "metric"][signal as usize];
        let some = |count: u64| match count {
            1 => format!("1 {noun}"),
            count => format!("{count} {noun}s"),
        };
        let why = self.why.as_deref().unwrap_or("no answer in time");
        match (self.delivered, self.lost) {
            (delivered, 0) => format!("{} delivered", some(delivered)),
            (0, lost) => format!("{} not delivered: {why}", some(lost)),
            (delivered, lost) => {
                format!("{lost} of {} not delivered: {why}", some(delivered + lost))
            }
        }
    }
}

impl Signal {
    /// Returns the word for the signal in metrics and reports.
    pub(super) fn word(self) -> &'static str {
        SIGNALS[self as usize]
    }
}
