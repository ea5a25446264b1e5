//! A threshold with hysteresis: a value that trembles around it is told once.

/// How far below the threshold a value must fall to count as back, as a share of the threshold.
const BACK: f64 = 0.9;

/// Tells when a value rises to a threshold, and when it has fallen well below.
#[derive(Debug)]
pub(super) struct Threshold {
    at: f64,
    above: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    Up,
    Down,
}

// === impl Threshold ===

impl Threshold {
    pub(super) fn new(at: f64) -> Self {
        Self { at, above: false }
    }

    pub(super) fn at(&self) -> f64 {
        self.at
    }

    /// The crossing that this value makes, if it makes one.
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
    fn a_value_that_trembles_around_the_threshold_is_told_once() {
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
    fn what_is_not_a_number_crosses_nothing() {
        let mut threshold = Threshold::new(0.8);
        assert_eq!(threshold.crossed_by(f64::NAN), None);
        threshold.crossed_by(1.0);
        assert_eq!(threshold.crossed_by(f64::NAN), None);
    }
}
