//! A filter for a log layer that keeps a call site from flooding the log.
//!
//! It counts in fixed windows: the first event of a site begins an interval, the first `most`
//! events in it pass, the others are counted. A thread exists only while events are suppressed. It
//! wakes once an interval, logs the counts that are due, and ends once there are none.
//!
//! The filter belongs to one layer, so the other layers of the subscriber still see every event.
//! Spans are never suppressed.

use crate::control::log_drops;
use crate::threads::{self, ThreadHandle};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// A limit on the number of events that a call site may log per interval.
///
/// Further events of the site are suppressed until the interval is over and their number has been
/// logged, at WARN with the target `headcount::log`. That is at most two intervals after the first
/// event. The next interval begins with the next event. Clones share their counts.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::LogLimit;
/// use std::time::Duration;
/// use tracing_subscriber::filter::FilterExt as _;
/// use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
///
/// let limit = LogLimit::new(100, Duration::from_secs(10)).without("app::output");
/// let log = tracing_subscriber::fmt::layer().with_filter(limit);
/// let subscriber = tracing_subscriber::registry().with(log);
/// tracing::subscriber::with_default(subscriber, || {
///     tracing::info!(target: "app::output", "never suppressed");
///     assert!(tracing::enabled!(tracing::Level::INFO));
/// });
/// ```
#[derive(Clone)]
pub struct LogLimit {
    /// The events of one site that pass in an interval.
    most: u64,
    /// The length of an interval.
    every: Duration,
    /// The targets without a limit. Compared whole, not by prefix.
    without: Vec<&'static str>,
    /// Shared by all clones. Every event of a target with a limit takes this lock, for one lookup.
    sites: Arc<Mutex<Sites>>,
}

/// The call sites that have logged. They are never removed; their number is that of the call sites
/// in the program.
#[derive(Default)]
struct Sites {
    /// The key is the address of the call site, which is static.
    of: HashMap<Identifier, Site>,
    /// True while a thread is running that logs the suppressed counts. It changes under the lock of
    /// the counts, so that no count is left without a thread.
    watched: bool,
}

/// A call site in its current interval.
struct Site {
    metadata: &'static Metadata<'static>,
    /// The first event of the interval, or the last report of suppressed events.
    begun: Instant,
    /// The events that passed in this interval.
    passed: u64,
    /// The events that were suppressed and not yet reported.
    held: u64,
}

// === impl LogLimit ===

impl LogLimit {
    /// Creates a limit of `most` events per call site and interval of length `every`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use headcount::telemetry::LogLimit;
    /// # use std::sync::atomic::{AtomicU64, Ordering};
    /// # use std::time::Duration;
    /// # use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
    /// # static LOGGED: AtomicU64 = AtomicU64::new(0);
    /// # struct Log;
    /// # impl<S: tracing::Subscriber> Layer<S> for Log {
    /// #     fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
    /// #         LOGGED.fetch_add(1, Ordering::Relaxed);
    /// #     }
    /// # }
    /// let limit = LogLimit::new(2, Duration::from_secs(60));
    /// let subscriber = tracing_subscriber::registry().with(Log.with_filter(limit));
    /// tracing::subscriber::with_default(subscriber, || {
    ///     for _ in 0..5 {
    ///         tracing::warn!("the database does not answer");
    ///     }
    /// });
    /// assert_eq!(LOGGED.load(Ordering::Relaxed), 2);
    /// ```
    #[must_use]
    pub fn new(most: u64, every: Duration) -> Self {
        Self {
            most,
            every,
            without: Vec::new(),
            sites: Arc::default(),
        }
    }

    /// Exempts a target from the limit, for call sites that log on behalf of many sources, such as
    /// the output of child processes. Further calls exempt further targets.
    #[must_use]
    pub fn without(mut self, target: &'static str) -> Self {
        self.without.push(target);
        self
    }

    /// Counts an event at the time `now` and returns whether it passes.
    ///
    /// Called on the thread that logs. The lock is released before the thread is started. A site
    /// with suppressed events begins no new interval here: the thread must report them first.
    fn takes(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if self.without.contains(&metadata.target()) {
            return true;
        }
        let mut sites = self.sites();
        let site = sites.of.entry(metadata.callsite()).or_insert_with(|| Site {
            metadata,
            begun: now,
            passed: 0,
            held: 0,
        });
        if site.held == 0 && now.saturating_duration_since(site.begun) >= self.every {
            site.begun = now;
            site.passed = 0;
        }
        if site.passed < self.most {
            site.passed += 1;
            return true;
        }
        site.held += 1;
        log_drops::count(log_drops::Reason::Limit);
        let begins = !std::mem::replace(&mut sites.watched, true);
        drop(sites);
        if begins {
            self.watch();
        }
        false
    }

    /// Starts the thread that logs the suppressed counts at the end of each interval.
    ///
    /// The thread ends when nothing is suppressed any more.
    ///
    /// It takes a clone of the limit, so it works after the subscriber was dropped. The report is
    /// an event like any other, and passes through this limit too.
    fn watch(&self) {
        let limit = self.clone();
        let work = move || {
            loop {
                std::thread::sleep(limit.every);
                let held = limit.held_until(Instant::now());
                if held.is_empty() && limit.rests() {
                    return;
                }
                for (metadata, held) in held {
                    tell(metadata, held);
                }
            }
        };
        let started: std::io::Result<ThreadHandle<()>> =
            threads::start_own(0, "headcount-limit", work);
        if started.is_err() {
            // The next suppressed event tries again.
            self.sites().watched = false;
        }
    }

    /// Takes the suppressed counts of the intervals that are over at `now`, and starts new
    /// intervals for them.
    ///
    /// The events are logged by the caller, after the lock was released: logging takes it again.
    fn held_until(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut held = Vec::new();
        for site in self.sites().of.values_mut() {
            if site.held > 0 && now.saturating_duration_since(site.begun) >= self.every {
                held.push((site.metadata, std::mem::take(&mut site.held)));
                site.begun = now;
                site.passed = 0;
            }
        }
        held
    }

    /// Returns whether no event is suppressed; the caller then ends the thread.
    ///
    /// The flag `watched` is updated under the same lock, so that the next suppressed event starts
    /// a new thread.
    fn rests(&self) -> bool {
        let mut sites = self.sites();
        sites.watched = sites.of.values().any(|site| site.held > 0);
        !sites.watched
    }

    /// Locks the counts. A poisoned lock is used as it is: at worst one count is off by one.
    fn sites(&self) -> MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs how many events of a call site were suppressed.
///
/// All of these events have one call site, so the reports themselves are limited.
fn tell(metadata: &'static Metadata<'static>, held: u64) {
    let site = format!(
        "{}:{}",
        metadata.file().unwrap_or("?"),
        metadata.line().unwrap_or(0)
    );
    tracing::warn!(
        target: "headcount::log",
        held, site, of = metadata.target(),
        "log events suppressed: their call site logs too often"
    );
}

impl<S> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    // Not `always`: the result of `event_enabled` is then only honoured if `enabled` was called
    // before.
    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.takes(event.metadata(), Instant::now())
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit")
            .field("most", &self.most)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// The captured log.
    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Text {
        fn take(&self) -> String {
            let bytes = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
            String::from_utf8(bytes).expect("the log is UTF-8")
        }
    }

    fn log<F>(filter: F) -> (tracing::Dispatch, Text)
    where
        F: Filter<tracing_subscriber::Registry> + Send + Sync + 'static,
    {
        let text = Text::default();
        let writer = text.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .with_target(false);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
        (tracing::Dispatch::new(subscriber), text)
    }

    #[test]
    fn events_of_a_site_beyond_the_limit_are_suppressed_and_counted_and_other_sites_are_not() {
        let limit = LogLimit::new(2, Duration::from_secs(3600));
        let limit = limit.without("free").without("freer");
        let (dispatch, text) = log(limit.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            for number in 0..5 {
                tracing::info!("flood {number}");
                tracing::info!(target: "free", "free");
                tracing::info!(target: "freer", "free");
            }
            tracing::info!("other");
        });
        let seen = text.take();
        let free = " INFO free\n";
        assert_eq!(seen.matches(free).count(), 10);
        let seen = seen.replace(free, "");
        assert_eq!(seen, " INFO flood 0\n INFO flood 1\n INFO other\n");
        // Nothing is reported before the interval is over.
        assert!(limit.held_until(Instant::now()).is_empty());
        let after = Instant::now() + Duration::from_secs(3601);
        let held = limit.held_until(after);
        assert_eq!(held.iter().map(|(_, held)| *held).collect::<Vec<_>>(), [3]);
        assert!(
            limit.held_until(after).is_empty(),
            "the count is reported once"
        );
    }
}
