//! Reads stacks: who is read by which means, within which time.

mod arch;
mod memory;
mod modules;
mod quiet;
mod signal;
mod walk;

use super::{Means, Stack};
use crate::audit::kept;
use crate::threads::own_tid;
use memory::Memory;
use modules::Modules;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use walk::Walker;

/// For all threads of one reading. A service may have thousands, and a report has seconds.
const BUDGET: Duration = Duration::from_secs(2);
/// How long another reading is waited for: as long as it may take.
const TURN: Duration = BUDGET;
const LOOK: Duration = Duration::from_millis(1);

/// One reading at a time.
static READER: Mutex<Option<Reader>> = Mutex::new(None);

/// What is kept from one reading to the next.
struct Reader {
    memory: Memory,
    modules: Modules,
    walker: Walker,
}

type Outcome = Result<Stack, String>;

/// Whether the names are ready, or somebody makes them so.
static WARMED: AtomicBool = AtomicBool::new(false);

pub(super) fn prepare() {
    signal::install();
    if !WARMED.swap(true, Ordering::SeqCst) {
        // It lists the modules under the loader's lock, once; later look-ups need no lock (backtrace 0.3, `Cache::new`).
        backtrace::resolve(std::ptr::null_mut(), |_| ());
    }
}

pub(super) fn read(tids: &[u32], means: Means) -> Vec<Outcome> {
    // Not the names: they may take a lock.
    signal::install();
    let none = |why: &str| tids.iter().map(|_| Err(why.to_owned())).collect();
    let Some(mut reader) = turn() else {
        return none("another reading of stacks is under way");
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

/// The reader, when nobody else uses it.
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
    fn new() -> Self {
        let memory = Memory::open();
        signal::read_from(memory.descriptor());
        Self {
            memory,
            modules: Modules::default(),
            walker: Walker::default(),
        }
    }

    fn read(&mut self, tids: &[u32], means: Means, until: Instant) -> Vec<Outcome> {
        if let Err(why) = self.memory.check() {
            return tids.iter().map(|_| Err(why.clone())).collect();
        }
        if self.modules.refresh(&self.memory) {
            kept::forget();
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

    /// Asks those threads by signal; one that does not answer keeps what was seen of it from outside.
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

fn late() -> String {
    format!("not read within {} s", BUDGET.as_secs())
}

#[cfg(test)]
mod tests;
