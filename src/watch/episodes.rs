//! The state machine of things that may take too long: each begins, is reported once while it
//! lasts, and ends.
//!
//! ```text
//! Short ──too long, limit allows──► Reported ──no longer seen──► Ended
//!   │  └───too long, limit used up──► Long ──limit allows──► Reported
//!   │                                  └──no longer seen──► counted as suppressed
//!   └──no longer seen──► forgotten
//! ```
//!
//! It knows nothing of tasks or threads, has no clock and starts nothing: the caller gives it the
//! time, and what it sees. Polls of tracked tasks and workers of untracked ones each have their
//! own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The most reports in a burst. A stall of the whole machine makes every task late at once.
const BURST: u32 = 10;
/// The time after which one more report is allowed. In the long run a log gets at most 60 warnings
/// of one kind a minute, however many tasks there are.
const REFILL: Duration = Duration::from_secs(1);

/// The things in progress, by a key that changes when another thing begins in the same place.
#[derive(Debug)]
pub(super) struct Episodes<K, T> {
    /// The things of the last look; at most one for each thread or worker.
    on: HashMap<K, Episode<T>>,
    /// Shared by all things of this kind.
    limit: RateLimit,
}

/// One thing, from the look that saw it first to the one that no longer sees it.
#[derive(Debug)]
struct Episode<T> {
    /// The thing, as the look that saw it first found it, unless `too_long` updates it.
    of: T,
    /// The time of the look that saw it first.
    since: Duration,
    /// It only goes forward, until the thing ends.
    state: State,
}

/// The progress of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not yet too long.
    Short,
    /// Too long, and not reported: it is harmless for now, or there were too many reports.
    Long,
    /// Too long, and reported.
    Reported,
}

/// A change to log.
#[derive(Debug, PartialEq)]
pub(super) enum Change<T> {
    /// A thing takes too long.
    Began {
        of: T,
        /// Its duration so far.
        lasted: Duration,
        /// The number of reports suppressed since the last one.
        suppressed: u32,
    },
    /// A thing that was reported has ended, after the given time.
    Ended { of: T, lasted: Duration },
}

/// A rate limit for reports: a burst of ten, then one a second.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// The number of reports that are allowed at once; at most [`BURST`].
    left: u32,
    /// The time up to which `left` was refilled.
    refilled: Duration,
    /// The number of things that have ended without a report since the last one.
    suppressed: u32,
}

// === impl Episodes ===

impl<K: Eq + Hash, T: Clone> Episodes<K, T> {
    /// Begins with nothing in progress and a full limit.
    pub(super) fn new() -> Self {
        Self {
            on: HashMap::new(),
            limit: RateLimit::full(),
        }
    }

    /// Compares the things in progress with those of the last look. `now` is watched time.
    ///
    /// A thing that takes too long is reported at the first look at which the rate limit allows it.
    /// `too_long` is called with a thing, with what this look sees of it, and with the time of the
    /// first look. It may update the thing. It returns the duration if the thing takes too long,
    /// and `None` if it is not to be reported for now. Costs one lookup for each thing. Ends come
    /// after beginnings in the result.
    pub(super) fn look(
        &mut self,
        now: Duration,
        seen: impl IntoIterator<Item = (K, T)>,
        mut too_long: impl FnMut(&mut T, T, Duration) -> Option<Duration>,
    ) -> Vec<Change<T>> {
        let mut before = std::mem::take(&mut self.on);
        let mut changes = Vec::new();
        for (key, seen) in seen {
            let mut episode = before.remove(&key).unwrap_or_else(|| Episode {
                of: seen.clone(),
                since: now,
                state: State::Short,
            });
            if episode.state != State::Reported
                && let Some(lasted) = too_long(&mut episode.of, seen, episode.since)
            {
                episode.state = State::Long;
                if let Some(suppressed) = self.limit.take(now) {
                    let of = episode.of.clone();
                    changes.push(Change::Began {
                        of,
                        lasted,
                        suppressed,
                    });
                    episode.state = State::Reported;
                }
            }
            self.on.insert(key, episode);
        }
        for (_, episode) in before {
            match episode.state {
                State::Short => {}
                State::Long => self.limit.suppress(),
                State::Reported => changes.push(Change::Ended {
                    of: episode.of,
                    lasted: now - episode.since,
                }),
            }
        }
        changes
    }

    /// Returns the things that take too long, reported or not. As of the last look.
    pub(super) fn long(&self) -> impl Iterator<Item = &T> {
        let episodes = self.on.values();
        let long = episodes.filter(|episode| episode.state != State::Short);
        long.map(|episode| &episode.of)
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Creates a limit with a whole burst left.
    pub(super) const fn full() -> Self {
        Self {
            left: BURST,
            refilled: Duration::ZERO,
            suppressed: 0,
        }
    }

    /// Takes one report from the limit, and returns how many were suppressed before it. Returns
    /// `None` if none is left. Fractions of a refill are kept while the burst is not full.
    pub(super) fn take(&mut self, now: Duration) -> Option<u32> {
        while self.left < BURST && now.saturating_sub(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        self.left = self.left.checked_sub(1)?;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Counts a thing that has ended without a report.
    pub(super) fn suppress(&mut self) {
        self.suppressed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Change, Episodes};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(1);

    type Polls = Episodes<(u32, u64), u32>;

    /// Returns the changes of one look in words. A poll is a task's number, and a number of its
    /// own.
    fn at(polls: &mut Polls, millis: u64, seen: &[(u32, u64)]) -> Vec<String> {
        let now = Duration::from_millis(millis);
        let seen = seen.iter().map(|poll| (*poll, poll.0));
        let changes = polls.look(now, seen, |_, _, since| {
            (now - since >= LIMIT).then(|| now - since)
        });
        let words = changes.into_iter().map(|change| match change {
            Change::Began {
                of,
                lasted,
                suppressed,
            } => format!("{of} began {lasted:?} +{suppressed}"),
            Change::Ended { of, lasted } => format!("{of} ended {lasted:?}"),
        });
        words.collect()
    }

    #[test]
    fn a_long_poll_is_reported_once_and_again_when_it_returns() {
        let mut polls = Polls::new();
        assert_eq!(at(&mut polls, 100, &[(1, 1)]), [""; 0]);
        assert_eq!(at(&mut polls, 1000, &[(1, 1)]), [""; 0]);
        assert_eq!(at(&mut polls, 1100, &[(1, 1)]), ["1 began 1s +0"]);
        assert_eq!(at(&mut polls, 1200, &[(1, 1)]), [""; 0]);
        assert_eq!(at(&mut polls, 1300, &[]), ["1 ended 1.2s"]);
        assert_eq!(at(&mut polls, 1400, &[]), [""; 0]);
    }

    #[test]
    fn polls_of_the_same_task_are_not_added_up() {
        let mut polls = Polls::new();
        for second in 0..5 {
            assert_eq!(at(&mut polls, second * 999, &[(1, second)]), [""; 0]);
        }
    }

    #[test]
    fn a_poll_that_is_long_but_harmless_is_not_reported() {
        let mut polls = Polls::new();
        for second in 0..3 {
            let now = Duration::from_secs(second);
            assert_eq!(polls.look(now, [((1, 1), 1)], |_, _, _| None), []);
        }
        assert_eq!(polls.long().count(), 0);
    }

    #[test]
    fn a_poll_that_was_not_reported_at_first_is_reported_when_the_limit_allows_it() {
        let mut polls = Polls::new();
        let many: Vec<_> = (0..BURST + 2).map(|n| (n, 1)).collect();
        assert_eq!(at(&mut polls, 0, &many), [""; 0]);
        assert_eq!(at(&mut polls, 1000, &many).len(), BURST as usize);
        assert_eq!(at(&mut polls, 1500, &many), [""; 0]);
        for millis in [2000, 3000] {
            let began = at(&mut polls, millis, &many);
            assert_eq!(began.len(), 1, "at {millis}");
            let end = format!(" began {}s +0", millis / 1000);
            assert!(began[0].ends_with(&end), "{began:?}");
        }
        assert_eq!(at(&mut polls, 9000, &many), [""; 0], "once an episode");
        assert_eq!(at(&mut polls, 9100, &[]).len(), many.len());
    }

    #[test]
    fn when_many_polls_are_long_only_some_are_reported() {
        let mut polls = Polls::new();
        let many: Vec<_> = (0..BURST + 5).map(|n| (n, 1)).collect();
        assert_eq!(at(&mut polls, 0, &many), [""; 0]);
        assert_eq!(at(&mut polls, 1000, &many).len(), BURST as usize);
        assert_eq!(polls.long().count(), many.len());
        let ended = at(&mut polls, 1500, &[]);
        assert_eq!(ended.len(), BURST as usize, "polls that were reported");
        let late = [(99, 2)];
        assert_eq!(at(&mut polls, 1600, &late), [""; 0]);
        assert_eq!(at(&mut polls, 2600, &late), ["99 began 1s +5"]);
    }
}
