//! The status of an endpoint, computed from the successes and failures of its checks.
//!
//! One failed check says little about a server. So the status changes only after a number of equal
//! outcomes in a row, and any other outcome starts the count again.
//!
//! The module is pure: it uses no clock and no network, and does not log.

use std::fmt;

/// The status of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Not enough checks in a row have agreed yet.
    Unknown,
    /// At some time `up_after` checks in a row succeeded, and since then there have not been
    /// `down_after` failures in a row.
    Up,
    /// At some time `down_after` checks in a row failed, and since then there have not been
    /// `up_after` successes in a row.
    Down,
}

/// A counter of equal outcomes in a row, which turns them into transitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hysteresis {
    up_after: u32,
    down_after: u32,
    status: Status,
    /// The latest outcomes in a row that contradict `status`. Its length is always below the
    /// threshold.
    against: Streak,
}

/// A number of equal outcomes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streak {
    success: bool,
    length: u32,
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

// === impl Hysteresis ===

impl Hysteresis {
    /// Creates a counter with the status [`Status::Unknown`]. A threshold of 0 counts as 1.
    pub(super) fn new(up_after: u32, down_after: u32) -> Self {
        Self {
            up_after: up_after.max(1),
            down_after: down_after.max(1),
            status: Status::Unknown,
            against: Streak {
                success: false,
                length: 0,
            },
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status
    }

    /// Returns the number of outcomes in a row that contradict the current status, and the number
    /// that changes it.
    pub(super) fn progress(&self) -> (u32, u32) {
        (self.against.length, self.threshold(self.against.success))
    }

    /// Counts the outcome of one check, and returns the new status if it changes.
    pub(super) fn observe(&mut self, success: bool) -> Option<Status> {
        let target = if success { Status::Up } else { Status::Down };
        if target == self.status {
            self.against.length = 0;
            return None;
        }
        if success != self.against.success {
            self.against = Streak { success, length: 0 };
        }
        self.against.length += 1;
        if self.against.length < self.threshold(success) {
            return None;
        }
        self.against.length = 0;
        self.status = target;
        Some(target)
    }

    /// Returns the number of equal outcomes in a row that changes the status.
    fn threshold(&self, success: bool) -> u32 {
        if success {
            self.up_after
        } else {
            self.down_after
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hysteresis, Status};
    use proptest::{collection::vec, prelude::any, prop_assert, prop_assert_eq, proptest};

    fn feed(hysteresis: &mut Hysteresis, outcomes: &str) -> Vec<Option<Status>> {
        outcomes
            .chars()
            .map(|outcome| hysteresis.observe(outcome == '+'))
            .collect()
    }

    #[test]
    fn an_unknown_endpoint_is_up_at_the_threshold_and_not_before() {
        let mut hysteresis = Hysteresis::new(2, 3);
        assert_eq!(feed(&mut hysteresis, "+"), [None]);
        assert_eq!(hysteresis.status(), Status::Unknown);
        assert_eq!(feed(&mut hysteresis, "+"), [Some(Status::Up)]);
        assert_eq!(hysteresis.status(), Status::Up);
    }

    #[test]
    fn one_success_among_failures_starts_the_count_again() {
        let mut hysteresis = Hysteresis::new(1, 3);
        assert_eq!(feed(&mut hysteresis, "+"), [Some(Status::Up)]);
        assert_eq!(feed(&mut hysteresis, "--+--"), [None; 5]);
        assert_eq!(hysteresis.progress(), (2, 3));
        assert_eq!(feed(&mut hysteresis, "-"), [Some(Status::Down)]);
    }

    #[test]
    fn alternating_outcomes_leave_an_unknown_endpoint_unknown() {
        let mut hysteresis = Hysteresis::new(2, 2);
        assert_eq!(feed(&mut hysteresis, "+-+-+-"), [None; 6]);
        assert_eq!(hysteresis.status(), Status::Unknown);
    }

    #[test]
    fn a_threshold_of_zero_counts_as_one() {
        let mut hysteresis = Hysteresis::new(0, 0);
        assert_eq!(
            feed(&mut hysteresis, "+-"),
            [Some(Status::Up), Some(Status::Down)]
        );
    }

    proptest! {
        /// Compares with the definition: at each step, looks back over the whole history.
        #[test]
        fn a_transition_happens_exactly_when_the_last_outcomes_agree_for_the_threshold(
            up_after in 1_u32..5,
            down_after in 1_u32..5,
            outcomes in vec(any::<bool>(), 0..80),
        ) {
            let mut hysteresis = Hysteresis::new(up_after, down_after);
            let mut last_transition = Status::Unknown;
            for end in 1..=outcomes.len() {
                let last = outcomes[end - 1];
                let in_a_row = outcomes[..end].iter().rev().take_while(|o| **o == last).count();
                let (target, threshold) =
                    if last { (Status::Up, up_after) } else { (Status::Down, down_after) };
                let reached = in_a_row >= threshold as usize;
                let expected = (reached && last_transition != target).then_some(target);

                let transition = hysteresis.observe(last);

                prop_assert_eq!(transition, expected);
                if let Some(status) = transition {
                    prop_assert!(status != last_transition, "the same transition twice in a row");
                    last_transition = status;
                }
                prop_assert_eq!(hysteresis.status(), last_transition);
                let (length, needed) = hysteresis.progress();
                prop_assert!(length < needed);
            }
        }
    }
}
