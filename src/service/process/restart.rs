//! The restart policy: when to restart a process, after which delay, and when to give up.
//!
//! It only computes. The supervising task waits for the delay and starts the process.

use std::time::Duration;

use super::{Backoff, ProcessSettings, Restart};

/// The largest part by which a delay is shortened at random, so that processes that failed together
/// do not restart together.
const JITTER: f64 = 0.1;

/// The number of restarts in a row of one process, with its restart policy.
///
/// The count returns to 0 after a run that was ready for at least `backoff.reset_after`.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: Restart,
    backoff: Backoff,
    limit: Option<u32>,
    in_a_row: u32,
}

/// The decision after the end of a process.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Restart it after `delay`, as the `number`th restart in a row.
    Again { delay: Duration, number: u32 },
    /// Do not restart it: the policy says so.
    Final,
    /// Do not restart it: it has had `restarts` restarts in a row, which is the limit.
    GiveUp { restarts: u32 },
}

// === impl Restarts ===

impl Restarts {
    /// Creates a counter at 0 with the restart policy of `settings`.
    pub(super) fn new(settings: &ProcessSettings) -> Self {
        Self {
            policy: settings.restart,
            backoff: settings.backoff.clone(),
            limit: settings.max_restarts,
            in_a_row: 0,
        }
    }

    /// Decides what follows the end of a run, and counts the restart if there is one.
    ///
    /// `up` is the time for which the process was ready; `None` if it never was.
    pub(super) fn after(&mut self, success: bool, up: Option<Duration>) -> Next {
        if up.is_some_and(|up| up >= self.backoff.reset_after) {
            self.in_a_row = 0;
        }
        match (self.policy, success) {
            (Restart::Always, _) | (Restart::OnFailure, false) => {}
            (Restart::No, _) | (Restart::OnFailure, true) => return Next::Final,
        }
        if self.limit.is_some_and(|limit| self.in_a_row >= limit) {
            return Next::GiveUp {
                restarts: self.in_a_row,
            };
        }
        let delay = self.delay();
        self.in_a_row += 1;
        Next::Again {
            delay,
            number: self.in_a_row,
        }
    }

    /// Returns the delay before the next start, without counting it: `initial * factor ^ in_a_row`,
    /// at most `max`, shortened by the jitter.
    pub(super) fn delay(&self) -> Duration {
        let grown = self.backoff.factor.max(1.0).powf(f64::from(self.in_a_row));
        let seconds = self.backoff.initial.as_secs_f64() * grown;
        let seconds = seconds.min(self.backoff.max.as_secs_f64());
        let delay = Duration::try_from_secs_f64(seconds * (1.0 - JITTER * fastrand::f64()));
        delay.unwrap_or(self.backoff.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts(restart: Restart, max_restarts: Option<u32>) -> Restarts {
        Restarts::new(&ProcessSettings {
            restart,
            max_restarts,
            ..ProcessSettings::default()
        })
    }

    /// Asserts that the delay is `longest` seconds less at most the jitter, and returns the number
    /// of the restart.
    #[track_caller]
    fn delay(next: Next, longest: f64) -> u32 {
        let Next::Again { delay, number } = next else {
            panic!("{next:?}");
        };
        let seconds = delay.as_secs_f64();
        assert!(
            longest * (1.0 - JITTER) <= seconds && seconds <= longest,
            "{seconds}"
        );
        number
    }

    #[test]
    fn the_delay_doubles_up_to_the_maximum_and_resets_after_long_readiness() {
        let mut restarts = restarts(Restart::OnFailure, None);
        let up = Some(Duration::from_secs(59));
        for (number, longest) in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
            .into_iter()
            .enumerate()
        {
            let after = restarts.after(false, up);
            assert_eq!(delay(after, longest) as usize, number + 1);
        }
        let up = Some(Duration::from_secs(60));
        assert_eq!(delay(restarts.after(false, up), 1.0), 1);
    }

    #[test]
    fn no_number_of_restarts_makes_the_delay_overflow() {
        let mut restarts = restarts(Restart::Always, None);
        for _ in 0..10_000 {
            let Next::Again { delay, .. } = restarts.after(true, None) else {
                panic!("there is no limit");
            };
            assert!(delay <= Duration::from_secs(30));
        }
    }

    #[test]
    fn the_limit_counts_restarts_since_the_last_long_readiness() {
        let mut restarts = restarts(Restart::OnFailure, Some(1));
        assert_eq!(delay(restarts.after(false, None), 1.0), 1);
        assert_eq!(restarts.after(false, None), Next::GiveUp { restarts: 1 });
        let up = Some(Duration::from_secs(61));
        assert_eq!(delay(restarts.after(false, up), 1.0), 1);
    }

    #[test]
    fn the_policy_decides_which_ends_are_final() {
        for (policy, success, restarted) in [
            (Restart::No, false, false),
            (Restart::No, true, false),
            (Restart::OnFailure, false, true),
            (Restart::OnFailure, true, false),
            (Restart::Always, false, true),
            (Restart::Always, true, true),
        ] {
            let next = restarts(policy, None).after(success, None);
            assert_eq!(next != Next::Final, restarted, "{policy:?} {success}");
        }
    }
}
