//! Reads one TOML value as the thing that a key asks for: a text, a duration, a number, a choice.
//!
//! Each reader complains once, with what is allowed, and then says `None`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::{Problems, quoted};
use super::reader::{Table, closest, found};

/// A day, the upper bound of everything that recurs or waits: beyond it, a typing error is likelier.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A value of the document.
#[derive(Debug)]
pub(super) struct Value<'a> {
    problems: &'a Problems,
    pub(super) path: String,
    pub(super) at: Range<usize>,
    raw: &'a DeValue<'a>,
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

    pub(super) fn complain(&self, what: impl Into<String>, help: impl Into<String>) {
        self.problems.add(self.at.clone(), &*self.path, what, help);
    }

    /// Complains about this value; the result is `None` of whatever was asked.
    pub(super) fn refuse<T>(&self, what: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.complain(what, help);
        None
    }

    fn expected<T>(&self, kind: &str, help: impl Into<String>) -> Option<T> {
        self.refuse(format!("expected {kind}, found {}", found(self.raw)), help)
    }

    /// The string, if this is one, without a complaint if it is not.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.raw.as_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.raw.is_table()
    }

    /// A string that the operating system takes: it holds no NUL.
    pub(super) fn text(&self, example: &str) -> Option<&'a str> {
        match self.raw {
            DeValue::String(text) if text.contains('\0') => self.refuse(
                "holds a NUL character",
                "a NUL ends a text of the operating system: leave it out",
            ),
            DeValue::String(text) => Some(text),
            _ => self.expected("a string", format!("for example {example}")),
        }
    }

    /// A string with something in it.
    pub(super) fn filled(&self, example: &str) -> Option<&'a str> {
        let text = self.text(example)?;
        if text.trim().is_empty() {
            return self.refuse("is empty", format!("for example {example}"));
        }
        Some(text)
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.raw {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("a boolean", "allowed: true, false"),
        }
    }

    pub(super) fn whole<T>(&self, allowed: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        self.whole_or(allowed, "")
    }

    /// A number where something else would do too, which `or` adds to the help.
    pub(super) fn whole_or<T>(&self, allowed: RangeInclusive<T>, or: &str) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        let help = format!("allowed: {} to {}{or}", allowed.start(), allowed.end());
        let DeValue::Integer(number) = self.raw else {
            return self.expected("an integer", help);
        };
        // A number beyond i64 is beyond every range that is asked for here.
        let value = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| allowed.contains(number));
        match value {
            Some(value) => Some(value),
            None => self.refuse(format!("{number} is out of range"), help),
        }
    }

    pub(super) fn number(&self, allowed: RangeInclusive<f64>) -> Option<f64> {
        self.number_or(allowed, "")
    }

    /// A number where something else would do too, which `or` adds to the help.
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
            None => self.refuse(format!("{} is out of range", found(self.raw)), help),
        }
    }

    pub(super) fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        self.duration_or(allowed, "")
    }

    /// The same; the caller takes what else is allowed, which the help names.
    pub(super) fn duration_or(
        &self,
        allowed: RangeInclusive<Duration>,
        also: &str,
    ) -> Option<Duration> {
        let help = format!(
            "allowed: {} to {}, as in \"500ms\", \"5s\" or \"1m30s\"{also}",
            shown(*allowed.start()),
            shown(*allowed.end())
        );
        let text = match self.raw {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let what = format!(
                    "expected a duration, found {} without a unit",
                    found(self.raw)
                );
                return self.refuse(what, format!("seconds would be \"{number}s\"; {help}"));
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

    /// One of a few words.
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
        self.refuse(format!("{} is not known", quoted(text)), help)
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        self.table_like("a table of keys")
    }

    /// A table, where the help shows what it looks like.
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

    /// A table of names and strings, each of which `check` may refuse; `None` if any was refused.
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

/// A duration as the file would hold it.
pub(super) fn shown(duration: Duration) -> String {
    if duration == DAY {
        "24h".to_owned()
    } else {
        humantime::format_duration(duration)
            .to_string()
            .replace(' ', "")
    }
}
