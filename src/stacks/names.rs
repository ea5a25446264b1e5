//! Symbolizes stacks, and drops the frames that say nothing.
//!
//! [`frames`] looks up each address in the cache or in the debug information. [`folded`] cuts the
//! outer end at the function that the thread was started with, and the unnamed frames at the inner
//! end.
//!
//! The order matters: the kind of lock and the rules about threads are read off the full list, and
//! only the list that is shown is folded. Folding recognizes functions by parts of their names and
//! by files, so that it works on both of rustc's mangling schemes. It never empties a stack.

use super::Stack;
use super::cache::CALLS;
use super::frame::Frame;
use super::places::Places;
use super::resolve::{resolve, without_build_paths};

/// Part of the name of the function that runs the closure of a thread that headcount starts, and of
/// one that the standard library starts. It is looked for first and from the inner end, since a
/// thread of headcount's own also has the function of the standard library further out.
const OURS: &str = "__headcount_begin";
/// The function of the standard library. `main` and tests run below it too. The outermost one is
/// taken, because a program may call it again further in.
const RUST: &str = "__rust_begin_short_backtrace";
/// The functions in which threads begin that Rust did not start.
///
/// They are those of the C libraries. They are compared as whole names, since a user's function may
/// well contain `clone`.
const STARTS: [&str; 7] = [
    "clone",
    "__clone",
    "clone3",
    "__clone3",
    "start_thread",
    "thread_start",
    "_start",
];
/// Files of the code that calls closures and catches panics.
///
/// Paths are compared as a whole, as `resolve::short` leaves them. They are dropped at the outer
/// end only: between two functions of the user they say that a closure was called.
const PLUMBING: [&str; 5] = [
    "core/src/ops/function.rs",
    "core/src/panic/unwind_safe.rs",
    "alloc/src/boxed.rs",
    "std/src/panicking.rs",
    "std/src/panic.rs",
];
/// The most bytes before an instruction without a line in which one with a line is searched.
///
/// An instruction has at most 15 bytes on x86_64 and 4 on aarch64, so a few instructions are
/// searched. Each byte costs a look-up while the debug information is loaded.
const NEAR: usize = 32;

/// See [`super::frames`].
pub(super) fn frames(stack: &Stack) -> Vec<Frame> {
    let calls = calls(stack);
    without_build_paths(
        calls
            .flat_map(|address| CALLS.frames(address, look_up))
            .collect(),
    )
}

/// See [`super::frames_of_program`].
///
/// The frames of libraries have the form of frames without a symbol.
pub(super) fn frames_of_program(stack: &Stack, places: &Places) -> Vec<Frame> {
    let frames = |address| match places.is_in_program(address) {
        true => CALLS.frames(address, look_up),
        false => vec![unnamed(address, places)],
    };
    without_build_paths(calls(stack).flat_map(frames).collect())
}

/// Returns the addresses of a stack as the symbolizer takes them.
///
/// It looks up the instruction before the address it is given, which fits a return address. The
/// first address is not one. The cache is keyed by the address after that correction, so a program
/// counter and a return address that mean the same instruction share an entry.
fn calls(stack: &Stack) -> impl Iterator<Item = usize> {
    let addresses = stack.addresses.iter().enumerate();
    addresses.map(|(index, address)| address + usize::from(index == 0))
}

/// Frees the memory of the debug information. The cached names stay.
///
/// Called when the last [`Naming`](super::Naming) guard is dropped. The next look-up of an address
/// that is not cached loads the debug information again, which takes up to seconds for a large
/// program.
pub(super) fn give_back() {
    #[cfg(feature = "stacks")]
    super::resolve::give_back();
}

/// Returns the functions at an address, the innermost first, or one frame with the module and
/// offset.
///
/// Never returns an empty list, so its result is always cached. An address without a symbol costs a
/// read of `/proc/self/maps`.
fn look_up(address: usize) -> Vec<Frame> {
    let mut frames = with_line(address, resolve(address));
    for frame in &mut frames {
        frame.function = with_plain_closures(&frame.function);
    }
    if frames.is_empty() {
        frames.push(unnamed(address, &Places::read()));
    }
    frames
}

/// An instruction that the compiler added has no line. This gives it the line of an instruction
/// shortly before it, in the same function.
///
/// Only the outermost of the inlined frames is checked, because it is the function itself. At most
/// [`NEAR`] further look-ups are made; if none fits, the frames are returned as they are.
fn with_line(address: usize, frames: Vec<Frame>) -> Vec<Frame> {
    let lacks_line = |frame: &&Frame| frame.file.is_some() && frame.line.is_none();
    let Some(own) = frames.last().filter(lacks_line) else {
        return frames;
    };
    let mut before = (1..=NEAR).map(|back| resolve(address.saturating_sub(back)));
    let has_line = |found: &Vec<Frame>| {
        let outer = found.last();
        outer.is_some_and(|outer| outer.function == own.function && outer.line.is_some())
    };
    before.find(has_line).unwrap_or(frames)
}

/// Returns a frame with module and offset, such as `libfoo.so+0x1a2b`, which other programs can
/// look up.
fn unnamed(address: usize, places: &Places) -> Frame {
    let place = places.place(address);
    Frame::bare(place.unwrap_or_else(|| format!("+{address:#x}")))
}

/// See [`super::folded`].
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
    // The debug information of an optimised program may only say that it is a closure.
    if let (Some(closure), Some(last)) = (closure, frames.last_mut())
        && last.function.starts_with("{closure}")
    {
        last.function = closure;
    }
    let named = frames.iter().position(|frame| !frame.is_unnamed());
    frames.drain(..named.unwrap_or(0));
    frames
}

/// Returns the first type argument in `…begin<that, …>` if it is a closure.
///
/// Brackets are counted, since a closure's type may have type arguments with commas of their own.
/// `None` if the name has no type arguments, or the first of them is not a closure.
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

/// Drops frames at the outer end, but never the last one.
///
/// A stack with nothing left would look like a read that failed.
fn drop_last_while(frames: &mut Vec<Frame>, is_dropped: impl Fn(&Frame) -> bool) {
    while frames.len() > 1 && frames.last().is_some_and(&is_dropped) {
        frames.pop();
    }
}

/// Returns whether the frame is one in which threads begin.
///
/// Unnamed frames count too: below the first function there may be a C library without symbols.
fn is_start(frame: &Frame) -> bool {
    frame.is_unnamed() || STARTS.contains(&frame.function.as_str())
}

/// Returns whether the frame only calls a closure or catches a panic.
fn is_plumbing(frame: &Frame) -> bool {
    let file = frame.file.as_deref().unwrap_or("");
    PLUMBING.contains(&file) || frame.function == "__rust_try"
}

/// Replaces the compiler's `{{closure}}`, `{closure#0}` and `{closure_env#0}` with `{closure}`:
/// file and line tell them apart.
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
    /// Returns whether the frame is an offset in a module, not a function.
    fn is_unnamed(&self) -> bool {
        self.file.is_none() && self.function.contains("+0x")
    }
}

#[cfg(test)]
mod tests;
