//! What is to be seen of a thread that a task holds, on a thread of its own: names may take long, and with the lock of
//! the loader for ever.

use crate::audit::facts;
use crate::audit::frame::Frame;
use crate::audit::stack::{self, Means, Naming, Stack};
use crate::threads::{self, ThreadClass};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long the kernel and the thread may take to answer.
const LOOK_BUDGET: Duration = Duration::from_secs(1);
/// How long the names of a stack may take: a tenth of a second, but seconds in a debug build.
const NAMES_BUDGET: Duration = Duration::from_secs(5);
/// The most frames that are shown.
const FRAMES: usize = 12;

/// One thread at a time may be stuck.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// What a thread does.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// What the kernel says that it waits for.
    pub(super) waits: Option<String>,
    /// Its stack in one line, the innermost first.
    pub(super) stack: Option<String>,
    /// Why there is no stack.
    pub(super) no_stack: Option<String>,
    /// The task has given its worker to another thread.
    pub(super) gave_worker_away: bool,
}

/// What was read while the task held the thread.
struct Seen {
    waits: String,
    stack: Result<Stack, String>,
}

/// Looks at the thread while it does what it is told of for; says nothing of it if it does no longer.
pub(super) async fn describe(
    root: u64,
    tid: u32,
    is_still: impl FnOnce() -> bool + Send + 'static,
) -> Described {
    if LOOKING.swap(true, Ordering::SeqCst) {
        return Described::without("an earlier look at a thread has not come back");
    }
    let (tell_seen, seen) = oneshot::channel();
    let (tell_names, names) = oneshot::channel();
    let started = threads::start(
        root,
        "headcount-look",
        ThreadClass::Control,
        Location::caller(),
        move || {
            if let Some(seen) = look(tid, is_still) {
                let stack = seen.stack.clone();
                // Nobody may be waiting any more.
                tell_seen.send(seen).ok();
                if let Ok(stack) = stack {
                    let _naming = Naming::begin();
                    tell_names.send(stack::folded(stack::frames(&stack))).ok();
                }
            }
            LOOKING.store(false, Ordering::SeqCst);
        },
    );
    if started.is_err() {
        LOOKING.store(false, Ordering::SeqCst);
        return Described::without("the system has no thread to look with");
    }
    let seen = match timeout(LOOK_BUDGET, seen).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => return Described::default(),
        Err(_) => return Described::without("the thread could not be looked at in time"),
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
    let frames = timeout(NAMES_BUDGET, names).await;
    let line = match &frames {
        Ok(Ok(frames)) => line(frames.iter().map(Frame::to_string)),
        _ => line(
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
        gave_worker_away: frames.is_ok_and(|names| names.is_ok_and(|all| all.iter().any(in_place))),
    }
}

/// `None` when it is over: what is seen may be the next task's.
fn look(tid: u32, is_still: impl FnOnce() -> bool) -> Option<Seen> {
    let waits = facts::read(tid).waits.to_string();
    let stack = stack::read(&[tid], Means::Quiet).pop();
    let stack = stack.unwrap_or_else(|| Err("the thread has ended".to_owned()));
    is_still().then_some(Seen { waits, stack })
}

/// The first frames, with their numbers.
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

// === impl Described ===

impl Described {
    fn without(why: &str) -> Self {
        Self {
            no_stack: Some(why.to_owned()),
            ..Self::default()
        }
    }
}
