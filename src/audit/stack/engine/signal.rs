//! Asking a thread where it is, by a signal: its handler copies registers and stack, and does nothing else.
//!
//! A place for the answer is asked, taken by the handler, and filled. Each question has a number, which the signal
//! carries: a signal that comes late, or from somebody else, finds another number or nobody asking, and does nothing.

#![expect(
    unsafe_code,
    reason = "libc has no safe call to handle a signal, or to send one with a value to a thread"
)]

use super::super::super::nudge::handler_of;
use super::arch::{self, Registers};
use super::{memory, quiet};
use rustix::thread::futex;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Above them are those that others like to take, below them the marks of threads.
const SIGNALS: std::ops::RangeInclusive<i32> = 56..=61;
/// Threads that are asked at once. One that does not run keeps its place until it answers or its time is over.
const SLOTS: usize = 16;
/// How much of a stack is copied.
const STACK: usize = 64 << 10;
/// How long a thread may take to answer. On a busy machine it waits for a processor first.
const ANSWER: Duration = Duration::from_millis(200);
/// How often is looked again at a thread that blocks the signal.
const BLOCKED_LOOKS: usize = 5;
/// How long is waited for a handler that has begun.
const COPY: Duration = Duration::from_secs(1);

/// Nobody asks.
const FREE: u32 = 0;
const ASKED: u32 = 1;
/// The handler is at work: nobody else may touch the place.
const BUSY: u32 = 2;
const DONE: u32 = 3;
const STATES: u32 = 3;

static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
/// The descriptor of the process's memory; -1: there is none.
static MEMORY: AtomicI32 = AtomicI32::new(-1);
static ANSWERS: AtomicU32 = AtomicU32::new(0);
static PLACES: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// What a thread copied.
pub(super) struct Capture {
    pub(super) registers: Registers,
    length: usize,
    stack: [u8; STACK],
}

/// The place for one answer.
struct Slot {
    /// The number of the question, above two bits of what is asked.
    state: AtomicU32,
    tid: AtomicU32,
    capture: UnsafeCell<Capture>,
}

/// The part of `siginfo_t` that a queued signal has (sigaction(2)); it is 128 bytes long.
#[repr(C)]
struct Info {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

// SAFETY: `capture` is written by a handler that has changed `state` from ASKED to BUSY, until it makes it DONE, and read
// by whoever asked, between DONE and the next ASKED. Nobody else asks meanwhile: that takes the reader's lock.
unsafe impl Sync for Slot {}

/// Prepares the process for questions. It takes some microseconds.
pub(super) fn install() {
    SIGNAL.get_or_init(|| {
        let mut free = SIGNALS
            .rev()
            .filter(|signal| handler_of(*signal) == Some(libc::SIG_DFL));
        free.find(|signal| handle(*signal))
    });
}

/// Where handlers read the process's memory; -1: by a system call.
pub(super) fn read_from(descriptor: i32) {
    MEMORY.store(descriptor, Ordering::SeqCst);
}

/// Asks those threads; `tell` gets the place in the list, and the answer or the reason why there is none.
pub(super) fn capture(
    tids: &[u32],
    until: Instant,
    mut tell: impl FnMut(usize, Result<&Capture, String>),
) {
    let signal = match usable() {
        Ok(signal) => signal,
        Err(why) => return (0..tids.len()).for_each(|place| tell(place, Err(why.to_owned()))),
    };
    let mut left = tids.iter().copied().enumerate();
    let mut asked: [Option<Question>; SLOTS] = [const { None }; SLOTS];
    loop {
        let seen = ANSWERS.load(Ordering::SeqCst);
        for (slot, question) in PLACES.iter().zip(&mut asked) {
            if let Some(open) = question
                && slot.finish(open, until, |answer| tell(open.place, answer))
            {
                *question = None;
            }
            while question.is_none() && slot.is_free() {
                let Some((place, tid)) = left.next() else {
                    break;
                };
                match slot.ask(tid, signal, until) {
                    Ok(number) => *question = Some(Question::new(place, tid, number)),
                    Err(why) => tell(place, Err(why)),
                }
            }
        }
        if asked.iter().all(Option::is_none) {
            break;
        }
        await_answer(seen);
    }
    // All places are taken by handlers that have not come back.
    left.for_each(|(place, _)| tell(place, Err("earlier signals are not answered".to_owned())));
}

/// The signal, if it is still ours.
fn usable() -> Result<i32, &'static str> {
    let signal = SIGNAL.get().copied().flatten();
    let signal = signal.ok_or("no signal is free by which it could be asked")?;
    let ours = handler_of(signal) == Some(answer as *const () as usize);
    let ours = ours.then_some(signal);
    ours.ok_or("the signal by which it would be asked is handled by somebody else")
}

/// Waits for a change of what was seen, but not long.
fn await_answer(seen: u32) {
    let most = futex::Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    // It ends by an answer, by time, or for nothing: all are looked at.
    futex::wait(&ANSWERS, futex::Flags::PRIVATE, seen, Some(&most)).ok();
}

struct Question {
    place: usize,
    tid: u32,
    number: u32,
    until: Instant,
}

// === impl Question ===

impl Question {
    fn new(place: usize, tid: u32, number: u32) -> Self {
        let until = Instant::now() + ANSWER;
        Self {
            place,
            tid,
            number,
            until,
        }
    }
}

// === impl Slot ===

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            tid: AtomicU32::new(0),
            capture: UnsafeCell::new(Capture {
                registers: Registers {
                    pc: 0,
                    sp: 0,
                    frame: 0,
                    link: 0,
                },
                length: 0,
                stack: [0; STACK],
            }),
        }
    }

    /// Whether no handler is at work, given that nobody waits for its answer: one may have come too late.
    fn is_free(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst) & STATES, FREE | DONE)
    }

    /// Sends the question, and gives its number.
    fn ask(&self, tid: u32, signal: i32, until: Instant) -> Result<u32, String> {
        if Instant::now() > until {
            return Err(super::late());
        }
        if quiet::is_over(tid) {
            return Err("it ended".to_owned());
        }
        let is_in = |set: u64| set >> (signal - 1) & 1 == 1;
        let mut signals = quiet::signals(tid);
        // The C library blocks all for a moment when a thread is started or ends.
        for _ in 0..BLOCKED_LOOKS {
            if !is_in(signals.blocked) {
                break;
            }
            std::thread::yield_now();
            signals = quiet::signals(tid);
        }
        if is_in(signals.blocked) {
            return Err("it blocks the signal by which it would be asked".to_owned());
        }
        // They would queue up.
        if is_in(signals.pending) {
            return Err("it has not answered an earlier signal".to_owned());
        }
        let before = self.state.load(Ordering::SeqCst) & !STATES;
        let number = before.wrapping_add(STATES + 1);
        self.tid.store(tid, Ordering::SeqCst);
        self.state.store(number | ASKED, Ordering::SeqCst);
        let Err(error) = send(tid, signal, self.index(), number) else {
            return Ok(number);
        };
        self.take_back(number).ok();
        Err(match error.raw_os_error() {
            Some(libc::ESRCH) => "it ended".to_owned(),
            _ => format!("no signal can be sent to it: {}", error.kind()),
        })
    }

    /// Makes that a signal which comes later does nothing. It fails with the state when a handler was there before.
    fn take_back(&self, number: u32) -> Result<u32, u32> {
        let (asked, free) = (number | ASKED, number | FREE);
        self.state
            .compare_exchange(asked, free, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// Gives the answer, or takes the question back when its time is over. Whether it is done with.
    fn finish(
        &self,
        question: &Question,
        until: Instant,
        tell: impl FnOnce(Result<&Capture, String>),
    ) -> bool {
        let number = question.number;
        let now = Instant::now();
        if self.state.load(Ordering::SeqCst) == number | DONE {
            // SAFETY: the handler is done with it, and nobody is asked before `state` changes below.
            tell(Ok(unsafe { &*self.capture.get() }));
            self.state.store(number | FREE, Ordering::SeqCst);
            return true;
        }
        if now < question.until.min(until) {
            return false;
        }
        match self.take_back(number) {
            Ok(_) if quiet::is_over(question.tid) => tell(Err("it ended".to_owned())),
            Ok(_) => tell(Err("it does not answer the signal".to_owned())),
            // It was answered at this moment: the next look finds it.
            Err(state) if state == number | DONE || now < question.until + COPY => return false,
            // The place is lost until the handler goes on.
            Err(_) => tell(Err("it does not come back from the signal".to_owned())),
        }
        true
    }

    fn index(&self) -> usize {
        PLACES
            .iter()
            .position(|slot| std::ptr::eq(slot, self))
            .expect("it is one of them")
    }

    /// In the handler.
    fn fill(&self, number: u32, registers: Registers) {
        let (asked, busy) = (number | ASKED, number | BUSY);
        if self.tid.load(Ordering::SeqCst) != crate::threads::own_tid()
            || self
                .state
                .compare_exchange(asked, busy, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return;
        }
        let into = self.capture.get();
        // SAFETY: BUSY makes the place this handler's alone, and the stack in it has `STACK` bytes.
        unsafe {
            (*into).registers = registers;
            (*into).length = copy(registers.sp, (&raw mut (*into).stack).cast());
        }
        self.state.store(number | DONE, Ordering::SeqCst);
        ANSWERS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the address is of a static. Waking takes numbers besides it, and may be done in a handler.
        unsafe {
            let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            libc::syscall(libc::SYS_futex, ANSWERS.as_ptr(), wake, 1);
        }
    }
}

/// Copies the stack from `sp` on. How many bytes could be read.
///
/// # Safety
///
/// `into` must be the caller's alone for `STACK` bytes.
unsafe fn copy(sp: u64, into: *mut u8) -> usize {
    let file = MEMORY.load(Ordering::SeqCst);
    let read = match libc::off_t::try_from(sp) {
        // SAFETY: `pread` writes at most so many bytes to `into`, which is the caller's. The descriptor is never closed.
        Ok(offset) if file >= 0 => unsafe { libc::pread(file, into.cast(), STACK, offset) },
        _ => -1,
    };
    let read = match read {
        // SAFETY: as above.
        ..=0 => unsafe { memory::read_by_call(std::process::id(), sp, into, STACK) },
        read => read,
    };
    usize::try_from(read).unwrap_or(0)
}

// === impl Capture ===

impl Capture {
    /// A word of the stack.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.registers.sp)?).ok()?;
        let word = self.stack[..self.length].get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }
}

fn handle(signal: i32) -> bool {
    // SAFETY: all zeroes is a `sigaction`: no handler, an empty mask, no flags. The handler takes the three arguments
    // that SA_SIGINFO gives, and does only what a handler may (signal-safety(7)). `sigaction` keeps no pointer.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = answer as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // No other handler may run in it: it would be interrupted while the place is taken.
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    }
}

fn send(tid: u32, signal: i32, index: usize, number: u32) -> std::io::Result<()> {
    let pid = std::process::id().cast_signed();
    let info = Info {
        signal,
        error: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        pid,
        uid: rustix::process::getuid().as_raw(),
        value: (index as u64) << 32 | u64::from(number),
        rest: [0; 12],
    };
    // SAFETY: the kernel reads the 128 bytes of a `siginfo_t`, which `info` is, and keeps a copy. Only a thread of this
    // process is reached, and our handler is the signal's.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            pid,
            tid.cast_signed(),
            signal,
            &raw const info,
        )
    };
    match sent {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The handler. It takes no lock, allocates nothing, and leaves `errno` as it was.
extern "C" fn answer(_signal: libc::c_int, info: *const Info, context: *const libc::ucontext_t) {
    if info.is_null() || context.is_null() {
        return;
    }
    // SAFETY: with SA_SIGINFO the kernel gives a `siginfo_t` of 128 bytes, of which any bits are an `Info`, and the
    // context of what was interrupted. `errno` is this thread's, and always there.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let Info { code, value, .. } = *info;
        let slot = usize::try_from(value >> 32)
            .ok()
            .and_then(|index| PLACES.get(index));
        if let (libc::SI_QUEUE, Some(slot)) = (code, slot) {
            slot.fill(value as u32, arch::interrupted(context));
        }
        *errno = before;
    }
}

#[cfg(test)]
mod tests;
