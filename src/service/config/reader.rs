//! Reads a TOML document key by key, and goes on after a problem, so that all are told at once.
//!
//! A [`Table`] remembers which keys it was asked for: the rest is unknown, and refused by
//! [`Table::finish`]. So the list of the allowed keys cannot differ from the keys that are read.
//! Values are read in `value`.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::{Problems, printable};
use super::value::Value;

/// A table of the document.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) problems: &'a Problems,
    pub(super) path: String,
    /// Where a missing key is reported.
    pub(super) at: Range<usize>,
    /// `None` for a section that was left out: all of its keys have their defaults.
    entries: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

/// What was read for one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read<T> {
    /// The value, or the default where there is none or it was refused.
    pub(super) value: T,
    /// Whether the file holds the key.
    pub(super) written: bool,
    /// Whether `value` is what was meant: relations between values hold only then.
    pub(super) sound: bool,
}

// === impl Table ===

impl<'a> Table<'a> {
    pub(super) fn root(problems: &'a Problems, entries: &'a DeTable<'a>) -> Self {
        Self::new(problems, String::new(), 0..0, Some(entries))
    }

    pub(super) fn new(
        problems: &'a Problems,
        path: String,
        at: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
    ) -> Self {
        Self {
            problems,
            path,
            at,
            entries,
            asked: Vec::new(),
        }
    }

    /// The value of a key, where it is written.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entries?
            .get_key_value(key)
            .map(|(_, value)| Value::new(self.problems, self.key(key), value))
    }

    /// The value of a key that must be written.
    pub(super) fn require(&mut self, key: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let what = format!("`{key}` is missing");
            let help = format!("write {example}");
            self.problems.add(self.at.clone(), &*self.path, what, help);
        }
        value
    }

    /// Reads an optional key; what cannot be read counts as the default, after the complaint.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Read<T> {
        match self.get(key) {
            None => Read {
                value: default,
                written: false,
                sound: true,
            },
            Some(value) => {
                let read = read(&value);
                Read {
                    sound: read.is_some(),
                    value: read.unwrap_or(default),
                    written: true,
                }
            }
        }
    }

    /// A table below this one, where a table that was left out has no keys.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        self.get(key)
            .and_then(|value| value.table())
            .unwrap_or_else(|| Self::new(self.problems, self.key(key), 0..0, None))
    }

    /// All keys, in the order of the file, for tables whose keys are names.
    pub(super) fn names(&self) -> Vec<(&'a str, Range<usize>, Value<'a>)> {
        let mut names: Vec<_> = self
            .entries
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                let path = self.key(name.get_ref());
                let value = Value::new(self.problems, path, value);
                (name.get_ref().as_ref(), name.span(), value)
            })
            .collect();
        names.sort_by_key(|(_, at, _)| at.start);
        names
    }

    /// Complains about a key that is there, or, where it is not, about the table.
    pub(super) fn refuse(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let at = self
            .entries
            .and_then(|entries| entries.get(key))
            .map_or_else(|| self.at.clone(), |value| value.span());
        self.problems.add(at, self.key(key), what, help);
    }

    /// Refuses every key that was never asked for.
    pub(super) fn finish(mut self) {
        self.asked.sort_unstable();
        for (name, at, _) in self.names() {
            if self.asked.contains(&name) {
                continue;
            }
            let allowed = format!("allowed: {}", self.asked.join(", "));
            let help = match closest(name, &self.asked) {
                Some(meant) => format!("did you mean `{meant}`? {allowed}"),
                None => allowed,
            };
            self.problems.add(at, self.key(name), "unknown key", help);
        }
    }

    /// The dotted path of a key of this table.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

/// Appends a key to a dotted path, quoted where TOML would want it quoted.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let shown: String = printable(key).chars().take(80).collect();
    match (path, bare) {
        ("", true) => shown,
        ("", false) => format!("\"{shown}\""),
        (path, true) => format!("{path}.{shown}"),
        (path, false) => format!("{path}.\"{shown}\""),
    }
}

/// What the writer may have meant by `written`, if anything is near enough.
pub(super) fn closest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    // Beyond this no name is near, and the distance is quadratic.
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

/// The kind of a TOML value, in words that fit after "found".
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", super::problem::quoted(text)),
        DeValue::Integer(number) => format!("the integer {}", clipped(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", clipped(&number.to_string())),
        DeValue::Boolean(value) => format!("the boolean {value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_recognised_and_a_far_one_is_not() {
        let names = ["interval", "timeout", "up_after", "down_after", "check"];
        assert_eq!(closest("intervall", &names), Some("interval"));
        assert_eq!(closest("Interval", &names), Some("interval"));
        assert_eq!(closest("up-after", &names), Some("up_after"));
        assert_eq!(closest("tiemout", &names), Some("timeout"));
        assert_eq!(closest("colour", &names), None);
        assert_eq!(closest("", &names), None);
        assert_eq!(closest(&"x".repeat(1_000_000), &names), None);
    }

    #[test]
    fn a_key_that_is_not_bare_is_quoted_in_the_path() {
        assert_eq!(join("", "tasks"), "tasks");
        assert_eq!(join("tasks", "a.b"), "tasks.\"a.b\"");
        assert_eq!(join("tasks", ""), "tasks.\"\"");
        assert_eq!(join("tasks", "a\u{1b}b"), "tasks.\"a\u{fffd}b\"");
    }
}
