//! One clock for the hot path: the time stamp counter where it is steady, the monotonic clock elsewhere.
//!
//! `Instant::now` costs 23 ns and this 10; a task pays for two readings.

use quanta::Clock;
use std::sync::OnceLock;
use std::time::Duration;

/// No limit: what an `Instant` can bear to have added, five times over, on every system.
pub(crate) const LONGEST: Duration = Duration::from_secs(5 * 365 * 86_400);

static CLOCK: OnceLock<Clock> = OnceLock::new();

/// A reading: meaningful only to [`since`] and [`nanos_between`].
#[inline]
pub(crate) fn raw() -> u64 {
    clock().raw()
}

/// The nanoseconds from one reading to a later one; 0 when they are the other way round.
#[inline]
pub(crate) fn nanos_between(start: u64, end: u64) -> u64 {
    clock().delta_as_nanos(start, end)
}

/// The time that has passed since a reading.
pub(crate) fn since(start: u64) -> Duration {
    Duration::from_nanos(nanos_between(start, raw()))
}

#[inline]
fn clock() -> &'static Clock {
    CLOCK.get_or_init(Clock::new)
}
