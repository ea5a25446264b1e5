//! The lines of a stack, in reports, in dumps and in what a failed test says.

use super::Frame;
use std::fmt::Write;

/// The most frames that are shown; the data holds more.
const SHOWN: usize = 12;
/// The last of them are the outermost: they tell what the thread was started with.
const OUTERMOST: usize = 2;

/// A frame a line, the innermost first, then what the stack is not, or why there is none.
pub(crate) fn lines(stack: &[Frame], note: Option<&str>, none: Option<&str>) -> Vec<String> {
    let hidden = match stack.len() {
        0..=SHOWN => 0..0,
        all => SHOWN - OUTERMOST..all - OUTERMOST,
    };
    let mut lines = Vec::new();
    for (at, frame) in stack.iter().enumerate() {
        if at == hidden.start && !hidden.is_empty() {
            lines.push(format!("… {} more", hidden.len()));
        }
        if !hidden.contains(&at) {
            lines.push(format!("{at} {frame}"));
        }
    }
    lines.extend(note.map(|note| format!("(this stack is {note})")));
    lines.extend(none.map(|why| format!("(no stack: {why})")));
    lines
}

/// The same in one text, below a line.
pub(crate) fn below(stack: &[Frame], note: Option<&str>, none: Option<&str>) -> String {
    let mut text = String::new();
    for line in lines(stack, note, none) {
        write!(text, "\n      {line}").expect("a String takes any text");
    }
    text
}
