//! The lines of a stack in reports, dumps and the messages of failed tests.
//!
//! They are for readers, so most frames are left out: what is shown begins at the call that the
//! thread's own code made and ends at the task, or at the function that the thread was started
//! with. The data ([`super::ThreadRow::stack`]) has every frame.

use super::Frame;
use crate::registry::tracked::holds_task;
use std::fmt::Write;

/// The most frames that are shown of a symbolized stack.
const SHOWN: usize = 12;
/// The most characters of a function's name, which with generic arguments may have any length.
const FUNCTION: usize = 100;
/// The most addresses that are shown of a stack that was not symbolized, in one line.
const ADDRESSES: usize = 32;

/// Returns one line per frame, the innermost first, then the limits of the stack (`note`) or the
/// reason why there is none (`none`).
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

/// Returns the lines of a symbolized stack.
fn functions(stack: &[Frame]) -> Vec<String> {
    // The inner frames of the standard library only show how it waits. The outermost of them is
    // kept: that is the function which the program called.
    let inside = stack.iter().take_while(|frame| is_library(frame)).count();
    let first = if inside < stack.len() {
        inside.saturating_sub(1)
    } else {
        0
    };
    let stack = &stack[first..];
    let task = stack.iter().position(holds_task);
    let own = &stack[..task.unwrap_or(stack.len())];
    // The frames around a task are the same for every task.
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
            lines.push(format!("… {} more, in libraries", at - next));
        }
        lines.push(format!("{at} {}", short(&stack[at])));
        next = at + 1;
    }
    let more = stack.len() - next;
    match &stack[next..] {
        [] => {}
        // The frame takes one line, as its number would.
        [last] => lines.push(format!("{next} {}", short(last))),
        _ if task.is_some() => lines.push(format!("… {more} more, in the runtime")),
        [.., last] => lines.push(format!("… {more} more, down to {}", short(last))),
    }
    lines
}

/// Returns the indices of the frames to show: the innermost ones. If those are all of libraries,
/// half of the lines go to the frames of the program that called them.
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

/// Returns the frames inside the task that the stack holds, or inside the thread's function. They
/// begin at the innermost frame.
pub(super) fn of_task(stack: &[Frame]) -> &[Frame] {
    if stack.iter().any(is_address) {
        return &[];
    }
    let task = stack.iter().position(holds_task);
    &stack[..task.unwrap_or(stack.len())]
}

/// Returns whether the frame is of the program: neither of the standard library nor of a package
/// with a version.
pub(super) fn is_of_program(frame: &Frame) -> bool {
    let package = frame.file.as_deref().and_then(|file| file.split_once('/'));
    let version = package.and_then(|(name, _)| name.rsplit_once('-'));
    let has_version =
        version.is_some_and(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()));
    !is_library(frame) && !has_version
}

/// Cuts the name of the function to [`FUNCTION`] characters.
fn short(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if let Some((end, _)) = frame.function.char_indices().nth(FUNCTION) {
        frame.function.truncate(end);
        frame.function.push('…');
    }
    frame
}

/// Returns the line of a stack that was not symbolized, with addresses as addr2line(1) takes them.
fn addresses(stack: &[Frame]) -> String {
    let place = |frame: &Frame| frame.file.as_ref().unwrap_or(&frame.function).clone();
    let mut places: Vec<_> = stack.iter().take(ADDRESSES).map(place).collect();
    if stack.len() > ADDRESSES {
        places.push(format!("{} more", stack.len() - ADDRESSES));
    }
    format!("at {}", places.join(" ← "))
}

/// Returns whether the frame is an address that was not symbolized.
pub(super) fn is_address(frame: &Frame) -> bool {
    frame.line.is_none() && frame.function.starts_with("0x")
}

/// Gives the task's own function the type of its future, if the debug information has no path for
/// it: `orders::import` instead of `async fn`. It is the outermost function of the program, within
/// the functions that poll a task.
pub(crate) fn name_root(frames: &mut [Frame], future: &str) {
    const PATHLESS: [&str; 4] = ["async ", "closure", "{async_", "{closure}"];
    let task = frames.iter().position(holds_task).unwrap_or(frames.len());
    let root = frames[..task]
        .iter_mut()
        .rev()
        .find(|frame| is_of_program(frame));
    if let Some(root) = root
        && PATHLESS
            .iter()
            .any(|start| root.function.starts_with(start))
        && future.contains("::")
        && !future.starts_with("dyn ")
    {
        future.clone_into(&mut root.function);
    }
}

/// Returns [`lines`] as one text to append to a line, each on a new, indented line.
pub(crate) fn below(stack: &[Frame], note: Option<&str>, none: Option<&str>) -> String {
    let mut text = String::new();
    for line in lines(stack, note, none) {
        write!(text, "\n      {line}").expect("a String takes any text");
    }
    text
}

/// Returns whether the frame is of the standard library, of libc, or of parking_lot. The files of
/// libc have relative paths.
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
