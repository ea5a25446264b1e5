//! Messages to the control side: signals, requests to stop, and events of the root.
//!
//! Senders are the signal thread, the API and, through the root's listener, any worker. None of
//! them waits, and none gets an answer: the control thread decides alone what a message leads to.

use crate::registry::kind::Kind;
use crate::registry::root::{Event, PanicText};
use crate::report::{self, Reason};
use tokio::sync::mpsc::UnboundedReceiver;

/// An event that the control side reacts to.
#[derive(Debug)]
pub(crate) enum Message {
    /// A signal arrived: SIGTERM, SIGINT or SIGHUP, by number. SIGQUIT is not sent here: its dump is
    /// taken elsewhere.
    Signal(i32),
    /// A request to shut down. Only the first one starts the shutdown.
    Stop(Reason),
    /// The first untracked task of a spawn site was seen. At most once for each site and root, and
    /// only with `tokio_unstable`.
    UntrackedSite(&'static Kind),
    /// A tracked task panicked. Sent only once a shutdown has begun, and before the task counts as
    /// ended.
    Panicked(&'static Kind, PanicText),
}

/// The inbox of the control thread. It is unbounded: a bounded one would make a worker wait or lose
/// a request to stop.
pub(crate) type Messages = UnboundedReceiver<Message>;

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        match event {
            Event::UntrackedSite(kind) => Self::UntrackedSite(kind),
            Event::Panicked(kind, text) => Self::Panicked(kind, text),
            Event::Requested(reason) => Self::Stop(Reason::Requested(reason)),
            Event::RequiredEnded(kind, outcome) => Self::Stop(Reason::RequiredEnded {
                task: report::path(kind.group(), kind.name),
                outcome,
            }),
        }
    }
}
