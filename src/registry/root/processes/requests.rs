//! Requests to start, stop or restart a child process, from the control socket to the task that runs
//! the child.
//!
//! A request carries the way back of its answer. The task answers once it knows how the request came
//! out, which may take as long as a stop. A request that is dropped without an answer was not carried
//! out.

use tokio::sync::{mpsc, oneshot};

/// The most requests that wait for one child.
const WAITING: usize = 8;

/// An action that a user asks for.
///
/// # Examples
///
/// See [`Child::requests`](crate::telemetry::Child::requests).
///
/// ```
/// use headcount::telemetry::ChildVerb;
///
/// assert_eq!(ChildVerb::Restart.word(), "restart");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildVerb {
    /// Start the process, unless it runs.
    Start,
    /// Stop the process, and leave it stopped.
    Stop,
    /// Stop the process if it runs, and start it.
    Restart,
}

/// A request of a user about a child process. See
/// [`Child::requests`](crate::telemetry::Child::requests).
///
/// Dropping it without an answer tells the user that it was not carried out.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::{ChildRequest, ChildVerb};
///
/// fn obey(request: ChildRequest, is_running: &mut bool) {
///     match request.verb() {
///         ChildVerb::Stop => {
///             *is_running = false;
///             request.done("stopped");
///         }
///         _ => request.refuse("it cannot be started again"),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct ChildRequest {
    verb: ChildVerb,
    answer: oneshot::Sender<Answer>,
}

/// The requests for one child process, in their order. See
/// [`Child::requests`](crate::telemetry::Child::requests).
///
/// # Examples
///
/// ```
/// use headcount::telemetry::ChildRequests;
///
/// async fn refuse_all(mut requests: ChildRequests) {
///     loop {
///         requests.next().await.refuse("not today");
///     }
/// }
/// ```
#[derive(Debug)]
pub struct ChildRequests(mpsc::Receiver<ChildRequest>);

/// The outcome of a request, in words: done, or the reason of a refusal.
pub(crate) type Answer = Result<String, String>;

/// The sending end of the requests for one child.
#[derive(Debug, Clone)]
pub(crate) struct RequestSender(mpsc::Sender<ChildRequest>);

/// Creates the two ends for one child.
pub(crate) fn requests() -> (RequestSender, ChildRequests) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (RequestSender(sender), ChildRequests(receiver))
}

// === impl ChildVerb ===

impl ChildVerb {
    /// Returns the verb as a word: `start`, `stop` or `restart`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

// === impl ChildRequest ===

impl ChildRequest {
    /// Returns the action that is asked for.
    #[must_use]
    pub fn verb(&self) -> ChildVerb {
        self.verb
    }

    /// Answers that it was carried out. `what` is the outcome in words, such as `started, pid 17`.
    pub fn done(self, what: &str) {
        // It fails if the client waits no longer.
        self.answer.send(Ok(what.to_owned())).ok();
    }

    /// Answers that it is not carried out, and why.
    pub fn refuse(self, why: &str) {
        self.answer.send(Err(why.to_owned())).ok();
    }
}

// === impl ChildRequests ===

impl ChildRequests {
    /// Waits for the next request. Never returns if the [`Child`](crate::telemetry::Child) is gone.
    ///
    /// # Cancel safety
    ///
    /// No request is lost if the future is dropped.
    pub async fn next(&mut self) -> ChildRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

// === impl RequestSender ===

impl RequestSender {
    /// Sends a request without waiting, and returns the way of its answer. The receiver of the answer
    /// fails if the request is dropped.
    ///
    /// # Errors
    ///
    /// Returns the reason if no task takes requests, or too many wait.
    pub(crate) fn send(&self, verb: ChildVerb) -> Result<oneshot::Receiver<Answer>, &'static str> {
        let (answer, answered) = oneshot::channel();
        match self.0.try_send(ChildRequest { verb, answer }) {
            Ok(()) => Ok(answered),
            Err(mpsc::error::TrySendError::Full(_)) => Err("too many requests wait for it"),
            Err(mpsc::error::TrySendError::Closed(_)) => Err("its task has ended"),
        }
    }
}
