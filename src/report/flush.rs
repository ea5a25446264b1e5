//! The steps before the process ends: saving and pushing the report and the telemetry.

use std::fmt;
use std::time::Duration;

/// One step that delivered the final report or telemetry before the process ended: to the state
/// folder, to a file, or to a collector.
///
/// `Display` gives [`text`](Self::text).
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let runtime = headcount::Runtime::builder().state_folder(folder).print(false).build()?;
/// let report = runtime.run(async |_tasks| {});
/// let saved = &report.flush[0];
/// assert!(saved.is_delivered());
/// assert_eq!(saved.signal, "state");
/// assert_eq!(saved.to_string(), "state saved");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub struct Flush {
    /// The destination or the signal: `state`, `textfile`, `traces`, `logs`, `metrics`.
    pub signal: String,
    /// The result.
    pub result: FlushResult,
    /// The result in words: `state saved`, `12 spans not delivered: connection refused`.
    pub text: String,
    /// The time it took.
    #[serde(rename = "took_seconds", serialize_with = "super::seconds")]
    pub took: Duration,
}

/// The result of a [`Flush`].
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// use headcount::report::FlushResult;
///
/// let missing = folder.join("missing").join("orders.prom");
/// let runtime = headcount::Runtime::builder().textfile(missing).print(false).build()?;
/// let report = runtime.run(async |_tasks| {});
/// assert_eq!(report.flush[0].result, FlushResult::Failed);
/// assert_eq!(report.flush[0].result.as_str(), "failed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FlushResult {
    /// Everything was delivered.
    Delivered,
    /// A part was delivered.
    Partial,
    /// Nothing was delivered.
    Failed,
    /// The step did not end in its time; the part that was delivered is not known.
    TimedOut,
}

// === impl Flush ===

impl Flush {
    /// Creates the record of a step.
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

    /// Returns whether everything was delivered.
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
    /// Returns the word that reports and metrics use.
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
