//! Whose thread is it? A mark that threads inherit from the thread that starts them, at any remove, and that others can
//! read: a pattern of blocked real-time signals.
//!
//! A new thread inherits the signal mask of its creator (pthread_create(3)), whatever it is named, and the kernel shows
//! every thread's mask in `/proc/self/task/TID/status`. The signals used, 36 to 55, have no meaning of their own; a test
//! that wants one of them must unblock it. Child processes started by `std::process` have an empty mask, so they are
//! told by the thread that forked them.

#![expect(
    unsafe_code,
    reason = "libc has no safe call for a thread's signal mask"
)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST_SIGNAL: i32 = 36;
const BITS: u32 = 20;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One pattern; unique among the last million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u32);

/// Every signal, as a thread has them blocked until its start is over (glibc 2.36, `start_thread` in
/// nptl/pthread_create.c), and as one has them that blocks all.
const ALL: u32 = (1 << BITS) - 1;

// === impl Tag ===

impl Tag {
    /// A tag that no thread has.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Never 0: that is what untagged threads have. Nor all.
        Self(number % (ALL - 1) + 1)
    }

    /// Marks the calling thread, and all that it will start.
    pub(crate) fn mark_own_thread(self) {
        let mut block = MaybeUninit::<libc::sigset_t>::uninit();
        let mut unblock = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given; `sigaddset` gets an initialised set and a signal number
        // that exists on Linux (36 to 55; real-time signals go to 64). `pthread_sigmask` reads the set and may be given
        // no place for the old one. None of them keeps a pointer.
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

    /// Whether the thread of that number is marked with this.
    pub(crate) fn marks_thread(self, tid: u32) -> bool {
        pattern_of(tid) == Some(self.0)
    }
}

/// Whether the thread of that number may not have got the mark of its creator yet.
pub(crate) fn may_be_starting(tid: u32) -> bool {
    pattern_of(tid) == Some(ALL)
}

fn pattern_of(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"));
    blocked(&status.ok()?)
}

/// The pattern in a `status` file.
fn blocked(status: &str) -> Option<u32> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    let pattern = mask >> (FIRST_SIGNAL - 1) & u64::from(ALL);
    u32::try_from(pattern).ok()
}

#[cfg(test)]
mod tests {
    use super::{ALL, Tag, blocked};
    use crate::threads::own_tid;

    #[test]
    fn a_thread_whose_start_is_not_over_has_all_signals_blocked() {
        let status = "Name:\tx\nSigBlk:\tfffffffe7ffbfeff\nSigIgn:\t0\n";
        assert_eq!(blocked(status), Some(ALL));
    }

    #[test]
    fn a_thread_is_marked_by_the_one_that_started_it_and_no_other() {
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
