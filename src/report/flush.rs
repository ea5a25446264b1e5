//! What became of a report, and of telemetry, when the process was about to end.

use std::fmt;
use std::time::Duration;

/// One thing that was done with the final report: the state folder, a signal of the telemetry, a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub struct Flush {
    /// What: `state`, `textfile`, `traces`, `logs`, `metrics`.
    pub signal: String,
    /// What it came to.
    pub result: FlushResult,
    /// The same in words: "state saved", "12 spans not delivered: connection refused".
    pub text: String,
    /// How long it took.
    #[cfg_attr(
        feature = "json",
        serde(rename = "took_seconds", serialize_with = "super::seconds")
    )]
    pub took: Duration,
}

/// What a [`Flush`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum FlushResult {
    /// All of it is where it should be.
    Delivered,
    /// A part is.
    Partial,
    /// Nothing is.
    Failed,
    /// It was not done in its time, and nobody knows what of it was.
    TimedOut,
}

// === impl Flush ===

impl Flush {
    pub(crate) fn new(
        signal: &str,
        result: FlushResult,
        text: impl Into<String>,
        took: Duration,
    ) -> Self {
        Self {
            signal: signal.to_owned(),
            result,
            text: text.into(),
            took,
        }
    }

    /// Whether nothing was lost.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.result == FlushResult::Delivered
    }
}

impl fmt::Display for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl FlushResult ===

impl FlushResult {
    /// The word that reports and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}
