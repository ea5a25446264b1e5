//! Reading a thread from outside: the kernel tells where one that waits is, and its stack is our memory.

use super::super::{Means, Stack};
use super::memory::Memory;
use super::modules::Modules;
use super::walk::{Walker, Window};
use super::{Outcome, arch};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How often a thread is looked at that moves on meanwhile.
const LOOKS: usize = 3;

/// What was seen of a thread.
pub(super) enum Glance {
    /// It waits.
    Waits {
        stack: Stack,
        /// A signal would do harm, or nothing.
        takes_signals: bool,
    },
    /// It is on a processor, or waits for one.
    Runs,
    Failed(String),
    /// It waits, and cannot be read from outside, for this reason; a signal may do.
    Hidden(String),
}

/// Files of a thread, which tell of it and of no other, also when its number is used again.
struct Files {
    call: File,
    /// Not every kernel has it.
    ran: Option<File>,
}

/// What they say at one moment.
#[derive(PartialEq, Eq)]
struct Look {
    /// Its time on a processor, and how often it was put on one.
    ran: Option<String>,
    /// The system call that it is in.
    call: String,
}

/// Where a thread waits.
struct Place {
    call: Option<u64>,
    sp: u64,
    pc: u64,
}

// === impl Glance ===

impl Glance {
    pub(super) fn wants_signal(&self, means: Means) -> bool {
        match self {
            Self::Waits {
                stack,
                takes_signals,
            } => {
                let is_good = stack.is_exact && stack.is_complete;
                means == Means::Any && *takes_signals && !is_good
            }
            Self::Runs => true,
            Self::Hidden(_) => means == Means::Any,
            Self::Failed(_) => false,
        }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        match self {
            Self::Waits { stack, .. } => Ok(stack),
            Self::Runs => Err("it is on a processor".to_owned()),
            Self::Failed(why) | Self::Hidden(why) => Err(why),
        }
    }
}

/// Looks at a thread, and disturbs nobody.
pub(super) fn glance(tid: u32, memory: &Memory, modules: &Modules, walker: &mut Walker) -> Glance {
    let files = match Files::open(tid) {
        Ok(files) => files,
        Err(error) => return unreadable(tid, &error),
    };
    let mut last = Glance::Runs;
    for _ in 0..LOOKS {
        let before = match files.look() {
            Ok(look) => look,
            Err(error) => return unreadable(tid, &error),
        };
        let line = before.call.as_str();
        let Some(place) = Place::parse(line) else {
            return match line {
                "running" => Glance::Runs,
                _ => hidden(tid, "the kernel does not tell where it is".to_owned()),
            };
        };
        let mut window = Window::new(memory, place.sp);
        let mut stack = walker.walk_from(place.pc, place.sp, &mut window, modules);
        let is_still = before.ran.is_some() && files.look().is_ok_and(|after| after == before);
        stack.is_exact &= is_still;
        last = Glance::Waits {
            stack,
            takes_signals: place.call != Some(arch::RT_SIGTIMEDWAIT),
        };
        if is_still {
            return last;
        }
    }
    match last {
        _ if is_over(tid) => Glance::Failed("it ended".to_owned()),
        // It works, and was seen between two of its system calls.
        Glance::Waits { stack, .. } if !stack.is_complete => Glance::Runs,
        glance => glance,
    }
}

// === impl Files ===

impl Files {
    fn open(tid: u32) -> io::Result<Self> {
        let open = |name| File::open(format!("/proc/self/task/{tid}/{name}"));
        Ok(Self {
            call: open("syscall")?,
            ran: open("schedstat").ok(),
        })
    }

    fn look(&self) -> io::Result<Look> {
        Ok(Look {
            ran: self.ran.as_ref().and_then(|file| line(file).ok()),
            call: line(&self.call)?,
        })
    }
}

/// The one line of a file, which says something else each time it is read.
fn line(file: &File) -> io::Result<String> {
    let mut bytes = [0; 256];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(bytes[..length].trim_ascii_end()).into_owned())
}

fn unreadable(tid: u32, error: &io::Error) -> Glance {
    hidden(tid, format!("where it is cannot be read: {}", error.kind()))
}

fn hidden(tid: u32, why: String) -> Glance {
    match state(tid) {
        None => Glance::Failed("it ended".to_owned()),
        Some('R') => Glance::Runs,
        // The kernel's function (proc_pid_wchan(5)): a thread in sigwait would take the signal for one of its own.
        Some(_) => match file(tid, "wchan").unwrap_or_default() {
            place if place.starts_with("do_sigtimedwait") => Glance::Failed(why),
            _ => Glance::Hidden(why),
        },
    }
}

pub(super) fn is_over(tid: u32) -> bool {
    state(tid).is_none()
}

/// The kernel's letter; `None` for a thread that is over: it has no files any more, or is a zombie.
fn state(tid: u32) -> Option<char> {
    let stat = file(tid, "stat").unwrap_or_default();
    crate::audit::parse_stat(tid, &stat).map(|thread| thread.state)
}

/// Sets of signals, the first in the lowest bit.
pub(super) struct Signals {
    pub(super) blocked: u64,
    pub(super) pending: u64,
}

/// The signals of a thread (proc_pid_status(5)); where they cannot be read, all are blocked.
pub(super) fn signals(tid: u32) -> Signals {
    let status = file(tid, "status").unwrap_or_default();
    let set = |name: &str| {
        let digits = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(digits.trim(), 16).ok()
    };
    Signals {
        blocked: set("SigBlk:").unwrap_or(u64::MAX),
        pending: set("SigPnd:").unwrap_or(0),
    }
}

fn file(tid: u32, name: &str) -> io::Result<String> {
    let bytes = std::fs::read(format!("/proc/self/task/{tid}/{name}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

// === impl Place ===

impl Place {
    /// From a line of `syscall` (proc_pid_syscall(5)): the call, its arguments, the stack pointer and the program
    /// counter; without arguments where a thread waits outside of a call.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [first, .., sp, pc] = fields[..] else {
            return None;
        };
        let number = |field: &str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
        Some(Self {
            call: first.parse().ok(),
            sp: number(sp)?,
            pc: number(pc)?,
        })
    }
}
