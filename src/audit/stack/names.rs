//! Functions for addresses, and which of them say something.

use super::Stack;
use crate::audit::frame::{self, Frame};
use crate::audit::kept::CALLS;

/// Where a thread of ours begins with what it was started with, and one of the standard library.
const OURS: &str = "__headcount_begin";
const RUST: &str = "__rust_begin_short_backtrace";
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
/// How far before an instruction without a line one with a line is looked for, in bytes.
const NEAR: usize = 32;
pub(super) fn frames(stack: &Stack) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (index, address) in stack.addresses.iter().enumerate() {
        // Names are looked up for the instruction before a return address; the first one is no return address.
        let address = if index == 0 { address + 1 } else { *address };
        frames.extend(CALLS.frames(address, look_up));
    }
    frames
}

/// Gives back what the debug information took, and keeps the names.
pub(super) fn give_back() {
    #[cfg(feature = "stacks")]
    backtrace::clear_symbol_cache();
}

/// The functions at an address, or what else can be said of it.
fn look_up(address: usize) -> Vec<Frame> {
    let mut frames = with_line(address, frame::resolve(address));
    for frame in &mut frames {
        frame.function = with_plain_closures(&frame.function);
    }
    if frames.is_empty() {
        frames.push(Frame {
            function: unnamed(address),
            file: None,
            line: None,
        });
    }
    frames
}

/// An instruction that the compiler added has no line: it belongs to that of the one before it in its function.
fn with_line(address: usize, frames: Vec<Frame>) -> Vec<Frame> {
    let lacks_line = |frame: &&Frame| frame.file.is_some() && frame.line.is_none();
    let Some(own) = frames.last().filter(lacks_line) else {
        return frames;
    };
    let mut before = (1..=NEAR).map(|back| frame::resolve(address.saturating_sub(back)));
    let has_line = |found: &Vec<Frame>| {
        let outer = found.last();
        outer.is_some_and(|outer| outer.function == own.function && outer.line.is_some())
    };
    before.find(has_line).unwrap_or(frames)
}

/// `libfoo.so+0x1a2b`, which other programs can look up.
fn unnamed(address: usize) -> String {
    let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let module = maps.lines().find_map(|line| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |digits| usize::from_str_radix(digits, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        let offset = number(fields.nth(1)?)?;
        let path = fields.nth(2)?.trim_start();
        let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
        (start..end)
            .contains(&address)
            .then(|| format!("{name}+{:#x}", address - start + offset))
    });
    module.unwrap_or_else(|| format!("+{address:#x}"))
}

pub(super) fn folded(mut frames: Vec<Frame>) -> Vec<Frame> {
    let ours = frames
        .iter()
        .position(|frame| frame.function.contains(OURS));
    let begins = ours.or_else(|| {
        frames
            .iter()
            .rposition(|frame| frame.function.contains(RUST))
    });
    let mut closure = None;
    match begins {
        Some(begins) => {
            closure = started_with(&frames[begins].function);
            frames.truncate(begins.max(1));
        }
        None => drop_last_while(&mut frames, is_start),
    }
    drop_last_while(&mut frames, is_plumbing);
    // An optimised program may know no more of it than that it is a closure.
    if let (Some(closure), Some(last)) = (closure, frames.last_mut())
        && last.function.starts_with("{closure}")
    {
        last.function = closure;
    }
    let named = frames.iter().position(|frame| !frame.is_unnamed());
    frames.drain(..named.unwrap_or(0));
    frames
}

/// The first type in `…begin<that, …>`, where it is a closure.
fn started_with(function: &str) -> Option<String> {
    let (_, types) = function.split_once('<')?;
    let mut depth = 0;
    let end = types.find(|character| {
        match character {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        depth < 0 || depth == 0 && character == ','
    })?;
    let closure = &types[..end];
    closure.contains("{closure}").then(|| closure.to_owned())
}

/// Something is left.
fn drop_last_while(frames: &mut Vec<Frame>, is_dropped: impl Fn(&Frame) -> bool) {
    while frames.len() > 1 && frames.last().is_some_and(&is_dropped) {
        frames.pop();
    }
}

fn is_start(frame: &Frame) -> bool {
    frame.is_unnamed() || STARTS.contains(&frame.function.as_str())
}

fn is_plumbing(frame: &Frame) -> bool {
    let file = frame.file.as_deref().unwrap_or("");
    PLUMBING.contains(&file) || frame.function == "__rust_try"
}

/// The compiler's `{{closure}}`, `{closure#0}` and `{closure_env#0}` as `{closure}`: file and line tell them apart.
fn with_plain_closures(function: &str) -> String {
    let function = function
        .replace("{{closure}}", "{closure}")
        .replace("{closure_env#", "{closure#");
    let mut plain = String::with_capacity(function.len());
    let mut rest = function.as_str();
    while let Some((before, after)) = rest.split_once("{closure#") {
        plain += before;
        plain += "{closure}";
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

// === impl Frame ===

impl Frame {
    /// Whether it is no function, but a place in a module that has no names.
    fn is_unnamed(&self) -> bool {
        self.file.is_none() && self.function.contains("+0x")
    }
}

#[cfg(test)]
mod tests;
