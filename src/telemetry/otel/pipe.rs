//! One signal on its way out: takes what waits, sends it, tries again where that may help, and counts.

use super::super::exports::{Drop as Why, Exports, SIGNALS, Signal};
use super::exemplars::Exemplars;
use super::http::{Connection, Failure, Target};
use super::queue::Queue;
use super::record::Moment;
use hyper::body::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Between attempts: doubled each time.
const BACKOFF: Duration = Duration::from_millis(500);
/// The same when the process ends.
const LAST_BACKOFF: Duration = Duration::from_millis(100);
/// How often a request is made before its records are given up.
const ATTEMPTS: u32 = 5;
/// Longer than this nobody waits because a collector says so.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How a signal's records become bytes, and what an answer says.
pub(super) struct Form<T> {
    pub(super) write: fn(Vec<T>, &Writing<'_>) -> Bytes,
    /// How many records were refused; `None` when that is no answer.
    pub(super) refused: fn(Bytes) -> Option<u64>,
}

/// What records are written with.
pub(super) struct Writing<'a> {
    pub(super) resource: &'a Resource,
    pub(super) now: Moment,
    pub(super) exemplars: &'a Exemplars,
}

/// The way of one signal.
pub(super) struct Pipe<T> {
    pub(super) signal: Signal,
    pub(super) queue: Arc<Queue<T>>,
    pub(super) target: Target,
    /// For the next request, unless there is none for a while.
    pub(super) connection: Option<Connection>,
    /// Nothing is sent.
    pub(super) discard: bool,
    pub(super) form: Form<T>,
    pub(super) resource: Arc<Resource>,
    pub(super) timeout: Duration,
    pub(super) delay: Duration,
    pub(super) exports: Arc<Exports>,
    pub(super) exemplars: Arc<Exemplars>,
    pub(super) hurry: watch::Receiver<Hurry>,
}

/// Whether all that waits must go.
#[derive(Debug, Clone, Default)]
pub(super) struct Hurry(pub(super) Option<Flushing>);

/// A flush under way.
#[derive(Debug, Clone)]
pub(super) struct Flushing {
    pub(super) until: Instant,
    /// Nothing comes after it.
    pub(super) last: bool,
    pub(super) reply: SyncSender<(Signal, Sent)>,
}

/// What a flush came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) why: Option<String>,
}

// === impl Pipe ===

impl<T> Pipe<T> {
    /// Exports until the last flush, or until nobody is left who could ask for one.
    pub(super) async fn run(mut self) {
        while let Ok(mut flushing) = self.wait().await {
            let mut sent = Sent::default();
            self.begin_anew(&flushing);
            self.send_all(&mut sent).await;
            // An error is a change too: the sender goes with the last flush.
            if flushing.is_none() && self.hurry.has_changed().unwrap_or(true) {
                // It began while we were sending, and counts what became of that.
                flushing = self.hurry.borrow_and_update().0.clone();
                self.begin_anew(&flushing);
                self.send_all(&mut sent).await;
            }
            let Some(flushing) = flushing else { continue };
            // Nobody may be waiting any more.
            flushing.reply.try_send((self.signal, sent)).ok();
            if flushing.last {
                return;
            }
        }
    }

    /// What has to go in a second does not wait for an answer on a connection whose other side may be gone without a word.
    fn begin_anew(&mut self, flushing: &Option<Flushing>) {
        if flushing.is_some() {
            self.connection = None;
        }
    }

    /// Until there is something to do; the flush, when it is one.
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
            self.connection = None;
        }
        let waiting = self.queue.len() as u64;
        self.exports.set_queued(self.signal, waiting);
    }

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
            let failure = match self.post(body.clone()).await {
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

    fn lost(&self, count: u64, failure: &Failure, sent: &mut Sent) {
        let ends = self.hurry.borrow().0.is_some();
        let why = if ends { Why::Shutdown } else { Why::Refused };
        self.exports.dropped(self.signal, why, count);
        sent.lost += count;
        sent.why = Some(failure.to_string());
    }

    /// One request, as long as it may take at the moment.
    async fn post(&mut self, body: Bytes) -> Result<Bytes, Failure> {
        if self.discard {
            return Ok(Bytes::new());
        }
        let mut hurry = self.hurry.clone();
        let usual = Instant::now() + self.timeout;
        let mut posted = std::pin::pin!(self.target.post(body, &mut self.connection));
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
                // From there on less time is left.
                Ok(()) = hurry.changed() => {}
            }
        }
    }

    /// Waits before the next attempt; false when there is no time for one.
    async fn back_off(&self, failure: &Failure, backoff: &mut Duration) -> bool {
        let asked = match failure {
            Failure::Status(_, asked) => asked.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let mut hurry = self.hurry.clone();
        let flushing = hurry.borrow_and_update().0.clone();
        if let Some(flushing) = flushing {
            // Who does not answer will not within this second; who is busy might.
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
            // One more attempt, and a last one.
            Ok(()) = hurry.changed() => {}
        }
        true
    }
}

// === impl Sent ===

impl Sent {
    /// "12 spans not delivered: connection refused".
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
    pub(super) fn word(self) -> &'static str {
        SIGNALS[self as usize]
    }
}
