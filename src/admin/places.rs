//! The places of connections: how many there are, for whom, and which connection gives way.
//!
//! A client that opens connections and sends nothing would otherwise keep all others out, and with
//! them the probes of an orchestrator, which would then restart the service. So:
//!
//! - a connection that waits for its request gives way to a later one, the oldest first; if there is
//!   none, a stream of events does, since its client connects again
//! - a peer, which is an address or a process, has at most [`SHARE`] of the [`CONNECTIONS`] places
//! - [`KEPT`] further places answer only the paths of [`PROBES`]
//!
//! A connection whose answer is under way never gives way, apart from a stream. All of this runs on the thread of the
//! server.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// The maximum number of connections that may ask for anything. A connection holds a descriptor and
/// some buffers, and the service needs its descriptors for other things.
pub(super) const CONNECTIONS: usize = 64;
/// The maximum number of those that one peer has. Clients behind a proxy share it.
pub(super) const SHARE: usize = CONNECTIONS / 2;
/// The number of connections beyond these limits that are accepted for the sake of probes.
pub(super) const KEPT: usize = 8;
/// The time limit of a connection, from the request to the end of the answer. It includes the wait
/// for the client's close after a scrape. For a stream, it is that of each event.
const WHOLE: Duration = Duration::from_secs(10);
/// The paths that a connection beyond the limits may ask for.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// The client of a connection, as far as its share of the places is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// An address, in its canonical form.
    Address(IpAddr),
    /// A process of this machine, by its id; 0 if the process is in a namespace that does not show.
    Process(i32),
}

/// The connections of a server, in the order in which they were accepted.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Taken>);

/// A place and its connection.
#[derive(Debug)]
struct Taken {
    from: Peer,
    place: Arc<Place>,
    connection: AbortHandle,
}

/// The place of one connection, shared with its handler.
#[derive(Debug)]
pub(super) struct Place {
    /// True for a place that only probes may use.
    is_kept: bool,
    /// Set when the head of the request has arrived.
    has_head: AtomicBool,
    /// Set when the answer is a stream of events.
    is_stream: AtomicBool,
    /// The time at which the connection is ended.
    until: Mutex<Instant>,
}

// === impl Peer ===

impl From<IpAddr> for Peer {
    /// An IPv4 address on a dual-stack socket is the same peer as the plain one.
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

// === impl Places ===

impl Places {
    /// Returns a place for a connection of this peer, or `None` if there is none.
    ///
    /// A connection that gives way is ended. The caller must [`take`](Self::take) the place.
    pub(super) fn find(&mut self, from: Peer) -> Option<Arc<Place>> {
        self.0.retain(|taken| !taken.connection.is_finished());
        let shared = |taken: &Taken| !taken.place.is_kept && taken.from == from;
        let open = |taken: &Taken| !taken.place.is_kept;
        let kept = |taken: &Taken| taken.place.is_kept;
        if self.has_room(SHARE, shared) && self.has_room(CONNECTIONS, open) {
            return Some(Place::new(false));
        }
        self.has_room(KEPT, kept).then(|| Place::new(true))
    }

    /// Notes the connection that was given the place.
    pub(super) fn take(&mut self, from: Peer, place: Arc<Place>, connection: AbortHandle) {
        self.0.push(Taken {
            from,
            place,
            connection,
        });
    }

    /// Returns whether fewer than `limit` connections are `among` these. If not, the oldest of them
    /// that still waits for its request, or else the oldest stream, is ended to make room.
    fn has_room(&mut self, limit: usize, among: impl Fn(&Taken) -> bool) -> bool {
        if self.0.iter().filter(|taken| among(taken)).count() < limit {
            return true;
        }
        let waits = |taken: &Taken| among(taken) && !taken.place.has_head();
        let streams = |taken: &Taken| among(taken) && taken.place.is_stream();
        let oldest = self.0.iter().position(waits);
        let Some(oldest) = oldest.or_else(|| self.0.iter().position(streams)) else {
            return false;
        };
        self.0.remove(oldest).connection.abort();
        true
    }
}

// === impl Place ===

impl Place {
    fn new(is_kept: bool) -> Arc<Self> {
        Arc::new(Self {
            is_kept,
            has_head: AtomicBool::new(false),
            is_stream: AtomicBool::new(false),
            until: Mutex::new(Instant::now() + WHOLE),
        })
    }

    /// Notes that the head of the request has arrived. Returns whether this place may ask for the
    /// path.
    pub(super) fn admits(&self, path: &str) -> bool {
        // One thread reads and writes it.
        self.has_head.store(true, Ordering::Relaxed);
        !self.is_kept || PROBES.contains(&path)
    }

    /// Notes that the answer is a stream of events.
    pub(super) fn streams(&self) {
        self.is_stream.store(true, Ordering::Relaxed);
    }

    /// Gives the connection another [`WHOLE`], from this moment on.
    pub(super) fn extend(&self) {
        *self.until() = Instant::now() + WHOLE;
    }

    /// Waits until the time of the connection is over.
    pub(super) async fn overdue(&self) {
        loop {
            let until = *self.until();
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn has_head(&self) -> bool {
        self.has_head.load(Ordering::Relaxed)
    }

    fn is_stream(&self) -> bool {
        self.is_stream.load(Ordering::Relaxed)
    }

    /// A poisoned lock is used as it is: it holds one value.
    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::task::JoinSet;

    const ONE: Peer = Peer::Address(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
    const OTHER: Peer = Peer::Address(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)));
    const THIRD: Peer = Peer::Process(3);

    /// A server without sockets.
    #[derive(Default)]
    struct Server {
        places: Places,
        connections: JoinSet<()>,
    }

    impl Server {
        /// Accepts a connection that asks for nothing, or for this path.
        fn connect(&mut self, from: Peer, path: Option<&str>) -> Answer {
            let Some(place) = self.places.find(from) else {
                return Answer::Refused;
            };
            let connection = self.connections.spawn(pending());
            self.places.take(from, Arc::clone(&place), connection);
            match path {
                Some(path) if place.admits(path) => Answer::Served,
                Some(_) => Answer::Refused,
                None => Answer::Waits,
            }
        }

        fn of(&self, from: Peer) -> usize {
            let places = self.places.0.iter();
            places.filter(|taken| taken.from == from).count()
        }
    }

    #[derive(Debug, PartialEq)]
    enum Answer {
        Served,
        Waits,
        Refused,
    }

    #[tokio::test]
    async fn a_peer_takes_no_more_than_its_share_from_the_others() {
        let mut server = Server::default();
        for _ in 0..1000 {
            assert_eq!(server.connect(ONE, None), Answer::Waits);
        }
        assert_eq!(server.of(ONE), SHARE);
        for _ in 0..SHARE {
            assert_eq!(server.connect(OTHER, Some("/")), Answer::Served);
        }
        assert_eq!(server.of(ONE), SHARE, "there was room for both");
        assert_eq!(server.connect(THIRD, Some("/")), Answer::Served);
        assert_eq!(server.of(ONE), SHARE - 1, "an idle one gives way");
        assert_eq!(server.of(OTHER), SHARE);
    }

    #[tokio::test]
    async fn probes_are_answered_when_every_place_has_a_request() {
        let mut server = Server::default();
        for from in [ONE, OTHER] {
            for _ in 0..SHARE {
                assert_eq!(server.connect(from, Some("/metrics")), Answer::Served);
            }
        }
        assert_eq!(server.connect(THIRD, Some("/metrics")), Answer::Refused);
        for _ in 1..KEPT {
            assert_eq!(server.connect(THIRD, Some("/livez")), Answer::Served);
        }
        assert_eq!(server.connect(THIRD, Some("/readyz")), Answer::Refused);
    }

    #[tokio::test]
    async fn a_stream_gives_way_after_all_idle_connections() {
        let mut server = Server::default();
        for _ in 1..SHARE {
            server.connect(ONE, Some("/metrics"));
        }
        server.connect(ONE, Some("/api/events"));
        server.places.0[SHARE - 1].place.streams();
        let is_there =
            |server: &Server| server.places.0.iter().any(|taken| taken.place.is_stream());
        server.places.0.remove(0);
        assert_eq!(server.connect(ONE, None), Answer::Waits);
        assert_eq!(server.connect(ONE, Some("/metrics")), Answer::Served);
        assert!(is_there(&server), "the idle one gives way");
        assert_eq!(server.connect(ONE, Some("/metrics")), Answer::Served);
        assert!(!is_there(&server));
        assert_eq!(server.connect(ONE, Some("/metrics")), Answer::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_ten_seconds_after_its_last_event() {
        let place = Place::new(false);
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(7)).await;
        place.extend();
        place.overdue().await;
        assert_eq!(begun.elapsed().as_secs(), 17);
    }

    #[tokio::test]
    async fn an_ipv4_address_on_a_dual_stack_socket_is_the_same_address() {
        let mut server = Server::default();
        let mapped = IpAddr::V6(std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        server.connect(mapped.into(), None);
        assert_eq!(server.of(ONE), 1);
    }
}
