//! The lines of a stack, in reports, in dumps and in what a failed test says.
//!
//! They are for people: from the call that the thread is in, as its own code made it, to the task or the function that
//! the thread was started with. The data has every frame.

use super::Frame;
use std::fmt::Write;

/// The most frames that are shown.
const SHOWN: usize = 12;
/// The most characters of a function: what it is generic over may be of any length.
const FUNCTION: usize = 100;
/// The most of those that are addresses, in one line.
const ADDRESSES: usize = 32;

/// A frame a line, the innermost first, then what the stack is not, or why there is none.
pub(crate) fn lines(stack: &[Frame], note: Option<&str>, none: Option<&str>) -> Vec<String> {
    let mut lines = if stack.iter().any(is_address) {
        vec![addresses(stack)]
    } else {
        functions(stack)
    };
    lines.extend(note.map(|note| format!("(this stack is {note})")));
    lines.extend(none.map(|why| format!("(no stack: {why})")));
    lines
}

fn functions(stack: &[Frame]) -> Vec<String> {
    // How a library waits is no news; what was called of it is.
    let inside = stack.iter().take_while(|frame| is_library(frame)).count();
    let first = if inside < stack.len() {
        inside.saturating_sub(1)
    } else {
        0
    };
    let stack = &stack[first..];
    let task = stack.iter().position(Frame::is_of_task);
    let own = &stack[..task.unwrap_or(stack.len())];
    // What calls a task is what calls every task.
    let around = own
        .iter()
        .rev()
        .take_while(|frame| is_library(frame))
        .count();
    let own = match task {
        Some(_) if around < own.len() => &own[..own.len() - around],
        _ => own,
    };
    let mut lines = Vec::new();
    let mut next = 0;
    for at in shown(own) {
        if at > next {
            lines.push(format!("… {} more, of libraries", at - next));
        }
        lines.push(format!("{at} {}", short(&stack[at])));
        next = at + 1;
    }
    let more = stack.len() - next;
    match &stack[next..] {
        [] => {}
        // It takes a line either way.
        [last] => lines.push(format!("{next} {}", short(last))),
        _ if task.is_some() => lines.push(format!("… {more} more, of the runtime")),
        [.., last] => lines.push(format!("… {more} more, down to {}", short(last))),
    }
    lines
}

/// The innermost frames; and where they are all of libraries, those of the program that called them.
fn shown(own: &[Frame]) -> Vec<usize> {
    let first = own.len().min(SHOWN);
    let outside = (first..own.len()).any(|at| is_of_program(&own[at]));
    if !outside || own[..first].iter().any(is_of_program) {
        return (0..first).collect();
    }
    let program = (first..own.len()).filter(|at| is_of_program(&own[*at]));
    let half = SHOWN / 2;
    (0..half).chain(program.take(half)).collect()
}

/// Neither of the standard library nor of a package with a version.
fn is_of_program(frame: &Frame) -> bool {
    let package = frame.file.as_deref().and_then(|file| file.split_once('/'));
    let version = package.and_then(|(name, _)| name.rsplit_once('-'));
    let has_version =
        version.is_some_and(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()));
    !is_library(frame) && !has_version
}

fn short(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if let Some((end, _)) = frame.function.char_indices().nth(FUNCTION) {
        frame.function.truncate(end);
        frame.function.push('…');
    }
    frame
}

/// As addr2line(1) takes them.
fn addresses(stack: &[Frame]) -> String {
    let place = |frame: &Frame| frame.file.as_ref().unwrap_or(&frame.function).clone();
    let mut places: Vec<_> = stack.iter().take(ADDRESSES).map(place).collect();
    if stack.len() > ADDRESSES {
        places.push(format!("{} more", stack.len() - ADDRESSES));
    }
    format!("at {}", places.join(" ← "))
}

fn is_address(frame: &Frame) -> bool {
    frame.line.is_none() && frame.function.starts_with("0x")
}

/// The same in one text, below a line.
pub(crate) fn below(stack: &[Frame], note: Option<&str>, none: Option<&str>) -> String {
    let mut text = String::new();
    for line in lines(stack, note, none) {
        write!(text, "\n      {line}").expect("a String takes any text");
    }
    text
}

/// Of the standard library, of the C library, whose files have no folder of their own, or of what locks are made of.
fn is_library(frame: &Frame) -> bool {
    const FILES: [&str; 6] = [
        "std/src/",
        "core/src/",
        "alloc/src/",
        "./",
        "../",
        "parking_lot",
    ];
    match &frame.file {
        Some(file) => FILES.iter().any(|start| file.starts_with(start)),
        None => true,
    }
}
