//! Tests of `testing::check`: each leak is planted, and the whole message is asserted.

mod leaks;
mod rules;

use headcount::TaskGroup;
use headcount::testing::Check;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Returns a check with a short grace period for leaks.
fn quick() -> Check {
    Check::new().grace(Duration::from_millis(400))
}

/// Returns the check's message about the test, with ages and ids replaced; empty if it passes.
fn verdict<F>(check: Check, test: F) -> String
where
    F: AsyncFnOnce(TaskGroup) + Send + 'static,
{
    let failed = catch_unwind(AssertUnwindSafe(|| check.run(test)));
    failed.err().map_or_else(String::new, |payload| {
        let text = payload.downcast::<String>().expect("it says what is wrong");
        normal(&text)
    })
}

/// Replaces `age 0.1s`, `(tid 123…)` and what a thread is waiting for, and removes details that
/// need the feature `stacks`.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text
        .lines()
        .filter(|line| !crate::report::is_of_stack(line))
    {
        let line = crate::report::without_awaits(line);
        let mut line = replaced(&line, "age ", |c| c.is_ascii_digit() || c == '.', "N");
        line = replaced(&line, "(tid ", |c: char| c.is_ascii_digit(), "N");
        line = replaced(
            &line,
            "(tid N) for ",
            |c| c.is_ascii_digit() || c == '.',
            "N",
        );
        line = replaced(&line, "child process ", |c: char| c.is_ascii_digit(), "N");
        if line.starts_with("  thread ")
            && let (Some((head, _)), Some((_, tail))) =
                (line.split_once(")  "), line.rsplit_once(", age "))
        {
            line = format!("{head})  waits, age {tail}");
        }
        normal += &line;
        normal.push('\n');
    }
    normal
}

/// Replaces the text following `after` for as long as `part` is true.
fn replaced(line: &str, after: &str, part: impl Fn(char) -> bool, by: &str) -> String {
    line.split_inclusive(after)
        .enumerate()
        .map(|(at, piece)| match at {
            0 => piece.to_owned(),
            _ => match piece.trim_start_matches(&part) {
                rest if rest.len() < piece.len() => format!("{by}{rest}"),
                rest => rest.to_owned(),
            },
        })
        .collect()
}
