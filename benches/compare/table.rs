//! Results as Markdown tables, checked against their limits.

use crate::{
    harness::{Samples, Scale},
    headcount,
    peers::{BARE, BARE_AGAIN},
};
use std::{fmt::Write, thread};

/// One table.
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// The unit of the figures, and how they were measured.
    pub(crate) note: &'static str,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) variant: &'static str,
    /// `None` if this variant lacks the feature.
    pub(crate) samples: Option<Samples>,
    pub(crate) limits: Vec<Limit>,
}

/// The unit in which figures are printed; the figures themselves are in the smaller unit.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Nanoseconds,
    /// For figures in nanoseconds.
    Milliseconds,
    Bytes,
    /// For figures in bytes.
    Mebibytes,
    /// Percent of one core.
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only the steady measure uses it")
    )]
    Percent,
}

/// The limit of a row. Comparisons with another row use the median of the ratios by round; absolute
/// limits use the 10th percentile.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// At most this many times the figure of bare tokio.
    Ratio(f64),
    /// At most this much more than bare tokio, in the unit of the figures.
    Added(f64),
    /// At most this much more than another row.
    AddedTo(&'static str, f64),
    /// At most this much, in the unit of the figures.
    Total(f64),
    /// Less than another row.
    Below(&'static str),
    /// Either of the two limits is enough.
    AddedOrRatio(f64, f64),
}

/// Returns the text before the first table.
pub(crate) fn heading(scale: &Scale) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let unstable = if cfg!(tokio_unstable) {
        "with"
    } else {
        "without"
    };
    let mut text = format!(
        "# Compare\n\n{cores} cores, {unstable} `tokio_unstable`, {} turns each ({} in the long measures). \
         Ratios are to bare tokio in the same run: \
         of the 10th percentiles, and the median of the ratios by turn, which decides whether a row passes or \
         misses.\n",
        scale.repetitions, scale.long_repetitions
    );
    if let Some(caveat) = headcount::CAVEAT {
        writeln!(text, "\n**{caveat}**").expect("a String takes everything");
    }
    if scale.parked < Scale::FULL.parked {
        text.push_str("\n**A smoke run: the figures mean nothing.**\n");
    }
    text
}

// === impl Row ===

impl Row {
    pub(crate) fn new((variant, samples): (&'static str, Samples)) -> Self {
        Self {
            variant,
            samples: Some(samples),
            limits: Vec::new(),
        }
    }

    pub(crate) fn missing(variant: &'static str) -> Self {
        Self {
            variant,
            samples: None,
            limits: Vec::new(),
        }
    }
}

// === impl Section ===

impl Section {
    /// Sets the limits of the row called `variant`, if it exists.
    pub(crate) fn limit(mut self, variant: &str, limits: &[Limit]) -> Self {
        for row in self.rows.iter_mut().filter(|row| row.variant == variant) {
            row.limits.extend_from_slice(limits);
        }
        self
    }

    pub(crate) fn to_markdown(&self) -> String {
        let unit = self.unit.name();
        let mut text = format!(
            "\n## {}\n\n{}\n\n| variant | {unit}, p10 | median | ratio of p10 | by turn | limit | |\n|---|--:|--:|--:|--:|---|---|\n",
            self.title, self.note
        );
        for row in &self.rows {
            writeln!(text, "{}", self.line(row)).expect("a String takes everything");
        }
        text
    }

    fn line(&self, row: &Row) -> String {
        let limits: Vec<_> = row.limits.iter().map(|l| self.describe(l)).collect();
        let limits = limits.join(", ");
        let Some(own) = &row.samples else {
            return format!("| {} | not measured | | | | {limits} | |", row.variant);
        };
        let bare = self
            .samples(BARE)
            .filter(|_| row.variant != BARE && self.unit.has_ratio());
        let ratio = bare.map_or_else(
            || " | ".to_owned(),
            |bare| {
                let p10 = own.p10() / bare.p10();
                format!("{p10:.2} | {:.2}", own.ratio_to(bare))
            },
        );
        let verdict = self.verdict(row, own);
        let (p10, median) = (self.unit.show(own.p10()), self.unit.show(own.median()));
        format!(
            "| {} | {p10} | {median} | {ratio} | {limits} | {verdict} |",
            row.variant
        )
    }

    fn verdict(&self, row: &Row, own: &Samples) -> String {
        if row.limits.is_empty() {
            return String::new();
        }
        // A placeholder can neither pass nor miss.
        if headcount::CAVEAT.is_some() {
            return "–".to_owned();
        }
        let word = match row.limits.iter().all(|limit| self.holds(*limit, own)) {
            true => "pass",
            false => "**miss**",
        };
        match self.noise() {
            Some(off) => format!("{word}, but bare is off by {off:.0} % itself"),
            None => word.to_owned(),
        }
    }

    fn samples(&self, variant: &str) -> Option<&Samples> {
        let row = self.rows.iter().find(|row| row.variant == variant)?;
        row.samples.as_ref()
    }

    /// Returns the difference between the two measurements of bare tokio, in percent, if it is too
    /// large to tell a pass from a miss.
    fn noise(&self) -> Option<f64> {
        let again = self.samples(BARE_AGAIN)?.ratio_to(self.samples(BARE)?);
        let percent = (again - 1.0).abs() * 100.0;
        (percent > 3.0).then_some(percent)
    }

    /// Returns whether the limit holds; a limit against a missing row does not.
    fn holds(&self, limit: Limit, own: &Samples) -> bool {
        let ratio_to = |variant| self.samples(variant).map_or(f64::NAN, |o| own.ratio_to(o));
        let added = || {
            self.samples(BARE)
                .map_or(f64::NAN, |bare| own.added_to(bare))
        };
        match limit {
            Limit::Ratio(most) => ratio_to(BARE) <= most,
            // The figure is only accurate to a byte: the allocator adds some bytes and pages of its
            // own.
            Limit::Added(most) => added().round() <= most,
            Limit::AddedTo(other, most) => {
                let other = self.samples(other);
                other.map_or(f64::NAN, |other| own.added_to(other)) <= most
            }
            Limit::Total(most) => own.p10() <= most,
            Limit::Below(other) => ratio_to(other) < 1.0,
            Limit::AddedOrRatio(most, ratio) => added() <= most || ratio_to(BARE) <= ratio,
        }
    }

    fn describe(&self, limit: &Limit) -> String {
        let unit = self.unit.name();
        match limit {
            Limit::Ratio(most) => format!("≤ {most:.2}"),
            Limit::Added(most) => format!("≤ +{} {unit}", self.unit.show(*most)),
            Limit::AddedTo(other, most) => {
                format!("≤ {other} + {} {unit}", self.unit.show(*most))
            }
            Limit::Total(most) => format!("≤ {} {unit}", self.unit.show(*most)),
            Limit::Below(other) => format!("< {other}"),
            Limit::AddedOrRatio(added, ratio) => {
                format!("≤ +{} {unit} or ≤ {ratio:.2}", self.unit.show(*added))
            }
        }
    }
}

// === impl Unit ===

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::Mebibytes => "MiB",
            Self::Percent => "%",
        }
    }

    /// Returns whether ratios make sense: memory growth and control-side load are close to zero for
    /// all variants, so theirs do not.
    fn has_ratio(self) -> bool {
        !matches!(self, Self::Mebibytes | Self::Percent)
    }

    fn show(self, figure: f64) -> String {
        match self {
            Self::Nanoseconds | Self::Bytes => format!("{figure:.0}"),
            Self::Milliseconds => format!("{:.2}", figure / 1e6),
            Self::Mebibytes => format!("{:.1}", figure / f64::from(1 << 20)),
            Self::Percent => format!("{figure:.2}"),
        }
    }
}
