//! Reads the stack of a thread from outside, without a signal.
//!
//! For a thread that waits, the kernel shows its stack pointer and program counter in
//! `/proc/self/task/TID/syscall`, and its stack is memory of this process. The file is read again
//! after the stack was unwound, together with `schedstat`: if both are unchanged, the thread did
//! not run meanwhile and the stack is exact. It cannot read a thread that is on a processor.
//!
//! The order of one look, and what each step is for:
//!
//! 1. Read `schedstat`, then `syscall`: the registers of a thread that waits.
//! 2. Unwind over memory fetched meanwhile. A thread that is woken now changes it.
//! 3. Read both files again. The count of time slices in `schedstat` differs if the thread ran at
//!    all, even if it is back in the same call with the same arguments.
//!
//! A kernel without `schedstat` (`CONFIG_SCHED_INFO`) can show the registers but cannot prove that
//! the thread stood still, so there no stack is exact and each thread takes all three looks.

use super::Outcome;
use super::memory::Memory;
use super::modules::Modules;
use super::walk::{Walker, Window};
use crate::audit::proc::{self, syscall::WaitPoint};
use crate::stacks::{Means, Stack};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The most looks at a thread that moves on meanwhile.
///
/// A thread that wakes for a timer is caught at the second look. One that moves at all three is
/// working, and a signal reads it better.
const LOOKS: usize = 3;

/// The result of a look at one thread.
pub(super) enum Glance {
    /// It waits in the kernel, and its stack was read. The stack may be approximate or incomplete.
    Waits {
        /// The stack, exact if the thread did not run while it was read.
        stack: Stack,
        /// False for a thread that waits in `rt_sigtimedwait` (sigwait): it would receive the
        /// signal as one of its own.
        takes_signals: bool,
    },
    /// It is on a processor, or waits for one. Only a signal can ask it.
    ///
    /// Also the result for one that was seen between two system calls in each look, with an
    /// incomplete stack.
    Runs,
    /// It cannot be read for this reason, and a signal would not help.
    Failed(String),
    /// It waits, and cannot be read from outside for this reason; a signal may help.
    Hidden(String),
}

/// Open files of a thread. They stay those of this thread even when its id is used again.
struct Files {
    /// `syscall`. It needs the right to trace the process, which the process has for itself unless
    /// it is not dumpable.
    call: File,
    /// `schedstat`; not every kernel has it.
    ran: Option<File>,
}

/// The content of the files at one moment. Two looks are equal if the thread did not run between
/// them.
#[derive(PartialEq, Eq)]
struct Look {
    /// The time that the thread has spent on a processor, and how often it was put on one.
    ran: Option<String>,
    /// The system call that it is in, its arguments, stack pointer and program counter.
    call: String,
}

// === impl Glance ===

impl Glance {
    /// Returns whether the thread should be asked by signal: always if it runs; with [`Means::Any`]
    /// also if its stack is missing, approximate or incomplete and a signal does no harm.
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

    /// Returns the stack, or the reason why there is none.
    ///
    /// A thread that runs is an error at this point. It is replaced if the signal is answered.
    pub(super) fn into_outcome(self) -> Outcome {
        match self {
            Self::Waits { stack, .. } => Ok(stack),
            Self::Runs => Err("it is running".to_owned()),
            Self::Failed(why) | Self::Hidden(why) => Err(why),
        }
    }
}

/// Reads a thread from outside, up to [`LOOKS`] times until it did not move meanwhile. Sends no
/// signal and takes no lock.
///
/// Costs two opened files, four short reads for each look, and the reads of the stack in pieces.
/// The thread's time is not used.
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
        let Some(point) = WaitPoint::parse(line) else {
            return match line {
                "running" => Glance::Runs,
                _ => hidden(tid, "the kernel does not show its registers".to_owned()),
            };
        };
        let mut window = Window::new(memory, point.sp);
        let mut stack = walker.walk_from(point.pc, point.sp, &mut window, modules);
        let is_still = before.ran.is_some() && files.look().is_ok_and(|after| after == before);
        stack.is_exact &= is_still;
        last = Glance::Waits {
            stack,
            takes_signals: point
                .call
                .is_none_or(|call| call.number != libc::SYS_rt_sigtimedwait),
        };
        if is_still {
            return last;
        }
    }
    match last {
        _ if proc::is_over(tid) => Glance::Failed("it ended".to_owned()),
        // It is working, and was seen between two of its system calls.
        Glance::Waits { stack, .. } if !stack.is_complete => Glance::Runs,
        glance => glance,
    }
}

// === impl Files ===

impl Files {
    /// Opens the files of a thread. Fails if the thread has ended, or if the kernel does not allow
    /// it.
    ///
    /// The descriptors are closed when the look is over; at most two are open at a time.
    fn open(tid: u32) -> io::Result<Self> {
        Ok(Self {
            call: proc::open(tid, "syscall")?,
            ran: proc::open(tid, "schedstat").ok(),
        })
    }

    /// Reads the files. `schedstat` is read first, so a thread that runs between the two reads
    /// differs in the next look.
    fn look(&self) -> io::Result<Look> {
        Ok(Look {
            ran: self.ran.as_ref().and_then(|file| line(file).ok()),
            call: line(&self.call)?,
        })
    }
}

/// Reads the one line of a file of `/proc`, which has other content each time it is read.
///
/// 256 bytes suffice: the longest line is that of `syscall`, a number and eight words of at most 18
/// characters each. It reads at offset 0, for which the kernel generates the content anew.
fn line(file: &File) -> io::Result<String> {
    let mut bytes = [0; 256];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(bytes[..length].trim_ascii_end()).into_owned())
}

/// Returns the result for a thread with files that cannot be read.
///
/// The kind of the error is shown and not its number, so that equal faults group in a report.
fn unreadable(tid: u32, error: &io::Error) -> Glance {
    hidden(
        tid,
        format!("its registers cannot be read: {}", error.kind()),
    )
}

/// Returns the result for a thread that the kernel does not show, according to its state.
///
/// The state decides whether a signal may be tried: asking a thread in sigwait would make its
/// call return the signal to the program.
fn hidden(tid: u32, why: String) -> Glance {
    match proc::state(tid) {
        None => Glance::Failed("it ended".to_owned()),
        Some('R') => Glance::Runs,
        // The kernel's function (proc_pid_wchan(5)): a thread in sigwait would receive the signal
        // as one of its own.
        Some(_) => match proc::kernel_function(tid) {
            Some(function) if function.starts_with("do_sigtimedwait") => Glance::Failed(why),
            _ => Glance::Hidden(why),
        },
    }
}
