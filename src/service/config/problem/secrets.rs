//! The parts of a configuration that no message repeats: values below `env`, `headers` and `password`, those of
//! unknown keys that may be meant as these, and user info in URLs.
//!
//! A message shows the line that it is about, so it could show a password that stands on that line.
//! If the file is valid TOML, the values are found in the document. If it is not, the document is a
//! guess, and the values are found by their look; then rather too much is hidden. A document with a
//! duplicate key lacks one of its values, so both ways are used.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::closest;
use crate::text::user_info;

/// The keys of a task whose values, and the values below, are secret.
const SECRET: [&str; 3] = ["env", "headers", "password"];

/// Returns the byte ranges of everything secret in the text of a file. `document` is `None` if it
/// was not read without a guess. `is_whole` is false if it lacks a value, because a key is defined
/// twice.
pub(in crate::service::config) fn find(
    text: &str,
    document: Option<&DeTable<'_>>,
    is_whole: bool,
) -> Vec<Range<usize>> {
    let mut found = user_info(text);
    if document.is_none() || !is_whole {
        by_look(text, &mut found);
    }
    if let Some(document) = document {
        let tasks = document.get("tasks");
        let tasks = tasks.and_then(|tasks| tasks.get_ref().as_table());
        for (_, task) in tasks.into_iter().flatten() {
            below(task, false, &mut found);
        }
    }
    found
}

/// Returns true if the value with this dotted path is secret, as in `tasks.web.env.PASSWORD`.
pub(in crate::service::config) fn is_path(path: &str) -> bool {
    let mut parts = path.split('.');
    // The name of a task may be one of these words.
    parts.next() == Some("tasks")
        && parts
            .skip(1)
            .any(|part| SECRET.contains(&part.trim_matches('"')))
}

/// Adds the values of a key that is unknown, if it may be meant as one of those that are secret: they
/// are tables or lists of text, and it may be a misspelt name of one.
pub(in crate::service::config) fn of_unknown(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    found: &mut Vec<Range<usize>>,
) {
    let is_alike = match value.get_ref() {
        DeValue::Table(_) => true,
        DeValue::Array(values) => values.iter().any(|value| value.get_ref().is_str()),
        _ => false,
    };
    below(value, is_alike || closest(key, &SECRET).is_some(), found);
}

/// Adds the secret values in `value`: all of them if it is itself one.
fn below(value: &Spanned<DeValue<'_>>, is_secret: bool, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                let is_secret = is_secret || SECRET.contains(&&**key.get_ref());
                below(value, is_secret, found);
            }
        }
        _ if is_secret => found.push(value.span()),
        DeValue::Array(values) => {
            for value in values.iter() {
                below(value, false, found);
            }
        }
        _ => {}
    }
}

/// Adds what follows the words in a text that is not valid TOML: `env = …`, `env.NAME = …`, and the
/// lines below `[….env]`.
fn by_look(text: &str, found: &mut Vec<Range<usize>>) {
    for word in SECRET {
        for (at, _) in text.match_indices(word) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
            let after = &text[at + word.len()..];
            if text[..at].ends_with(is_part) || after.starts_with(is_part) {
                continue;
            }
            let line = after.find('\n').unwrap_or(after.len());
            let begin = match after[..line].find(['=', ']']) {
                Some(begin) => at + word.len() + begin + 1,
                None => continue,
            };
            found.push(begin..begin + length(&text[begin..], text[..begin].ends_with(']')));
        }
    }
}

/// Returns the length of what is hidden at the start of `text`: up to the next header of a table if
/// this `is_section`, else the value, which is an inline table or the rest of the line.
fn length(text: &str, is_section: bool) -> usize {
    if is_section {
        return text.find("\n[").unwrap_or(text.len());
    }
    let line = text.find('\n').unwrap_or(text.len());
    if !text.trim_start().starts_with('{') {
        return line;
    }
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 1 => return at,
            (None, '}') => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text with stars in place of what is hidden.
    fn hidden(text: &str, document: Option<&DeTable<'_>>, is_whole: bool) -> String {
        let found = find(text, document, is_whole);
        let star = |(at, c)| match c {
            '\n' => '\n',
            _ if found.iter().any(|secret| secret.contains(&at)) => '*',
            c => c,
        };
        text.char_indices().map(star).collect()
    }

    /// Returns a text with stars, after checking that its document has this number of errors.
    #[track_caller]
    fn hidden_in_document(text: &str, errors: usize) -> String {
        let (document, found) = DeTable::parse_recoverable(text);
        assert_eq!(found.len(), errors);
        hidden(text, Some(document.get_ref()), errors == 0)
    }

    #[test]
    fn values_below_env_and_headers_are_found_in_a_document() {
        let text = "[tasks.env]\ncommand = [\"http://u:p@h\"]\nenv = { A = \"b\", C = 5 }\n\
                    check = { http = \"x\", headers = { D = \"e\" } }\n[tasks.b]\nenv.F = \"g\"\n[tasks.b.headers]\nH = \"i\"\n";
        assert_eq!(
            hidden_in_document(text, 0),
            "[tasks.env]\ncommand = [\"http://***@h\"]\nenv = { A = ***, C = * }\n\
             check = { http = \"x\", headers = { D = *** } }\n[tasks.b]\nenv.F = ***\n[tasks.b.headers]\nH = ***\n"
        );
    }

    #[test]
    fn values_in_an_array_of_tables_are_found() {
        let text = "[tasks.web]\ncheck = [{ http = \"x\", headers = { A = \"b\" } }]\n";
        assert_eq!(
            hidden_in_document(text, 0),
            "[tasks.web]\ncheck = [{ http = \"x\", headers = { A = *** } }]\n"
        );
    }

    #[test]
    fn both_values_of_a_duplicate_key_are_found() {
        let text = "[tasks.web]\nenv.A = \"b\"\nenv.A = \"c\"\nx = 1\n";
        assert_eq!(
            hidden_in_document(text, 1),
            "[tasks.web]\nenv.A =****\nenv.A =****\nx = 1\n"
        );
    }

    #[test]
    fn without_a_document_too_much_is_hidden_rather_than_too_little() {
        for (text, shown) in [
            ("env = { A = \"}b\" }, x = 1", "env =************}, x = 1"),
            (
                "check = { headers = { A = \"b",
                "check = { headers =*********",
            ),
            ("env.A = \"b\"\nx = 1", "env.A =****\nx = 1"),
            (
                "[a.env]\nA = \"b\"\n[c]\nd = 1",
                "[a.env]\n*******\n[c]\nd = 1",
            ),
            ("environment = 1\nmy_env = 2", "environment = 1\nmy_env = 2"),
        ] {
            assert_eq!(hidden(text, None, false), shown);
        }
    }

    #[test]
    fn a_task_may_be_named_as_a_secret_key() {
        assert!(is_path("tasks.web.env.A"));
        assert!(is_path("tasks.web.check.headers"));
        assert!(!is_path("tasks.env.command"));
        assert!(!is_path("headers"));
    }
}
