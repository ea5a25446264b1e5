//! Threads that really block, each in another way, and the sentence that describes each.

#![expect(
    unsafe_code,
    reason = "a thread waits for a signal, and is sent it, by libc alone"
)]

use super::{ThreadWait, Wait, read};
use crate::audit::proc::syscall::SystemCall;
use crate::stacks::locks;
use crate::threads::own_tid;
use rustix::event::epoll;
use rustix::thread::{NanosleepRelativeResult, clock_nanosleep_absolute};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Starts a thread, and returns its id once it runs.
fn start(work: impl FnOnce() + Send + 'static) -> (u32, JoinHandle<()>) {
    let (tell, told) = mpsc::channel();
    let thread = Builder::new().spawn(move || {
        tell.send(own_tid()).expect("the test waits");
        work();
    });
    (told.recv().expect("it begins"), thread.expect("a thread"))
}

/// Reads the thread until its sentence satisfies `is_it`.
fn until(tid: u32, is_it: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let said = read(tid).wait.to_string();
        if is_it(&said) {
            return said;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it says: {said}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn says(tid: u32, sentence: &str) {
    until(tid, |said| said == sentence);
}

fn number(file: &impl AsRawFd) -> i32 {
    file.as_raw_fd()
}

#[test]
fn a_read_from_a_socket_names_the_other_side() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).expect("a connection");
    let fd = number(&client);
    let (tid, thread) = start(move || drop(client.read(&mut [0])));
    says(tid, &format!("blocked in recv(fd {fd} → tcp {address})"));
    drop(listener.accept().expect("the client"));
    thread.join().expect("no panic");
    // A join returns shortly before the kernel removes the thread from /proc.
    says(tid, "ended");
}

#[test]
fn an_accept_names_the_address_that_it_listens_on() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(bind).expect("a port");
        let address = listener.local_addr().expect("an address");
        let fd = number(&listener);
        let (tid, thread) = start(move || drop(listener.accept()));
        says(
            tid,
            &format!("blocked in accept(fd {fd} → tcp listen {address})"),
        );
        drop(TcpStream::connect(address).expect("a connection"));
        thread.join().expect("no panic");
    }
}

#[test]
fn a_datagram_socket_names_its_own_address_or_the_other_side() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (own, peer) = (socket.local_addr(), other.local_addr());
    let (own, peer) = (own.expect("an address"), peer.expect("an address"));
    let fd = number(&socket);
    let (tid, thread) = start(move || {
        socket.recv_from(&mut [0]).expect("a datagram");
        socket.connect(peer).expect("an address is enough");
        socket.recv(&mut [0]).expect("a datagram");
    });
    says(tid, &format!("blocked in recv(fd {fd} → udp on {own})"));
    other.send_to(&[1], own).expect("it is there");
    says(tid, &format!("blocked in recv(fd {fd} → udp {peer})"));
    other.send_to(&[1], own).expect("it is there");
    thread.join().expect("no panic");
}

#[test]
fn unix_sockets_are_named_by_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.sock");
    let shown = path.display();
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut client = UnixStream::connect(&path).expect("a connection");
    let (mut served, _) = listener.accept().expect("the client");
    let end = client.try_clone().expect("a copy");
    let (fd, served_fd) = (number(&client), number(&served));
    let (tid, thread) = start(move || drop(client.read(&mut [0])));
    let (served_tid, served_thread) = start(move || drop(served.read(&mut [0; 2])));
    says(tid, &format!("blocked in recv(fd {fd} → unix {shown})"));
    says(
        served_tid,
        &format!("blocked in recv(fd {served_fd} → unix {shown})"),
    );
    let listener_fd = number(&listener);
    let (accept_tid, accepting) = start(move || drop(listener.accept()));
    says(
        accept_tid,
        &format!("blocked in accept(fd {listener_fd} → unix listen {shown})"),
    );
    let mut last = UnixStream::connect(&path).expect("a connection");
    accepting.join().expect("no panic");
    // The peer is gone; the write is for the thread that would hang otherwise.
    last.write_all(&[1]).ok();
    let (mut one, two) = UnixStream::pair().expect("a pair");
    let fd = number(&one);
    let (pair_tid, pair) = start(move || drop(one.read(&mut [0])));
    says(
        pair_tid,
        &format!("blocked in recv(fd {fd} → unix (no name))"),
    );
    drop(two);
    pair.join().expect("no panic");
    end.shutdown(Shutdown::Both).expect("it is connected");
    thread.join().expect("no panic");
    served_thread.join().expect("no panic");
}

#[test]
fn a_connect_names_where_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("an address");
    for listener in [number(&listener), number(&tcp)] {
        // SAFETY: `listen` takes two numbers, and the descriptor is open while this test runs.
        assert_eq!(unsafe { libc::listen(listener, 0) }, 0);
    }
    // The backlog holds one connection that is not accepted.
    let first = UnixStream::connect(&path).expect("a connection");
    let to = path.clone();
    let (tid, thread) = start(move || drop(UnixStream::connect(to)));
    let unix = format!(" → unix {})", path.display());
    until(tid, |said| {
        said.starts_with("blocked in connect(fd ") && said.ends_with(&unix)
    });
    let first_tcp = TcpStream::connect(address).expect("a connection");
    // It retries every second, until the end of the process if need be.
    let (tid, _) = start(move || drop(TcpStream::connect(address)));
    let to = format!(" → tcp {address})");
    until(tid, |said| {
        said.starts_with("blocked in connect(fd ") && said.ends_with(&to)
    });
    drop((first, listener.accept(), first_tcp));
    thread.join().expect("no panic");
}

#[test]
fn pipes_are_named_by_kind_for_both_ends() {
    let (mut out, mut inward) = std::io::pipe().expect("a pipe");
    let fd = number(&inward);
    let (tid, thread) = start(move || drop(inward.write_all(&[0; 1 << 20])));
    says(tid, &format!("blocked in write(fd {fd} → pipe)"));
    out.read_exact(&mut [0; 4096]).expect("there is more");
    drop(out);
    thread.join().expect("no panic");

    let (mut out, inward) = std::io::pipe().expect("a pipe");
    let fd = number(&out);
    let (tid, thread) = start(move || drop(out.read(&mut [0])));
    says(tid, &format!("blocked in read(fd {fd} → pipe)"));
    drop(inward);
    thread.join().expect("no panic");
}

#[test]
fn threads_on_one_lock_are_counted() {
    let lock = Arc::new(Mutex::new(()));
    let held = lock.lock().expect("no panic");
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let lock = lock.clone();
            start(move || drop(lock.lock()))
        })
        .collect();
    let on_futex = |said: &str| said.starts_with("waiting on futex 0x");
    let said = until(threads[0].0, on_futex);
    for (tid, _) in &threads {
        says(*tid, &said);
    }
    let (parked, thread) = start(std::thread::park);
    until(parked, on_futex);
    let tids = threads.iter().map(|(tid, _)| *tid).chain([parked]);
    let waits: Vec<ThreadWait> = tids.map(read).collect();
    let waits: Vec<&ThreadWait> = waits.iter().collect();
    let sentences = locks::sentences(&waits, &[]);
    assert_eq!(sentences[0], format!("{said}, along with 2 other threads"));
    assert_eq!(sentences[2], sentences[0]);
    assert!(!sentences[3].contains("along with"), "{}", sentences[3]);
    let two = locks::sentences(&waits[..2], &[]);
    assert_eq!(two[0], format!("{said}, along with 1 other thread"));
    drop(held);
    thread.thread().unpark();
    for (_, thread) in threads {
        thread.join().expect("no panic");
    }
    thread.join().expect("no panic");
}

#[test]
fn a_condition_may_be_waited_for_without_end_or_for_a_time() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = pair.clone();
    let (tid, thread) = start(move || {
        let guard = theirs.0.lock().expect("no panic");
        let go = theirs.1.wait_while(guard, |go| !*go).expect("no panic");
        drop(go);
    });
    let said = until(tid, |said| said.starts_with("waiting on futex 0x"));
    assert!(!said.contains("timeout"), "{said}");
    let theirs = pair.clone();
    let (timed, timed_thread) = start(move || {
        let guard = theirs.0.lock().expect("no panic");
        let long = Duration::from_secs(1000);
        drop(theirs.1.wait_timeout_while(guard, long, |go| !*go));
    });
    until(timed, |said| said.ends_with(" with a timeout"));
    *pair.0.lock().expect("no panic") = true;
    pair.1.notify_all();
    thread.join().expect("no panic");
    timed_thread.join().expect("no panic");
}

#[test]
fn a_thread_that_joins_another_names_it() {
    let (hold, held) = mpsc::channel::<()>();
    let (inner, inner_thread) = start(move || assert!(held.recv().is_err()));
    let (tid, thread) = start(move || inner_thread.join().expect("no panic"));
    if cfg!(target_env = "gnu") {
        says(tid, &format!("waiting for thread {inner} to end"));
    }
    drop(hold);
    thread.join().expect("no panic");
}

#[test]
fn a_sleep_says_how_long() {
    // Both still sleep when the test is over: only the end of the process wakes them.
    let (tid, _) = start(|| {
        let long = rustix::time::Timespec {
            tv_sec: 1000,
            tv_nsec: 0,
        };
        let slept = rustix::thread::nanosleep(&long);
        assert!(matches!(slept, NanosleepRelativeResult::Ok));
    });
    says(tid, "sleeping for 1000.0s");
    let (tid, _) = start(|| {
        let clock = rustix::time::ClockId::Monotonic;
        let mut moment = rustix::time::clock_gettime(clock);
        moment.tv_sec += 1000;
        assert_eq!(clock_nanosleep_absolute(clock, &moment), Ok(()));
    });
    until(tid, |said| {
        said.starts_with("sleeping, 9") && said.ends_with("s left")
    });
}

#[test]
fn a_child_is_named_by_number() {
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = child.id();
    let (tid, thread) = start(move || drop(child.wait()));
    says(tid, &format!("waiting for child {pid}"));
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    thread.join().expect("no panic");
}

#[test]
fn an_epoll_and_a_poll_are_named() {
    let (out, inward) = std::io::pipe().expect("a pipe");
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    epoll::add(
        &poller,
        &out,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )
    .expect("a pipe can be waited for");
    let fd = number(&poller);
    let (tid, thread) = start(move || {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), None).expect("an event");
    });
    says(tid, &format!("blocked in epoll_wait(fd {fd} → epoll)"));
    let polled = out.try_clone().expect("a copy");
    let fd = number(&polled);
    let (polls, polling) = start(move || {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&polled, PollFlags::IN)], None).expect("an event");
    });
    says(polls, &format!("blocked in poll(fd {fd} → pipe)"));
    drop(inward);
    thread.join().expect("no panic");
    polling.join().expect("no panic");
}

#[test]
fn a_locked_file_is_named_by_path() {
    use rustix::fs::{FlockOperation, flock};
    let file = tempfile::NamedTempFile::new().expect("a file");
    flock(&file, FlockOperation::LockExclusive).expect("nobody has it");
    let again = File::open(file.path()).expect("it is there");
    let fd = number(&again);
    let (tid, thread) = start(move || {
        flock(&again, FlockOperation::LockExclusive).expect("it is given up");
    });
    let path = file.path().display();
    says(tid, &format!("blocked in flock(fd {fd} → {path})"));
    flock(&file, FlockOperation::Unlock).expect("we have it");
    thread.join().expect("no panic");
}

#[test]
fn a_wait_for_a_signal_is_named() {
    let (tid, thread) = start(|| {
        let mut set = std::mem::MaybeUninit::uninit();
        let mut got = 0;
        // SAFETY: `sigemptyset` initialises the set before the others use it, the signal's number exists, and both
        // places live through the calls.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGUSR2);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            libc::sigwait(set.as_ptr(), &raw mut got);
        }
        assert_eq!(got, libc::SIGUSR2);
    });
    says(tid, "waiting for a signal");
    let pid = std::process::id().cast_signed();
    // SAFETY: `tgkill` takes three numbers. The thread blocks the signal, so no handler runs, and it is not over: it
    // waits for this one.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid.cast_signed(), libc::SIGUSR2) };
    thread.join().expect("no panic");
}

#[test]
fn a_thread_that_works_is_on_cpu() {
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let (tid, thread) = start(move || {
        while !theirs.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    says(tid, "on CPU");
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("no panic");
}

#[test]
fn a_wait_that_cannot_be_read_has_a_reason() {
    let place = Some("futex_wait_queue".to_owned());
    let why = "its system call cannot be read: permission denied".to_owned();
    assert_eq!(
        Wait::Unknown { place, why }.to_string(),
        "waiting in kernel function futex_wait_queue (its system call cannot be read: permission denied)"
    );
    let unnamed = SystemCall {
        number: 9999,
        arguments: [0; 6],
    };
    let said = unnamed.wait(own_tid()).to_string();
    assert!(said.contains("in system call 9999, "), "{said}");
}

/// `cargo test --release --lib waits -- --ignored --nocapture`.
#[test]
#[ignore = "a figure, not a check"]
fn the_cost_of_a_thread() {
    let threads: Vec<_> = (0..1000).map(|_| start(std::thread::park)).collect();
    for (tid, _) in &threads {
        until(*tid, |said| said.starts_with("waiting on futex"));
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("one")).expect("one");
    let (receiver, _) = start(move || drop(client.read(&mut [0])));
    until(receiver, |said| said.starts_with("blocked in recv"));
    for _ in 0..5 {
        let begun = Instant::now();
        let all: Vec<_> = threads.iter().map(|(tid, _)| read(*tid)).collect();
        let took = begun.elapsed();
        let begun = Instant::now();
        let all: Vec<_> = all.iter().collect();
        let said = locks::sentences(&all, &[]).len();
        let saying = begun.elapsed();
        let begun = Instant::now();
        (0..1000).for_each(|_| drop(read(receiver)));
        let sockets = begun.elapsed();
        eprintln!("{said} threads: waits {took:?}, sentences {saying:?}; 1000 sockets {sockets:?}");
    }
    for (_, thread) in threads {
        thread.thread().unpark();
        thread.join().expect("no panic");
    }
}
