//! Functions for addresses, and which of them say something.

use super::Stack;
use crate::audit::frame::{self, Frame};

/// Where a thread of ours, or of the standard library, begins with what it was started with.
const BEGINS: [&str; 2] = ["__headcount_begin", "__rust_begin_short_backtrace"];
/// Where threads begin that somebody else started.
const STARTS: [&str; 7] = [
    "clone",
    "__clone",
    "clone3",
    "__clone3",
    "start_thread",
    "thread_start",
    "_start",
];
/// Calls of closures, and what catches a panic.
const PLUMBING: [&str; 5] = [
    "core/src/ops/function.rs",
    "core/src/panic/unwind_safe.rs",
    "alloc/src/boxed.rs",
    "std/src/panicking.rs",
    "std/src/panic.rs",
];

pub(super) fn frames(stack: &Stack) -> Vec<Frame> {
    let address = |(index, address): (usize, &usize)| match index {
        // Names are looked up for the instruction before a return address; this one is no return address.
        0 => address + 1,
        _ => *address,
    };
    let addresses = stack.addresses.iter().enumerate().map(address);
    let mut frames: Vec<Frame> = addresses.flat_map(frame::resolve).collect();
    for frame in &mut frames {
        frame.function = with_plain_closures(&frame.function);
    }
    frames
}

pub(super) fn folded(mut frames: Vec<Frame>) -> Vec<Frame> {
    let begins = BEGINS.iter().find_map(|begins| {
        frames
            .iter()
            .rposition(|frame| frame.function.contains(begins))
    });
    match begins {
        Some(begins) => frames.truncate(begins),
        None => {
            while frames.len() > 1 && frames.last().is_some_and(is_start) {
                frames.pop();
            }
        }
    }
    while frames.len() > 1 && frames.last().is_some_and(is_plumbing) {
        frames.pop();
    }
    frames
}

fn is_start(frame: &Frame) -> bool {
    STARTS.contains(&frame.function.as_str())
}

fn is_plumbing(frame: &Frame) -> bool {
    let file = frame.file.as_deref().unwrap_or("");
    PLUMBING.contains(&file) || frame.function == "__rust_try"
}

/// The compiler's `{{closure}}` and `{closure#0}` as `{closure}`: file and line tell them apart.
fn with_plain_closures(function: &str) -> String {
    let function = function.replace("{{closure}}", "{closure}");
    let mut plain = String::with_capacity(function.len());
    let mut rest = function.as_str();
    while let Some((before, after)) = rest.split_once("{closure#") {
        plain += before;
        plain += "{closure}";
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    plain + rest
}
