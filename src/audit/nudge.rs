//! Interrupting a system call of a thread that opted in: a signal whose handler does nothing, installed without
//! `SA_RESTART`, so that the call returns `EINTR` (signal(7)).
//!
//! What std tries again after `EINTR` (`read_exact`, `accept`, locks, sleeps) is not ended by it.

#![expect(
    unsafe_code,
    reason = "libc has no safe call that handles a signal by nothing, or sends one to a thread"
)]

use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Below it are the marks of threads.
const FIRST_SIGNAL: i32 = 56;

/// The signal that is ours; `None` when there was none to be had.
static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();

/// Prepares the process for nudges. Others that look for a free signal find that this one is taken.
pub(crate) fn install() {
    SIGNAL.get_or_init(|| {
        let mut free = (FIRST_SIGNAL..=libc::SIGRTMAX())
            .filter(|signal| handler_of(*signal) == Some(libc::SIG_DFL));
        free.find(|signal| handle(*signal))
    });
}

/// Lets nudges through to the calling thread, whatever mask it has from the one that started it.
pub(crate) fn let_through() {
    let Some(Some(signal)) = SIGNAL.get() else {
        return;
    };
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set; `sigaddset` gets an initialised set and a signal number that `install`
    // found between 56 and SIGRTMAX. `pthread_sigmask` reads the set and may be given no place for the old one. None of
    // them keeps a pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), *signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Whether the signal is still handled by us: a handler that somebody else put in our place might do anything, and the
/// default is to end the process.
pub(crate) fn is_possible() -> bool {
    let signal = SIGNAL.get().copied().flatten();
    signal.is_some_and(|signal| handler_of(signal) == Some(does_nothing as *const () as usize))
}

/// Interrupts what the thread of that number waits in. Whether it was sent.
///
/// The caller makes sure that the number is still that of the thread it means, and asks [`is_possible`] before.
pub(crate) fn send(tid: u32) -> bool {
    let (Some(Some(signal)), Ok(tid)) = (SIGNAL.get(), libc::pid_t::try_from(tid)) else {
        return false;
    };
    let pid = libc::pid_t::from_ne_bytes(std::process::id().to_ne_bytes());
    // SAFETY: `tgkill` takes three numbers and keeps nothing. Only threads of this process are reached by it, and our
    // handler, which touches nothing, is the signal's.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, *signal) };
    sent == 0
}

pub(super) fn handler_of(signal: i32) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `sigaction` may be given no new action. It writes the present one to the place given and keeps no pointer.
    // Only when it succeeds (returns 0) is the place read, and then it is initialised.
    unsafe {
        let found = libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        (found == 0).then(|| action.assume_init().sa_sigaction)
    }
}

fn handle(signal: i32) -> bool {
    // SAFETY: all zeroes is a `sigaction`: no handler, an empty mask, no flags. The handler set takes the one argument
    // that a handler without `SA_SIGINFO` gets, and may run at any moment, because it does nothing. `sigaction` reads the
    // action and keeps no pointer to it.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = does_nothing as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    }
}

extern "C" fn does_nothing(_signal: libc::c_int) {}
