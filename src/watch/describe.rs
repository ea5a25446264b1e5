//! A description of a thread that a task blocks: what the kernel says that it waits for, and its
//! stack.
//!
//! It is read on a separate thread, because the kernel may not answer: at most one such thread
//! exists in the process. Names come from the [symbolizer](crate::dump::symbols).
//!
//! ```text
//! headcount-look    kernel's wait, stack, is_still?
//! the log task      waits ≤ 1 s ───────────────────► symbolizer, ≤ 5 s ─► names, or addresses
//! ```
//!
//! The check comes after the reading: if the task still blocks the thread then, it did so all the
//! time, and what was read is its own. The thread is not interrupted in a system call.

use crate::audit::waits;
use crate::dump::symbols::{Nameless, Symbolizer};
use crate::stacks::frame::Frame;
use crate::stacks::{self, Means, Stack};
use crate::threads;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// The longest wait for the kernel's answer and the stack. A read by a dump that is in progress may
/// take longer; the reason is then given instead of a stack.
const LOOK_BUDGET: Duration = Duration::from_secs(1);
/// The longest wait for symbols. They take about 0.1 s, but seconds in a debug build. Later log
/// events wait meanwhile.
const NAMES_BUDGET: Duration = Duration::from_secs(5);
/// The most frames in a log event. A dump shows the others.
const FRAMES: usize = 12;

/// True while the thread exists. It may be stuck, so there is at most one. Set before the thread
/// starts, and cleared by it at its end.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// The description of a thread. It is empty if the thread was no longer blocked when it was read.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// The kernel's answer to what the thread waits for.
    pub(super) waits: Option<String>,
    /// The stack in one line, innermost frame first. With at most [`FRAMES`] frames; addresses if
    /// there are no symbols in time.
    pub(super) stack: Option<String>,
    /// The reason why there is no stack.
    pub(super) no_stack: Option<String>,
    /// True if `block_in_place` is in the stack: the task has handed its worker to another thread.
    pub(super) gave_worker_away: bool,
}

/// The right to start the thread, until it is dropped: by the thread, even if it panics, or with the
/// closure of one that did not start.
struct Looking;

/// The facts read while the task still blocked the thread.
struct Seen {
    /// The clause for the log, such as `waiting on futex 0x…`.
    waits: String,
    /// The addresses, or the reason why there are none.
    stack: Result<Stack, String>,
}

/// Reads and symbolizes the thread. `is_still` is called after reading; if it returns false, the
/// thread does something else by now, and the description is empty.
///
/// If the thread is blocked but cannot be read, or another description is in progress, the reason
/// is in `no_stack`. If symbolizing takes too long, the stack consists of addresses.
///
/// Takes at most 6 s, and blocks no thread of the control side.
pub(super) async fn describe(
    root: u64,
    symbolizer: &Symbolizer,
    tid: u32,
    is_still: impl FnOnce() -> bool + Send + 'static,
) -> Described {
    let Some(looking) = Looking::begin() else {
        return Described::without("an earlier attempt to read a stack has not finished");
    };
    let (tell_seen, seen) = oneshot::channel();
    let started = threads::start_own(root, "headcount-look", move || {
        let _looking = looking;
        if let Some(seen) = look(tid, is_still) {
            // Fails if the wait for it timed out.
            tell_seen.send(seen).ok();
        }
    });
    if started.is_err() {
        return Described::without("no thread could be started to read it");
    }
    let seen = match timeout(LOOK_BUDGET, seen).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => return Described::default(),
        Err(_) => return Described::without("not read in time"),
    };
    let waits = Some(seen.waits);
    let stack = match seen.stack {
        Ok(stack) => stack,
        Err(why) => {
            return Described {
                waits,
                ..Described::without(&why)
            };
        }
    };
    let frames = frames(symbolizer, &stack).await;
    let line = match &frames {
        Some(frames) => line(frames.iter().map(Frame::to_string)),
        None => line(
            stack
                .addresses
                .iter()
                .map(|address| format!("{address:#x}")),
        ),
    };
    let in_place = |frame: &Frame| frame.function.contains("block_in_place");
    Described {
        waits,
        stack: Some(line),
        no_stack: None,
        gave_worker_away: frames.is_some_and(|all| all.iter().any(in_place)),
    }
}

/// Symbolizes a stack. Returns `None` if that takes too long.
async fn frames(symbolizer: &Symbolizer, stack: &Stack) -> Option<Vec<Frame>> {
    let nameless = Nameless {
        stacks: vec![stack.clone()],
        ..Nameless::default()
    };
    let until = Instant::now() + NAMES_BUDGET;
    let mut names = symbolizer.begin(nameless).until(until).await;
    symbolizer.end();
    names.stacks.remove(&0).map(|trace| trace.frames)
}

/// Reads the thread. Returns `None` if it is no longer blocked, since what was read may belong to
/// another task. Costs a few reads from `/proc`, and with the feature `stacks` the read of one
/// stack.
fn look(tid: u32, is_still: impl FnOnce() -> bool) -> Option<Seen> {
    let waits = waits::read(tid).wait.to_string();
    let stack = stacks::read(&[tid], Means::Quiet).pop();
    let stack = stack.unwrap_or_else(|| Err("the thread has ended".to_owned()));
    is_still().then_some(Seen { waits, stack })
}

/// Formats the first frames with their numbers. Two spaces separate them, since names contain
/// single ones.
fn line(frames: impl ExactSizeIterator<Item = String>) -> String {
    let more = frames.len().saturating_sub(FRAMES);
    let shown = frames.take(FRAMES).enumerate();
    let mut line = shown
        .map(|(at, frame)| format!("{at} {frame}"))
        .collect::<Vec<_>>()
        .join("  ");
    if more > 0 {
        line += &format!("  and {more} more");
    }
    line
}

// === impl Looking ===

impl Looking {
    /// Returns `None` while a thread exists.
    fn begin() -> Option<Self> {
        (!LOOKING.swap(true, Ordering::SeqCst)).then_some(Self)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.store(false, Ordering::SeqCst);
    }
}

// === impl Described ===

impl Described {
    /// Returns a description with a reason instead of a stack.
    fn without(why: &str) -> Self {
        Self {
            no_stack: Some(why.to_owned()),
            ..Self::default()
        }
    }
}
