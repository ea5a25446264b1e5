//! A system call that a thread is in, and what it waits for there, by the call's arguments.
//!
//! What an argument points to is read from `/proc/self/mem`: an address that is no longer valid is an error of `read`
//! there. The thread may move on between; the caller compares its call before and after.

mod files;
mod sockets;
mod syscalls;

use super::{OpenFile, Waits, place, unknown};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use syscalls::Kind;

/// The most descriptors of a `poll` that are named.
const NAMED: usize = 4;

/// The call's number and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    number: libc::c_long,
    arguments: [u64; 6],
}

// === impl Call ===

impl Call {
    /// A line of `/proc/PID/task/TID/syscall` (proc_pid_syscall(5)); `None` for a thread that waits outside of a call.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            let word = words.next()?.strip_prefix("0x")?;
            *argument = u64::from_str_radix(word, 16).ok()?;
        }
        // -1, without arguments, is outside.
        (number >= 0).then_some(Self { number, arguments })
    }

    pub(super) fn waits(self, tid: u32) -> Waits {
        let Some((name, kind)) = syscalls::of(self.number) else {
            let why = format!("in system call {}, which has no name here", self.number);
            return unknown(place(tid), &why);
        };
        let [first, second, third, ..] = self.arguments;
        match kind {
            Kind::File => one(name, file(int(first))),
            Kind::Connect => one(name, connecting(int(first), second, third)),
            Kind::Poll => poll(name, first, second),
            Kind::Sleep => Waits::Sleep(time(first)),
            Kind::Absolute if second & libc::TIMER_ABSTIME as u64 == 0 => Waits::Sleep(time(third)),
            Kind::Absolute => until(int(first), time(third)),
            Kind::Futex => self.futex(name, tid),
            Kind::Child => Waits::Child(positive(int(first))),
            Kind::ChildById => child(int(first), int(second)),
            Kind::Signal => Waits::Signal,
            Kind::Resumed => self.resumed(name, tid),
            Kind::Other => Waits::Other(name),
        }
    }

    fn futex(self, name: &'static str, tid: u32) -> Waits {
        let [address, operation, value, timeout, ..] = self.arguments;
        let operation = int(operation);
        let shared = operation & libc::FUTEX_PRIVATE_FLAG == 0;
        match operation & libc::FUTEX_CMD_MASK {
            // So does glibc's `pthread_join`: it waits until the kernel clears the id of the other thread. A shared lock,
            // semaphore or condition never waits for a word that is the id of a living thread, short of an accident.
            libc::FUTEX_WAIT_BITSET if shared && is_other_thread(value, tid) => {
                Waits::Thread(int(value).unsigned_abs())
            }
            libc::FUTEX_WAIT
            | libc::FUTEX_WAIT_BITSET
            | libc::FUTEX_WAIT_REQUEUE_PI
            | libc::FUTEX_LOCK_PI
            | libc::FUTEX_LOCK_PI2 => Waits::Futex {
                address,
                timed: timeout != 0,
            },
            _ => Waits::Other(name),
        }
    }

    /// The number of the call is lost; its arguments are not.
    fn resumed(self, name: &'static str, tid: u32) -> Waits {
        let [first, second, ..] = self.arguments;
        match place(tid) {
            Some(place) if place.contains("futex") => Waits::Futex {
                address: first,
                timed: true,
            },
            Some(place) if place.contains("nanosleep") => Waits::Sleep(None),
            Some(place) if place.contains("poll") => poll("poll", first, second),
            _ => Waits::Other(name),
        }
    }
}

/// An `int` in a register: the upper half means nothing.
fn int(register: u64) -> i32 {
    (register as u32).cast_signed()
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn one(call: &'static str, file: OpenFile) -> Waits {
    Waits::Files {
        call,
        files: vec![file],
        more: 0,
    }
}

fn file(number: i32) -> OpenFile {
    OpenFile {
        number,
        what: files::what_is(number),
    }
}

/// The socket has no other side yet; the call's arguments have.
fn connecting(number: i32, address: u64, length: u64) -> OpenFile {
    let to = sockets::connecting(number, address, length);
    OpenFile {
        number,
        what: to.or_else(|| files::what_is(number)),
    }
}

/// `struct pollfd`s: a descriptor of 4 bytes, and 4 of what is asked.
fn poll(call: &'static str, address: u64, number: u64) -> Waits {
    let named = usize::try_from(number).map_or(NAMED, |number| number.min(NAMED));
    let list = memory(address, named * 8).unwrap_or_default();
    let (entries, _) = list.as_chunks::<8>();
    let files: Vec<_> = entries
        .iter()
        .map(|[a, b, c, d, ..]| file(i32::from_ne_bytes([*a, *b, *c, *d])))
        .collect();
    Waits::Files {
        call,
        more: number.saturating_sub(files.len() as u64),
        files,
    }
}

fn until(clock: i32, moment: Option<Duration>) -> Waits {
    let clock = match clock {
        libc::CLOCK_REALTIME => rustix::time::ClockId::Realtime,
        libc::CLOCK_MONOTONIC => rustix::time::ClockId::Monotonic,
        libc::CLOCK_BOOTTIME => rustix::time::ClockId::Boottime,
        _ => return Waits::Sleep(None),
    };
    let now = Duration::try_from(rustix::time::clock_gettime(clock)).ok();
    match (moment, now) {
        (Some(moment), Some(now)) => Waits::SleepUntil(moment.saturating_sub(now)),
        _ => Waits::Sleep(None),
    }
}

/// waitid(2).
fn child(kind: i32, id: i32) -> Waits {
    const PIDFD: i32 = libc::P_PIDFD.cast_signed();
    match kind.cast_unsigned() {
        libc::P_PID => Waits::Child(positive(id)),
        _ if kind == PIDFD => Waits::Child(files::process_of(id)),
        _ => Waits::Child(None),
    }
}

fn is_other_thread(id: u64, own: u32) -> bool {
    id != u64::from(own) && Path::new(&format!("/proc/self/task/{id}")).exists()
}

/// A `struct timespec` of ours.
fn time(address: u64) -> Option<Duration> {
    let bytes = memory(address, 16)?;
    let (halves, _) = bytes.as_chunks::<8>();
    let [seconds, nanos] = halves else {
        return None;
    };
    let nanos = u32::try_from(u64::from_ne_bytes(*nanos)).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(u64::from_ne_bytes(*seconds), nanos))
}

/// Memory of ours, which another thread may be writing to.
fn memory(address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    // Opened each time: after a fork, one from before would be the other process's.
    let memory = File::open("/proc/self/mem").ok()?;
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}
