//! The system call that a thread is in, decoded into what it waits for.
//!
//! [`SystemCall::wait`] looks the number up in [`syscalls`] and reads the arguments it needs. Memory
//! that an argument points to is read through `/proc/self/mem`, where an address that is no longer
//! valid is an error and no fault.
//!
//! The thread may move on meanwhile; the caller compares the line before and after.
//!
//! A number that is not in the table is reported as such, and never guessed. Decoding never fails
//! as a whole: an argument that cannot be read leaves a detail out.

mod descriptors;
mod syscalls;

use super::{OpenFile, Wait, unknown};
use crate::audit::proc::{self, syscall::SystemCall};
use std::time::Duration;
use syscalls::Kind;

/// The most descriptors of a `poll` that are listed.
///
/// A server may poll thousands of descriptors; the first ones are looked up, each at the cost of a
/// link and perhaps three socket calls.
const NAMED: usize = 4;

// === impl SystemCall ===

impl SystemCall {
    /// Returns what the call waits for. `tid` is the thread that is in it.
    ///
    /// May read memory and descriptors of this process, and so costs up to some dozen system calls.
    pub(super) fn wait(self, tid: u32) -> Wait {
        let Some((name, kind)) = syscalls::of(self.number) else {
            let why = format!(
                "in system call {}, which headcount does not know",
                self.number
            );
            return unknown(proc::kernel_function(tid), &why);
        };
        let [first, second, third, ..] = self.arguments;
        match kind {
            Kind::File => one(name, file(int(first))),
            Kind::Connect => one(name, connecting(int(first), second, third)),
            Kind::Poll => poll(name, first, second),
            Kind::Sleep => Wait::Sleep(time(first)),
            Kind::Absolute if second & libc::TIMER_ABSTIME as u64 == 0 => Wait::Sleep(time(third)),
            Kind::Absolute => until(int(first), time(third)),
            Kind::Futex => self.futex(name, tid),
            Kind::Child => Wait::Child(positive(int(first))),
            Kind::ChildById => child(int(first), int(second)),
            Kind::Signal => Wait::Signal,
            Kind::Resumed => self.resumed(name, tid),
            Kind::Other => Wait::Other(name),
        }
    }

    /// Returns what the call of a thread of another process waits for. See [`super::of_other`].
    #[cfg(feature = "service")]
    pub(super) fn wait_of_other(self, describe: impl Fn(i32) -> Option<String>) -> Wait {
        let Some((name, kind)) = syscalls::of(self.number) else {
            return unknown(None, "in a system call that headcount does not know");
        };
        let [first, second, ..] = self.arguments;
        match kind {
            Kind::File | Kind::Connect => {
                let number = int(first);
                let what = describe(number);
                one(name, OpenFile { number, what })
            }
            Kind::Sleep | Kind::Absolute => Wait::Sleep(None),
            Kind::Child => Wait::Child(positive(int(first))),
            Kind::ChildById if int(first).cast_unsigned() == libc::P_PID => {
                Wait::Child(positive(int(second)))
            }
            Kind::ChildById => Wait::Child(None),
            Kind::Signal => Wait::Signal,
            Kind::Futex => Wait::Futex {
                address: first,
                timed: false,
            },
            Kind::Poll | Kind::Resumed | Kind::Other => Wait::Other(name),
        }
    }

    /// Decodes a futex(2) call: a wait for a word of memory, or for the end of a thread.
    ///
    /// A value that happens to equal the id of a live thread in a shared wait would be shown as a
    /// join; `shared` makes that rare, since locks within a process are private.
    fn futex(self, name: &'static str, tid: u32) -> Wait {
        let [address, operation, value, timeout, ..] = self.arguments;
        let operation = int(operation);
        let shared = operation & libc::FUTEX_PRIVATE_FLAG == 0;
        match operation & libc::FUTEX_CMD_MASK {
            // glibc's `pthread_join` waits like this until the kernel clears the id of the other
            // thread. A shared lock, semaphore or condition waits for a word that is the id of a
            // live thread only by accident.
            libc::FUTEX_WAIT_BITSET if shared && is_other_thread(value, tid) => {
                Wait::Thread(int(value).unsigned_abs())
            }
            libc::FUTEX_WAIT
            | libc::FUTEX_WAIT_BITSET
            | libc::FUTEX_WAIT_REQUEUE_PI
            | libc::FUTEX_LOCK_PI
            | libc::FUTEX_LOCK_PI2 => Wait::Futex {
                address,
                timed: timeout != 0,
            },
            _ => Wait::Other(name),
        }
    }

    /// Decodes `restart_syscall`, with which the kernel resumes a call after the process was
    /// stopped. The number of the original call is lost, but its arguments are not; the kernel's
    /// function tells which call it was.
    ///
    /// See restart_syscall(2). Without a known function the call stays `restart_syscall`.
    fn resumed(self, name: &'static str, tid: u32) -> Wait {
        let [first, second, ..] = self.arguments;
        match proc::kernel_function(tid) {
            Some(function) if function.contains("futex") => Wait::Futex {
                address: first,
                timed: true,
            },
            Some(function) if function.contains("nanosleep") => Wait::Sleep(None),
            Some(function) if function.contains("poll") => poll("poll", first, second),
            _ => Wait::Other(name),
        }
    }
}

/// Returns the `int` in a register: its upper half has no meaning.
///
/// The kernel passes a register of 64 bits, of which an `int` argument uses the lower half.
fn int(register: u64) -> i32 {
    (register as u32).cast_signed()
}

/// Returns a pid; `None` for the numbers that mean a group or any process.
///
/// Also `None` for 0 and -1: "any child of the group" and "any child".
fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

/// Returns the wait for one file.
fn one(call: &'static str, file: OpenFile) -> Wait {
    Wait::Files {
        call,
        files: vec![file],
        more: 0,
    }
}

/// See [`super::describe`].
#[cfg(feature = "stacks")]
pub(super) fn describe(number: i32) -> Option<String> {
    descriptors::describe(number)
}

/// Describes a file descriptor of this process.
fn file(number: i32) -> OpenFile {
    OpenFile {
        number,
        what: descriptors::describe(number),
    }
}

/// Describes a socket that is connecting. The peer's address is taken from the arguments of the
/// call, because the socket does not have it yet.
///
/// Falls back to what the descriptor shows if the address cannot be read.
fn connecting(number: i32, address: u64, length: u64) -> OpenFile {
    let to = descriptors::connecting(number, address, length);
    OpenFile {
        number,
        what: to.or_else(|| descriptors::describe(number)),
    }
}

/// Decodes a poll(2) call. A `struct pollfd` is a descriptor of 4 bytes and 4 bytes of events.
///
/// If the list cannot be read, no file is named, and all are counted in `more`.
fn poll(call: &'static str, address: u64, number: u64) -> Wait {
    let named = usize::try_from(number).map_or(NAMED, |number| number.min(NAMED));
    let list = proc::memory(address, named * 8).unwrap_or_default();
    let (entries, _) = list.as_chunks::<8>();
    let files: Vec<_> = entries
        .iter()
        .map(|[a, b, c, d, ..]| file(i32::from_ne_bytes([*a, *b, *c, *d])))
        .collect();
    Wait::Files {
        call,
        more: number.saturating_sub(files.len() as u64),
        files,
    }
}

/// Returns the wait for a moment of a clock, with the time that is left.
///
/// A moment in the past leaves zero, not an error: the thread is about to be woken. Other clocks,
/// such as that of CPU time, are not compared.
fn until(clock: i32, moment: Option<Duration>) -> Wait {
    let clock = match clock {
        libc::CLOCK_REALTIME => rustix::time::ClockId::Realtime,
        libc::CLOCK_MONOTONIC => rustix::time::ClockId::Monotonic,
        libc::CLOCK_BOOTTIME => rustix::time::ClockId::Boottime,
        _ => return Wait::Sleep(None),
    };
    let now = Duration::try_from(rustix::time::clock_gettime(clock)).ok();
    match (moment, now) {
        (Some(moment), Some(now)) => Wait::SleepUntil(moment.saturating_sub(now)),
        _ => Wait::Sleep(None),
    }
}

/// Decodes a waitid(2) call: a pid, a pidfd, or any child.
///
/// A group of processes (`P_PGID`) counts as any child.
fn child(kind: i32, id: i32) -> Wait {
    const PIDFD: i32 = libc::P_PIDFD.cast_signed();
    match kind.cast_unsigned() {
        libc::P_PID => Wait::Child(positive(id)),
        _ if kind == PIDFD => Wait::Child(descriptors::process_of(id)),
        _ => Wait::Child(None),
    }
}

/// Returns whether `id` is a live thread of this process other than `own`.
///
/// Costs one look at a path of `/proc`.
fn is_other_thread(id: u64, own: u32) -> bool {
    u32::try_from(id).is_ok_and(|id| id != own && proc::is_thread(id))
}

/// Reads a `struct timespec`; `None` if it is not a valid one.
///
/// A null pointer, and a structure of another thread's that is being written, are not valid ones.
fn time(address: u64) -> Option<Duration> {
    let bytes = proc::memory(address, 16)?;
    let (halves, _) = bytes.as_chunks::<8>();
    let [seconds, nanos] = halves else {
        return None;
    };
    let nanos = u32::try_from(u64::from_ne_bytes(*nanos)).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(u64::from_ne_bytes(*seconds), nanos))
}
