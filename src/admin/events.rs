//! The stream of `/api/events`: server-sent events for the page
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! The first event, `history`, has samples of the last ten minutes. A `state` follows once a second:
//! the overview of the runtime, the children and the endpoints. All streams share the text of a
//! second, so their number does not matter for the service.
//!
//! There are at most [`STREAMS`] streams, and a stream gives way to other requests (`places`). It ends
//! after [`LONGEST`], or if its client has not read an event for ten seconds; a browser then connects
//! again.

use super::answers::{later, typed};
use super::api::{self, Children, Endpoints, Runtime};
use super::places::Place;
use crate::audit::proc::processes;
use crate::telemetry::{Metrics, Source, unix};
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// The time between two events.
const EVERY: Duration = Duration::from_secs(1);
/// The age up to which the text of an event serves another stream.
const SERVES: Duration = Duration::from_millis(900);
/// The most streams at a time.
const STREAMS: usize = 8;
/// The longest time for which a stream lasts.
const LONGEST: Duration = Duration::from_secs(600);
/// The most children and endpoints of an event.
const LISTED: usize = 100;
/// The number of samples of the history: ten minutes.
const SAMPLES: usize = 300;
/// A sample is taken with each second heartbeat.
const BEATS: u64 = 2;

/// The events of a server.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Counted by its references: one for each stream, and one here.
    streams: Arc<()>,
    /// The last event.
    last: Mutex<Option<(Instant, Bytes)>>,
    history: Mutex<History>,
}

/// The samples of the last minutes, oldest first.
#[derive(Debug, Default)]
struct History {
    beats: u64,
    samples: VecDeque<Sample>,
}

/// The figures of one moment that cost next to nothing to read. Those that only grow are read as
/// they are: the reader takes differences.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    timestamp_seconds: f64,
    /// The live tracked tasks.
    tasks_live: u64,
    /// The live tasks of the runtime, tracked or not.
    alive_tasks: u64,
    worker_busy_seconds: f64,
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
}

/// The data of a `state`.
#[derive(Debug, Serialize)]
struct State {
    timestamp_seconds: f64,
    runtime: Runtime,
    children: Children,
    endpoints: Endpoints,
}

/// The body of one answer.
struct Stream {
    events: Arc<Events>,
    metrics: Metrics,
    place: Arc<Place>,
    ticks: Interval,
    ends: Instant,
    has_history: bool,
    /// Counts the streams.
    _one: Arc<()>,
}

/// Answers `/api/events`.
pub(super) fn answer(events: &Arc<Events>, metrics: &Metrics, place: Arc<Place>) -> Response {
    let one = Arc::clone(&events.streams);
    // The count is changed on the thread of the server only, apart from the end of the runtime.
    if Arc::strong_count(&one) > STREAMS + 1 {
        return later(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many event streams are open",
        );
    }
    place.streams();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = Stream {
        events: Arc::clone(events),
        metrics: metrics.clone(),
        place,
        ticks,
        ends: Instant::now() + LONGEST,
        has_history: false,
        _one: one,
    };
    typed(StatusCode::OK, "text/event-stream", Body::new(body))
}

// === impl Events ===

impl Events {
    /// Takes a sample, if one is due. Called with each heartbeat.
    pub(super) fn sample(&self, source: &Source) {
        let mut history = locked(&self.history);
        history.beats += 1;
        if history.beats % BEATS != 1 {
            return;
        }
        if history.samples.len() == SAMPLES {
            history.samples.pop_front();
        }
        history.samples.push_back(Sample::take(source));
    }

    /// Returns the event with the history.
    fn history(&self) -> Bytes {
        let samples = locked(&self.history).samples.clone();
        event("history", &samples)
    }

    /// Returns the event with the state, at most [`SERVES`] old.
    fn state(&self, source: &Source) -> Bytes {
        let mut last = locked(&self.last);
        if let Some((at, text)) = &*last
            && at.elapsed() < SERVES
        {
            return text.clone();
        }
        let state = State {
            timestamp_seconds: unix(SystemTime::now()),
            runtime: api::runtime(source),
            children: api::children_at_most(source, LISTED),
            endpoints: api::endpoints_at_most(source, LISTED),
        };
        let text = event("state", &state);
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

/// A poisoned lock is used as it is: a value is whole between two changes.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the text of an event. JSON has no line feed outside of strings, and escapes those in them.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    // It fails for maps with keys that are not strings; no event has one.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

// === impl Sample ===

impl Sample {
    fn take(source: &Source) -> Self {
        let own = processes::own();
        let (alive_tasks, busy) = api::alive_and_busy(source);
        Self {
            timestamp_seconds: unix(SystemTime::now()),
            tasks_live: api::live(source),
            alive_tasks,
            worker_busy_seconds: busy.as_secs_f64(),
            cpu_seconds: own.as_ref().map(|own| own.cpu.as_secs_f64()),
            resident_bytes: own.map(|own| own.resident),
        }
    }
}

// === impl Stream ===

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    /// It is polled when the client has read what came before, so a client that does not read is not
    /// written for. Each event gives the connection more time.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.place.extend();
        if !self.has_history {
            let history = self.events.history();
            self.has_history = true;
            return Poll::Ready(Some(Ok(Frame::data(history))));
        }
        ready!(self.ticks.poll_tick(cx));
        if Instant::now() > self.ends {
            return Poll::Ready(None);
        }
        let text = self.events.state(self.metrics.source());
        Poll::Ready(Some(Ok(Frame::data(text))))
    }
}
