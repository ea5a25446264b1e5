//! Finds out from the kernel what a thread of this process waits for: its state, and the system
//! call that it is in.
//!
//! [`read`] looks at `/proc/self/task/TID/stat` and `syscall`, and decodes the arguments of the
//! call: file descriptors become paths and socket addresses, a `waitid` becomes a pid. It only
//! reads: no thread is stopped or signalled.
//!
//! The result is a moment's view. The system call is read again after it was decoded; if it
//! changed, the look is repeated up to [`LOOKS`] times. A file descriptor may still be closed and
//! opened again in between.
//!
//! It does not show where in the program the thread is; that takes a stack ([`crate::stacks`]). A
//! futex is a mutex, a condition variable or a park: the kernel does not know which, the stack does
//! ([`crate::stacks::locks`]).
//!
//! The order of one look, and the reason for it:
//!
//! 1. `stat`: the state decides whether there is a wait at all.
//! 2. `syscall`: number and arguments, decoded with further reads of memory and descriptors.
//! 3. `syscall` again: if the line is the same, the arguments belonged to the call all the time, or
//!    to an equal one.
//!
//! A look costs a dozen system calls or more. It runs on the thread that makes the report or the
//! dump.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod call;
#[cfg(all(
    test,
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod tests;

use super::proc;
use std::fmt;
use std::time::Duration;

/// Describes a file descriptor of this process: a path, a kind such as `pipe`, or the addresses of a
/// socket, as in `tcp 127.0.0.1:5432`. `None` if it is closed.
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) fn describe(number: i32) -> Option<String> {
    call::describe(number)
}

/// Describes the call of a thread of another process, as far as that needs none of its memory.
/// `describe` describes a descriptor of that process.
#[cfg(all(
    feature = "service",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) fn of_other(
    call: proc::syscall::SystemCall,
    describe: impl Fn(i32) -> Option<String>,
) -> Wait {
    call.wait_of_other(describe)
}

/// The most looks at a thread that moves on meanwhile.
///
/// A thread that changes its call three times in a row is busy, and is shown as on CPU.
const LOOKS: usize = 3;

/// A thread, and its wait at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadWait {
    /// The thread's id at the reading. It may be another thread's later.
    pub(crate) tid: u32,
    pub(crate) wait: Wait,
}

/// The reason why a thread does not run, or [`Wait::OnCpu`] if it does.
///
/// `Display` gives it as a clause for reports and dumps: `blocked in recv(fd 4 → tcp
/// 127.0.0.1:5432)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing, or a free processor.
    OnCpu,
    /// Files, in the system call `call`.
    Files {
        /// The name under which libc offers the call.
        call: &'static str,
        /// The first four at most. One for most calls; several for `poll`.
        files: Vec<OpenFile>,
        /// The number of files that are not listed.
        more: u64,
    },
    /// A time to pass, counted from the beginning of the call; `None` if the length is unknown.
    Sleep(Option<Duration>),
    /// A point in time; the value is what was left of the wait when it was read.
    SleepUntil(Duration),
    /// A change of the word of memory at `address`: an unlock, a notification or an unpark.
    Futex {
        /// The address in this process, which is also the identity of the lock.
        address: u64,
        /// True if the wait has a timeout.
        timed: bool,
    },
    /// The end of the thread with this id, as in `pthread_join`.
    Thread(u32),
    /// The end of this child process, or of any.
    Child(Option<u32>),
    /// A signal, as in `sigwait`.
    Signal,
    /// The kernel itself, in state D, in which no signal ends the wait. `place` is the function of
    /// the kernel, `call` the wait in words.
    Uninterruptible {
        place: Option<String>,
        call: Option<String>,
    },
    /// SIGCONT, or a debugger that continues it.
    Stopped,
    /// The system call of this name; its arguments are not decoded.
    Other(&'static str),
    /// Something unknown; `why` is the reason why it could not be read.
    Unknown { place: Option<String>, why: String },
    /// Nothing: the thread has ended.
    Ended,
}

/// A file descriptor, and what it referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// The descriptor's number; negative in a `poll` entry that is to be ignored.
    pub(crate) number: i32,
    /// A path, `pipe`, `tcp 127.0.0.1:5432`; `None` if it was closed meanwhile.
    pub(crate) what: Option<String>,
}

// === impl Wait ===

impl Wait {
    /// Returns whether the thread is blocked in a call that is not among `idle`, the calls in which
    /// it waits for work.
    ///
    /// False for a thread that runs, sleeps, or waits for a signal or for the end of a thread or
    /// process, and for one of which too little is known.
    pub(crate) fn is_blocked(&self, idle: &[&str]) -> bool {
        match self {
            Self::Files { call, .. } | Self::Other(call) => !idle.contains(call),
            Self::Futex { .. } => !idle.contains(&"futex"),
            Self::Uninterruptible { .. } => true,
            Self::OnCpu
            | Self::Sleep(_)
            | Self::SleepUntil(_)
            | Self::Thread(_)
            | Self::Child(_)
            | Self::Signal
            | Self::Stopped
            | Self::Unknown { .. }
            | Self::Ended => false,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnCpu => f.write_str("on CPU"),
            Self::Files { call, files, more } => {
                write!(f, "blocked in {call}(")?;
                for (index, file) in files.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{file}")?;
                }
                if *more > 0 {
                    write!(f, " and {more} more")?;
                }
                f.write_str(")")
            }
            Self::Sleep(Some(length)) => write!(f, "sleeping for {length:.1?}"),
            Self::Sleep(None) => f.write_str("sleeping"),
            Self::SleepUntil(left) => write!(f, "sleeping, {left:.1?} left"),
            Self::Futex { address, timed } => {
                write!(f, "waiting on futex {address:#x}")?;
                f.write_str(if *timed { " with a timeout" } else { "" })
            }
            Self::Thread(tid) => write!(f, "waiting for thread {tid} to end"),
            Self::Child(Some(pid)) => write!(f, "waiting for child {pid}"),
            Self::Child(None) => f.write_str("waiting for any child"),
            Self::Signal => f.write_str("waiting for a signal"),
            Self::Uninterruptible { place, call } => {
                f.write_str("in uninterruptible sleep")?;
                if let Some(place) = place {
                    write!(f, " in kernel function {place}")?;
                }
                call.iter().try_for_each(|call| write!(f, ", {call}"))
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Other(call) => write!(f, "blocked in {call}"),
            Self::Unknown { place, why } => match place {
                Some(place) => write!(f, "waiting in kernel function {place} ({why})"),
                None => write!(f, "waiting ({why})"),
            },
            Self::Ended => f.write_str("ended"),
        }
    }
}

impl fmt::Display for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {}", self.number)?;
        self.what.iter().try_for_each(|what| write!(f, " → {what}"))
    }
}

/// Reads what thread `tid` of this process waits for. Costs a few reads of small files below
/// `/proc`; no thread notices.
pub(crate) fn read(tid: u32) -> ThreadWait {
    let wait = if cfg!(target_os = "linux") {
        look(tid)
    } else {
        unknown(None, "not observed on this system")
    };
    ThreadWait { tid, wait }
}

/// Looks at the thread until its system call stays the same while it is decoded.
///
/// An uninterruptible sleep is decoded like any other and then wrapped, since such a thread has a
/// system call too, unless it waits in a page fault.
fn look(tid: u32) -> Wait {
    for _ in 0..LOOKS {
        let Some(state) = proc::state(tid) else {
            return Wait::Ended;
        };
        match state {
            'R' => return Wait::OnCpu,
            'T' | 't' => return Wait::Stopped,
            _ => {}
        }
        let wait = match proc::read(tid, "syscall") {
            Ok(line) if line.starts_with("running") => Wait::OnCpu,
            Ok(line) => {
                let wait = decode(tid, &line);
                // The thread has moved on: the decoded arguments may belong to another call.
                if proc::read(tid, "syscall").ok().as_ref() != Some(&line) {
                    continue;
                }
                wait
            }
            // The thread ended, and its files with it.
            Err(_) if proc::is_over(tid) => Wait::Ended,
            Err(error) => {
                let why = format!("its system call cannot be read: {}", error.kind());
                unknown(proc::kernel_function(tid), &why)
            }
        };
        return match (state, wait) {
            ('D', Wait::Unknown { place, .. }) => Wait::Uninterruptible { place, call: None },
            ('D', Wait::OnCpu | Wait::Ended) => continue,
            ('D', wait) => Wait::Uninterruptible {
                place: proc::kernel_function(tid),
                call: Some(wait.to_string()),
            },
            (_, wait) => wait,
        };
    }
    // It goes from call to call within microseconds: it is working.
    Wait::OnCpu
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
/// Decodes a line of `/proc/self/task/TID/syscall`.
fn decode(tid: u32, line: &str) -> Wait {
    match proc::syscall::WaitPoint::parse(line).and_then(|point| point.call) {
        Some(call) => call.wait(tid),
        None => unknown(proc::kernel_function(tid), "not in a system call"),
    }
}

/// Without numbers of calls only the function of the kernel is known.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn decode(tid: u32, _: &str) -> Wait {
    unknown(
        proc::kernel_function(tid),
        "system calls are not decoded on this architecture",
    )
}

/// Returns the wait of a thread that could not be decoded, with the reason.
///
/// The place is the kernel's function, which often says enough by itself.
fn unknown(place: Option<String>, why: &str) -> Wait {
    let why = why.to_owned();
    Wait::Unknown { place, why }
}
