//! The last scrape: a process that ends with its shutdown never shows its last metrics, so `/metrics` is kept open until
//! somebody has read them.
//!
//! Nobody waits for a scraper that is not there: the time is learned from the scrapes that were seen.

use super::pipeline::{Pipeline, Step, select};
use super::voice::Stream;
use super::{Message, Print};
use crate::report::brief;
use std::collections::VecDeque;
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

/// A complete scrape of `/metrics`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scrape {
    pub(crate) begun: Instant,
    /// Whether the client says that it is a scraper, as Prometheus and what is made of it do. Others may be persons.
    pub(crate) declared: bool,
}

/// Complete scrapes of `/metrics`. Requests for health are none. Once a scraper has said that it is one, nobody else
/// counts.
#[derive(Debug)]
pub(crate) struct Scrapes {
    seen: Mutex<Seen>,
    /// When the last complete scrape was begun.
    last: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Seen {
    declared: bool,
    last: Option<Instant>,
    waits: VecDeque<Duration>,
}

/// Whether and until when a scrape can be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nobody scrapes, or not any more.
    Nobody,
    /// The next one is due at a moment, and may be late.
    Due { at: Instant, latest: Instant },
    /// A scraper came once; it may come again at any time.
    Sometime,
}

// === impl Scrapes ===

impl Default for Scrapes {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            last: watch::channel(None).0,
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
        let Scrape { begun, declared } = scrape;
        let mut seen = self.seen();
        if seen.declared && !declared {
            return;
        }
        if declared && !seen.declared {
            *seen = Seen {
                declared,
                ..Seen::default()
            };
        }
        if let Some(last) = seen.last.replace(begun) {
            if seen.waits.len() == REMEMBERED {
                seen.waits.pop_front();
            }
            seen.waits.push_back(begun.saturating_duration_since(last));
        }
        drop(seen);
        self.last.send_replace(Some(begun));
    }

    /// The time between two scrapes: the longest of the last few, since two scrapers, or a person beside one, make the
    /// others shorter.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.seen().waits.iter().max().copied()
    }

    /// When the next scrape is due; it may be late by a fifth.
    pub(crate) fn expected(&self, now: Instant) -> Expected {
        let (last, declared) = {
            let seen = self.seen();
            (seen.last, seen.declared)
        };
        let Some(last) = last else {
            return Expected::Nobody;
        };
        let silence = now.saturating_duration_since(last);
        match self.interval() {
            None if silence > LONGEST || !declared => Expected::Nobody,
            None => Expected::Sometime,
            Some(interval) if silence > interval * SILENT => Expected::Nobody,
            // It is late, and comes within an interval or not at all.
            Some(interval) if silence > interval * 6 / 5 => Expected::Due {
                at: now,
                latest: now + interval,
            },
            Some(interval) => Expected::Due {
                at: last + interval,
                latest: last + interval * 6 / 5,
            },
        }
    }

    /// Waits for a complete scrape that was begun after that moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn one_begun_after(&self, moment: Instant) {
        let mut last = self.last.subscribe();
        // The sender is ours, so it does not go.
        last.wait_for(|last| last.is_some_and(|begun| begun >= moment))
            .await
            .ok();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Keeps the process until one scrape of `/metrics` that began after `published` is complete.
    pub(super) async fn hold(&mut self, begun: tokio::time::Instant, published: Instant) {
        let Some(until) = self.hold_until(begun.into_std()) else {
            return;
        };
        let scrapes = Arc::clone(&self.endings.scrapes);
        let mut scraped = std::pin::pin!(scrapes.one_begun_after(published));
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

    /// Until when to wait for a scrape; `None` when it is not worth it.
    fn hold_until(&mut self, begun: Instant) -> Option<Instant> {
        while let Ok(message) = self.messages.try_recv() {
            self.hear(message);
        }
        if !self.plan.may_exit || self.plan.scrape_hold.is_zero() || self.signals_seen > 1 {
            return None;
        }
        let now = Instant::now();
        let end = (begun + self.plan.deadline).checked_sub(RESERVE)?;
        let end = end.min(now + self.plan.scrape_hold);
        match self.endings.scrapes.expected(now) {
            Expected::Nobody => None,
            Expected::Sometime => (end > now).then_some(end),
            Expected::Due { at, latest } if at < end => Some(latest.min(end)),
            Expected::Due { at, .. } => {
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
