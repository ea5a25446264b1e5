//! Interrupts a system call of a thread that opted in.
//!
//! The means is a signal with an empty handler, installed without `SA_RESTART`, so that the call
//! returns `EINTR` (signal(7)). The signal is the first free one from 56 on; once taken it is kept
//! for the life of the process.
//!
//! Calls that std repeats after `EINTR` (`read_exact`, `accept`, locks, sleeps) are not ended by
//! it.
//!
//! The steps: [`install`] when the first thread with a nudge is started, [`let_through`] in that
//! thread, and at a shutdown [`is_possible`] and then [`send`], again and again until the thread
//! has ended, because a signal that arrives just before the call has no effect on it.

#![expect(
    unsafe_code,
    reason = "libc has no safe call that handles a signal by nothing, or sends one to a thread"
)]

use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// The lowest signal that may be taken. Those below it are the marks of [`super::tag`].
///
/// The reader of stacks takes its own from 61 downwards.
const FIRST_SIGNAL: i32 = 56;

/// The signal that was taken; `None` if none was free, unset before [`install`].
///
/// Never given back: a late signal without the handler would end the process.
static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();

/// Takes a free signal and installs its handler, once. Other code that looks for a free signal then
/// sees that it is taken.
///
/// Costs a system call for each signal that is looked at. Between the look and the installation
/// other code could take the same signal; that cannot be excluded by any means.
pub(crate) fn install() {
    SIGNAL.get_or_init(|| {
        let mut free = (FIRST_SIGNAL..=libc::SIGRTMAX())
            .filter(|signal| handler_of(*signal) == Some(libc::SIG_DFL));
        free.find(|signal| handle(*signal))
    });
}

/// Unblocks the signal in the calling thread, whatever mask it inherited. Does nothing before
/// [`install`], or if no signal was free.
///
/// A thread that headcount starts inherits the mask of its creator, which may block everything.
pub(crate) fn let_through() {
    let Some(Some(signal)) = SIGNAL.get() else {
        return;
    };
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set; `sigaddset` gets an initialised set and a signal
    // number that `install` found between 56 and SIGRTMAX. `pthread_sigmask` reads the set and
    // accepts a null pointer for the old one. None of them keeps a pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), *signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Returns whether the signal still has this module's handler. A handler that other code installed
/// since might do anything, and the default action ends the process.
pub(crate) fn is_possible() -> bool {
    let signal = SIGNAL.get().copied().flatten();
    signal.is_some_and(|signal| handler_of(signal) == Some(does_nothing as *const () as usize))
}

/// Interrupts the system call that thread `tid` is in. Returns whether the signal was sent; it does
/// not wait for the effect.
///
/// The caller ensures that the id is still that of the thread it means, and calls [`is_possible`]
/// first.
///
/// A signal to a reused id would reach another thread of this process, where its handler does
/// nothing either.
pub(crate) fn send(tid: u32) -> bool {
    let (Some(Some(signal)), Ok(tid)) = (SIGNAL.get(), libc::pid_t::try_from(tid)) else {
        return false;
    };
    let pid = libc::pid_t::from_ne_bytes(std::process::id().to_ne_bytes());
    // SAFETY: `tgkill` takes three numbers and keeps nothing. It reaches only threads of this
    // process, and the signal has our handler, which touches nothing.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, *signal) };
    sent == 0
}

/// Returns the handler of a signal, `SIG_DFL` for a free one; `None` if the number is not valid.
pub(crate) fn handler_of(signal: i32) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `sigaction` accepts a null pointer for the new action. It writes the present one to
    // `action` and keeps no pointer. `action` is read only after success (0), and is then
    // initialised.
    unsafe {
        let found = libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        (found == 0).then(|| action.assume_init().sa_sigaction)
    }
}

/// Installs the handler. Returns whether that succeeded.
///
/// The mask is empty and there is no `SA_RESTART`: that flag is what would make the kernel resume
/// the call.
fn handle(signal: i32) -> bool {
    // SAFETY: all zeroes is a valid `sigaction`: no handler, an empty mask, no flags. The handler
    // takes the one argument that a handler without `SA_SIGINFO` gets, and may run at any moment,
    // because it does nothing. `sigaction` reads the action and keeps no pointer to it.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = does_nothing as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    }
}

/// The handler. That it ran is enough: the kernel then lets the call return `EINTR`.
extern "C" fn does_nothing(_signal: libc::c_int) {}
