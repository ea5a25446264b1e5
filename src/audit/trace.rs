//! The stack of a thread as it is shown: by names, or by addresses where these take too long.

use super::frame::Frame;
use super::lock::Lock;
use super::places::Places;
use super::stack::{self, Stack};

/// The most frames that are kept, so many of them the outermost.
const FRAMES: usize = 128;
const OUTERMOST: usize = 16;

/// What is known of the stack of a thread. By default, nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
    /// What the stack is not.
    pub(crate) note: Option<String>,
    /// Why there is no stack.
    pub(crate) none: Option<String>,
    /// What it waits for, if it is on a futex.
    pub(crate) lock: Option<Lock>,
    /// The calls, those of the standard library among them; none when it has no names.
    pub(crate) calls: Vec<String>,
}

// === impl Trace ===

impl Trace {
    pub(crate) fn absent(why: &str) -> Self {
        Self {
            none: Some(why.to_owned()),
            ..Self::default()
        }
    }

    /// By addresses, which takes no time.
    pub(crate) fn by_address(stack: &Stack, places: &Places) -> Self {
        let frames = stack.addresses.iter().map(|address| places.frame(*address));
        Self {
            frames: bounded(frames.collect()),
            note: note(stack, false),
            ..Self::default()
        }
    }

    /// By names. It may take long, and hang with the loader's lock: for a thread with a budget.
    pub(crate) fn by_name(stack: &Stack) -> Self {
        let frames = stack::frames(stack);
        Self {
            note: note(stack, true),
            none: None,
            lock: Lock::of(&frames),
            calls: frames.iter().map(ToString::to_string).collect(),
            frames: bounded(stack::folded(frames)),
        }
    }
}

fn note(stack: &Stack, has_names: bool) -> Option<String> {
    let notes = [
        (!stack.is_exact, "approximate"),
        (!stack.is_complete, "incomplete"),
        (!has_names, "without names"),
    ];
    let notes: Vec<_> = notes
        .iter()
        .filter_map(|(holds, note)| holds.then_some(*note))
        .collect();
    (!notes.is_empty()).then(|| notes.join(", "))
}

/// A recursion may be deep.
fn bounded(mut frames: Vec<Frame>) -> Vec<Frame> {
    let over = frames.len().saturating_sub(FRAMES);
    if over > 0 {
        let begin = FRAMES - OUTERMOST - 1;
        let between = Frame {
            function: format!("… {} frames", over + 1),
            file: None,
            line: None,
        };
        frames.splice(begin..=begin + over, [between]);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::{FRAMES, Places, Stack, Trace, bounded};
    use crate::audit::frame::Frame;

    fn frame(at: usize) -> Frame {
        Frame {
            function: at.to_string(),
            file: None,
            line: None,
        }
    }

    #[test]
    fn a_deep_stack_keeps_both_its_ends() {
        for deep in [FRAMES - 1, FRAMES] {
            assert_eq!(bounded((0..deep).map(frame).collect()).len(), deep);
        }
        let kept = bounded((0..1000).map(frame).collect());
        let shown: Vec<&str> = kept.iter().map(|frame| &*frame.function).collect();
        assert_eq!(shown.len(), FRAMES);
        assert_eq!(
            shown[109..114],
            ["109", "110", "… 873 frames", "984", "985"]
        );
        assert_eq!(shown[127], "999");
        let one_more = bounded((0..=FRAMES).map(frame).collect());
        assert_eq!(one_more[111].function, "… 2 frames");
        assert_eq!(one_more[112].function, "113");
    }

    #[test]
    fn a_stack_without_names_says_all_that_it_is_not() {
        let mut stack = Stack {
            addresses: vec![16, 17],
            is_exact: false,
            is_complete: false,
        };
        let trace = Trace::by_address(&stack, &Places::default());
        let note = trace.note.as_deref();
        assert_eq!(note, Some("approximate, incomplete, without names"));
        assert_eq!(trace.frames[1].to_string(), "0x11");
        stack.is_complete = true;
        assert_eq!(super::note(&stack, true).as_deref(), Some("approximate"));
        stack.is_exact = true;
        assert_eq!(super::note(&stack, true), None);
    }
}
