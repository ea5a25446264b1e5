//! Which polls take long: of two looks at the same thread, what both have seen.

use crate::registry::holders::Holder;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// So many warnings at once, and then one in so long.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(1);

/// Polls under way, by thread.
#[derive(Debug)]
pub(super) struct Episodes {
    limit: Duration,
    on: HashMap<u32, Episode>,
    allowance: Allowance,
}

/// One poll.
#[derive(Debug)]
struct Episode {
    holder: Holder,
    /// When it was seen first.
    since: Duration,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Short,
    /// Longer than the limit, and not told, because too many are.
    Untold,
    Told,
}

/// What is to be told.
#[derive(Debug)]
pub(super) enum Change {
    /// A poll takes longer than the limit: so long so far.
    Began {
        holder: Holder,
        held: Duration,
        /// How many others took as long and were not told.
        more: u32,
    },
    /// A poll that was told of is over, after so long.
    Ended { holder: Holder, held: Duration },
}

/// Keeps the log readable when everything is slow.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    refilled: Duration,
    untold: u32,
}

// === impl Episodes ===

impl Episodes {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            on: HashMap::new(),
            allowance: Allowance::full(),
        }
    }

    /// Takes what is on the threads at this moment, in watched time. `counts` is asked of those over the limit: whether
    /// anybody is kept from working.
    pub(super) fn look(
        &mut self,
        now: Duration,
        holders: &[Holder],
        counts: impl Fn(&Holder) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.on);
        for holder in holders {
            let known = before.remove(&holder.tid);
            let mut episode = match known {
                Some(known) if known.holder.is_same(holder) => known,
                known => {
                    changes.extend(known.and_then(|known| known.ended(now)));
                    Episode::begin(*holder, now)
                }
            };
            let held = now - episode.since;
            if episode.standing == Standing::Short && held >= self.limit && counts(holder) {
                episode.standing = match self.allowance.take(now) {
                    Some(more) => {
                        let holder = *holder;
                        changes.push(Change::Began { holder, held, more });
                        Standing::Told
                    }
                    None => Standing::Untold,
                };
            }
            self.on.insert(holder.tid, episode);
        }
        changes.extend(before.into_values().filter_map(|gone| gone.ended(now)));
        changes
    }

    /// The threads that are held for longer than the limit, told or not.
    pub(super) fn long(&self, now: Duration) -> HashSet<u32> {
        let long = self
            .on
            .values()
            .filter(|episode| episode.standing != Standing::Short && now >= episode.since);
        long.map(|episode| episode.holder.tid).collect()
    }
}

// === impl Episode ===

impl Episode {
    fn begin(holder: Holder, since: Duration) -> Self {
        Self {
            holder,
            since,
            standing: Standing::Short,
        }
    }

    fn ended(self, now: Duration) -> Option<Change> {
        (self.standing == Standing::Told).then(|| Change::Ended {
            held: now - self.since,
            holder: self.holder,
        })
    }
}

// === impl Allowance ===

impl Allowance {
    pub(super) const fn full() -> Self {
        Self {
            left: BURST,
            refilled: Duration::ZERO,
            untold: 0,
        }
    }

    /// Whether one more may be told, and how many were not before.
    pub(super) fn take(&mut self, now: Duration) -> Option<u32> {
        while self.left < BURST && now.saturating_sub(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        if self.left == 0 {
            self.untold += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Change, Episodes};
    use crate::registry::holders::Holder;
    use crate::registry::kind::{self, Options};
    use crate::task::{TaskId, TaskKind};
    use std::panic::Location;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(1);

    fn holder(task: u64, tid: u32, pulse: u64) -> Holder {
        let options = Options::of(TaskKind::Async);
        Holder {
            id: TaskId(task),
            kind: kind::intern(kind::ROOT_PATH, "busy", Location::caller(), &options).kind,
            tid,
            pulse,
        }
    }

    /// What is told at a moment, in words.
    fn at(episodes: &mut Episodes, millis: u64, holders: &[Holder]) -> Vec<String> {
        let changes = episodes.look(Duration::from_millis(millis), holders, |_| true);
        let told = changes.into_iter().map(|change| match change {
            Change::Began { holder, held, more } => {
                format!("{} began {held:?} +{more}", holder.id)
            }
            Change::Ended { holder, held } => format!("{} ended {held:?}", holder.id),
        });
        told.collect()
    }

    #[test]
    fn a_poll_is_told_once_and_when_it_is_over() {
        let mut episodes = Episodes::new(LIMIT);
        let busy = holder(1, 7, 1);
        assert_eq!(at(&mut episodes, 100, &[busy]), [""; 0]);
        assert_eq!(at(&mut episodes, 1000, &[busy]), [""; 0]);
        assert_eq!(at(&mut episodes, 1100, &[busy]), ["1 began 1s +0"]);
        assert_eq!(at(&mut episodes, 1200, &[busy]), [""; 0]);
        assert_eq!(at(&mut episodes, 1300, &[]), ["1 ended 1.2s"]);
        assert_eq!(at(&mut episodes, 1400, &[]), [""; 0]);
    }

    #[test]
    fn another_poll_of_the_same_task_is_another() {
        let mut episodes = Episodes::new(LIMIT);
        for second in 0..5 {
            let poll = holder(1, 7, second);
            assert_eq!(at(&mut episodes, second * 999, &[poll]), [""; 0]);
        }
        assert_eq!(at(&mut episodes, 10_000, &[holder(1, 8, 4)]), [""; 0]);
    }

    #[test]
    fn who_keeps_nobody_from_working_is_not_told() {
        let mut episodes = Episodes::new(LIMIT);
        let busy = [holder(1, 7, 1)];
        for second in 0..3 {
            let changes = episodes.look(Duration::from_secs(second), &busy, |_| false);
            assert!(changes.is_empty());
        }
        assert!(episodes.long(Duration::from_secs(3)).is_empty());
    }

    #[test]
    fn many_at_once_are_told_in_part() {
        let mut episodes = Episodes::new(LIMIT);
        let many: Vec<_> = (0..BURST + 5).map(|n| holder(n.into(), n, 1)).collect();
        assert_eq!(at(&mut episodes, 0, &many), [""; 0]);
        assert_eq!(at(&mut episodes, 1000, &many).len(), BURST as usize);
        assert_eq!(episodes.long(Duration::from_secs(1)).len(), many.len());
        let ended = at(&mut episodes, 1500, &[]);
        assert_eq!(ended.len(), BURST as usize, "those that were told");
        let late = [holder(99, 7, 2)];
        assert_eq!(at(&mut episodes, 1600, &late), [""; 0]);
        assert_eq!(at(&mut episodes, 2600, &late), ["99 began 1s +5"]);
    }
}
