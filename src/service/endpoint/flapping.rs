//! The detection of an endpoint with checks that succeed and fail in turn.
//!
//! An endpoint that fails every second check stays up, because the failures in a row never reach the
//! threshold. Only the last checks together show it. The module is pure, as `hysteresis` is.

use std::collections::VecDeque;

/// The number of checks that are looked at.
const WINDOW: usize = 10;
/// The number of changes between success and failure from which on an endpoint flaps. An outage has
/// two.
const CHANGES: usize = 4;

/// The outcomes of the last checks.
#[derive(Debug, Default)]
pub(super) struct Flapping {
    last: VecDeque<bool>,
    flaps: bool,
}

/// A change that is worth a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It flaps: `failed` of the last `of` checks have failed.
    Begins { failed: usize, of: usize },
    /// It no longer flaps: the last `of` checks had one outcome, apart from at most one change.
    Ends { of: usize },
}

// === impl Flapping ===

impl Flapping {
    /// Counts the outcome of one check.
    pub(super) fn observe(&mut self, success: bool) -> Option<Turn> {
        self.last.push_back(success);
        if self.last.len() > WINDOW {
            self.last.pop_front();
        }
        let pairs = self.last.iter().zip(self.last.iter().skip(1));
        let changes = pairs.filter(|(one, next)| one != next).count();
        let of = self.last.len();
        if !self.flaps && changes >= CHANGES {
            self.flaps = true;
            let failed = self.last.iter().filter(|success| !**success).count();
            return Some(Turn::Begins { failed, of });
        }
        if self.flaps && changes <= 1 {
            self.flaps = false;
            return Some(Turn::Ends { of });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Flapping, Turn};

    fn turns(outcomes: &str) -> Vec<(usize, Turn)> {
        let mut flapping = Flapping::default();
        let outcomes = outcomes.chars().enumerate();
        outcomes
            .filter_map(|(at, outcome)| Some((at, flapping.observe(outcome == '+')?)))
            .collect()
    }

    #[test]
    fn an_endpoint_that_fails_every_second_check_flaps() {
        let begins = Turn::Begins { failed: 2, of: 5 };
        assert_eq!(turns("+-+-+-+-+-+-+-+-"), [(4, begins)]);
    }

    #[test]
    fn an_outage_is_no_flapping() {
        assert_eq!(turns("++++++++++-----------++++++++++"), []);
        assert_eq!(turns("+++++-+++++---+++++++-++++++"), []);
    }

    #[test]
    fn an_endpoint_that_is_steady_again_no_longer_flaps() {
        let begins = Turn::Begins { failed: 2, of: 5 };
        let ends = Turn::Ends { of: 10 };
        assert_eq!(turns("+-+-+++++++++"), [(4, begins), (12, ends)]);
    }
}
