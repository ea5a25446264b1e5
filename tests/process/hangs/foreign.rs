//! Threads that need C to be created: by C code, without signals, or in a callback of the loader.

#![expect(
    unsafe_code,
    reason = "the standard library has no way to make such threads"
)]

use crate::host::Host;
use crate::workers::plain_thread;
use crate::{FOR_EVER, begun};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::{ptr, thread};

pub(crate) fn blocks_all_signals(_host: &Host<'_>) {
    plain_thread("realtime-audio", mix_audio);
}

fn mix_audio() {
    // SAFETY: `sigfillset` initialises the set that `pthread_sigmask` reads; neither keeps a pointer.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
    }
    begun();
    thread::sleep(FOR_EVER); // mark: blocks-all-signals
}

pub(crate) fn waits_for_signal(_host: &Host<'_>) {
    plain_thread("hup-listener", listen_for_hangup);
}

fn listen_for_hangup() {
    let mut signal = 0;
    // SAFETY: `sigemptyset` initialises the set before the other calls use it, SIGHUP is a valid signal, and `signal`
    // outlives the call that writes it.
    unsafe {
        let mut hangup = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(hangup.as_mut_ptr());
        libc::sigaddset(hangup.as_mut_ptr(), libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, hangup.as_ptr(), ptr::null_mut());
        begun();
        libc::sigwait(hangup.as_ptr(), &raw mut signal); // mark: thread-in-sigwait
    }
}

/// Starts a thread that has neither a name of its own nor a handle.
pub(crate) fn started_by_c(_host: &Host<'_>) {
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: `thread` is written before the call returns, null attributes mean the defaults, and the function
    // ignores its argument.
    let failed = unsafe {
        libc::pthread_create(
            thread.as_mut_ptr(),
            ptr::null(),
            decode_frames,
            ptr::null_mut(),
        )
    };
    assert_eq!(failed, 0, "the system has threads");
}

extern "C" fn decode_frames(_: *mut c_void) -> *mut c_void {
    begun();
    // SAFETY: the call takes no pointers.
    unsafe { libc::sleep(u32::MAX) }; // mark: thread-of-c
    ptr::null_mut()
}

/// Holds the loader's lock forever, so that no other thread can list or load modules of the process.
pub(crate) fn holds_loader(_host: &Host<'_>) {
    plain_thread("profiler", list_modules);
}

fn list_modules() {
    // SAFETY: the callback has the required signature, and ignores its arguments.
    unsafe { libc::dl_iterate_phdr(Some(look_at_module), ptr::null_mut()) };
}

extern "C" fn look_at_module(_: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    begun();
    thread::sleep(FOR_EVER); // mark: loader-callback
    0
}
