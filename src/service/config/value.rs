//! Conversion of one TOML value to the type that a key needs: a string, a duration, a number, a
//! choice, an array. `table` reads the values that are tables.
//!
//! A method that cannot convert the value reports one problem, with the allowed values, and returns
//! `None`. The caller then continues with the default, so that further problems are found.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::{Problems, closest, quoted, secrets};

/// The upper bound of intervals and waits. A longer value is more likely a typing error.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A value of the document, with its position for error messages.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pub(super) problems: &'a Problems,
    /// The dotted path of the key.
    pub(super) path: String,
    /// The byte range of the value in the text.
    pub(super) at: Range<usize>,
    pub(super) raw: &'a DeValue<'a>,
}

// === impl Value ===

impl<'a> Value<'a> {
    pub(super) fn new(
        problems: &'a Problems,
        path: String,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        Self {
            problems,
            path,
            at: value.span(),
            raw: value.get_ref(),
        }
    }

    /// Reports a problem of this value.
    pub(super) fn complain(&self, what: impl Into<String>, help: impl Into<String>) {
        self.problems.add(self.at.clone(), &*self.path, what, help);
    }

    /// Reports a problem of this value and returns `None`, so that a reader can end with it.
    pub(super) fn refuse<T>(&self, what: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.complain(what, help);
        None
    }

    /// Reports that the value is not of this kind, and what it is instead.
    pub(super) fn expected<T>(&self, kind: &str, help: impl Into<String>) -> Option<T> {
        self.refuse(format!("expected {kind}, found {}", self.found()), help)
    }

    /// Describes the value in words that fit after "found". A secret is only named by its type.
    fn found(&self) -> String {
        if secrets::is_path(&self.path) {
            return kind(self.raw).to_owned();
        }
        match self.raw {
            DeValue::String(text) => format!("the string {}", quoted(text)),
            DeValue::Integer(number) => format!("the integer {}", clipped(&number.to_string())),
            DeValue::Float(number) => format!("the number {}", clipped(&number.to_string())),
            DeValue::Boolean(value) => format!("the boolean {value}"),
            other => kind(other).to_owned(),
        }
    }

    /// Returns the string if this is one. Reports no problem if it is not.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.raw.as_str()
    }

    /// Returns true if this is a table. Reports no problem if it is not.
    pub(super) fn is_table(&self) -> bool {
        self.raw.is_table()
    }

    /// Returns true if this is a table that sets the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw
            .as_table()
            .is_some_and(|table| table.contains_key(key))
    }

    /// Reads a string without NUL characters, which the operating system would not accept.
    pub(super) fn text(&self, example: &str) -> Option<&'a str> {
        match self.raw {
            DeValue::String(text) if text.contains('\0') => self.refuse(
                "contains a NUL character",
                "remove it: the operating system ends strings at NUL",
            ),
            DeValue::String(text) => Some(text),
            _ => self.expected("a string", format!("for example {example}")),
        }
    }

    /// Reads a string that contains more than white space.
    pub(super) fn filled(&self, example: &str) -> Option<&'a str> {
        let text = self.text(example)?;
        if text.trim().is_empty() {
            return self.refuse("is empty", format!("for example {example}"));
        }
        Some(text)
    }

    /// Reads a boolean.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.raw {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("a boolean", "allowed: true, false"),
        }
    }

    /// Reads an integer within the range.
    pub(super) fn whole<T>(&self, allowed: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        self.whole_or(allowed, "")
    }

    /// Reads an integer within the range. `or` is appended to the allowed values in the help: the
    /// caller has already tested for other values that it accepts.
    pub(super) fn whole_or<T>(&self, allowed: RangeInclusive<T>, or: &str) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        let help = format!("allowed: {} to {}{or}", allowed.start(), allowed.end());
        let DeValue::Integer(number) = self.raw else {
            return self.expected("an integer", help);
        };
        // A number that does not fit into an i64 is outside every range that callers pass.
        let value = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| allowed.contains(number));
        match value {
            Some(value) => Some(value),
            None => self.refuse(format!("{number} is out of range"), help),
        }
    }

    /// Reads a number within the range.
    pub(super) fn number(&self, allowed: RangeInclusive<f64>) -> Option<f64> {
        self.number_or(allowed, "")
    }

    /// Reads a number within the range; integers are accepted. `or` is appended to the allowed values
    /// in the help: the caller has already tested for other values that it accepts.
    pub(super) fn number_or(&self, allowed: RangeInclusive<f64>, or: &str) -> Option<f64> {
        let help = format!("allowed: {} to {}{or}", allowed.start(), allowed.end());
        let value = match self.raw {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| i32::try_from(number).ok())
                .map(f64::from),
            _ => return self.expected("a number", help),
        };
        match value.filter(|number| allowed.contains(number)) {
            Some(value) => Some(value),
            None => self.refuse(format!("{} is out of range", self.found()), help),
        }
    }

    /// Reads a duration within the range: a string with a unit.
    pub(super) fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        self.duration_or(allowed, "")
    }

    /// Reads a duration within the range. `also` is appended to the allowed values in the help: the
    /// caller has already tested for other values that it accepts.
    pub(super) fn duration_or(
        &self,
        allowed: RangeInclusive<Duration>,
        also: &str,
    ) -> Option<Duration> {
        let help = format!(
            "allowed: {} to {} (for example \"500ms\", \"5s\" or \"1m30s\"){also}",
            shown(*allowed.start()),
            shown(*allowed.end())
        );
        let text = match self.raw {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let what = format!("expected a duration, found {} without a unit", self.found());
                return self.refuse(what, format!("for seconds, write \"{number}s\"; {help}"));
            }
            _ => return self.expected("a duration", help),
        };
        match humantime::parse_duration(text) {
            Err(_) => self.refuse(format!("{} is not a duration", quoted(text)), help),
            Ok(value) if !allowed.contains(&value) => {
                self.refuse(format!("{} is out of range", quoted(text)), help)
            }
            Ok(value) => Some(value),
        }
    }

    /// Reads a number of bytes within the range, with a unit.
    pub(super) fn size(&self, allowed: RangeInclusive<u64>) -> Option<u64> {
        let help = format!(
            "allowed: {} to {} (for example \"512KiB\", \"10MiB\" or \"1GiB\")",
            shown_size(*allowed.start()),
            shown_size(*allowed.end())
        );
        let DeValue::String(text) = self.raw else {
            return self.expected("a size", help);
        };
        match parsed_size(text) {
            None => self.refuse(format!("{} is not a size", quoted(text)), help),
            Some(size) if !allowed.contains(&size) => {
                self.refuse(format!("{} is out of range", quoted(text)), help)
            }
            size => size,
        }
    }

    /// Reads one of the words in `choices`, which are case-sensitive.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let allowed = format!("allowed: \"{}\"", words.join("\", \""));
        let DeValue::String(text) = self.raw else {
            return self.expected("a string", allowed);
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        let stem = text.strip_prefix("SIG").unwrap_or(text);
        let help = match closest(stem, &words) {
            Some(meant) => format!("did you mean \"{meant}\"? {allowed}"),
            None => allowed,
        };
        self.refuse(format!("unknown value {}", quoted(text)), help)
    }

    /// Reads an array of at most `most` elements, which the message calls `elements`.
    pub(super) fn list_up_to(
        &self,
        most: usize,
        elements: &str,
        example: &str,
    ) -> Option<Vec<Self>> {
        let list = self.list(example)?;
        if list.len() > most {
            return self.refuse(
                format!("contains {} {elements}", list.len()),
                format!("allowed: up to {most}"),
            );
        }
        Some(list)
    }

    /// Reads an array; the help shows `example`. The elements are not read yet.
    pub(super) fn list(&self, example: &str) -> Option<Vec<Self>> {
        match self.raw {
            DeValue::Array(values) => Some(
                values
                    .iter()
                    .enumerate()
                    .map(|(index, value)| {
                        Self::new(self.problems, format!("{}[{index}]", self.path), value)
                    })
                    .collect(),
            ),
            _ => self.expected("an array", format!("for example {example}")),
        }
    }
}

/// The units of sizes.
const UNITS: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Parses a number and a unit.
fn parsed_size(text: &str) -> Option<u64> {
    let (unit, bytes) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number)?;
    number.checked_mul(*bytes)
}

/// Formats a size in the largest unit that it is a multiple of.
fn shown_size(bytes: u64) -> String {
    let mut units = UNITS.iter().rev();
    match units.find(|(_, unit)| bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// Formats a duration as it is written in the file.
pub(super) fn shown(duration: Duration) -> String {
    if duration == DAY {
        "24h".to_owned()
    } else {
        humantime::format_duration(duration)
            .to_string()
            .replace(' ', "")
    }
}

/// Returns the type of a TOML value.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Returns the first 40 characters, since a number in the file may have any length.
fn clipped(text: &str) -> String {
    text.chars().take(40).collect()
}
