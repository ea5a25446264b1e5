//! What a future awaits: polled once with a waker that notes who registers it.
//!
//! Whoever returns `Pending` must keep a waker first, so the call stack of that moment, from the leaf up to the task, is
//! the chain of awaits. It needs nothing from the leaf but what every future does, so channels and locks of other crates
//! are seen as well as tokio's. A future that keeps no waker shows nothing: nothing would ever wake it.

#![expect(unsafe_code, reason = "`Wake` cannot tell of a clone; a table can")]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{RawWaker, RawWakerVTable, Waker};

/// A future that waits for more than so many things shows the first ones.
const CHAINS: usize = 8;
/// The most frames of a chain.
#[cfg(feature = "stacks")]
const FRAMES: usize = 128;

/// Addresses of a call stack, innermost first.
pub(crate) type Chain = Vec<usize>;

/// What is noted of one poll.
pub(crate) struct Asking {
    real: Waker,
    /// Whether the poll is under way: what is kept is handed on later, which is nobody's await.
    open: AtomicBool,
    chains: Mutex<Vec<Chain>>,
}

// === impl Asking ===

impl Asking {
    /// Notes who keeps the waker that [`Asking::waker`] gives, which wakes `real`.
    pub(crate) fn new(real: &Waker) -> Arc<Self> {
        Arc::new(Self {
            real: real.clone(),
            open: AtomicBool::new(true),
            chains: Mutex::default(),
        })
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        let data = Arc::into_raw(Arc::clone(self)).cast();
        // SAFETY: `data` is a reference counted by the `Arc`, as all functions of the table take it to be. `Asking` is
        // `Send` and `Sync`, and the functions keep the contract of `RawWakerVTable`: `clone` counts one more, `wake`
        // and `drop` one less, `wake_by_ref` none.
        unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
    }

    /// The poll is over.
    pub(crate) fn close(&self) -> Vec<Chain> {
        self.open.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.chains())
    }

    #[inline(never)]
    fn note(&self) {
        if !self.open.load(Ordering::SeqCst) || self.chains().len() >= CHAINS {
            return;
        }
        let chain = call_stack();
        self.chains().push(chain);
    }

    fn chains(&self) -> MutexGuard<'_, Vec<Chain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

#[cfg(feature = "stacks")]
fn call_stack() -> Chain {
    let mut chain = Chain::new();
    let note = |frame: &backtrace::Frame| {
        chain.push(frame.ip().addr());
        chain.len() < FRAMES
    };
    // `trace` would wait for whoever looks names up at this moment, for seconds in a debug build, on the worker.
    // SAFETY: on these systems `backtrace` walks by the unwinder of panics (`_Unwind_Backtrace`), which threads use at the
    // same time; its lock is for what is not, as `dbghelp` on Windows.
    #[cfg(unix)]
    unsafe {
        backtrace::trace_unsynchronized(note);
    }
    #[cfg(not(unix))]
    backtrace::trace(note);
    chain
}

#[cfg(not(feature = "stacks"))]
fn call_stack() -> Chain {
    Chain::new()
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_raw);

fn clone(data: *const ()) -> RawWaker {
    let asking: *const Asking = data.cast();
    // SAFETY: the table is only used with data from `Asking::waker` or from here, which is counted and so alive.
    unsafe {
        Arc::increment_strong_count(asking);
        (*asking).note();
    }
    RawWaker::new(data, &TABLE)
}

fn wake(data: *const ()) {
    wake_by_ref(data);
    drop_raw(data);
}

fn wake_by_ref(data: *const ()) {
    let asking: *const Asking = data.cast();
    // SAFETY: as in `clone`.
    unsafe { (*asking).real.wake_by_ref() }
}

fn drop_raw(data: *const ()) {
    let asking: *const Asking = data.cast();
    // SAFETY: as in `clone`; the count that this takes is the caller's, who does not use `data` again.
    unsafe { Arc::decrement_strong_count(asking) }
}

#[cfg(test)]
mod tests {
    use super::Asking;
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
        let asking = Asking::new(&Waker::from(Arc::clone(&count)));
        let waker = asking.waker();
        let kept = waker.clone();
        kept.wake_by_ref();
        kept.wake();
        drop(waker);
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(asking.close().len(), 1, "one was kept");
        assert_eq!(Arc::strong_count(&asking), 1, "none is left");
    }

    #[cfg(all(unix, feature = "stacks"))]
    #[test]
    fn who_keeps_a_waker_is_noted_while_another_thread_looks_for_names() {
        use std::sync::mpsc::channel;
        let (tell, told) = channel();
        let (release, released) = channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "a thread of the test")]
        let thread = std::thread::spawn(move || {
            let mut was_released = None;
            let begin = Asking::new as fn(&Waker) -> Arc<Asking> as usize;
            // What stands before an address is looked up.
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
        let asking = Asking::new(Waker::noop());
        drop(asking.waker().clone());
        assert_eq!(asking.close().len(), 1);
        // Nobody may be waiting any more, which the other end tells.
        release.send(()).ok();
        assert_eq!(thread.join().expect("it ends"), Some(Ok(())));
    }
}
