//! `testing::check`: each leak is planted, and the whole message asserted.

mod leaks;
mod rules;

use headcount::TaskGroup;
use headcount::testing::Check;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A check that does not wait long for what was left behind.
fn quick() -> Check {
    Check::new().grace(Duration::from_millis(400))
}

/// What the check says of the test, with ages and ids replaced; empty when it passes.
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

/// Replaces `age 0.1s`, `(tid 123…)` and what a thread waits for at the moment, and leaves out what is there with the
/// feature `stacks` alone.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text
        .lines()
        .filter(|line| !crate::report::is_of_stack(line))
    {
        let line = line.split(", awaiting ").next().expect("a part");
        let mut line = replaced(line, "age ", |c| c.is_ascii_digit() || c == '.', "N");
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

/// Replaces what follows `after` as long as `part` holds.
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
