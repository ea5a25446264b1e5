//! The wait for a final scrape: after a shutdown, keeps the process and `/metrics` up until each
//! scraper has read the final metrics.
//!
//! Without it, a process that ends with its shutdown would never show the metrics of that shutdown.
//! It does not wait for a scraper that is gone: [`Scrapes`](crate::control::scrapes::Scrapes) tells
//! when the next scrape of each is due. A signal ends the wait. It lasts at most `scrape_hold`, and
//! ends at the latest half a second before the deadline of the shutdown.
//!
//! The listener stays open because the admin server belongs to the runtime, which is dropped only
//! after the report was returned. This step therefore merely delays that return. The watchdog stays
//! armed meanwhile.

use super::context::Context;
use super::layer::{Step, select};
use crate::control::message::Message;
use crate::control::output::Stream;
use crate::control::plan::Print;
use crate::control::scrapes::Awaited;
use crate::report::brief;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of the deadline that is reserved for the exit. `main` returns in it, and the runtime's
/// parts are dropped.
const RESERVE: Duration = Duration::from_millis(500);
/// The longest wait for the log event about the hold. The control thread blocks for it.
const LOG_BUDGET: Duration = Duration::from_millis(100);

/// Waits until each expected scraper has had a scrape that began at or after `published`, or until
/// the wait is over.
///
/// Other messages are discarded. The line on standard error is printed for text only, and before
/// the wait, so that a person at the terminal knows what a signal does.
///
/// The log event at the end may be lost with the process if the subscriber takes longer than 100
/// ms.
pub(super) async fn wait(cx: &mut Context, published: Instant) {
    let Some((awaited, until)) = scrapers(cx) else {
        return;
    };
    let scrapes = Arc::clone(&cx.hooks.scrapes);
    let mut scraped = std::pin::pin!(scrapes.all_begun_after(published, &awaited));
    let left = until.saturating_duration_since(Instant::now());
    if cx.plan.print == Print::Text {
        let text = format!(
            "headcount {}: waiting up to {} for a final scrape of /metrics; a signal ends the wait\n",
            cx.plan.service,
            brief(left)
        );
        cx.output.text(Stream::Stderr, text);
    }
    let how = loop {
        let timer = tokio::time::sleep_until(until.into());
        match select(scraped.as_mut(), cx.messages.recv(), timer).await {
            Step::Done(()) => break "final scrape served",
            Step::Tick => break "no final scrape arrived in time",
            Step::Heard(Some(Message::Signal(_))) => {
                break "a signal ended the wait for the final scrape";
            }
            // Other messages have no effect any more.
            Step::Heard(Some(_)) => {}
            // All senders are gone, and with them everything that waits for the end.
            Step::Heard(None) => return,
        }
    };
    let after = published.elapsed().as_secs_f64();
    cx.output
        .log(move || tracing::info!(target: "headcount::shutdown", after_seconds = after, "{how}"));
    cx.output.flush_logs(LOG_BUDGET);
}

/// Returns the scrapers to wait for, and until when. Returns `None` if there is nothing to wait
/// for, if the wait is disabled, or if a second signal has arrived. Messages that arrived during
/// the deaf steps are handled first, because a second signal may be among them. Nothing is waited
/// for where headcount may not end the process.
fn scrapers(cx: &mut Context) -> Option<(Vec<IpAddr>, Instant)> {
    cx.catch_up();
    if !cx.plan.may_exit || cx.plan.scrape_hold.is_zero() || cx.signals_seen > 1 {
        return None;
    }
    let now = Instant::now();
    let end = cx.deadline().into_std().checked_sub(RESERVE)?;
    let end = end.min(now + cx.plan.scrape_hold);
    match cx.hooks.scrapes.awaited(now, end) {
        Awaited::Nothing => None,
        Awaited::Peers(peers, until) => Some((peers, until)),
        Awaited::TooLate(at) => {
            let due = at.saturating_duration_since(now).as_secs_f64();
            cx.output.log(move || {
                tracing::info!(
                    target: "headcount::shutdown", due_seconds = due,
                    "not waiting for a final scrape: the next one is due too late"
                );
            });
            cx.output.flush_logs(LOG_BUDGET);
            None
        }
    }
}

#[cfg(test)]
mod tests;
