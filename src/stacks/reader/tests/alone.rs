//! Tests that change the process, so each runs in a separate one.

#![expect(unsafe_code, reason = "the faults that are planted here")]

use super::{Means, await_call, frames, functions, is_alone, read_one, thread};
use crate::stacks::prepare;
use std::ffi::c_void;
use std::os::raw::c_int;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Far longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_process_that_is_not_dumpable_reads_stacks_by_signal() {
    if !is_alone(
        "alone::a_process_that_is_not_dumpable_reads_stacks_by_signal",
        Some(65_534),
    ) {
        return;
    }
    // SAFETY: it only changes an attribute of the process.
    let changed = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    assert_eq!(changed, 0);
    if std::fs::File::open("/proc/self/mem").is_ok() {
        // Root can read everything.
        return;
    }
    let (tid, _) = thread(std::thread::park);
    let sleeps = |tid| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") S "))
    };
    while !sleeps(tid) {
        std::thread::yield_now();
    }
    let why = read_one(tid, Means::Quiet).expect_err("the kernel does not show its registers");
    assert_eq!(why, "its registers cannot be read: permission denied");
    let stack = read_one(tid, Means::Any).expect("it answers");
    assert!(stack.is_exact && stack.is_complete, "{stack:?}");
}

#[test]
fn a_thread_that_holds_the_loader_lock_blocks_no_read() {
    if !is_alone(
        "alone::a_thread_that_holds_the_loader_lock_blocks_no_read",
        None,
    ) {
        return;
    }
    struct Gate(Sender<()>, Receiver<()>);
    unsafe extern "C" fn hold(_: *mut libc::dl_phdr_info, _: usize, gate: *mut c_void) -> c_int {
        // SAFETY: it is the pointer that `dl_iterate_phdr` was given below, and lives as long as
        // that call.
        let Gate(held, release) = unsafe { &*gate.cast::<Gate>() };
        held.send(()).expect("it is waited for");
        release.recv().ok();
        1
    }
    prepare();
    let (tell, told) = channel();
    let (release, released) = channel();
    let mut gate = Gate(tell, released);
    let (tid, _) = thread(move || {
        // SAFETY: `hold` takes the pointer that it is given, to a value that lives until the call
        // returns.
        unsafe { libc::dl_iterate_phdr(Some(hold), (&raw mut gate).cast()) };
    });
    told.recv().expect("it holds the lock");
    await_call(tid, libc::SYS_futex);
    let (answer, answered) = channel();
    thread(move || {
        let stack = read_one(tid, Means::Any).expect("it is read");
        assert!(stack.is_complete, "{stack:?}");
        answer.send(functions(&stack)).expect("it is waited for");
    });
    let functions = answered.recv_timeout(LONG).expect("the read does not hang");
    assert!(
        functions
            .iter()
            .any(|function| function.contains("dl_iterate_phdr")),
        "{functions:#?}"
    );
    release.send(()).expect("it waits");
}

#[test]
fn a_library_that_is_loaded_later_is_unwound() {
    if !is_alone("alone::a_library_that_is_loaded_later_is_unwound", None) {
        return;
    }
    prepare();
    let (tid, _) = thread(std::thread::park);
    await_call(tid, libc::SYS_futex);
    read_one(tid, Means::Quiet).expect("it is read");
    // SAFETY: the name ends with a zero; a library of glibc runs no code when it is loaded.
    let library = unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "glibc has it");
    // SAFETY: as above; `library` is open.
    let function = unsafe { libc::dlsym(library, c"ns_sprintrr".as_ptr()) };
    assert!(!function.is_null(), "it has it");
    read_one(tid, Means::Quiet).expect("it is read");
    let reader = crate::stacks::reader::READER.lock().expect("no panic");
    let modules = &reader.as_ref().expect("it was made").modules;
    let address = function.addr() as u64;
    assert_eq!(modules.function(address + 1), Some(address));
    drop(reader);
    // The functions of such a library are not known to the symbolizer; the library is named
    // instead.
    let stack = crate::stacks::Stack {
        addresses: vec![function.addr()],
        is_exact: true,
        is_complete: false,
    };
    let name = frames(&stack).remove(0).function;
    assert!(name.starts_with("libresolv.so.2+0x"), "{name}");
}
