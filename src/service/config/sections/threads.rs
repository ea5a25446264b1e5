//! Section `threads`: rules for threads of other libraries that are expected at the end.

use crate::threads::ThreadRule;

use crate::service::config::table::Table;
use crate::service::config::value::Value;

const EXAMPLE: &str = "[[threads.expected]] with name = \"pool-*\" and reason = \"…\"";
/// The maximum length of a pattern, a function path or a reason, in characters.
const LONGEST: usize = 200;
/// The maximum number of rules. Each unknown thread is compared with every rule.
const MOST: usize = 100;

/// Reads the section. Rules that could not be read are left out.
pub(in crate::service::config) fn read(mut table: Table<'_>) -> Vec<ThreadRule> {
    let rules = table.or("expected", Vec::new(), |value| {
        let rules = value.list_up_to(MOST, "rules", EXAMPLE)?;
        Some(rules.iter().filter_map(rule).collect())
    });
    table.finish();
    rules.value
}

/// Reads a rule: a reason, and exactly one of `name` and `function`.
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
            "cannot be combined with `name`",
            "write a separate rule for each",
        ),
        (None, None) => value.refuse(
            "needs either `name` or `function`",
            "write name = \"pool-*\" or function = \"geo::lookup::\"",
        ),
    };
    table.finish();
    rule
}

/// Reads a pattern for thread names. One of only `*` is refused: it would hide all lingering threads.
fn pattern<'a>(value: &Value<'a>) -> Option<&'a str> {
    let pattern = line(value, "name = \"pool-*\"")?;
    if pattern.chars().all(|c| c == '*') {
        return value.refuse(
            "matches every thread",
            "allowed: a name in which * matches any text, for example \"pool-*\"",
        );
    }
    Some(pattern)
}

/// Reads one line of text without control characters, since the report prints it to a terminal.
fn line<'a>(value: &Value<'a>, example: &str) -> Option<&'a str> {
    let text = value.filled(example)?;
    if text.chars().any(char::is_control) {
        return value.refuse("contains a control character", "allowed: one line of text");
    }
    let length = text.chars().count();
    if length > LONGEST {
        return value.refuse(
            format!("is {length} characters long"),
            format!("allowed: 1 to {LONGEST} characters"),
        );
    }
    Some(text)
}
