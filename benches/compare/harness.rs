//! Alternates between variants, and keeps the time that each round took.
//!
//! Not criterion: it measures one function to the end before the next, and on a shared machine the
//! minutes between two variants change their figures by more than the difference to be measured.

use std::time::Duration;

/// Sizes and repetitions of the measures.
pub(crate) struct Scale {
    /// Rounds of each variant in the short measures.
    pub(crate) repetitions: usize,
    /// Rounds of each variant in the measures that take a second each.
    pub(crate) long_repetitions: usize,
    /// Tasks in one repetition of the spawn measures.
    pub(crate) spawned: usize,
    /// Tasks parked at once.
    pub(crate) parked: usize,
    /// Short tasks in the churn measure.
    pub(crate) churned: usize,
    /// Time that the service of the steady measure works, in milliseconds.
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only the steady measure uses it")
    )]
    pub(crate) steady: usize,
}

/// One variant: a name, and a function that runs one repetition and returns the duration of its
/// measured part.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) repetition: Box<dyn FnMut() -> Duration>,
}

/// The figures of one variant, round by round: nanoseconds, or the unit of the measure.
#[derive(Clone)]
pub(crate) struct Samples(Vec<f64>);

// === impl Scale ===

impl Scale {
    pub(crate) const FULL: Self = Self {
        repetitions: 101,
        long_repetitions: 11,
        spawned: 40_000,
        parked: 1_000_000,
        churned: 10_000_000,
        steady: 20_000,
    };
    pub(crate) const SMOKE: Self = Self {
        repetitions: 2,
        long_repetitions: 1,
        spawned: 2_000,
        parked: 2_000,
        churned: 20_000,
        steady: 200,
    };
}

// === impl Variant ===

impl Variant {
    pub(crate) fn new(name: &'static str, repetition: impl FnMut() -> Duration + 'static) -> Self {
        Self {
            name,
            repetition: Box::new(repetition),
        }
    }
}

// === impl Samples ===

impl Samples {
    /// # Panics
    /// If `samples` is empty.
    pub(crate) fn new(samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        Self(samples)
    }

    /// Returns the 10th percentile. Disturbances only ever add time, so a low percentile is the
    /// steadiest figure for times alone.
    pub(crate) fn p10(&self) -> f64 {
        self.sorted()[self.0.len() / 10]
    }

    pub(crate) fn median(&self) -> f64 {
        self.sorted()[self.0.len() / 2]
    }

    /// Returns the median of the ratios to the figures of `other` in the same rounds: a slow phase
    /// of the machine affects both. On two workers it is much steadier than a ratio of percentiles,
    /// because two workers share short tasks in a fast or a slow mode, as the kernel happens to
    /// place them.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        self.by_turn(other, |own, other| own / other)
    }

    /// Returns the median of the differences to the figures of `other` in the same rounds.
    pub(crate) fn added_to(&self, other: &Self) -> f64 {
        self.by_turn(other, |own, other| own - other)
    }

    fn by_turn(&self, other: &Self, compare: fn(f64, f64) -> f64) -> f64 {
        let turns = self.0.iter().zip(&other.0);
        Self(turns.map(|(own, other)| compare(*own, *other)).collect()).median()
    }

    pub(crate) fn per(self, count: usize) -> Self {
        Self(self.0.into_iter().map(|s| s / count as f64).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Runs each variant once unmeasured, and then `repetitions` times in alternation. Returns
/// nanoseconds per repetition, in the order given.
///
/// The order of each round is random: a variant that always ran after the same one would inherit
/// its side effects (a warm core, a used-up time slice), measured at 15 % on two workers.
pub(crate) fn interleave(
    variants: &mut [Variant],
    repetitions: usize,
) -> Vec<(&'static str, Samples)> {
    for variant in &mut *variants {
        (variant.repetition)();
    }
    let mut samples = vec![Vec::with_capacity(repetitions); variants.len()];
    let mut order: Vec<usize> = (0..variants.len()).collect();
    for _ in 0..repetitions {
        fastrand::shuffle(&mut order);
        for &index in &order {
            let took = (variants[index].repetition)();
            samples[index].push(took.as_nanos() as f64);
        }
    }
    let samples = samples.into_iter().map(Samples::new);
    variants.iter().map(|v| v.name).zip(samples).collect()
}
