//! Problems of a configuration, and their display: file, line, column, key, the line itself with a
//! caret, what is allowed instead, and which similar name was probably meant.
//!
//! Text from the file is untrusted: it is shown without control characters and secrets, and with
//! bounded length.
//! This module does not decide what is a problem; the readers of the sections do.

pub(super) mod secrets;

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Write as _};
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use crate::text::{plain, without_user_info};

/// The maximum number of problems that are listed; the rest is only counted.
const LISTED: usize = 50;
/// The fewest characters of an environment variable's value that is not shown.
const SECRET: usize = 4;
/// The maximum number of characters of a source line or a value that are shown.
const SHOWN: usize = 100;

/// One problem and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The byte range in the text.
    pub(super) at: Range<usize>,
    /// The dotted key; empty for the document as a whole.
    pub(super) key: String,
    /// The problem, in words that fit after the key and a colon.
    pub(super) what: String,
    /// The allowed values, or how to fix the problem; may be empty.
    pub(super) help: String,
}

/// A collection of problems, so that all of them are reported together.
///
/// Readers share it by reference, hence the cells.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// At most [`LISTED`].
    found: RefCell<Vec<Problem>>,
    /// The number of problems that were only counted.
    more: Cell<usize>,
    /// The values of environment variables that are in the document. They are not shown.
    inserted: RefCell<Vec<String>>,
    /// The byte ranges of values of unknown keys that may be secret.
    secrets: RefCell<Vec<Range<usize>>>,
}

/// The error of a refused configuration; nothing was started.
///
/// `Display` writes the whole text for the terminal, without a final newline. It lists the first
/// problems that were found, in the order of their positions in the file, and counts the rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    origin: String,
    /// The text of the file; empty if it could not be read.
    text: String,
    /// The byte ranges of the text that are not shown.
    secrets: Vec<Range<usize>>,
    problems: Vec<Problem>,
    more: usize,
    /// True if the file was not read because of a limit of this process or machine.
    pub(crate) is_own_limit: bool,
}

/// The position of a byte in the text: line and column count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    /// The byte at which the line begins.
    start: usize,
    number: usize,
    column: usize,
    line: &'a str,
}

// === impl Problems ===

impl Problems {
    /// Adds a problem, or only counts it if [`LISTED`] problems were found already.
    pub(super) fn add(
        &self,
        at: Range<usize>,
        key: impl Into<String>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        let mut found = self.found.borrow_mut();
        if found.len() < LISTED {
            found.push(Problem {
                at,
                key: key.into(),
                what: what.into(),
                help: help.into(),
            });
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// Hides the values of an unknown key if they may be secret.
    pub(super) fn hide(&self, key: &str, value: &Spanned<DeValue<'_>>) {
        secrets::of_unknown(key, value, &mut self.secrets.borrow_mut());
    }

    /// Hides a range of the text.
    pub(super) fn hide_at(&self, at: Range<usize>) {
        self.secrets.borrow_mut().push(at);
    }

    /// Hides the value of an environment variable in all problems. One of fewer than four characters,
    /// such as a port's, is shown.
    pub(super) fn hide_inserted(&self, value: &str) {
        if value.chars().count() >= SECRET {
            self.inserted.borrow_mut().push(value.to_owned());
        }
    }

    /// Returns the number of problems so far, including those that are only counted.
    ///
    /// If two calls return the same number, everything read between them was valid.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len() + self.more.get()
    }

    /// Returns true if a further problem would only be counted, so that composing its message can be
    /// skipped.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= LISTED
    }

    /// Ends the collection. `secrets` are the byte ranges of the text that are not shown.
    ///
    /// # Errors
    ///
    /// Returns an error if any problem was added.
    pub(super) fn into_result(
        self,
        origin: &str,
        text: &str,
        mut secrets: Vec<Range<usize>>,
    ) -> Result<(), ConfigError> {
        secrets.append(&mut self.secrets.into_inner());
        let mut problems = self.found.into_inner();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| problem.at.start);
        for value in self.inserted.into_inner() {
            for problem in &mut problems {
                hide_value(&mut problem.what, &value);
                hide_value(&mut problem.help, &value);
            }
        }
        Err(ConfigError {
            origin: origin.to_owned(),
            text: text.to_owned(),
            secrets,
            problems,
            more: self.more.get(),
            is_own_limit: false,
        })
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// Returns an error for a file that could not be read as text, so it names no line.
    pub(super) fn unreadable(origin: &str, what: String, help: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            text: String::new(),
            secrets: Vec::new(),
            problems: vec![Problem {
                at: 0..0,
                key: String::new(),
                what,
                help: help.to_owned(),
            }],
            more: 0,
            is_own_limit: false,
        }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = plain(&self.origin);
        for problem in &self.problems {
            write_problem(f, &origin, self, problem)?;
        }
        match (self.problems.len(), self.more) {
            (1, 0) => write!(f, "{origin}: 1 problem, nothing was started"),
            (listed, 0) => write!(f, "{origin}: {listed} problems, nothing was started"),
            (listed, more) => write!(
                f,
                "{origin}: {} problems (showing the first {listed}), nothing was started",
                listed + more
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Writes a problem with its source line and caret, followed by an empty line.
fn write_problem(
    f: &mut fmt::Formatter<'_>,
    origin: &str,
    error: &ConfigError,
    problem: &Problem,
) -> fmt::Result {
    let text = &*error.text;
    let place = (!text.is_empty()).then(|| Place::of(text, problem.at.start));
    f.write_str(origin)?;
    if let Some(place) = place {
        write!(f, ":{}:{}", place.number, place.column)?;
    }
    if !problem.key.is_empty() {
        write!(f, ": {}", problem.key)?;
    }
    writeln!(f, ": {}", problem.what)?;
    let gutter = place.map_or(0, |place| place.number.to_string().len());
    if let Some(place) = place {
        let (line, caret) = excerpt(
            place,
            text[problem.at.start..problem.at.end].chars().count(),
            &error.secrets,
        );
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{} | {line}", place.number)?;
        writeln!(f, "{:gutter$} | {caret}", "")?;
    }
    if !problem.help.is_empty() {
        writeln!(f, "{:gutter$} = {}", "", problem.help)?;
    }
    writeln!(f)
}

// === impl Place ===

impl<'a> Place<'a> {
    /// Finds the line and column of a byte, which must be at a character boundary.
    fn of(text: &'a str, byte: usize) -> Self {
        let start = text[..byte].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        Self {
            start,
            number: text[..start].matches('\n').count() + 1,
            column: text[start..byte].chars().count() + 1,
            line,
        }
    }
}

/// Returns the part of the line around the column, and the caret line below it.
///
/// `marked` is the number of characters to underline; at least one is, and none beyond the line.
/// Each character of a secret is shown as a star.
fn excerpt(place: Place<'_>, marked: usize, secrets: &[Range<usize>]) -> (String, String) {
    let characters: Vec<(usize, char)> = place.line.char_indices().collect();
    let column = place.column - 1;
    // Keep some text before the caret as context.
    let first = if characters.len() <= SHOWN {
        0
    } else {
        column.saturating_sub(SHOWN / 2)
    };
    let last = characters.len().min(first + SHOWN);
    let shown = |(at, c): &(usize, char)| {
        let at = place.start + at;
        match secrets.iter().any(|secret| secret.contains(&at)) {
            true => '*',
            false => *c,
        }
    };
    let shown: Vec<char> = characters[first.min(last)..last]
        .iter()
        .map(shown)
        .collect();
    let mut line = String::new();
    let mut caret = String::new();
    if first > 0 {
        line.push('…');
        caret.push(' ');
    }
    line.push_str(&plain(&shown.iter().collect::<String>()));
    if last < characters.len() {
        line.push('…');
    }
    // A tab is repeated as a tab, so that the caret is aligned for any tab width.
    for index in 0..column - first.min(column) {
        caret.push(if shown.get(index) == Some(&'\t') {
            '\t'
        } else {
            ' '
        });
    }
    let room = (last.saturating_sub(column)).max(1);
    caret.extend(std::iter::repeat_n('^', marked.clamp(1, room)));
    (line, caret)
}

/// Quotes and escapes a value of the file, without user info, cut to [`SHOWN`] characters.
pub(super) fn quoted(text: &str) -> String {
    let text = without_user_info(text);
    let mut shown = String::from("\"");
    for (index, c) in text.chars().enumerate() {
        if index == SHOWN {
            shown.push('…');
            break;
        }
        write!(shown, "{}", c.escape_debug()).expect("a String takes every write");
    }
    shown.push('"');
    shown
}

/// Replaces a value by `…`, and its beginning where the text was cut within it.
fn hide_value(text: &mut String, value: &str) {
    for shown in [value.to_owned(), value.escape_debug().to_string()] {
        *text = text.replace(&shown, "…");
        let ends = shown.char_indices().take(SHOWN).skip(1);
        let ends: Vec<usize> = ends.map(|(end, _)| end).collect();
        for end in ends.into_iter().rev() {
            *text = text.replace(&format!("{}…", &shown[..end]), "…");
        }
    }
}

/// Returns the name that is most similar to `written`, for a "did you mean" hint.
///
/// Ignores case and treats `-`, `.` and space as `_`. Returns `None` if more than a third of the
/// characters of every name would have to change; one change is always allowed.
pub(super) fn closest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    // Computing the distance takes quadratic time, and no name is close to a text that long.
    if written.len() > 100 {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', ' ', '.'], "_");
    let written = plain(written);
    names
        .iter()
        .map(|name| (strsim::osa_distance(&written, &plain(name)), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, at: Range<usize>) -> String {
        let problems = Problems::default();
        problems.add(at, "a.b", "is wrong", "allowed: right");
        problems
            .into_result("file.toml", text, Vec::new())
            .expect_err("a problem was added")
            .to_string()
    }

    #[test]
    fn columns_and_the_caret_count_characters() {
        let text = "x = 1\n\"äöü\" = 5\n";
        let at = text.find('5').expect("the text contains it");
        assert_eq!(
            shown(text, at..at + 1),
            "file.toml:2:9: a.b: is wrong\n  |\n2 | \"äöü\" = 5\n  |         ^\n  = allowed: right\n\n\
             file.toml: 1 problem, nothing was started"
        );
    }

    #[test]
    fn a_tab_before_the_position_is_repeated_in_the_caret_line() {
        assert!(shown("\t\tx = 1\n", 2..3).contains("1 | \t\tx = 1\n  | \t\t^\n"));
    }

    #[test]
    fn a_position_at_the_end_of_the_text_has_a_caret() {
        let shown = shown("x =", 3..3);
        assert!(shown.starts_with("file.toml:1:4: "), "{shown}");
        assert!(shown.contains("1 | x =\n  |    ^\n"), "{shown}");
    }

    #[test]
    fn carriage_returns_and_control_characters_are_not_printed() {
        let shown = shown("x = \"\u{1b}[31m\"\r\ny = 1\r\n", 0..1);
        assert!(shown.contains("1 | x = \"\u{fffd}[31m\"\n"), "{shown}");
        assert!(!shown.contains('\r'), "{shown:?}");
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_position() {
        let text = format!("x = \"{}\"; y", "a".repeat(100_000));
        let at = text.len() - 1;
        let shown = shown(&text, at..at + 1);
        assert!(shown.len() < 600, "{} bytes", shown.len());
        assert!(shown.contains("file.toml:1:100009: "), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[2].chars().position(|c| c == 'y'),
            lines[3].chars().position(|c| c == '^')
        );
    }

    #[test]
    fn a_range_of_several_lines_is_marked_on_the_first_only() {
        assert!(shown("x = [\n1,\n2]\n", 4..11).contains("1 | x = [\n  |     ^\n"));
    }

    #[test]
    fn problems_beyond_the_limit_are_counted() {
        let problems = Problems::default();
        for _ in 0..LISTED + 7 {
            problems.add(0..1, "", "is wrong", "");
        }
        assert_eq!(problems.count(), LISTED + 7);
        let error = problems
            .into_result("f", "x", Vec::new())
            .expect_err("there are problems");
        assert!(
            error
                .to_string()
                .ends_with("f: 57 problems (showing the first 50), nothing was started")
        );
    }

    #[test]
    fn a_quoted_value_is_escaped_and_bounded() {
        assert_eq!(quoted("a\n\"b"), "\"a\\n\\\"b\"");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), SHOWN + 3);
    }

    #[test]
    fn a_similar_name_is_found_and_a_different_one_is_not() {
        let names = ["interval", "timeout", "up_after", "down_after", "check"];
        assert_eq!(closest("intervall", &names), Some("interval"));
        assert_eq!(closest("Interval", &names), Some("interval"));
        assert_eq!(closest("up-after", &names), Some("up_after"));
        assert_eq!(closest("tiemout", &names), Some("timeout"));
        assert_eq!(closest("colour", &names), None);
        assert_eq!(closest("", &names), None);
        assert_eq!(closest(&"x".repeat(1_000_000), &names), None);
    }
}
