//! The await chain of a future, recorded by polling it once with a waker that notes where it is
//! cloned.
//!
//! A future that returns `Pending` must have stored a waker first. The call stack at the moment of
//! the clone, from the leaf future up to the task, is therefore its chain of awaits. This needs
//! nothing from the leaf beyond the contract of `Future`, so channels and locks of any crate are
//! seen, not only tokio's.
//!
//! A future that stores no waker yields no chain: nothing would ever wake it. A future that wakes
//! its task within the poll waits for nothing; the call stack of that wake is recorded too.
//! Addresses alone are recorded here; [`super::awaits`] symbolizes them, on another thread.
//!
//! The order of one answer, all of it on the worker that polls the task:
//!
//! 1. [`AwaitProbe::new`] keeps the task's own waker.
//! 2. The future is polled with [`AwaitProbe::waker`]. Each clone, and the first wake, walks the
//!    stack of the thread that it is on.
//! 3. [`AwaitProbe::close`] ends the recording and hands the chains over.
//! 4. Clones that leaf futures keep outlive the poll. They wake the real waker, and cost one more
//!    indirection than it does.
//!
//! The task is polled once more with its real waker afterwards, so most leaf futures replace the
//! clone of the probe at once.

#![expect(unsafe_code, reason = "`Wake` cannot tell of a clone; a table can")]

use super::Chain;
use super::source_file::SourceFile;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{RawWaker, RawWakerVTable, Waker};
use std::thread::{self, ThreadId};

/// This file. Its frames end a chain at its leaf.
pub(super) static FILE: SourceFile = SourceFile::new(file!());
/// The most chains that are recorded of one poll. The first ones are kept.
///
/// A task that joins many futures registers one waker for each of them, and each chain costs a walk
/// on a worker. The bound keeps that cost constant. Threads that clone at the same moment may each
/// add one chain beyond it, because the check and the push are two separate locks.
const CHAINS: usize = 8;
/// The most frames of a chain; outer ones are cut.
///
/// It bounds the time that a recursive future can keep the worker. The leaf and the innermost
/// awaits are kept, which are the part that says what the task waits for.
#[cfg(feature = "stacks")]
const FRAMES: usize = 128;

/// The result of one poll with a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The chains, in the order in which they were recorded.
    pub(crate) chains: Vec<Chain>,
    /// True if the poll woke the task before it returned: it waits for nothing.
    pub(crate) was_woken: bool,
}

/// The chains recorded during one poll, and the waker that the poll was meant to get.
///
/// Its lifetime is that of the wakers made from it: a future may keep a clone long after the poll.
pub(crate) struct AwaitProbe {
    /// The task's waker; every clone wakes this one. It is cloned once per probe, and dropped with
    /// the last clone of the probe.
    real: Waker,
    /// True while the poll runs. A clone made later is a waker handed on to another place, and not
    /// an await. Only [`AwaitProbe::close`] writes it, from true to false.
    open: AtomicBool,
    /// True once the poll itself has woken the task. A wake by another thread is an event that the
    /// task waited for.
    woken: AtomicBool,
    /// The thread of the poll.
    thread: ThreadId,
    /// Bounded by [`CHAINS`]. Behind a mutex because a future may clone its waker on several
    /// threads; it is locked only to count and to push, and never while the stack is walked.
    chains: Mutex<Vec<Chain>>,
}

// === impl AwaitProbe ===

impl AwaitProbe {
    /// Starts to record. Wakers from [`AwaitProbe::waker`] wake `real`.
    ///
    /// Costs one allocation for the probe and one clone of the waker.
    pub(crate) fn new(real: &Waker) -> Arc<Self> {
        Arc::new(Self {
            real: real.clone(),
            open: AtomicBool::new(true),
            woken: AtomicBool::new(false),
            thread: thread::current().id(),
            chains: Mutex::default(),
        })
    }

    /// Returns the waker to poll the future with. Each clone of it is recorded until
    /// [`AwaitProbe::close`]. The probe is freed when the last of them is dropped.
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        // The poll that follows puts the addresses there by which sockets are found.
        super::clear_stack();
        let data = Arc::into_raw(Arc::clone(self)).cast();
        // SAFETY: `data` is one reference counted by the `Arc`, as all functions of the table
        // expect. `AwaitProbe` is `Send` and `Sync`, and the functions keep the contract of
        // `RawWakerVTable`: `clone` adds a reference, `wake` and `drop` give one up, `wake_by_ref`
        // keeps the count.
        unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
    }

    /// Stops recording, because the poll has returned, and returns what was recorded. Later clones
    /// still wake the task, and are not recorded.
    ///
    /// A clone on another thread that has passed the check before this call may still push its
    /// chain afterwards. That chain is freed with the probe and never reported.
    pub(crate) fn close(&self) -> Recorded {
        self.open.store(false, Ordering::SeqCst);
        Recorded {
            chains: std::mem::take(&mut *self.chains()),
            was_woken: self.woken.load(Ordering::SeqCst),
        }
    }

    /// Notes a wake by the poll itself, and records the call stack of the first one.
    fn note_wake(&self) {
        let is_own = self.open.load(Ordering::SeqCst) && thread::current().id() == self.thread;
        if is_own && !self.woken.swap(true, Ordering::SeqCst) {
            self.record();
        }
    }

    /// Records the call stack of a clone or a wake while the poll runs and fewer than [`CHAINS`]
    /// are known.
    /// [`super::awaits::of`] cuts off the frames of this file.
    ///
    /// Must not be inlined: its frame, and that of `clone`, are the inner end at which `awaits`
    /// begins. The walk runs outside of the lock, because it takes microseconds and two threads may
    /// clone at once.
    #[inline(never)]
    fn record(&self) {
        if !self.open.load(Ordering::SeqCst) || self.chains().len() >= CHAINS {
            return;
        }
        let chain = Chain {
            calls: call_stack(),
            pointers: super::pointers(),
            socket: None,
        };
        self.chains().push(chain);
    }

    /// Locks the chains. Lock poisoning is ignored: the vector is valid between any two operations.
    fn chains(&self) -> MutexGuard<'_, Vec<Chain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AwaitProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitProbe").finish_non_exhaustive()
    }
}

/// Walks the stack of the calling thread.
///
/// It allocates: the chain grows as the unwinder reports frames. The first addresses are those of
/// this file and of the unwinder, which are kept because only symbolizing recognizes them.
#[cfg(feature = "stacks")]
fn call_stack() -> Vec<usize> {
    let mut chain = Vec::new();
    let note = |frame: &backtrace::Frame| {
        chain.push(frame.ip().addr());
        chain.len() < FRAMES
    };
    // `trace` would wait for a thread that symbolizes at this moment, for seconds in a debug build,
    // and block the worker.
    // SAFETY: on Unix `backtrace` walks with the unwinder of panics (`_Unwind_Backtrace`), which
    // threads may use concurrently. The lock that `trace` takes is needed only elsewhere, as for
    // `dbghelp` on Windows.
    #[cfg(unix)]
    unsafe {
        backtrace::trace_unsynchronized(note);
    }
    #[cfg(not(unix))]
    backtrace::trace(note);
    chain
}

/// Returns an empty chain: without the feature there is no unwinder.
#[cfg(not(feature = "stacks"))]
fn call_stack() -> Vec<usize> {
    Vec::new()
}

/// The functions of the waker. Its data is a pointer from `Arc::into_raw`, which owns one
/// reference.
static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_raw);

/// Records the clone, and counts it.
///
/// The count is incremented first, so that the probe outlives a panic in the walk.
fn clone(data: *const ()) -> RawWaker {
    let probe: *const AwaitProbe = data.cast();
    // SAFETY: the table is used only with data from `AwaitProbe::waker` or from here, which holds a
    // reference, so the `AwaitProbe` is alive.
    unsafe {
        Arc::increment_strong_count(probe);
        (*probe).record();
    }
    RawWaker::new(data, &TABLE)
}

/// Wakes the task, and gives up the reference of this waker.
fn wake(data: *const ()) {
    wake_by_ref(data);
    drop_raw(data);
}

/// Wakes the task with its own waker.
fn wake_by_ref(data: *const ()) {
    let probe: *const AwaitProbe = data.cast();
    // SAFETY: as in `clone`.
    let probe = unsafe { &*probe };
    probe.note_wake();
    probe.real.wake_by_ref();
}

/// Gives up the reference of one waker, and frees the probe with the last.
fn drop_raw(data: *const ()) {
    let probe: *const AwaitProbe = data.cast();
    // SAFETY: as in `clone`; the reference that this gives up is the caller's, and the caller does
    // not use `data` again.
    unsafe { Arc::decrement_strong_count(probe) }
}

#[cfg(test)]
mod tests {
    use super::AwaitProbe;
    use std::sync::Arc;
    use std::task::Waker;

    #[test]
    fn wakers_are_counted_and_wake_the_real_one() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let count = Arc::new(Count(0.into()));
        let probe = AwaitProbe::new(&Waker::from(Arc::clone(&count)));
        let waker = probe.waker();
        let kept = waker.clone();
        kept.wake_by_ref();
        kept.wake();
        drop(waker);
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 2);
        let recorded = probe.close();
        assert!(recorded.was_woken, "before the poll was over");
        assert_eq!(recorded.chains.len(), 2, "one clone, and the first wake");
        assert_eq!(Arc::strong_count(&probe), 1, "none is left");
    }

    #[test]
    fn a_wake_after_the_poll_is_that_of_a_task_that_waits() {
        let probe = AwaitProbe::new(Waker::noop());
        let waker = probe.waker();
        let recorded = probe.close();
        waker.wake();
        assert!(!recorded.was_woken && recorded.chains.is_empty());
        assert!(!probe.close().was_woken);
    }

    #[cfg(all(unix, feature = "stacks"))]
    #[test]
    fn a_clone_of_the_waker_is_noted_while_another_thread_symbolizes() {
        use std::sync::mpsc::channel;
        let (tell, told) = channel();
        let (release, released) = channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "a thread of the test")]
        let thread = std::thread::spawn(move || {
            let mut was_released = None;
            let begin = AwaitProbe::new as fn(&Waker) -> Arc<AwaitProbe> as usize;
            // `resolve` looks up the instruction before the address it is given.
            let place = std::ptr::without_provenance_mut(begin + 1);
            backtrace::resolve(place, |_| {
                if was_released.is_some() {
                    return;
                }
                tell.send(()).expect("the test waits");
                let patience = std::time::Duration::from_secs(60);
                was_released = Some(released.recv_timeout(patience));
            });
            was_released
        });
        told.recv().expect("it has a name");
        let probe = AwaitProbe::new(Waker::noop());
        drop(probe.waker().clone());
        assert_eq!(probe.close().chains.len(), 1);
        // The receiver may be gone; the result of the thread shows it.
        release.send(()).ok();
        assert_eq!(thread.join().expect("it ends"), Some(Ok(())));
    }
}
