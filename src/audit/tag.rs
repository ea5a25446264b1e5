//! A mark that threads inherit from the thread that starts them, at any remove, and that other
//! threads can read.
//!
//! The mark is a pattern of blocked real-time signals: a new thread inherits the signal mask of its
//! creator (pthread_create(3)), whatever it is named, and the kernel shows the mask of every thread
//! in `/proc/self/task/TID/status`. [`crate::testing`] uses it to tell the threads of one test from
//! those of others.
//!
//! The signals used, 36 to 55, have no meaning of their own; a test that wants one of them must
//! unblock it. Child processes started by `std::process` have an empty mask, so they are attributed
//! to the thread that forked them.
//!
//! The life of a mark: [`Tag::new`] picks a pattern, the thread of a test takes it with
//! [`Tag::mark_own_thread`], every thread that it starts inherits it, and at the end of the test
//! [`Tag::marks_thread`] is asked of each unknown thread. A thread that sets its own mask, as some
//! runtimes do, loses the mark and is taken for another test's. Nothing takes the mark off again;
//! it ends with its threads.

#![expect(
    unsafe_code,
    reason = "libc has no safe call for a thread's signal mask"
)]

use super::proc;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

/// The signal of the lowest bit.
///
/// The C library keeps the first real-time signals for itself: 32 and 33 in glibc (nptl(7)).
const FIRST_SIGNAL: i32 = 36;
/// The number of signals, and of bits of a tag.
///
/// It makes 1,048,574 patterns. Those above belong to [`super::nudge`] and to the reader of stacks.
const BITS: u32 = 20;

/// The number of the next tag. Relaxed: only its uniqueness counts.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One pattern, never 0 and never all bits. A pattern comes again after about a million tags.
///
/// Bit `i` stands for signal 36 + `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u32);

/// The pattern of a thread that blocks all signals. glibc blocks them all in a new thread until its
/// start is over (glibc 2.36, `start_thread` in nptl/pthread_create.c).
///
/// A tag must never equal it, since a starting thread would look marked.
const ALL: u32 = (1 << BITS) - 1;

// === impl Tag ===

impl Tag {
    /// Returns a tag that no thread has yet.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Never 0, the pattern of untagged threads, and never `ALL`.
        Self(number % (ALL - 1) + 1)
    }

    /// Marks the calling thread, and all threads that it will start. An earlier mark is replaced.
    ///
    /// The rest of the mask stays as it is. Two system calls; neither can fail for valid signals.
    pub(crate) fn mark_own_thread(self) {
        let mut block = MaybeUninit::<libc::sigset_t>::uninit();
        let mut unblock = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given; `sigaddset` gets an initialised
        // set and a signal number that exists on Linux (36 to 55; real-time signals go to 64).
        // `pthread_sigmask` reads the set and accepts a null pointer for the old one. None of them
        // keeps a pointer.
        unsafe {
            libc::sigemptyset(block.as_mut_ptr());
            libc::sigemptyset(unblock.as_mut_ptr());
            for bit in 0..BITS {
                let set = if self.0 >> bit & 1 == 1 {
                    &mut block
                } else {
                    &mut unblock
                };
                libc::sigaddset(set.as_mut_ptr(), FIRST_SIGNAL + bit.cast_signed());
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, block.as_ptr(), std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, unblock.as_ptr(), std::ptr::null_mut());
        }
    }

    /// Returns whether thread `tid` has this mark. Returns false for a thread that has ended.
    pub(crate) fn marks_thread(self, tid: u32) -> bool {
        pattern_of(tid) == Some(self.0)
    }
}

/// Returns whether thread `tid` may still be starting, and so not have the mask of its creator yet.
/// It is true, too, of a thread that blocks all signals.
pub(crate) fn may_be_starting(tid: u32) -> bool {
    pattern_of(tid) == Some(ALL)
}

/// Reads the pattern of a thread; `None` if it has ended.
///
/// Reads `status`, which costs more than `stat`: it is asked of unknown threads only.
fn pattern_of(tid: u32) -> Option<u32> {
    proc::signals(tid).map(|signals| pattern(signals.blocked))
}

/// Extracts the pattern from a set of blocked signals.
///
/// Pure, so that it can be tested without threads.
fn pattern(blocked: u64) -> u32 {
    let bits = blocked >> (FIRST_SIGNAL - 1) & u64::from(ALL);
    u32::try_from(bits).expect("it has 20 bits")
}

#[cfg(test)]
mod tests {
    use super::{ALL, Tag, pattern};
    use crate::threads::own_tid;

    #[test]
    fn a_thread_whose_start_is_not_over_has_all_signals_blocked() {
        assert_eq!(pattern(0xffff_fffe_7ffb_feff), ALL);
    }

    #[test]
    fn a_thread_inherits_the_mark_of_its_creator_and_no_other() {
        let (tag, other) = (Tag::new(), Tag::new());
        let (name, marks) = std::thread::Builder::new()
            .spawn(move || {
                tag.mark_own_thread();
                let inner = std::thread::Builder::new().name("grandchild".to_owned());
                let inner = inner.spawn(move || (own_tid(), tag.marks_thread(own_tid())));
                let (_, marked) = inner.expect("a thread").join().expect("no panic");
                (marked, other.marks_thread(own_tid()))
            })
            .expect("a thread")
            .join()
            .expect("no panic");
        assert!(name, "what a marked thread starts is marked");
        assert!(!marks, "another tag does not match");
        assert!(!tag.marks_thread(own_tid()), "this thread was not marked");
    }
}
