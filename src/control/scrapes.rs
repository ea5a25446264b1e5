//! A record of the scrapes of `/metrics`, from which the next scrape of each scraper is expected.
//!
//! A scraper is expected one interval after its last scrape, where the interval is the longest of
//! the last eight, and is waited for a fifth longer. One that is overdue already gets one more
//! interval, and one that has missed three is gone. A declared scraper with a single scrape may
//! return within 60 s of it.
//!
//! ```text
//!         last scrape         last + interval   + 1/5     + 2 intervals more
//!              │                     │            │               │
//! expected     due at last + interval             │ due now, for   │ gone
//!                                                 │ one interval   │
//! ```
//!
//! It only predicts. The wait itself, with its bounds, is in `shutdown/last_scrape.rs`. Nothing is
//! written anywhere: a restart forgets all scrapers.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The number of intervals between scrapes that are remembered. The longest of them counts, so only
/// eight short ones in a row shorten the expectation.
const REMEMBERED: usize = 8;
/// The longest interval assumed for a scraper that was seen only once. It is Prometheus' default
/// `scrape_interval`, one minute
/// (<https://prometheus.io/docs/prometheus/latest/configuration/configuration/>).
const LONGEST: Duration = Duration::from_secs(60);
/// The number of missed intervals after which a scraper is considered gone. A wait would only delay
/// the exit.
const SILENT: u32 = 3;
/// The most scrapers that are remembered. A new one replaces the one seen least recently. It bounds
/// the memory against clients that come from ever new addresses.
const PEERS: usize = 8;

/// A complete scrape of `/metrics`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scrape {
    /// The client's address. Without the port, which differs with each connection.
    pub(crate) from: IpAddr,
    /// The time when the request was received. Its content is not older than that.
    pub(crate) begun: Instant,
    /// True if the client's headers identify it as a scraper, as Prometheus and its relatives do.
    /// Any other client may be a person.
    pub(crate) declared: bool,
}

/// A record of complete scrapes of `/metrics`. Health checks are not recorded. While a declared
/// scraper is present, other clients are ignored.
#[derive(Debug)]
pub(crate) struct Scrapes {
    /// The admin thread writes it, the control thread reads it; each holds the lock for a walk over
    /// at most [`PEERS`] entries.
    peers: Mutex<Vec<Peer>>,
    /// The number of scrapes; changing it wakes the wait for a final scrape. Changed after the lock
    /// is released, since the waiting side takes it.
    count: watch::Sender<u64>,
}

/// A scraper, identified by its address. If two servers scrape, each must get its own final scrape.
#[derive(Debug)]
struct Peer {
    /// The key. Two scrapers behind one address count as one.
    address: IpAddr,
    /// As the first scrape from this address was.
    declared: bool,
    /// The beginning of its latest scrape.
    last: Instant,
    /// Its latest intervals, at most [`REMEMBERED`]. Empty after the first scrape.
    waits: VecDeque<Duration>,
}

/// The expected time of a scraper's next scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// None is expected: the scraper is gone, or was never identified as one.
    Nothing,
    /// The next scrape is due at `at`, and is waited for until `latest`.
    Due { at: Instant, latest: Instant },
    /// A scraper was seen once and may return at any time.
    Sometime,
}

/// The scrapers to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// None.
    Nothing,
    /// None, because the next scrape is due after the end of the wait, at this time.
    TooLate(Instant),
    /// These scrapers, until this time.
    Peers(Vec<IpAddr>, Instant),
}

// === impl Scrapes ===

impl Default for Scrapes {
    fn default() -> Self {
        Self {
            peers: Mutex::default(),
            count: watch::channel(0).0,
        }
    }
}

impl Scrapes {
    /// Records a scrape that was delivered completely.
    #[cfg_attr(
        not(any(test, feature = "admin")),
        expect(dead_code, reason = "only the admin server serves metrics")
    )]
    ///
    /// A client that does not declare itself is ignored while a declared scraper is present, and
    /// forgotten when one appears.
    pub(crate) fn note(&self, scrape: Scrape) {
        {
            let mut peers = self.peers();
            // A declared scraper that is gone must not keep other clients from being recorded.
            peers.retain(|peer| !peer.declared || peer.is_about(scrape.begun));
            if !scrape.declared && peers.iter().any(|peer| peer.declared) {
                return;
            }
            if scrape.declared {
                peers.retain(|peer| peer.declared);
            }
            match peers.iter_mut().find(|peer| peer.address == scrape.from) {
                Some(known) => known.note(scrape.begun),
                None => {
                    if peers.len() == PEERS {
                        peers.sort_unstable_by_key(|peer| peer.last);
                        peers.remove(0);
                    }
                    peers.push(Peer::new(&scrape));
                }
            }
        }
        self.count.send_modify(|count| *count += 1);
    }

    /// Returns the scrapers from which a scrape is expected before `end`.
    ///
    /// The wait lasts until the latest of their times. If none is expected in time, but the next
    /// scrape of one is due later, returns the earliest such time for the log. `Sometime` waits
    /// until `end`. The moments are those of `now`: a scrape during the wait does not prolong it.
    pub(crate) fn awaited(&self, now: Instant, end: Instant) -> Awaited {
        let (mut awaited, mut until, mut late) = (Vec::new(), now, None);
        for peer in self.peers().iter() {
            let latest = match peer.expected(now) {
                Expected::Nothing => continue,
                Expected::Sometime => end,
                Expected::Due { at, latest } if at < end => latest.min(end),
                Expected::Due { at, .. } => {
                    late = late.into_iter().chain([at]).min();
                    continue;
                }
            };
            awaited.push(peer.address);
            until = until.max(latest);
        }
        match late {
            _ if !awaited.is_empty() && until > now => Awaited::Peers(awaited, until),
            Some(at) => Awaited::TooLate(at),
            None => Awaited::Nothing,
        }
    }

    /// Waits until each of these scrapers has had a complete scrape that began at or after
    /// `moment`. A scrape that was under way at `moment` does not count: it may show the metrics of
    /// before.
    ///
    /// # Cancel safety
    ///
    /// It only observes, so it may be dropped and called again.
    pub(crate) async fn all_begun_after(&self, moment: Instant, awaited: &[IpAddr]) {
        let mut count = self.count.subscribe();
        let all = |_: &u64| {
            let peers = self.peers();
            awaited.iter().all(|address| {
                let mut of_it = peers.iter().filter(|peer| peer.address == *address);
                // A scraper that was replaced by a new one has not been seen for long, and counts
                // as done.
                of_it.next().is_none_or(|peer| peer.last >= moment)
            })
        };
        // Cannot fail: `self` owns the sender.
        count.wait_for(all).await.ok();
    }

    /// Returns the number of waits for a final scrape.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> usize {
        self.count.receiver_count()
    }

    /// Locks the record. Lock poisoning is ignored: an entry is whole after each step.
    fn peers(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Peer ===

impl Peer {
    /// Begins the record of a scraper with its first scrape.
    fn new(scrape: &Scrape) -> Self {
        Self {
            address: scrape.from,
            declared: scrape.declared,
            last: scrape.begun,
            waits: VecDeque::new(),
        }
    }

    /// Records a scrape, and the interval before it. Scrapes are noted when they end, so one may be
    /// noted after a later one; its interval is then zero and `last` stays.
    fn note(&mut self, begun: Instant) {
        if self.waits.len() == REMEMBERED {
            self.waits.pop_front();
        }
        self.waits
            .push_back(begun.saturating_duration_since(self.last));
        self.last = self.last.max(begun);
    }

    /// Returns the learned interval: the longest of the latest ones, because two scrapers behind
    /// one address shorten the others.
    fn interval(&self) -> Option<Duration> {
        self.waits.iter().max().copied()
    }

    /// Returns whether the scraper may return. An undeclared client is not expected before its
    /// second scrape.
    fn is_about(&self, now: Instant) -> bool {
        self.expected(now) != Expected::Nothing
    }

    /// Returns when its next scrape is expected. It may be late by a fifth of the interval.
    fn expected(&self, now: Instant) -> Expected {
        let silence = now.saturating_duration_since(self.last);
        match self.interval() {
            None if silence > LONGEST || !self.declared => Expected::Nothing,
            None => Expected::Sometime,
            Some(interval) if silence > interval * SILENT => Expected::Nothing,
            // Overdue: wait at most one more interval.
            Some(interval) if silence > interval * 6 / 5 => Expected::Due {
                at: now,
                latest: now + interval,
            },
            Some(interval) => Expected::Due {
                at: self.last + interval,
                latest: self.last + interval * 6 / 5,
            },
        }
    }
}

#[cfg(test)]
mod tests;
