//! A threshold with hysteresis: a value that fluctuates around it is reported only once.

/// The share of the threshold below which a value must fall to count as recovered.
const BACK: f64 = 0.9;

/// A threshold that detects when a value reaches it, and when the value has fallen well below it.
#[derive(Debug)]
pub(super) struct Threshold {
    at: f64,
    /// True from an [`Crossing::Up`] to the next [`Crossing::Down`].
    above: bool,
}

/// A change of a value relative to its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// The value has reached the threshold.
    Up,
    /// The value has fallen below the share [`BACK`] of the threshold.
    Down,
}

// === impl Threshold ===

impl Threshold {
    /// Returns a threshold; the value counts as below it at first.
    pub(super) fn new(at: f64) -> Self {
        Self { at, above: false }
    }

    /// Returns the threshold.
    pub(super) fn at(&self) -> f64 {
        self.at
    }

    /// Takes the next value, and returns the crossing if there is one. NaN crosses nothing.
    pub(super) fn crossed_by(&mut self, value: f64) -> Option<Crossing> {
        if !self.above && value >= self.at {
            self.above = true;
            Some(Crossing::Up)
        } else if self.above && value < self.at * BACK {
            self.above = false;
            Some(Crossing::Down)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_fluctuates_around_the_threshold_crosses_it_once() {
        let mut threshold = Threshold::new(0.8);
        let crossings: Vec<_> = [0.5, 0.81, 0.79, 0.8, 0.73, 0.85, 0.71, 0.79, 0.8]
            .into_iter()
            .map(|value| threshold.crossed_by(value))
            .collect();
        let (up, down) = (Some(Crossing::Up), Some(Crossing::Down));
        assert_eq!(
            crossings,
            [None, up, None, None, None, None, down, None, up]
        );
    }

    #[test]
    fn nan_crosses_nothing() {
        let mut threshold = Threshold::new(0.8);
        assert_eq!(threshold.crossed_by(f64::NAN), None);
        threshold.crossed_by(1.0);
        assert_eq!(threshold.crossed_by(f64::NAN), None);
    }
}
