//! The clock of the hot path: the processor's time stamp counter where it is steady, and the
//! system's monotonic clock elsewhere.
//!
//! A reading costs 10 ns, compared with 23 ns for `Instant::now`. A task takes two of them.
//!
//! The pulse is a reading that the control side publishes several times a second. A task that
//! notices a new pulse notes it in its slot at its next poll. The time of a task's last poll is
//! therefore known to within one pulse. It costs a poll nothing, because the word that announces
//! the pulse is the one that announces cancels, which every poll loads anyway.
//!
//! Readings of all threads are comparable, since the counter is used only where the processor keeps
//! it in step. The calibration happens at the first use; the start of a runtime pays for it.

use super::slots::attention;
use quanta::Clock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The duration that stands for "no limit": five years. On every system five times as much can be
/// added to an `Instant` without overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(5 * 365 * 86_400);

/// The clock, calibrated at its first use.
static CLOCK: OnceLock<Clock> = OnceLock::new();

/// The reading at the last pulse; 1 before the first pulse.
///
/// Relaxed loads are enough: the attention word, which is changed after it, orders the two.
static PULSE: AtomicU64 = AtomicU64::new(1);

/// Returns a reading. It has no unit: only [`since`] and [`nanos_between`] can interpret it.
#[inline]
pub(crate) fn raw() -> u64 {
    clock().raw()
}

/// Returns the nanoseconds from one reading to a later one; 0 if `end` is the earlier one.
#[inline]
pub(crate) fn nanos_between(start: u64, end: u64) -> u64 {
    clock().delta_as_nanos(start, end)
}

/// Returns the time that has passed since a reading.
pub(crate) fn since(start: u64) -> Duration {
    Duration::from_nanos(nanos_between(start, raw()))
}

/// Returns the reading at the last pulse; never 0, which in a slot means "never polled".
#[inline]
pub(crate) fn last_pulse() -> u64 {
    PULSE.load(Ordering::Relaxed)
}

/// Publishes the current time as the pulse. Each task notes it at the next poll that it begins.
pub(crate) fn pulse() {
    PULSE.store(raw().max(1), Ordering::Relaxed);
    // After the store: a task that sees the word changed (an acquire load) also sees this pulse, or
    // a later one.
    attention::have_all_look();
}

/// Returns the clock.
#[inline]
fn clock() -> &'static Clock {
    CLOCK.get_or_init(Clock::new)
}
