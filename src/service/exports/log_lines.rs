//! The format of the log for people: ordinary events as usual, and the output of child processes as
//! `name │ line`.
//!
//! Of a line that was shown in pieces, the event of the whole line is left out.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::prefix::Prefix;
use crate::service::process::OUTPUT_TARGET;

/// The formatter.
#[derive(Debug)]
pub(super) struct LogLines {
    ordinary: Format<Full, SystemTime>,
    prefix: Prefix,
}

/// The fields of an event about output.
#[derive(Debug, Default)]
struct Printed {
    task: String,
    line: String,
    is_shown: bool,
}

// === impl LogLines ===

impl LogLines {
    /// Creates the format for the processes with these names.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>, colours: bool) -> Self {
        Self {
            ordinary: Format::default(),
            prefix: Prefix::of(names, colours),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LogLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() != OUTPUT_TARGET {
            return self.ordinary.format_event(context, writer, event);
        }
        let mut printed = Printed::default();
        event.record(&mut printed);
        if printed.is_shown {
            return Ok(());
        }
        writeln!(
            writer,
            "{}{}",
            self.prefix.before(&printed.task),
            printed.line
        )
    }
}

// === impl Printed ===

impl Visit for Printed {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "task" => &mut self.task,
            "message" => &mut self.line,
            _ => return,
        };
        write!(text, "{value:?}").expect("a String takes every write");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.is_shown |= value && field.name() == "in_pieces";
    }
}
