//! Stacks are read under every kind of load at once, in a separate process, so that a crash is seen
//! and does no other harm.

use super::{Means, Stack, frames, is_alone, read, thread};
use crate::stacks::names::give_back;
use crate::stacks::reader::signal;
use crate::threads::own_tid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECONDS: &str = "HEADCOUNT_STRESS_SECONDS";
const BLOCK: usize = 1009;

/// The number of stacks by means and result.
type Seen = BTreeMap<String, usize>;

static STOP: AtomicBool = AtomicBool::new(false);
static PUMPED: AtomicU64 = AtomicU64::new(0);

#[test]
#[ignore = "20 s with all processors busy; HEADCOUNT_STRESS_SECONDS says how many"]
fn stacks_are_read_under_stress() {
    if !is_alone("stress::stacks_are_read_under_stress", None) {
        return;
    }
    let seconds = std::env::var(SECONDS).map_or(20, |text| text.parse().expect("a number"));
    let roots = roots();
    let mut loads = Vec::new();
    for _ in 0..2 {
        loads.push(load(churns));
        pump(&mut loads);
    }
    for work in [allocates, pumps_with_tokio, spins] {
        loads.push(load(work));
    }
    for _ in 0..50 {
        thread(std::thread::park);
    }
    let mut seen = Seen::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        let next = Instant::now() + Duration::from_millis(100);
        match rounds % 3 {
            0 => look(Means::Quiet, rounds % 60 == 0, &roots, &mut seen),
            1 => look(Means::Any, false, &roots, &mut seen),
            _ => signal_all(&roots, &mut seen),
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    STOP.store(true, Ordering::SeqCst);
    for load in loads {
        load.join().expect("no load fails");
    }
    let pumped = PUMPED.load(Ordering::SeqCst);
    println!("{rounds} readings in {seconds} s, {pumped} bytes pumped: {seen:#?}");
    assert!(pumped > 0);
}

/// Returns the address at which threads begin, found with another unwinder.
fn roots() -> BTreeSet<usize> {
    let roots = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&roots);
    let note = move || {
        let mut last = 0;
        backtrace::trace(|frame| {
            // The last frame may have no address.
            last = match frame.ip().addr() {
                0 => last,
                address => address,
            };
            true
        });
        noted.lock().expect("no panic").insert(last);
    };
    thread(note).1.join().expect("no panic");
    let roots = roots.lock().expect("no panic").clone();
    assert_eq!(roots.len(), 1);
    roots
}

fn load(work: fn()) -> JoinHandle<()> {
    thread(work).1
}

/// Returns all threads except this one and the main thread, which run the tests.
fn tids() -> Vec<u32> {
    let main = std::process::id();
    std::fs::read_dir("/proc/self/task")
        .expect("it can be listed")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|tid| *tid != own_tid() && *tid != main)
        .collect()
}

fn look(means: Means, with_names: bool, roots: &BTreeSet<usize>, seen: &mut Seen) {
    for stack in read(&tids(), means) {
        note(&format!("{means:?}"), stack.as_ref(), roots, seen);
        if with_names && let Ok(stack) = &stack {
            assert!(!frames(stack).is_empty());
        }
    }
    if with_names {
        give_back();
    }
}

/// Signals all threads, even those that could be read from outside.
fn signal_all(roots: &BTreeSet<usize>, seen: &mut Seen) {
    let mut reader = crate::stacks::reader::READER.lock().expect("no panic");
    let reader = reader.as_mut().expect("it has read");
    let (modules, walker) = (&reader.modules, &mut reader.walker);
    let until = Instant::now() + Duration::from_secs(2);
    signal::capture(&tids(), until, |_, answer| {
        let stack = answer.map(|capture| walker.walk_capture(capture, modules));
        note("Signal", stack.as_ref(), roots, seen);
    });
}

fn note(means: &str, stack: Result<&Stack, &String>, roots: &BTreeSet<usize>, seen: &mut Seen) {
    let what = match stack {
        Ok(stack) if stack.is_complete => {
            let last = stack.addresses.last().expect("it has addresses");
            assert!(
                roots.contains(last),
                "false end: {stack:x?}, not {roots:x?}"
            );
            match stack.is_exact {
                true => "exact",
                false => "approximate",
            }
        }
        Ok(stack) => {
            assert!(!stack.addresses.is_empty());
            "incomplete"
        }
        Err(why) => why,
    };
    *seen.entry(format!("{means}: {what}")).or_default() += 1;
}

fn churns() {
    while !STOP.load(Ordering::Relaxed) {
        let threads = [(); 4].map(|()| thread(|| drop(vec![1_u8; 10_000])).1);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}

fn allocates() {
    let mut kept = Vec::new();
    let mut size = 1;
    while !STOP.load(Ordering::Relaxed) {
        size = size * 7919 % 65_537;
        kept.push(vec![0_u8; size]);
        if kept.len() > 100 {
            kept.swap_remove(size % 100);
        }
    }
}

fn spins() {
    while !STOP.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// Returns the bytes of one block, which depend on its number.
fn block(number: u64) -> [u8; BLOCK] {
    std::array::from_fn(|at| (number as usize + at) as u8)
}

/// Starts a writer and a reader, until the writer closes. No byte may be lost, and no call may
/// fail.
fn pump(loads: &mut Vec<JoinHandle<()>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("it has one");
    loads.push(
        thread(move || {
            let mut writer = TcpStream::connect(address).expect("it listens");
            let mut number = 0;
            while !STOP.load(Ordering::Relaxed) {
                writer.write_all(&block(number)).expect("it is read");
                number += 1;
            }
            writer.write_all(&[0; BLOCK]).expect("it is read");
            writer.write_all(&number.to_le_bytes()).expect("it is read");
        })
        .1,
    );
    loads.push(
        thread(move || {
            let (mut reader, _) = listener.accept().expect("it connects");
            let mut all = Vec::new();
            let mut number = 0;
            let mut bytes = [0; 4096];
            loop {
                // Not `read_exact`, which retries after an interruption.
                let read = reader.read(&mut bytes).expect("no call is interrupted");
                all.extend_from_slice(&bytes[..read]);
                number = checked(&mut all, number);
                if read == 0 {
                    break;
                }
            }
            assert_end(&all, number);
        })
        .1,
    );
}

/// Checks all blocks except those that may be the end.
fn checked(all: &mut Vec<u8>, mut number: u64) -> u64 {
    let mut done = 0;
    while all.len() - done > 2 * BLOCK {
        assert!(all[done..done + BLOCK] == block(number), "a byte was lost");
        number += 1;
        done += BLOCK;
    }
    all.drain(..done);
    PUMPED.fetch_add(done as u64, Ordering::Relaxed);
    number
}

/// Checks the last blocks, a block of zeroes, and the number of blocks.
fn assert_end(all: &[u8], mut number: u64) {
    let (blocks, end) = all.split_at(all.len() - BLOCK - 8);
    for bytes in blocks.chunks(BLOCK) {
        assert!(bytes == block(number), "a byte was lost");
        number += 1;
    }
    assert_eq!(end[BLOCK..], number.to_le_bytes());
}

fn pumps_with_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut pairs = tokio::task::JoinSet::new();
        for _ in 0..2 {
            pairs.spawn(pump_with_tokio());
        }
        pairs.join_all().await;
    });
}

async fn pump_with_tokio() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("it has one");
    let mut writer = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let (mut reader, _) = listener.accept().await.expect("it connects");
    let write = async move {
        let mut number = 0;
        while !STOP.load(Ordering::Relaxed) {
            writer.write_all(&block(number)).await.expect("it is read");
            number += 1;
            tokio::task::yield_now().await;
        }
        number
    };
    let read = async move {
        let mut number = 0;
        let mut bytes = [0; BLOCK];
        while reader.read_exact(&mut bytes).await.is_ok() {
            assert!(bytes == block(number), "a byte was lost");
            number += 1;
            PUMPED.fetch_add(BLOCK as u64, Ordering::Relaxed);
        }
        number
    };
    let (written, read) = tokio::join!(write, read);
    assert_eq!(written, read);
}
