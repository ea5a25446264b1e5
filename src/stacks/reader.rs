//! Reads stacks on Linux: chooses the means for each thread, within one budget.
//!
//! Every thread is looked at from outside first ([`quiet`]), which disturbs nothing. Those that
//! run, and with [`Means::Any`] those that could not be read well, are then asked by signal
//! ([`signal`]). [`walk`] unwinds both kinds with the unwinding information of [`modules`].
//!
//! There is one read at a time: the slots of the signals and the caches are shared. A read does not
//! lock the loader, so it works while a stuck thread holds that lock.
//!
//! The steps of one read, with the lock held all the time:
//!
//! 1. Check that the process may read its own memory, with one byte.
//! 2. Compare `/proc/self/maps` with the last read, and load what changed.
//! 3. Look at each thread from outside.
//! 4. Ask those that need it by signal, at most 16 at once.
//!
//! The errors are sentences, not an enum: nothing decides by them, and they go into a report as
//! they are. Nothing here symbolizes, and nothing here may allocate under the loader's lock.

mod arch;
pub(crate) mod foreign;
mod memory;
mod modules;
mod quiet;
mod signal;
pub(crate) mod sockets;
mod walk;

use super::cache;
use super::{Means, Stack};
use crate::threads::own_tid;
use memory::Memory;
use modules::Modules;
pub(super) use sockets::{clear_stack, name_sockets, pointers};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use walk::Walker;

/// The time for all threads of one read. A service may have thousands, and a report has seconds.
///
/// It is checked before each thread, not during one, so a read may exceed it by one look from
/// outside, or by the second that a handler gets to finish.
const BUDGET: Duration = Duration::from_secs(2);
/// The time to wait for another read to end: as long as it may take.
///
/// Together with [`BUDGET`] it bounds a call at about four seconds.
const TURN: Duration = BUDGET;
/// The time between two tries to lock the reader.
///
/// A read of some threads takes milliseconds, so a shorter pause would gain nothing.
const LOOK: Duration = Duration::from_millis(1);

/// The reader. The lock makes sure that there is one read at a time; it is `None` before the first
/// read and after a panic in one.
///
/// Contended only if two dumps, or a dump and a warning, read at the same time. It is never held
/// while other code of headcount runs.
static READER: Mutex<Option<Reader>> = Mutex::new(None);

/// The state that is kept from one read to the next.
///
/// The lists and caches are kept, because a program's modules seldom change, and the unwinding
/// rules of a function are needed again for each thread in it.
struct Reader {
    /// The memory of this process, with the pid of its opener.
    memory: Memory,
    /// The modules at the last refresh.
    modules: Modules,
    /// The unwinder, with its cache of rules, which survives a refresh.
    walker: Walker,
}

/// A stack, or the reason why there is none.
type Outcome = Result<Stack, String>;

/// True once a thread has prepared the symbolizer, or is about to.
///
/// A flag and not a `Once`, since a second caller must not wait for a symbolizer that hangs.
static WARMED: AtomicBool = AtomicBool::new(false);

/// See [`super::prepare`]. The handler is installed once; the symbolizer is prepared once, by the
/// first caller, and others do not wait for it. Called when a runtime starts, before the baseline
/// of threads is taken.
pub(super) fn prepare() {
    signal::install();
    if !WARMED.swap(true, Ordering::SeqCst) {
        // It lists the modules under the loader's lock, once; later look-ups do not lock it
        // (backtrace 0.3, `Cache::new`).
        backtrace::resolve(std::ptr::null_mut(), |_| ());
    }
}

/// See [`super::read`]. A reader that was made before a fork is replaced, because its memory is the
/// parent's.
///
/// The handler is installed here too, for a process that reads stacks without a runtime. The result
/// has one entry for each of `tids`, in their order, whatever fails.
pub(super) fn read(tids: &[u32], means: Means) -> Vec<Outcome> {
    // Not the symbolizer, which may block on a lock.
    signal::install();
    let none = |why: &str| tids.iter().map(|_| Err(why.to_owned())).collect();
    let Some(mut reader) = turn() else {
        return none("another read of stacks is in progress");
    };
    if reader
        .as_ref()
        .is_some_and(|reader| reader.memory.is_of_another_process())
    {
        *reader = None;
    }
    let reader = match &mut *reader {
        Some(reader) => reader,
        empty => empty.insert(Reader::new()),
    };
    reader.read(tids, means, Instant::now() + BUDGET)
}

/// Locks the reader; `None` if another read does not end within [`TURN`]. Polls, because a mutex
/// has no lock with a timeout.
///
/// A poisoned lock is taken over, and the reader behind it is dropped: a panic in a walk may have
/// left its caches half changed. The lock stays poisoned, so each later read starts from an empty
/// reader.
fn turn() -> Option<MutexGuard<'static, Option<Reader>>> {
    let until = Instant::now() + TURN;
    loop {
        match READER.try_lock() {
            Ok(reader) => return Some(reader),
            Err(TryLockError::Poisoned(reader)) => {
                let mut reader = reader.into_inner();
                *reader = None;
                return Some(reader);
            }
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Opens the memory, and hands its descriptor to the signal handler.
    fn new() -> Self {
        let memory = Memory::open();
        signal::read_from(memory.descriptor());
        Self {
            memory,
            modules: Modules::default(),
            walker: Walker::default(),
        }
    }

    /// Reads the threads, first from outside and then by signal, until `until`.
    ///
    /// The calling thread cannot be read: it runs, and the signal would interrupt this very read.
    /// Threads after the end of the budget get an error without being looked at, and are not asked
    /// either.
    fn read(&mut self, tids: &[u32], means: Means, until: Instant) -> Vec<Outcome> {
        if let Err(why) = self.memory.check() {
            return tids.iter().map(|_| Err(why.clone())).collect();
        }
        if self.modules.refresh(&self.memory) {
            cache::forget();
        }
        let own = own_tid();
        let mut outcomes = Vec::with_capacity(tids.len());
        let mut to_signal = Vec::new();
        for (index, tid) in tids.iter().enumerate() {
            if *tid == own {
                outcomes.push(Err("it is the thread that reads stacks".to_owned()));
            } else if Instant::now() > until {
                outcomes.push(Err(late()));
            } else {
                let glance = quiet::glance(*tid, &self.memory, &self.modules, &mut self.walker);
                if glance.wants_signal(means) {
                    to_signal.push(index);
                }
                outcomes.push(glance.into_outcome());
            }
        }
        self.signal(tids, &to_signal, &mut outcomes, until);
        outcomes
    }

    /// Asks the threads at the indices `which` by signal. The answer replaces what was seen from
    /// outside, unless that was complete and the answer is not; a thread that does not answer keeps
    /// it.
    ///
    /// A signal always yields a stack that is exact, so an incomplete stack from outside is
    /// replaced even by another incomplete one. An error replaces only an error, since the reason
    /// that comes later is the more precise one.
    fn signal(&mut self, tids: &[u32], which: &[usize], outcomes: &mut [Outcome], until: Instant) {
        let asked: Vec<u32> = which.iter().map(|index| tids[*index]).collect();
        let (modules, walker) = (&self.modules, &mut self.walker);
        signal::capture(&asked, until, |place, answer| {
            let outcome = &mut outcomes[which[place]];
            match answer {
                Ok(capture) => {
                    let stack = walker.walk_capture(capture, modules);
                    let is_better =
                        stack.is_complete || !outcome.as_ref().is_ok_and(|seen| seen.is_complete);
                    if is_better {
                        *outcome = Ok(stack);
                    }
                }
                Err(why) if outcome.is_err() => *outcome = Err(why),
                Err(_) => {}
            }
        });
    }
}

/// The error of a thread that the budget did not cover.
fn late() -> String {
    format!("not read within {} s", BUDGET.as_secs())
}

#[cfg(test)]
mod tests;
