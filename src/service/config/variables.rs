//! Environment variables in the configuration: `${NAME}`, and `${NAME:-default}` for one that may be
//! unset or empty.
//!
//! They are replaced in every string of the document before it is read, keys excepted. `$${` stands for
//! `${` itself, as a script for a shell may need it. A `$` without a brace is no variable.

use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, quoted};

/// A text that cannot be replaced: the problem, and how to fix it.
type Fault = (String, String);

/// Returns the value of a variable; `None` if it is not set.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Replaces the variables in all strings, and adds a problem for each one that cannot be.
pub(super) fn replace(table: &mut DeTable<'_>, problems: &Problems, variable: Variable<'_>) {
    in_table(table, "", problems, variable);
}

fn in_table(table: &mut DeTable<'_>, path: &str, problems: &Problems, variable: Variable<'_>) {
    for (key, value) in table.iter_mut() {
        let path = match path {
            "" => key.get_ref().to_string(),
            path => format!("{path}.{}", key.get_ref()),
        };
        in_value(value, &path, problems, variable);
    }
}

fn in_value(
    value: &mut Spanned<DeValue<'_>>,
    path: &str,
    problems: &Problems,
    variable: Variable<'_>,
) {
    let at = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => match replaced(text, variable) {
            Ok(whole) => *text = whole.into(),
            Err((what, help)) => problems.add(at, path, what, help),
        },
        DeValue::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                in_value(value, &format!("{path}[{index}]"), problems, variable);
            }
        }
        DeValue::Table(table) => in_table(table, path, problems, variable),
        _ => {}
    }
}

/// Returns the text with its variables replaced. The values are not searched for variables.
fn replaced(text: &str, variable: Variable<'_>) -> Result<String, Fault> {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            whole.push_str(before);
            whole.push_str("${");
            rest = after;
            continue;
        }
        whole.push_str(before);
        let Some(end) = after.find('}') else {
            return Err((
                "`${` has no closing brace".to_owned(),
                "allowed: ${NAME} and ${NAME:-default}; for the text itself, write $${".to_owned(),
            ));
        };
        whole.push_str(&value_of(&after[..end], variable)?);
        rest = &after[end + 1..];
    }
    whole.push_str(rest);
    Ok(whole)
}

/// Returns the value of the variable between the braces.
fn value_of(inner: &str, variable: Variable<'_>) -> Result<String, Fault> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let mut bytes = name.bytes();
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name = bytes.next().is_some_and(is_first)
        && bytes.all(|byte| is_first(byte) || byte.is_ascii_digit());
    if !is_name {
        return Err((
            format!("{} is not a variable", quoted(&format!("${{{inner}}}"))),
            "allowed: ${NAME} and ${NAME:-default}; for the text itself, write $${".to_owned(),
        ));
    }
    let value = variable(name).map(OsString::into_string).transpose();
    let value = value.map_err(|_| {
        (
            format!("the value of the environment variable {name} is not UTF-8"),
            "set it to a text in UTF-8".to_owned(),
        )
    })?;
    match (value, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable {name} is not set"),
            format!(
                "set it, or write ${{{name}:-default}}; for the text itself, write $${{{name}}}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    fn shown(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "HOST" => Some("db".into()),
            "EMPTY" => Some(OsString::new()),
            "NESTED" => Some("${HOST}".into()),
            "LATIN" => Some(OsString::from_vec(b"caf\xe9".to_vec())),
            _ => None,
        };
        replaced(text, &variable).map_err(|(what, _)| what)
    }

    #[test]
    fn variables_are_replaced_with_their_values_or_defaults() {
        for (text, expected) in [
            ("${HOST}:${PORT:-5432}", "db:5432"),
            ("${HOST:-other}", "db"),
            ("<${EMPTY}> <${EMPTY:-none}> <${UNSET:-}>", "<> <none> <>"),
            ("${NESTED}", "${HOST}"),
            ("echo $$ $HOST $${HOST}", "echo $$ $HOST ${HOST}"),
            ("${UNSET:-a:-b}", "a:-b"),
            ("ä$", "ä$"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_or_not_a_name_is_a_problem() {
        let fault = |text| shown(text).expect_err("it cannot be replaced");
        assert_eq!(fault("${PORT}"), "the environment variable PORT is not set");
        // It was said not to be set.
        let latin = "the value of the environment variable LATIN is not UTF-8";
        assert_eq!(fault("${LATIN:-x}"), latin);
        assert_eq!(fault("${x%y}"), "\"${x%y}\" is not a variable");
        assert_eq!(fault("${}"), "\"${}\" is not a variable");
        assert_eq!(fault("${HOST"), "`${` has no closing brace");
    }
}
