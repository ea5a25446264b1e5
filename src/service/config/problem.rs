//! What is wrong with a configuration, and how that is shown: file, line, column, key, the line
//! itself with a caret, and what is allowed instead.
//!
//! Does not decide what is wrong.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Write as _};
use std::ops::Range;

/// The most problems that are listed; the rest is counted.
const LISTED: usize = 50;
/// The most characters of a source line, a key or a value that are shown.
const SHOWN: usize = 100;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bytes of the text.
    pub(super) at: Range<usize>,
    /// The dotted key; empty for the document as a whole.
    pub(super) key: String,
    pub(super) what: String,
    /// What is allowed, or what to do; may be empty.
    pub(super) help: String,
}

/// Collects problems, so that all of them are told at once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
    more: Cell<usize>,
}

/// A configuration that was refused; nothing was started.
///
/// `Display` is the whole text for the terminal, with every problem.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    origin: String,
    text: String,
    problems: Vec<Problem>,
    more: usize,
}

/// Where a byte of the text is: line and column from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    number: usize,
    column: usize,
    line: &'a str,
}

// === impl Problems ===

impl Problems {
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

    /// How many there are: what is read between two equal counts is sound.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len() + self.more.get()
    }

    /// Whether another problem would only be counted, so that its help is not worth much work.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= LISTED
    }

    /// # Errors
    ///
    /// If there was any problem.
    pub(super) fn into_result(self, origin: &str, text: &str) -> Result<(), ConfigError> {
        let mut problems = self.found.into_inner();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| problem.at.start);
        Err(ConfigError {
            origin: origin.to_owned(),
            text: text.to_owned(),
            problems,
            more: self.more.get(),
        })
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// A configuration of which no text could be read, so that there is no place to point at.
    pub(super) fn unreadable(origin: &str, what: String, help: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            text: String::new(),
            problems: vec![Problem {
                at: 0..0,
                key: String::new(),
                what,
                help: help.to_owned(),
            }],
            more: 0,
        }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = printable(&self.origin);
        for problem in &self.problems {
            write_problem(f, &origin, &self.text, problem)?;
        }
        match (self.problems.len(), self.more) {
            (1, 0) => write!(f, "{origin}: 1 problem, nothing was started"),
            (listed, 0) => write!(f, "{origin}: {listed} problems, nothing was started"),
            (listed, more) => write!(
                f,
                "{origin}: {} problems, the first {listed} are shown, nothing was started",
                listed + more
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

fn write_problem(
    f: &mut fmt::Formatter<'_>,
    origin: &str,
    text: &str,
    problem: &Problem,
) -> fmt::Result {
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
    fn of(text: &'a str, byte: usize) -> Self {
        let start = text[..byte].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        Self {
            number: text[..start].matches('\n').count() + 1,
            column: text[start..byte].chars().count() + 1,
            line,
        }
    }
}

/// The part of the line around the column, and the caret line that goes below it.
fn excerpt(place: Place<'_>, marked: usize) -> (String, String) {
    let characters: Vec<char> = place.line.chars().collect();
    let column = place.column - 1;
    // Keep some text before the caret, so that one sees what it belongs to.
    let first = if characters.len() <= SHOWN {
        0
    } else {
        column.saturating_sub(SHOWN / 2)
    };
    let last = characters.len().min(first + SHOWN);
    let shown = &characters[first.min(last)..last];
    let mut line = String::new();
    let mut caret = String::new();
    if first > 0 {
        line.push('…');
        caret.push(' ');
    }
    line.push_str(&printable(&shown.iter().collect::<String>()));
    if last < characters.len() {
        line.push('…');
    }
    // A tab in the line is a tab below it, whatever its width on the terminal.
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

/// The text with control characters replaced, so that a hostile file cannot drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A value out of the file, quoted, escaped and of bounded length.
pub(super) fn quoted(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, at: Range<usize>) -> String {
        let problems = Problems::default();
        problems.add(at, "a.b", "is wrong", "allowed: right");
        problems
            .into_result("file.toml", text)
            .expect_err("a problem was added")
            .to_string()
    }

    #[test]
    fn the_column_counts_characters_and_the_caret_stands_below_them() {
        let text = "x = 1\n\"äöü\" = 5\n";
        let at = text.find('5').expect("it is there");
        assert_eq!(
            shown(text, at..at + 1),
            "file.toml:2:9: a.b: is wrong\n  |\n2 | \"äöü\" = 5\n  |         ^\n  = allowed: right\n\n\
             file.toml: 1 problem, nothing was started"
        );
    }

    #[test]
    fn a_tab_before_the_place_is_kept_below_the_line() {
        assert!(shown("\t\tx = 1\n", 2..3).contains("1 | \t\tx = 1\n  | \t\t^\n"));
    }

    #[test]
    fn a_place_at_the_end_of_the_text_has_a_caret() {
        let shown = shown("x =", 3..3);
        assert!(shown.starts_with("file.toml:1:4: "), "{shown}");
        assert!(shown.contains("1 | x =\n  |    ^\n"), "{shown}");
    }

    #[test]
    fn windows_line_ends_and_control_characters_are_not_printed() {
        let shown = shown("x = \"\u{1b}[31m\"\r\ny = 1\r\n", 0..1);
        assert!(shown.contains("1 | x = \"\u{fffd}[31m\"\n"), "{shown}");
        assert!(!shown.contains('\r'), "{shown:?}");
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_place() {
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
    fn a_mark_over_many_lines_ends_with_the_first() {
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
            .into_result("f", "x")
            .expect_err("there are problems");
        assert!(
            error
                .to_string()
                .ends_with("f: 57 problems, the first 50 are shown, nothing was started")
        );
    }

    #[test]
    fn a_quoted_value_is_escaped_and_bounded() {
        assert_eq!(quoted("a\n\"b"), "\"a\\n\\\"b\"");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), SHOWN + 3);
    }
}
