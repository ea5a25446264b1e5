//! The last scrape: a process that ends with its shutdown never shows its last metrics, so `/metrics` is kept open until
//! somebody has read them.
//!
//! Nobody waits for a scraper that is not there: the time is learned from the scrapes that were seen.

use super::pipeline::{Pipeline, Step, select};
use super::voice::Stream;
use super::{Message, Print};
use crate::report::brief;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// From so many waits between scrapes the interval is learned.
const REMEMBERED: usize = 8;
/// With one scrape only nothing tells the interval: nobody scrapes less often than this.
const LONGEST: Duration = Duration::from_secs(60);
/// A scraper that was silent for so many intervals is gone.
const SILENT: u32 = 3;
/// What the deadline keeps for the exit.
const RESERVE: Duration = Duration::from_millis(500);
/// For what is logged of the hold.
const LOG_BUDGET: Duration = Duration::from_millis(100);

/// A scraper that was not seen for longer than others makes room for a new one.
const PEERS: usize = 8;

/// A complete scrape of `/metrics`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scrape {
    pub(crate) from: IpAddr,
    pub(crate) begun: Instant,
    /// Whether the client says that it is a scraper, as Prometheus and what is made of it do. Others may be persons.
    pub(crate) declared: bool,
}

/// Complete scrapes of `/metrics`. Requests for health are none. Once a scraper has said that it is one, nobody else
/// counts.
#[derive(Debug)]
pub(crate) struct Scrapes {
    peers: Mutex<Vec<Peer>>,
    /// How many there were.
    count: watch::Sender<u64>,
}

/// One who scrapes, by its address: of two servers each wants its last scrape.
#[derive(Debug)]
struct Peer {
    address: IpAddr,
    declared: bool,
    last: Instant,
    waits: VecDeque<Duration>,
}

/// Whether and until when a scrape can be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Nobody scrapes, or not any more.
    Nobody,
    /// The next one is due at a moment, and may be late.
    Due { at: Instant, latest: Instant },
    /// A scraper came once; it may come again at any time.
    Sometime,
}

/// Who is waited for, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Awaited {
    Nobody,
    /// The next scrape is due after the end, at that moment.
    TooLate(Instant),
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
    /// A scrape has been delivered whole.
    #[cfg_attr(
        not(any(test, feature = "admin")),
        expect(dead_code, reason = "nobody serves metrics")
    )]
    pub(crate) fn note(&self, scrape: Scrape) {
        {
            let mut peers = self.peers();
            // One that is gone for long keeps nobody from being known.
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

    /// Who is to scrape until that end.
    fn awaited(&self, now: Instant, end: Instant) -> Awaited {
        let (mut awaited, mut until, mut late) = (Vec::new(), now, None);
        for peer in self.peers().iter() {
            let latest = match peer.expected(now) {
                Expected::Nobody => continue,
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
            None => Awaited::Nobody,
        }
    }

    /// Waits until each of them has had a complete scrape that was begun after that moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    async fn all_begun_after(&self, moment: Instant, awaited: &[IpAddr]) {
        let mut count = self.count.subscribe();
        let all = |_: &u64| {
            let peers = self.peers();
            awaited.iter().all(|address| {
                let mut of_it = peers.iter().filter(|peer| peer.address == *address);
                // One that made room for others was not seen for long.
                of_it.next().is_none_or(|peer| peer.last >= moment)
            })
        };
        // The sender is ours, so it does not go.
        count.wait_for(all).await.ok();
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Peer ===

impl Peer {
    fn new(scrape: &Scrape) -> Self {
        Self {
            address: scrape.from,
            declared: scrape.declared,
            last: scrape.begun,
            waits: VecDeque::new(),
        }
    }

    fn note(&mut self, begun: Instant) {
        if self.waits.len() == REMEMBERED {
            self.waits.pop_front();
        }
        self.waits
            .push_back(begun.saturating_duration_since(self.last));
        self.last = self.last.max(begun);
    }

    /// The time between two scrapes: the longest of the last few, since two scrapers behind one address make the
    /// others shorter.
    fn interval(&self) -> Option<Duration> {
        self.waits.iter().max().copied()
    }

    /// Whether it may come again.
    fn is_about(&self, now: Instant) -> bool {
        self.expected(now) != Expected::Nobody
    }

    /// When its next scrape is due; it may be late by a fifth.
    fn expected(&self, now: Instant) -> Expected {
        let silence = now.saturating_duration_since(self.last);
        match self.interval() {
            None if silence > LONGEST || !self.declared => Expected::Nobody,
            None => Expected::Sometime,
            Some(interval) if silence > interval * SILENT => Expected::Nobody,
            // It is late, and comes within an interval or not at all.
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

// === impl Pipeline ===

impl Pipeline {
    /// Keeps the process until each scraper has had one scrape of `/metrics` that began after `published`.
    pub(super) async fn hold(&mut self, begun: tokio::time::Instant, published: Instant) {
        let Some((awaited, until)) = self.hold_until(begun.into_std()) else {
            return;
        };
        let scrapes = Arc::clone(&self.endings.scrapes);
        let mut scraped = std::pin::pin!(scrapes.all_begun_after(published, &awaited));
        let left = until.saturating_duration_since(Instant::now());
        if self.plan.print == Print::Text {
            let text = format!(
                "headcount {}: /metrics stays open for a last scrape, {} at most; a signal ends it\n",
                self.plan.service,
                brief(left)
            );
            self.voice.text(Stream::Stderr, text);
        }
        let how = loop {
            let timer = tokio::time::sleep_until(until.into());
            match select(scraped.as_mut(), self.messages.recv(), timer).await {
                Step::Done(()) => break "the last scrape came",
                Step::Tick => break "no last scrape came",
                Step::Heard(Some(Message::Signal(_))) => {
                    break "a signal ended the wait for a scrape";
                }
                // The shutdown is under way, and is over.
                Step::Heard(Some(_)) => {}
                // Whoever might speak is gone, and so is whoever waits for the end.
                Step::Heard(None) => return,
            }
        };
        let after = published.elapsed().as_secs_f64();
        self.voice.log(
            move || tracing::info!(target: "headcount::shutdown", after_seconds = after, "{how}"),
        );
        self.voice.flush_logs(LOG_BUDGET);
    }

    /// Whose scrapes to wait for, and until when; `None` when it is not worth it.
    fn hold_until(&mut self, begun: Instant) -> Option<(Vec<IpAddr>, Instant)> {
        while let Ok(message) = self.messages.try_recv() {
            self.hear(message);
        }
        if !self.plan.may_exit || self.plan.scrape_hold.is_zero() || self.signals_seen > 1 {
            return None;
        }
        let now = Instant::now();
        let end = (begun + self.plan.deadline).checked_sub(RESERVE)?;
        let end = end.min(now + self.plan.scrape_hold);
        match self.endings.scrapes.awaited(now, end) {
            Awaited::Nobody => None,
            Awaited::Peers(peers, until) => Some((peers, until)),
            Awaited::TooLate(at) => {
                let due = at.saturating_duration_since(now).as_secs_f64();
                self.voice.log(move || {
                    tracing::info!(
                        target: "headcount::shutdown", due_seconds = due,
                        "not kept for a last scrape: it is due too late"
                    );
                });
                self.voice.flush_logs(LOG_BUDGET);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
