//! What a thread of ours waits for, by what the kernel says of it: its state, and the system call that it is in.
//!
//! It only reads, and disturbs nobody: files below `/proc/self`, and the addresses of our own sockets. It does not say
//! where in the program the thread is; that takes a stack. A futex is a mutex, a condition variable or a park: the
//! kernel does not know which.

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

use std::fmt;
use std::io;
use std::time::Duration;

/// How often a thread is looked at that moves on meanwhile.
const LOOKS: usize = 3;

/// A thread as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) tid: u32,
    pub(crate) waits: Waits,
}

/// What a thread waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For nothing, or for a processor.
    OnCpu,
    /// For files, by this system call.
    Files {
        call: &'static str,
        /// The first few.
        files: Vec<OpenFile>,
        more: u64,
    },
    /// For this time to pass, counted from the beginning of the call.
    Sleep(Option<Duration>),
    /// For a moment that is so far away.
    SleepUntil(Duration),
    /// For a word of memory to be changed, by whoever holds the lock, notifies, or unparks.
    Futex {
        address: u64,
        /// It gives up after a time.
        timed: bool,
    },
    /// For another thread of ours to end.
    Thread(u32),
    /// For this child process to end, or for any.
    Child(Option<u32>),
    Signal,
    /// For the kernel itself, which lets no signal end the wait (state D).
    Uninterruptible {
        place: Option<String>,
        call: Option<String>,
    },
    /// To be continued by SIGCONT or a debugger.
    Stopped,
    /// In this system call.
    Other(&'static str),
    /// For something that could not be read, for this reason.
    Unknown {
        place: Option<String>,
        why: String,
    },
    /// It is over.
    Ended,
}

/// A file descriptor, and what was behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFile {
    pub(crate) number: i32,
    /// A path, `pipe`, `tcp 127.0.0.1:5432`; `None` where it was closed meanwhile.
    pub(crate) what: Option<String>,
}

// === impl Waits ===

impl fmt::Display for Waits {
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
                f.write_str(if *timed { " for a limited time" } else { "" })
            }
            Self::Thread(tid) => write!(f, "waiting for thread {tid} to end"),
            Self::Child(Some(pid)) => write!(f, "waiting for child {pid}"),
            Self::Child(None) => f.write_str("waiting for any child"),
            Self::Signal => f.write_str("waiting for a signal"),
            Self::Uninterruptible { place, call } => {
                f.write_str("in uninterruptible sleep")?;
                if let Some(place) = place {
                    write!(f, " in the kernel's {place}")?;
                }
                call.iter().try_for_each(|call| write!(f, ", {call}"))
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Other(call) => write!(f, "blocked in {call}"),
            Self::Unknown { place, why } => match place {
                Some(place) => write!(f, "waiting in the kernel's {place} ({why})"),
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

/// What the thread of that number waits for.
pub(crate) fn read(tid: u32) -> Facts {
    let waits = if cfg!(target_os = "linux") {
        look(tid)
    } else {
        unknown(None, "not observed on this system")
    };
    Facts { tid, waits }
}

fn look(tid: u32) -> Waits {
    for _ in 0..LOOKS {
        let Some(thread) = state(tid) else {
            return Waits::Ended;
        };
        match thread {
            'R' => return Waits::OnCpu,
            'T' | 't' => return Waits::Stopped,
            _ => {}
        }
        let waits = match task_file(tid, "syscall") {
            Ok(line) if line.starts_with("running") => Waits::OnCpu,
            Ok(line) => {
                let waits = decode(tid, &line);
                // It has moved on: what was looked up since may belong to another call.
                if task_file(tid, "syscall").ok().as_ref() != Some(&line) {
                    continue;
                }
                waits
            }
            // The file went with the thread.
            Err(_) if state(tid).is_none() => Waits::Ended,
            Err(error) => {
                let why = format!("its system call is not readable: {}", error.kind());
                unknown(place(tid), &why)
            }
        };
        return match (thread, waits) {
            ('D', Waits::Unknown { place, .. }) => Waits::Uninterruptible { place, call: None },
            ('D', Waits::OnCpu | Waits::Ended) => continue,
            ('D', waits) => Waits::Uninterruptible {
                place: place(tid),
                call: Some(waits.to_string()),
            },
            (_, waits) => waits,
        };
    }
    // From call to call within microseconds: it works.
    Waits::OnCpu
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn decode(tid: u32, line: &str) -> Waits {
    match call::Call::parse(line) {
        Some(call) => call.waits(tid),
        None => unknown(place(tid), "in no system call"),
    }
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn decode(tid: u32, _: &str) -> Waits {
    unknown(place(tid), "system calls are not decoded on this processor")
}

fn unknown(place: Option<String>, why: &str) -> Waits {
    let why = why.to_owned();
    Waits::Unknown { place, why }
}

/// The kernel's letter; `None` for a thread that is over.
fn state(tid: u32) -> Option<char> {
    let stat = std::fs::read(format!("/proc/self/task/{tid}/stat")).ok()?;
    super::parse_stat(tid, &String::from_utf8_lossy(&stat)).map(|thread| thread.state)
}

/// The function of the kernel in which it waits, where the kernel tells.
fn place(tid: u32) -> Option<String> {
    let place = task_file(tid, "wchan").ok()?;
    (place != "0" && !place.is_empty()).then_some(place)
}

fn task_file(tid: u32, name: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/task/{tid}/{name}"))
}
