//! Filters for a log: one that can be changed while the process runs, and one that keeps a site from flooding it.

use crate::threads::{self, ThreadClass, ThreadHandle};
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter};

/// What is logged, by target and level; it can be changed while the process runs. Clones are the same.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::LogFilter;
/// use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
///
/// let filter = LogFilter::new("info,hyper=off".parse()?);
/// let log = tracing_subscriber::fmt::layer().with_filter(filter.clone());
/// let subscriber = tracing_subscriber::registry().with(log);
/// filter.set("debug".parse()?);
/// # drop(subscriber);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LogFilter(Arc<RwLock<Targets>>);

/// So many events of a site in the code within a while, and then the number of those that were held back. Clones are the
/// same.
///
/// The number is logged, at WARN, when the while is over.
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
/// # drop(subscriber);
/// ```
#[derive(Clone)]
pub struct LogLimit {
    most: u64,
    every: Duration,
    without: &'static str,
    sites: Arc<Mutex<Sites>>,
}

#[derive(Default)]
struct Sites {
    of: HashMap<Identifier, Site>,
    /// Whether a thread waits to tell what was held back.
    watched: bool,
}

/// A site in the code, in the while under way.
struct Site {
    metadata: &'static Metadata<'static>,
    begun: Instant,
    passed: u64,
    held: u64,
}

// === impl LogFilter ===

impl LogFilter {
    /// Begins with this.
    #[must_use]
    pub fn new(targets: Targets) -> Self {
        Self(Arc::new(RwLock::new(targets)))
    }

    /// From here on this is logged.
    pub fn set(&self, targets: Targets) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = targets;
        tracing::callsite::rebuild_interest_cache();
    }

    /// What is logged.
    #[must_use]
    pub fn get(&self) -> Targets {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        let targets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        targets.would_enable(metadata.target(), metadata.level())
    }
}

impl<S> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.takes(metadata)
    }

    // The cache is built anew when the filter changes.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.takes(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let targets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let levels = targets.iter().map(|(_, level)| level);
        let default = targets.default_level().unwrap_or(LevelFilter::OFF);
        levels.chain([default]).max()
    }
}

// === impl LogLimit ===

impl LogLimit {
    /// So many events of a site within so long.
    #[must_use]
    pub fn new(most: u64, every: Duration) -> Self {
        Self {
            most,
            every,
            without: "",
            sites: Arc::default(),
        }
    }

    /// A target that has no limit, since one site logs for many: what other programs write, say.
    #[must_use]
    pub fn without(mut self, target: &'static str) -> Self {
        self.without = target;
        self
    }

    /// Whether an event at that moment is let through.
    fn takes(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if metadata.target() == self.without && !self.without.is_empty() {
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
        let begins = !std::mem::replace(&mut sites.watched, true);
        drop(sites);
        if begins {
            self.watch();
        }
        false
    }

    /// Tells what was held back, when the while is over, until nothing is held back any more.
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
        let class = ThreadClass::Control;
        let started: std::io::Result<ThreadHandle<()>> =
            threads::start(0, "headcount-limit", class, Location::caller(), work);
        if started.is_err() {
            // The next event that is held back tries again.
            self.sites().watched = false;
        }
    }

    /// What was held back in whiles that are over, which begin anew.
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

    /// Whether nothing is held back; then nobody waits any more.
    fn rests(&self) -> bool {
        let mut sites = self.sites();
        sites.watched = sites.of.values().any(|site| site.held > 0);
        !sites.watched
    }

    fn sites(&self) -> MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(metadata: &'static Metadata<'static>, held: u64) {
    let site = format!(
        "{}:{}",
        metadata.file().unwrap_or("?"),
        metadata.line().unwrap_or(0)
    );
    tracing::warn!(
        target: "headcount::log",
        held, site, of = metadata.target(),
        "held back log events of a site that logs too often"
    );
}

impl<S> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    // Not `always`: what `event_enabled` says is forgotten then only if `enabled` is asked before.
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

    /// What was logged.
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
            String::from_utf8(bytes).expect("it is text")
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
    fn a_filter_is_changed_while_it_is_in_use() {
        let filter = LogFilter::new(Targets::new().with_default(LevelFilter::INFO));
        let (dispatch, text) = log(filter.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            let say = || {
                tracing::debug!("debug");
                tracing::info!("info");
            };
            say();
            assert_eq!(text.take(), " INFO info\n");
            filter.set(Targets::new().with_default(LevelFilter::DEBUG));
            say();
            assert_eq!(text.take(), "DEBUG debug\n INFO info\n");
            filter.set(Targets::new());
            say();
            assert_eq!(text.take(), "");
        });
    }

    #[test]
    fn a_site_that_logs_too_often_is_held_back_and_counted_and_others_are_not() {
        let limit = LogLimit::new(2, Duration::from_secs(3600)).without("free");
        let (dispatch, text) = log(limit.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            for number in 0..5 {
                tracing::info!("flood {number}");
                tracing::info!(target: "free", "free");
            }
            tracing::info!("other");
        });
        let free = "INFO free\n";
        let seen = text.take().replace(&format!(" {free}"), "");
        assert_eq!(seen, " INFO flood 0\n INFO flood 1\n INFO other\n");
        // Nothing is told before the while is over.
        assert!(limit.held_until(Instant::now()).is_empty());
        let after = Instant::now() + Duration::from_secs(3601);
        let held = limit.held_until(after);
        assert_eq!(held.iter().map(|(_, held)| *held).collect::<Vec<_>>(), [3]);
        assert!(limit.held_until(after).is_empty(), "it is told once");
    }
}
