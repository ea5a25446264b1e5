//! Tables of the document, and the reading of their keys.
//!
//! A reader continues after a problem, so that all problems are reported. A [`Table`] records the
//! keys that it was asked for. [`Table::finish`] reports all other keys as unknown, so the list of
//! allowed keys in that message always matches the keys that are read. Values are converted in
//! `value`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::{Problems, closest};
use super::value::Value;
use crate::text::plain;

/// A table of the document.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) problems: &'a Problems,
    /// The dotted path of the table; empty for the root.
    pub(super) path: String,
    /// The byte range in the text at which a missing key is reported.
    pub(super) at: Range<usize>,
    /// `None` for a section that is not in the file: all of its keys have their defaults.
    entries: Option<&'a DeTable<'a>>,
    /// The keys that were read so far, each once.
    asked: Vec<&'static str>,
}

/// The result of reading an optional key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read<T> {
    /// The value; the default if the key is absent or its value was refused.
    pub(super) value: T,
    /// True if the file contains the key.
    pub(super) written: bool,
    /// False if a value was refused, so that `value` is not what the author of the file intended.
    /// Comparing it with other values could then report a problem that does not exist.
    pub(super) sound: bool,
}

// === impl Table ===

impl<'a> Table<'a> {
    /// Returns the root table of the document. A missing key is reported at the start of the text.
    pub(super) fn root(problems: &'a Problems, entries: &'a DeTable<'a>) -> Self {
        Self::new(problems, String::new(), 0..0, Some(entries))
    }

    /// Returns a table; `entries` is `None` if it is not in the file.
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

    /// Returns the value of a key, if it is set, and marks the key as known.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entries?
            .get_key_value(key)
            .map(|(_, value)| Value::new(self.problems, self.key(key), value))
    }

    /// Returns the value of a required key. Reports a problem if it is missing.
    pub(super) fn require(&mut self, key: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let what = format!("`{key}` is missing");
            let help = format!("write {example}");
            self.problems.add(self.at.clone(), &*self.path, what, help);
        }
        value
    }

    /// Reads an optional key with `read`, which reports a problem if it returns `None`.
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

    /// Returns a table below this one. If it is absent, it has no keys.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        self.get(key)
            .and_then(|value| value.table())
            .unwrap_or_else(|| Self::new(self.problems, self.key(key), 0..0, None))
    }

    /// Returns all keys with their positions and values, in the order of the file.
    ///
    /// For tables that are keyed by names; the keys are not marked as known.
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

    /// Reports a problem at the value of a key, or at the table if the key is not set.
    pub(super) fn refuse(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        let at = self
            .entries
            .and_then(|entries| entries.get(key))
            .map_or_else(|| self.at.clone(), |value| value.span());
        self.problems.add(at, self.key(key), what, help);
    }

    /// Reports every key that was never read as unknown.
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
            if let Some(value) = self.entries.and_then(|entries| entries.get(name)) {
                self.problems.hide(name, value);
            }
            self.problems.add(at, self.key(name), "unknown key", help);
        }
    }

    /// Returns the dotted path of a key of this table.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    /// Reads a table.
    pub(super) fn table(&self) -> Option<Table<'a>> {
        self.table_like("a table of keys")
    }

    /// Reads a table; the help shows `example`.
    pub(super) fn table_like(&self, example: &str) -> Option<Table<'a>> {
        match self.raw {
            DeValue::Table(table) => Some(Table::new(
                self.problems,
                self.path.clone(),
                self.at.clone(),
                Some(table),
            )),
            _ => self.expected("a table", format!("for example {example}")),
        }
    }

    /// Reads a table that maps names to strings.
    ///
    /// `check` is called with each name and string, and may refuse them with a problem and its help.
    /// Returns `None` if any was refused.
    pub(super) fn texts(
        &self,
        example: &str,
        mut check: impl FnMut(&str, &str) -> Result<(), (String, &'static str)>,
    ) -> Option<BTreeMap<String, String>> {
        let table = self.table_like(example)?;
        let before = self.problems.count();
        let mut texts = BTreeMap::new();
        for (name, at, value) in table.names() {
            let Some(text) = value.text("a quoted value: \"1\"") else {
                continue;
            };
            if let Err((what, help)) = check(name, text) {
                self.problems.add(at, &*value.path, what, help);
            }
            texts.insert(name.to_owned(), text.to_owned());
        }
        (self.problems.count() == before).then_some(texts)
    }
}

/// Appends a key to a dotted path, in quotes if TOML requires them.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let shown: String = plain(key).chars().take(80).collect();
    match (path, bare) {
        ("", true) => shown,
        ("", false) => format!("\"{shown}\""),
        (path, true) => format!("{path}.{shown}"),
        (path, false) => format!("{path}.\"{shown}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_bare_is_quoted_in_the_path() {
        assert_eq!(join("", "tasks"), "tasks");
        assert_eq!(join("tasks", "a.b"), "tasks.\"a.b\"");
        assert_eq!(join("tasks", ""), "tasks.\"\"");
        assert_eq!(join("tasks", "a\u{1b}b"), "tasks.\"a\u{fffd}b\"");
    }
}
