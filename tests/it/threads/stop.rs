//! Tests of threads that opted in to a stop: they are notified, nudged, and released from what they
//! wait for.

use super::{run, run_clean};
use crate::scenario::{Gate, alone, hasty};
use headcount::report::{Report, ThreadRow};
use headcount::{TaskGroup, ThreadKind};
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

/// Returns both ends of a connection on which nothing is ever sent.
fn silent() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    let ours = TcpStream::connect(address).expect("it listens");
    (ours, listener.accept().expect("it comes").0)
}

#[track_caller]
fn only_thread(report: &Report) -> &ThreadRow {
    match report.close.threads.as_slice() {
        [thread] => thread,
        _ => panic!("not one thread: {report}"),
    }
}

fn is_nudged(tried: &str) -> bool {
    let times = tried.strip_prefix("nudged ");
    times.is_some_and(|times| times.ends_with(" times") || times == "once")
}

#[test]
fn a_flag_is_enough_for_a_thread_that_looks_at_it() {
    alone(|| {
        let seen_draining = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&seen_draining);
        run_clean(async |tasks| {
            let group = tasks.clone();
            let looks = move |stop: &headcount::threads::Stop| {
                while !stop.is_requested() {
                    std::thread::yield_now();
                }
                seen.store(group.is_draining(), Ordering::Relaxed);
            };
            tasks.thread("looks").spawn(looks).expect("a thread");
            // The thread is told to stop only after this task has ended, because it may serve it.
            let served = tasks.clone();
            tasks.spawn("served", async move { served.draining().await });
        });
        assert!(seen_draining.load(Ordering::Relaxed));
    });
}

fn read_in_a_loop(tasks: &TaskGroup, mut stream: TcpStream) {
    let reads = move |stop: &headcount::threads::Stop| loop {
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                if stop.is_requested() {
                    return;
                }
            }
            other => panic!("nothing is sent: {other:?}"),
        }
    };
    let thread = tasks.thread("socket").nudge().spawn(reads);
    thread.expect("a thread");
}

#[test]
fn a_thread_in_a_loop_of_reads_is_nudged_out_of_it() {
    alone(|| {
        let (ours, theirs) = silent();
        run_clean(async |tasks| {
            read_in_a_loop(&tasks, ours);
        });
        drop(theirs);
    });
}

/// A thread inherits the signal mask of its creator: a mask that blocks everything kept the nudges
/// from it.
#[test]
fn a_thread_whose_creator_blocks_all_signals_is_nudged_all_the_same() {
    alone(|| {
        let (ours, theirs) = silent();
        run_clean(async |tasks| {
            let starts = move || {
                block_signals_from_56_on();
                read_in_a_loop(&tasks, ours);
            };
            std::thread::Builder::new()
                .spawn(starts)
                .expect("a thread")
                .join()
                .expect("no panic");
        });
        drop(theirs);
    });
}

#[expect(unsafe_code, reason = "libc has no safe call for a signal mask")]
fn block_signals_from_56_on() {
    // SAFETY: the set is initialised before it is used, the signals exist, and nothing keeps a
    // pointer.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in 56..=libc::SIGRTMAX() {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

#[test]
fn a_signal_with_a_handler_is_not_the_nudge() {
    alone(|| {
        let heard = Arc::new(AtomicUsize::new(0));
        for signal in [56, 57] {
            signal_hook::flag::register_usize(signal, Arc::clone(&heard), 1).expect("it is free");
        }
        let (ours, theirs) = silent();
        run_clean(async |tasks| {
            read_in_a_loop(&tasks, ours);
        });
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        drop(theirs);
    });
}

#[test]
fn a_thread_that_did_not_opt_in_is_not_nudged() {
    alone(|| {
        let (ours, theirs) = silent();
        let (told, heard) = channel();
        let gate = Gate::default();
        let hold = gate.clone();
        let mut stream = ours.try_clone().expect("it is open");
        let report = run(hasty(), async |tasks| {
            tasks.spawn_thread("reads", ThreadKind::Daemon, move || {
                let read = stream.read(&mut [0; 64]);
                told.send(read.map_err(|error| error.kind()))
                    .expect("the test waits");
            });
            // This thread is nudged for the whole layer in the meantime.
            let waits = move |_: &headcount::threads::Stop| hold.wait();
            tasks
                .thread("waits")
                .nudge()
                .spawn(waits)
                .expect("a thread");
        });
        assert!(is_nudged(&only_thread(&report).tried[0]), "{report}");
        gate.open();
        ours.shutdown(Shutdown::Both).expect("it is open");
        assert_eq!(heard.recv().expect("it is told"), Ok(0));
        drop(theirs);
    });
}

#[test]
fn a_thread_in_read_exact_is_ended_by_its_closer() {
    alone(|| {
        let (mut ours, theirs) = silent();
        run_clean(async |tasks| {
            let reads = move |stop: &headcount::threads::Stop| {
                let socket = ours.try_clone().expect("it is open");
                stop.close_on_stop(move || socket.shutdown(Shutdown::Both).expect("it is open"));
                ours.read_exact(&mut [0; 64]).expect_err("nothing is sent");
            };
            tasks.thread("socket").spawn(reads).expect("a thread");
        });
        drop(theirs);
    });
}

#[test]
fn a_thread_that_cannot_be_ended_is_reported() {
    alone(|| {
        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock().expect("no holder panics");
        let wanted = Arc::clone(&lock);
        let report = run(hasty(), async |tasks| {
            let waits = move |stop: &headcount::threads::Stop| {
                stop.close_on_stop(|| {});
                drop(wanted.lock());
            };
            tasks
                .thread("locks")
                .nudge()
                .spawn(waits)
                .expect("a thread");
        });
        let thread = only_thread(&report);
        let [nudged, closed] = thread.tried.as_slice() else {
            panic!("not two: {report}")
        };
        assert!(is_nudged(nudged), "{nudged}");
        assert_eq!(closed, "its closer was called");
        let row = format!(", {nudged}, its closer was called\n");
        assert!(report.to_string().contains(&row), "{report}");
        drop(held);
    });
}

#[test]
fn a_thread_that_looks_at_nothing_was_asked_to_stop() {
    alone(|| {
        let gate = Gate::default();
        let hold = gate.clone();
        let report = run(hasty(), async |tasks| {
            let waits = move |_: &headcount::threads::Stop| hold.wait();
            tasks.thread("deaf").spawn(waits).expect("a thread");
        });
        assert_eq!(only_thread(&report).tried, ["was asked to stop"]);
        gate.open();
    });
}

/// Starts a thread that waits for the gate, with this closer.
fn with_closer(tasks: &TaskGroup, name: &str, gate: &Gate, closer: impl FnOnce() + Send + 'static) {
    let (gate, (told, heard)) = (gate.clone(), channel());
    let waits = move |stop: &headcount::threads::Stop| {
        stop.close_on_stop(closer);
        told.send(()).expect("the test waits");
        gate.wait();
    };
    tasks.thread(name).spawn(waits).expect("a thread");
    heard.recv().expect("it is told");
}

#[test]
fn closers_that_block_or_panic_delay_no_other() {
    alone(|| {
        let (gate, calls) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let report = run(hasty(), async |tasks| {
            for n in 0..5 {
                let hold = gate.clone();
                with_closer(&tasks, &format!("blocks-{n}"), &gate, move || hold.wait());
                with_closer(&tasks, &format!("panics-{n}"), &gate, || {
                    std::panic::resume_unwind(Box::new("it is told to"));
                });
                let calls = Arc::clone(&calls);
                with_closer(&tasks, &format!("returns-{n}"), &gate, move || {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(calls.load(Ordering::Relaxed), 5, "{report}");
        assert_eq!(report.close.threads.len(), 15, "{report}");
        for thread in &report.close.threads {
            let expected = match thread.name.split_once('-').expect("it has a number").0 {
                "blocks" => "its closer was called and has not returned",
                "panics" => "its closer panicked",
                _ => "its closer was called",
            };
            assert_eq!(thread.tried, [expected], "{}", thread.name);
        }
        gate.open();
    });
}

#[test]
fn with_too_many_closers_blocked_the_others_are_said_to_be_uncalled() {
    alone(|| {
        let gate = Gate::default();
        let report = run(hasty(), async |tasks| {
            for n in 0..10 {
                let hold = gate.clone();
                with_closer(&tasks, &format!("blocks-{n}"), &gate, move || hold.wait());
            }
        });
        let threads = report.close.threads.iter();
        let uncalled = threads.filter(|thread| thread.tried[0].contains("was not called"));
        assert_eq!(uncalled.count(), 2, "{report}");
        gate.open();
    });
}

/// A thread that is between two sockets when it is told to stop has no closer; the closer that it
/// registers afterwards is not lost.
#[test]
fn a_closer_that_comes_too_late_is_called_at_once() {
    alone(|| {
        run_clean(async |tasks| {
            let reconnects = |stop: &headcount::threads::Stop| {
                stop.close_on_stop(|| unreachable!("another took its place"));
                stop.close_on_stop(|| {});
                while !stop.is_requested() {
                    std::thread::yield_now();
                }
                let (told, heard) = channel();
                stop.close_on_stop(move || told.send(()).expect("it waits"));
                heard.try_recv().expect("it was called on this thread");
            };
            tasks
                .thread("reconnects")
                .spawn(reconnects)
                .expect("a thread");
        });
    });
}

/// Sends a message when it is dropped.
struct Tells(Sender<()>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

#[test]
fn a_closer_is_dropped_with_its_thread() {
    alone(|| {
        run_clean(async |tasks| {
            let (told, heard) = channel();
            let ends = move |stop: &headcount::threads::Stop| {
                let tells = Tells(told);
                stop.close_on_stop(move || drop(tells));
                // The owner keeps it; the socket must be closed all the same.
                stop.clone()
            };
            let thread = tasks.thread("ends").spawn(ends).expect("a thread");
            let stop = thread.join().expect("no panic");
            heard.try_recv().expect("it was dropped");
            assert!(!stop.is_requested());
        });
    });
}

/// Starts a thread when it is dropped: after the cancel, a new thread must not live long.
struct Starts(TaskGroup, Sender<bool>);

impl Drop for Starts {
    fn drop(&mut self) {
        let told = self.1.clone();
        let late = move |stop: &headcount::threads::Stop| {
            told.send(stop.is_requested()).expect("the test waits");
        };
        self.0.thread("late").spawn(late).expect("a thread");
    }
}

#[test]
fn a_thread_that_is_started_after_the_cancel_is_told_at_once() {
    alone(|| {
        let (told, heard) = channel();
        let report = run(hasty(), async |tasks| {
            let starts = Starts(tasks.clone(), told);
            tasks.spawn("starts", async move {
                let _starts = starts;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
        });
        assert!(report.close.threads.is_empty(), "{report}");
        assert!(heard.recv().expect("it is told"));
    });
}
