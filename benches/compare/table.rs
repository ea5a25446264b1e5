//! Results as Markdown, with the limits that they are held against.

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
    /// What a figure counts, and what the reader must know of how it was taken.
    pub(crate) note: &'static str,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) variant: &'static str,
    /// `None`: this variant has no such thing, or not yet.
    pub(crate) samples: Option<Samples>,
    pub(crate) limits: Vec<Limit>,
}

/// How a figure is written; the figures themselves are in the smaller unit.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Nanoseconds,
    /// Of figures in nanoseconds.
    Milliseconds,
    Bytes,
    /// Of figures in bytes.
    Mebibytes,
    /// Of one core.
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "the measure of it exports")
    )]
    Percent,
}

/// What a row must reach: by the median turn where it is held against another row, and by the 10th
/// percentile where it stands alone.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// At most so many times bare.
    Ratio(f64),
    /// At most so much more than bare, in the figures' unit.
    Added(f64),
    /// At most so much more than another row.
    AddedTo(&'static str, f64),
    /// At most so much, in the figures' unit.
    Total(f64),
    /// Less than another row.
    Below(&'static str),
    /// One of two is enough.
    AddedOrRatio(f64, f64),
}

/// What the reader must know before the first table.
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
         of the 10th percentiles, and the median of the ratios turn by turn, by which rows pass or miss.\n",
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
    /// Holds the row called `variant`, if there is one, against `limits`.
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
        // A placeholder neither passes nor misses.
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

    /// How far two measurements of bare are apart, in percent, when that is too far to tell a pass
    /// from a miss.
    fn noise(&self) -> Option<f64> {
        let again = self.samples(BARE_AGAIN)?.ratio_to(self.samples(BARE)?);
        let percent = (again - 1.0).abs() * 100.0;
        (percent > 3.0).then_some(percent)
    }

    /// A limit against a row that is not there cannot hold.
    fn holds(&self, limit: Limit, own: &Samples) -> bool {
        let ratio_to = |variant| self.samples(variant).map_or(f64::NAN, |o| own.ratio_to(o));
        let added = || {
            self.samples(BARE)
                .map_or(f64::NAN, |bare| own.added_to(bare))
        };
        match limit {
            Limit::Ratio(most) => ratio_to(BARE) <= most,
            // A whole byte is what the figure is good for: an allocator's own bytes, some pages here and there.
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

    /// Growth of memory is near nothing for all, and so is what is at work beside the workers: ratios would say nothing.
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
