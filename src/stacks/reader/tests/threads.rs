//! Threads in all kinds of waits, each read by the means that fit.

use super::{Means, await_call, frames, functions, read, read_one, thread};
use crate::stacks::folded;
use crate::stacks::reader::memory::Memory;
use crate::stacks::reader::modules::Modules;
use crate::stacks::reader::quiet::{self, Glance};
use crate::stacks::reader::walk::Walker;
use crate::threads::own_tid;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// Asserts that every means reads the waiting thread down to its root and finds the function that
/// it waits in. If the stack read from outside is marked exact, it must equal the one that the
/// signal gives.
#[track_caller]
fn assert_waits_in(tid: u32, function: &str) {
    let quiet = read_one(tid, Means::Quiet).expect("it is read quietly");
    let any = read_one(tid, Means::Any).expect("it is read");
    for stack in [&quiet, &any] {
        assert!(stack.is_complete, "{stack:?}");
        let functions = functions(stack);
        let (first, last) = (&functions[0], &functions[functions.len() - 1]);
        assert!(first.contains(function), "{functions:#?}");
        assert!(last.contains("tests::thread::{closure}"), "{functions:#?}");
    }
    assert!(any.is_exact);
    // An approximate stack is usually right, but that is not guaranteed.
    if quiet.is_exact {
        assert_eq!(quiet.addresses, any.addresses);
    }
}

#[test]
fn a_thread_that_waits_for_a_futex_is_read() {
    let (tid, parked) = thread(std::thread::park);
    await_call(tid, libc::SYS_futex);
    assert_waits_in(tid, "syscall");
    parked.thread().unpark();
    parked.join().expect("no panic");
}

#[test]
fn a_thread_that_sleeps_is_read() {
    let (tid, _) = thread(|| std::thread::sleep(Duration::from_secs(1000)));
    await_call(tid, libc::SYS_clock_nanosleep);
    assert_waits_in(tid, "nanosleep");
}

#[test]
fn a_thread_that_reads_a_pipe_is_read() {
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let (tid, reads) = thread(move || {
        let read = reader.read(&mut [0; 1]);
        assert_eq!(read.expect("the call goes on after a signal"), 1);
    });
    await_call(tid, libc::SYS_read);
    assert_waits_in(tid, "read");
    writer.write_all(b"x").expect("it is read");
    reads.join().expect("no panic");
}

#[test]
fn a_thread_that_accepts_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    let (tid, accepts) = thread(move || {
        listener.accept().expect("the call goes on after a signal");
    });
    await_call(tid, libc::SYS_accept4);
    assert_waits_in(tid, "accept");
    TcpStream::connect(address).expect("it listens");
    accepts.join().expect("no panic");
}

#[inline(never)]
fn spins_until(begun: &AtomicBool, stop: &AtomicBool) {
    begun.store(true, Ordering::SeqCst); // mark: spins
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// A thread that spins; dropping this stops it.
struct Spinning {
    tid: u32,
    stop: Arc<AtomicBool>,
}

impl Spinning {
    fn start(before: fn()) -> Self {
        let (begun, stop) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (begins, stops) = (Arc::clone(&begun), Arc::clone(&stop));
        let (tid, _) = thread(move || {
            before();
            spins_until(&begins, &stops);
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Self { tid, stop }
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_thread_on_a_processor_is_named_with_file_and_line() {
    // As for the file of a spawn site.
    crate::stacks::know_site(file!());
    let spinning = Spinning::start(|| ());
    let stack = read_one(spinning.tid, Means::Quiet).expect("it answers");
    assert!(stack.is_exact && stack.is_complete);
    let frames = folded(frames(&stack));
    let found = frames
        .iter()
        .find(|frame| frame.function.ends_with("spins_until"));
    let place = found.unwrap_or_else(|| panic!("{frames:#?}"));
    assert_eq!(place.file.as_deref(), Some(file!()));
    let marked = include_str!("threads.rs")
        .lines()
        .position(|line| line.ends_with("// mark: spins"));
    let marked = marked.expect("the mark is there") as u32 + 1;
    let line = place.line.expect("debug information is there");
    assert!((marked..marked + 5).contains(&line), "{line}, not {marked}");
}

/// Blocks all signals in the calling thread.
#[expect(
    unsafe_code,
    reason = "libc has no safe call for a thread's signal mask"
)]
fn block_all_signals() {
    // SAFETY: `sigfillset` initialises the set, and `pthread_sigmask` reads it; neither keeps it.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

#[test]
fn a_thread_that_blocks_all_signals_is_read_quietly() {
    let (tid, parked) = thread(|| {
        block_all_signals();
        std::thread::park();
    });
    await_call(tid, libc::SYS_futex);
    for means in [Means::Quiet, Means::Any] {
        let stack = read_one(tid, means).expect("it is read quietly");
        assert!(stack.is_complete, "{stack:?}");
    }
    parked.thread().unpark();
    parked.join().expect("no panic");
}

#[test]
fn a_thread_that_runs_and_blocks_all_signals_is_not_read() {
    let spinning = Spinning::start(block_all_signals);
    let why = read_one(spinning.tid, Means::Any).expect_err("it cannot be asked");
    assert_eq!(why, "it blocks headcount's signal");
}

#[test]
#[expect(unsafe_code, reason = "libc has no safe call to wait for a signal")]
fn a_thread_in_sigwait_gets_no_signal_of_ours() {
    let (tell, told) = channel();
    let (tid, _) = thread(move || {
        block_all_signals();
        // SAFETY: as in `block_all_signals`; the signal's number is written to a variable that
        // lives.
        let signal = unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            let mut signal = 0;
            libc::sigwait(&raw const all, &raw mut signal);
            signal
        };
        tell.send(signal).ok();
    });
    await_call(tid, libc::SYS_rt_sigtimedwait);
    for means in [Means::Quiet, Means::Any] {
        let stack = read_one(tid, means).expect("it is read quietly");
        assert!(stack.is_complete, "{stack:?}");
    }
    // Even if the stack read from outside is not good enough.
    let memory = Memory::open();
    let mut glance = quiet::glance(tid, &memory, &Modules::default(), &mut Walker::default());
    if let Glance::Waits { stack, .. } = &mut glance {
        assert!(!stack.is_complete, "without modules");
        stack.is_exact = false;
    }
    assert!(!glance.wants_signal(Means::Any));
    // The thread would have sent the signal before it waited again.
    await_call(tid, libc::SYS_rt_sigtimedwait);
    assert!(told.try_recv().is_err(), "a signal was taken");
}

#[test]
#[expect(unsafe_code, reason = "a thread that Rust does not know")]
fn a_thread_started_by_c_is_read() {
    static TID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    extern "C" fn begins(_: *mut libc::c_void) -> *mut libc::c_void {
        TID.store(own_tid(), Ordering::SeqCst);
        // SAFETY: `pause` only waits for a signal.
        unsafe { libc::pause() };
        std::ptr::null_mut()
    }
    // SAFETY: the thread's id is written to a variable that lives, and the function takes any
    // argument.
    unsafe {
        let mut thread = 0;
        libc::pthread_create(
            &raw mut thread,
            std::ptr::null(),
            begins,
            std::ptr::null_mut(),
        );
        libc::pthread_detach(thread);
    }
    while TID.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let tid = TID.load(Ordering::SeqCst);
    await_call(tid, 34);
    let stack = read_one(tid, Means::Quiet).expect("it is read");
    assert!(stack.is_complete, "{stack:?}");
    let functions = functions(&stack);
    let last = functions.last().expect("it has functions");
    assert!(last.ends_with("begins"), "{functions:#?}");
}

#[inline(never)]
fn deep(left: usize, end: &dyn Fn()) {
    match left {
        0 => end(),
        _ => deep(left - 1, end),
    }
    std::hint::black_box(left);
}

#[test]
fn a_stack_that_is_too_deep_says_so() {
    let (tid, parked) = thread(|| deep(5000, &std::thread::park));
    await_call(tid, libc::SYS_futex);
    for means in [Means::Quiet, Means::Any] {
        let stack = read_one(tid, means).expect("its innermost part is read");
        assert!(!stack.is_complete);
        assert!(stack.addresses.len() > 100, "{}", stack.addresses.len());
        let functions = functions(&stack);
        assert!(functions.iter().any(|function| function.ends_with("deep")));
    }
    parked.thread().unpark();
    parked.join().expect("no panic");
}

#[test]
fn a_thread_that_has_ended_is_reported_as_such() {
    let (tid, ends) = thread(|| {});
    ends.join().expect("no panic");
    // The kernel removes it a little later.
    while std::fs::exists(format!("/proc/self/task/{tid}")).expect("it can be asked") {
        std::thread::yield_now();
    }
    let why = read_one(tid, Means::Any).expect_err("it has no stack");
    assert_eq!(why, "it ended");
}

#[test]
fn the_reading_thread_is_not_read() {
    let why = read_one(own_tid(), Means::Any).expect_err("it does not read itself");
    assert_eq!(why, "it is the thread that reads stacks");
}

#[test]
fn two_hundred_threads_that_come_and_go_are_read() {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(Barrier::new(201));
    let churns: Vec<_> = (0..200)
        .map(|_| {
            let (stop, begun) = (Arc::clone(&stop), Arc::clone(&begun));
            thread(move || {
                begun.wait();
                while !stop.load(Ordering::Relaxed) {
                    thread(std::thread::yield_now).1.join().expect("no panic");
                }
            })
        })
        .collect();
    begun.wait();
    let mut complete = 0;
    for means in [Means::Quiet, Means::Any] {
        let tids: Vec<u32> = std::fs::read_dir("/proc/self/task")
            .expect("it can be listed")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let stacks = read(&tids, means);
        assert_eq!(stacks.len(), tids.len());
        let read = stacks.iter().flatten();
        complete += read.filter(|stack| stack.is_complete).count();
    }
    assert!(complete > 0);
    stop.store(true, Ordering::Relaxed);
    for (_, churn) in churns {
        churn.join().expect("no panic");
    }
}

#[test]
fn a_pool_of_rayon_is_known_by_what_its_threads_were_started_with() {
    let (tell, told) = channel();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .start_handler(move |_| tell.send(own_tid()).expect("it is waited for"))
        .build()
        .expect("threads");
    let tid = told.recv().expect("it starts");
    await_call(tid, libc::SYS_futex);
    let stack = read_one(tid, Means::Quiet).expect("it is read");
    let frames = frames(&stack);
    let functions: Vec<String> = frames.into_iter().map(|frame| frame.function).collect();
    let rule = crate::threads::shipped()
        .iter()
        .find(|rule| rule.matches("any", Some(&functions)));
    let reason = rule.map(crate::threads::ThreadRule::reason);
    assert_eq!(
        reason,
        Some("rayon's global pool never ends"),
        "{functions:#?}"
    );
    drop(pool);
}

#[test]
fn a_thread_of_ours_shows_what_it_was_started_with_and_nothing_below() {
    let (tell, told) = channel();
    let site = std::panic::Location::caller();
    let class = crate::threads::ThreadClass::Daemon;
    let work = move || {
        tell.send(own_tid()).expect("it is waited for");
        std::thread::park(); // mark: work
    };
    let started = crate::threads::start(0, "ours", class, site, work).expect("a thread");
    let tid = told.recv().expect("it tells");
    await_call(tid, libc::SYS_futex);
    let stack = read_one(tid, Means::Quiet).expect("it is read");
    let outermost = folded(frames(&stack)).pop().expect("it has frames");
    let test = "a_thread_of_ours_shows_what_it_was_started_with_and_nothing_below";
    let here = module_path!();
    assert_eq!(outermost.function, format!("{here}::{test}::{{closure}}"));
    let marked = include_str!("threads.rs")
        .lines()
        .position(|line| line.ends_with("// mark: work"));
    assert_eq!(outermost.line, marked.map(|line| line as u32 + 1));
    started.thread().unpark();
    started.join().expect("no panic");
}

#[test]
fn the_main_thread_is_read() {
    let main = std::process::id();
    for means in [Means::Quiet, Means::Any] {
        let stack = read_one(main, means).expect("it is read");
        assert!(stack.is_complete, "{stack:?}");
    }
}
