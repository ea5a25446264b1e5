//! Section `threads`: which threads of other libraries are expected.

use crate::threads::ThreadRule;

use super::reader::Table;
use super::value::Value;

const EXAMPLE: &str = "[[threads.expected]] with name = \"pool-*\" and reason = \"…\"";
const LONGEST: usize = 200;
/// Each unknown thread is held against every rule.
const MOST: usize = 100;

pub(super) fn read(mut table: Table<'_>) -> Vec<ThreadRule> {
    let rules = table.or("expected", Vec::new(), |value| {
        let rules = value.list(EXAMPLE)?;
        if rules.len() > MOST {
            return value.refuse(
                format!("holds {} rules", rules.len()),
                format!("allowed: up to {MOST}"),
            );
        }
        Some(rules.iter().filter_map(rule).collect())
    });
    table.finish();
    rules.value
}

fn rule(value: &Value<'_>) -> Option<ThreadRule> {
    let mut table = value.table_like(EXAMPLE)?;
    let name = table.get("name");
    let function = table.get("function");
    let reason = table.require("reason", "reason = \"the pool has no end\"");
    let reason = reason.and_then(|value| line(&value, "reason = \"the pool has no end\""));
    let rule = match (name, function) {
        (Some(name), None) => pattern(&name)
            .zip(reason)
            .map(|(pattern, reason)| ThreadRule::named(pattern, reason)),
        (None, Some(function)) => line(&function, "function = \"geo::lookup::\"")
            .zip(reason)
            .map(|(function, reason)| ThreadRule::rooted_in(function, reason)),
        (Some(_), Some(function)) => function.refuse(
            "cannot be there beside `name`",
            "allowed: either; write a rule for each",
        ),
        (None, None) => value.refuse(
            "neither `name` nor `function` is there",
            "write name = \"pool-*\" or function = \"geo::lookup::\"",
        ),
    };
    table.finish();
    rule
}

/// The name of no thread in particular would hide every thread that lingers.
fn pattern<'a>(value: &Value<'a>) -> Option<&'a str> {
    let pattern = line(value, "name = \"pool-*\"")?;
    if pattern.chars().all(|c| c == '*') {
        return value.refuse(
            "fits every thread",
            "allowed: a name with * for any text, as in \"pool-*\"",
        );
    }
    Some(pattern)
}

/// One line of text that a terminal can show.
fn line<'a>(value: &Value<'a>, example: &str) -> Option<&'a str> {
    let text = value.filled(example)?;
    if text.chars().any(char::is_control) {
        return value.refuse("holds a control character", "allowed: one line of text");
    }
    let length = text.chars().count();
    if length > LONGEST {
        return value.refuse(
            format!("is {length} characters long"),
            format!("allowed: 1 to {LONGEST}"),
        );
    }
    Some(text)
}
