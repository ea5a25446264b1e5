//! The stack of a thread as reports and dumps carry it: symbolized, or as addresses if symbolizing
//! takes too long.
//!
//! [`Trace::by_address`] is immediate. [`Trace::of_program`] replaces it when the symbolizer has
//! looked up the program's own functions, and [`Trace::by_name`] when it has looked up all.

use super::Stack;
use super::frame::Frame;
use super::locks::{self, Lock, Waiter};
use super::places::Places;
use crate::audit::waits::ThreadWait;
use crate::stacks;
use std::collections::HashMap;

/// The most frames of a trace.
///
/// It is less than a stack has at most (512), because a report shows all of them.
const FRAMES: usize = 128;
/// The number of them that are kept from the outer end of a deeper stack.
///
/// The outer end tells which thread or task this is, and the inner end what it does; the middle of
/// a recursion tells neither.
const OUTERMOST: usize = 16;

/// The part of a stack that was symbolized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Named {
    /// Nothing: the frames are addresses.
    #[default]
    Nothing,
    /// The functions of the program. Those of libraries are offsets.
    Program,
    /// Every function.
    Everything,
}

/// All that is known of the stack of one thread. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The frames to show, the innermost first; at most 128.
    pub(crate) frames: Vec<Frame>,
    /// True if frames were left out of the middle.
    pub(crate) is_cut: bool,
    /// The limits of the stack, such as `approximate, incomplete`; `None` if it has none.
    pub(crate) note: Option<String>,
    /// The reason why there is no stack.
    pub(crate) none: Option<String>,
    /// The lock that the thread waits for, if the stack shows it.
    pub(crate) lock: Option<Lock>,
    /// All calls as text, those of the standard library included, for the rules about threads.
    /// Empty if the stack was not symbolized.
    pub(crate) calls: Vec<String>,
    /// The part of the stack that was symbolized.
    pub(crate) named: Named,
}

// === impl Trace ===

impl Trace {
    /// Returns a trace without a stack, with the reason.
    pub(crate) fn absent(why: &str) -> Self {
        Self {
            none: Some(why.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the trace with addresses only. It reads no debug information.
    ///
    /// Costs no more than a search in the list of mappings for each address. Locks are not
    /// recognized, since that needs names.
    pub(crate) fn by_address(stack: &Stack, places: &Places) -> Self {
        let frames = stack.addresses.iter().map(|address| places.frame(*address));
        Self {
            frames: bounded(frames.collect()),
            note: note(stack, Named::Nothing),
            ..Self::default()
        }
    }

    /// Symbolizes the functions of the program. Those of libraries are shown as offsets. It may
    /// take as long as [`Trace::by_name`], but reads the debug information of one file only.
    pub(crate) fn of_program(stack: &Stack, places: &Places) -> Self {
        Self::named(
            stack,
            stacks::frames_of_program(stack, places),
            Named::Program,
        )
    }

    /// Symbolizes the stack. It may take seconds, and hang with the loader's lock: call it on a
    /// thread with a budget.
    pub(crate) fn by_name(stack: &Stack) -> Self {
        Self::named(stack, stacks::frames(stack), Named::Everything)
    }

    /// Creates the trace from the frames of the whole stack.
    ///
    /// The lock and the calls are taken from the stack before it is folded and bounded, since both
    /// may cut off what they need.
    fn named(stack: &Stack, frames: Vec<Frame>, named: Named) -> Self {
        let (lock, calls) = (Lock::of(&frames), frames.iter().map(ToString::to_string));
        let calls = calls.collect();
        let folded = stacks::folded(frames);
        Self {
            note: note(stack, named),
            none: None,
            lock,
            calls,
            is_cut: folded.len() > FRAMES,
            frames: bounded(folded),
            named,
        }
    }

    /// Returns whether the stack was read, but not all of it was symbolized in time.
    pub(crate) fn lacks_names(&self) -> bool {
        self.none.is_none() && self.named != Named::Everything
    }
}

/// Lists the limits of a stack.
///
/// The order is fixed, as reports are compared by text.
fn note(stack: &Stack, named: Named) -> Option<String> {
    let notes = [
        (!stack.is_exact, "approximate"),
        (!stack.is_complete, "incomplete"),
        (named == Named::Nothing, "without names"),
        (named == Named::Program, "without names of libraries"),
    ];
    let notes: Vec<_> = notes
        .iter()
        .filter_map(|(holds, note)| holds.then_some(*note))
        .collect();
    (!notes.is_empty()).then(|| notes.join(", "))
}

/// Cuts a deep stack, as a recursion has, to [`FRAMES`]: one frame in its middle says how many were
/// left out.
///
/// The frame in the middle counts itself as replacing one of them, so exactly [`FRAMES`] are left.
fn bounded(mut frames: Vec<Frame>) -> Vec<Frame> {
    let over = frames.len().saturating_sub(FRAMES);
    if over > 0 {
        let begin = FRAMES - OUTERMOST - 1;
        let between = Frame::bare(format!("… {} frames", over + 1));
        frames.splice(begin..=begin + over, [between]);
    }
    frames
}

/// Returns hints that follow from several stacks together, such as a deadlock. `names` are of all
/// threads of the process that a hint may mention, whether they wait or not.
///
/// `waits` and `traces` are in the same order. The owner of a POSIX mutex is read from memory here,
/// at the end, so it may differ from that at the moment of the stacks.
pub(crate) fn hints<'a>(
    waits: &[&ThreadWait],
    traces: impl Iterator<Item = Option<&'a Trace>>,
    names: &HashMap<u32, &str>,
) -> Vec<String> {
    let waiters: Vec<Waiter<'_>> = waits
        .iter()
        .zip(traces)
        .map(|(wait, trace)| Waiter {
            thread: wait,
            lock: trace.and_then(|trace| trace.lock),
            name: names.get(&wait.tid).copied().unwrap_or(""),
        })
        .collect();
    let name_of = |tid: u32| names.get(&tid).map(|name| (*name).to_owned());
    locks::hints(&waiters, locks::posix_owner, name_of)
}

#[cfg(test)]
mod tests {
    use super::{FRAMES, Named, Places, Stack, Trace, bounded};
    use crate::stacks::frame::Frame;

    fn frame(at: usize) -> Frame {
        Frame::bare(at.to_string())
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
    fn a_stack_without_names_lists_all_its_limits() {
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
        let note = |stack: &Stack, named| super::note(stack, named);
        assert_eq!(
            note(&stack, Named::Everything).as_deref(),
            Some("approximate")
        );
        stack.is_exact = true;
        assert_eq!(note(&stack, Named::Everything), None);
        let program = note(&stack, Named::Program);
        assert_eq!(program.as_deref(), Some("without names of libraries"));
    }
}
