//! Asks a thread for its stack by signal: the handler copies registers and stack, and does nothing
//! else.
//!
//! Each question has a slot and a number, which the signal carries as its value. The `state` of a
//! slot holds the number of its question and one of four states, with these transitions:
//!
//! - FREE → ASKED: the reader asks, before it sends the signal.
//! - ASKED → BUSY → DONE: the handler takes the slot, copies, and publishes the copy.
//! - DONE → FREE: the reader has used the copy.
//! - ASKED → FREE: the reader gives up, so a later signal does nothing.
//!
//! A signal that is late, or that other code sent, finds another number or no open question, and
//! does nothing. The two transitions out of ASKED are compare-exchanges, so exactly one side wins.
//! All atomics are SeqCst: the path is rare, and its cost is that of a signal.
//!
//! At most 16 threads are asked at once. The handler takes no lock and allocates nothing; it copies
//! at most 64 KiB, through the kernel, so that an unmapped page is an error and no fault.
//!
//! The time line of one question, with the reader on the left and the asked thread on the right:
//!
//! ```text
//!  ask: tid, then state = number | ASKED
//!  send ───────────────────────────────►  answer: slot and number from the value
//!  await_answer (futex, 2 ms)             fill: tid is mine? ASKED → BUSY
//!                                         registers, pread of the stack
//!                                         BUSY → DONE, ANSWERS + 1
//!  finish: DONE → tell → FREE  ◄────────  futex wake
//! ```
//!
//! The tid is stored before the state, so a handler that finds its number also finds the right tid.
//! The signal is queued with a value (`SI_QUEUE`), which a plain `kill` cannot forge.

#![expect(
    unsafe_code,
    reason = "libc has no safe call to handle a signal, or to send one with a value to a thread"
)]

use super::arch::{self, Registers};
use super::memory;
use crate::audit::nudge::handler_of;
use crate::audit::proc::{self, Signals};
use rustix::thread::futex;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The signals of which a free one is taken. Other code likes to take those above; those below are
/// the marks of [`crate::audit::tag`].
///
/// Real-time signals queue and carry a value. They are tried from the highest down.
/// [`nudge`](crate::audit::nudge) takes its own from the lowest up, so that the two seldom compete.
const SIGNALS: std::ops::RangeInclusive<i32> = 56..=61;
/// The most threads that are asked at once. A thread that does not run keeps its slot until it
/// answers or its time is over. Together the slots are 1 MiB of zeroed static memory, of which only
/// the pages that were written to are resident.
const SLOTS: usize = 16;
/// The most bytes of a stack that are copied. That holds the stacks of almost all threads; a deeper
/// one is incomplete.
const STACK: usize = 64 << 10;
/// The time a thread has to answer. On a busy machine it waits for a processor first.
///
/// It counts from the moment at which the question was sent, so 16 threads that do not answer cost
/// 200 ms and not 3.2 s.
const ANSWER: Duration = Duration::from_millis(200);
/// The number of further looks at a thread that blocks the signal.
///
/// Between two looks the reader yields its processor. A thread that blocks the signal for longer
/// does so on purpose.
const BLOCKED_LOOKS: usize = 5;
/// The further time for a handler that has begun.
///
/// It is counted after [`ANSWER`], and is not shortened by the budget of the read, because the slot
/// must not be used while a handler may write to it.
const COPY: Duration = Duration::from_secs(1);

/// No question is open.
const FREE: u32 = 0;
/// The signal is about to be sent, or on its way.
const ASKED: u32 = 1;
/// The handler is copying: no other code may touch the slot.
const BUSY: u32 = 2;
/// The copy is complete.
const DONE: u32 = 3;
/// The bits of the states in `Slot::state`; the number of the question is above them.
const STATES: u32 = 3;

/// The signal that was taken; `None` if none was free.
///
/// It is kept for the life of the process: a late signal without a handler would end it.
static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
/// The descriptor of `/proc/self/mem`, from which handlers read; -1 if there is none.
///
/// Only set by the reader; a static, since a handler has no other way to get at it.
static MEMORY: AtomicI32 = AtomicI32::new(-1);
/// The number of answers so far, on which the reader waits as a futex.
///
/// It wraps around, which is harmless: only a difference counts.
static ANSWERS: AtomicU32 = AtomicU32::new(0);
/// All slots. The index of a slot is in the upper half of the signal's value.
///
/// A handler may find any of them at any time, so they are never moved or freed.
static PLACES: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// The registers and the stack that a thread copied.
pub(super) struct Capture {
    /// The registers of the code that the signal interrupted, not those of the handler.
    pub(super) registers: Registers,
    /// The number of valid bytes of `stack`.
    length: usize,
    /// The memory from the stack pointer on.
    stack: [u8; STACK],
}

/// The slot of one question and its answer.
struct Slot {
    /// The number of the question, above two bits for the state.
    ///
    /// The number grows by 4 for each question, and repeats after 2³⁰ of them in one slot, long
    /// after any signal of the first has been delivered.
    state: AtomicU32,
    /// The thread that is asked. Other threads that get the signal ignore it.
    tid: AtomicU32,
    /// Written by the handler between BUSY and DONE. The state decides which side may touch it.
    capture: UnsafeCell<Capture>,
}

/// The layout of `siginfo_t` for a queued signal (sigaction(2)); it is 128 bytes long.
///
/// The fields that the kernel overwrites or ignores are filled anyway, since all 128 bytes are
/// read.
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

// SAFETY: `capture` is written by a handler that has changed `state` from ASKED to BUSY, until it
// sets DONE, and read by the reader between DONE and the next ASKED. Only one thread asks at a
// time: asking requires the lock of the reader.
unsafe impl Sync for Slot {}

/// Takes a free signal and installs the handler, once. It takes some microseconds.
pub(super) fn install() {
    SIGNAL.get_or_init(|| {
        let mut free = SIGNALS
            .rev()
            .filter(|signal| handler_of(*signal) == Some(libc::SIG_DFL));
        free.find(|signal| handle(*signal))
    });
}

/// Sets the descriptor from which handlers read memory; with -1 they use process_vm_readv(2).
pub(super) fn read_from(descriptor: i32) {
    MEMORY.store(descriptor, Ordering::SeqCst);
}

/// Asks the threads until `until`, and calls `tell` once for each, with its index in `tids` and the
/// copy or the reason why there is none. The caller holds the lock of the reader.
///
/// The loop ends: each question is closed by an answer, by its time limit, or by the end of `until`
/// and the further second of a handler that has begun. `tell` runs on the calling thread, while
/// other questions are open, and must not ask again.
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
    // All slots are taken by handlers that have not returned.
    left.for_each(|(place, _)| tell(place, Err("earlier signals are unanswered".to_owned())));
}

/// Returns the signal if it still has this module's handler.
///
/// Costs one system call for each read. Between the check and the send other code may replace the
/// handler; its handler then receives one signal with a value that it does not know.
fn usable() -> Result<i32, &'static str> {
    let signal = SIGNAL.get().copied().flatten();
    let signal = signal.ok_or("no signal is free to interrupt it with")?;
    let ours = handler_of(signal) == Some(answer as *const () as usize);
    let ours = ours.then_some(signal);
    ours.ok_or("other code has replaced the handler of headcount's signal")
}

/// Reads the signals of a thread. If they cannot be read, all count as blocked.
///
/// An unreadable file means that the thread has ended, or that `/proc` is restricted; in both cases
/// no signal should be sent.
fn signals_of(tid: u32) -> Signals {
    proc::signals(tid).unwrap_or(Signals {
        blocked: u64::MAX,
        pending: 0,
    })
}

/// Waits at most 2 ms for the number of answers to differ from `seen`.
///
/// The timeout is what makes the reader look at time limits, since a thread that never answers
/// wakes nothing.
fn await_answer(seen: u32) {
    let most = futex::Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    // It returns on an answer, on the timeout, or spuriously; the caller looks at all slots each
    // time.
    futex::wait(&ANSWERS, futex::Flags::PRIVATE, seen, Some(&most)).ok();
}

/// An open question.
struct Question {
    /// The index of the thread in the caller's list.
    ///
    /// It is handed to `tell`, because threads are not answered in the order in which they were
    /// asked.
    place: usize,
    tid: u32,
    number: u32,
    /// The end of the time to answer.
    until: Instant,
}

// === impl Question ===

impl Question {
    /// Starts the time to answer.
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
    /// A `const fn` with zeroes only, so that all slots lie in memory that the kernel provides
    /// zeroed.
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

    /// Returns whether the slot can be used, if no question waits for its answer. It may be DONE:
    /// an answer that came too late.
    fn is_free(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst) & STATES, FREE | DONE)
    }

    /// Sends the question and returns its number. Fails with the reason if the thread has ended,
    /// blocks the signal, or has an earlier one pending.
    ///
    /// The masks are read before the send, so a thread may block the signal in between. The
    /// question then runs into its time limit, and the signal does nothing when it is delivered at
    /// last.
    fn ask(&self, tid: u32, signal: i32, until: Instant) -> Result<u32, String> {
        if Instant::now() > until {
            return Err(super::late());
        }
        if proc::is_over(tid) {
            return Err("it ended".to_owned());
        }
        let is_in = |set: u64| set >> (signal - 1) & 1 == 1;
        let mut signals = signals_of(tid);
        // The C library blocks all signals for a moment when a thread starts or ends.
        for _ in 0..BLOCKED_LOOKS {
            if !is_in(signals.blocked) {
                break;
            }
            std::thread::yield_now();
            signals = signals_of(tid);
        }
        if is_in(signals.blocked) {
            return Err("it blocks headcount's signal".to_owned());
        }
        // Signals would queue up.
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
            _ => format!("it cannot be sent a signal: {}", error.kind()),
        })
    }

    /// Takes the question back, so that the signal does nothing if it comes later. Fails with the
    /// present state if a handler has taken the slot already.
    fn take_back(&self, number: u32) -> Result<u32, u32> {
        let (asked, free) = (number | ASKED, number | FREE);
        self.state
            .compare_exchange(asked, free, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// Passes on the answer if it is there, or gives up if its time is over. Returns whether the
    /// question is closed.
    ///
    /// The answer is passed on before the slot is freed, so `tell` may borrow it. A handler that
    /// has begun is given until [`COPY`] after the limit; if it takes longer, the slot stays BUSY
    /// and is left out until it is done.
    fn finish(
        &self,
        question: &Question,
        until: Instant,
        tell: impl FnOnce(Result<&Capture, String>),
    ) -> bool {
        let number = question.number;
        let now = Instant::now();
        if self.state.load(Ordering::SeqCst) == number | DONE {
            // SAFETY: the handler is done with the slot, and no thread is asked before `state`
            // changes below.
            tell(Ok(unsafe { &*self.capture.get() }));
            self.state.store(number | FREE, Ordering::SeqCst);
            return true;
        }
        if now < question.until.min(until) {
            return false;
        }
        match self.take_back(number) {
            Ok(_) if proc::is_over(question.tid) => tell(Err("it ended".to_owned())),
            Ok(_) => tell(Err("it did not answer the signal in time".to_owned())),
            // It was answered at this moment, and the next look finds that; or its handler still
            // has time.
            Err(state) if state == number | DONE || now < question.until + COPY => return false,
            // The slot cannot be used until the handler returns.
            Err(_) => tell(Err("its signal handler has not returned".to_owned())),
        }
        true
    }

    /// Returns the index of the slot in `PLACES`.
    fn index(&self) -> usize {
        PLACES
            .iter()
            .position(|slot| std::ptr::eq(slot, self))
            .expect("it is one of them")
    }

    /// Copies registers and stack into the slot, if this thread is asked by this number. Runs in
    /// the signal handler.
    ///
    /// The thread is delayed by one `pread` of at most 64 KiB and by the delivery of the signal.
    /// The wake is a system call by hand, since a wrapper might allocate or set `errno` in other
    /// ways.
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
        // SAFETY: BUSY makes the slot this handler's alone, and the stack in it has `STACK` bytes.
        unsafe {
            (*into).registers = registers;
            (*into).length = copy(registers.sp, (&raw mut (*into).stack).cast());
        }
        self.state.store(number | DONE, Ordering::SeqCst);
        ANSWERS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the address is that of a static. FUTEX_WAKE takes only numbers otherwise, and the
        // call may be made in a handler.
        unsafe {
            let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            libc::syscall(libc::SYS_futex, ANSWERS.as_ptr(), wake, 1);
        }
    }
}

/// Copies the stack from `sp` on. Returns the number of bytes that could be read.
///
/// # Safety
///
/// `into` must be the caller's alone for `STACK` bytes.
///
/// A stack that ends before 64 KiB yields a short read. If the file cannot be used, the system call
/// with the pid is tried.
unsafe fn copy(sp: u64, into: *mut u8) -> usize {
    let file = MEMORY.load(Ordering::SeqCst);
    let read = match libc::off_t::try_from(sp) {
        // SAFETY: `pread` writes at most `STACK` bytes to `into`, which is the caller's. The
        // descriptor is never closed.
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
    /// Returns the word of the stack at `address`; `None` if it was not copied.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.registers.sp)?).ok()?;
        let word = self.stack[..self.length].get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }
}

/// Installs the handler for `signal`. Returns whether that succeeded.
///
/// `SA_RESTART` keeps most interrupted calls from failing; signal(7) lists those that return
/// `EINTR` in spite of it. `SA_ONSTACK` uses the alternate stack that the standard library gives
/// its threads, so that a thread near the end of its stack can still answer.
fn handle(signal: i32) -> bool {
    // SAFETY: all zeroes is a valid `sigaction`: no handler, an empty mask, no flags. The handler
    // takes the three arguments that SA_SIGINFO gives, and does only what a handler may
    // (signal-safety(7)). `sigaction` keeps no pointer.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = answer as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // No other handler may interrupt this one while it has the slot.
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    }
}

/// Sends the signal to one thread of this process, with the slot and the number as its value
/// (rt_tgsigqueueinfo(2)).
///
/// It fails with `ESRCH` if the thread has ended, and with `EAGAIN` if the user's limit of queued
/// signals is reached (`RLIMIT_SIGPENDING`, getrlimit(2)).
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
    // SAFETY: the kernel reads the 128 bytes of a `siginfo_t`, which `info` is, and keeps a copy.
    // It reaches only a thread of this process, and the signal has our handler.
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

/// The signal handler. It takes no lock, allocates nothing, and leaves `errno` as it was.
///
/// It runs on the interrupted thread, with all other signals blocked. Its argument checks come
/// first: a signal that other code sends with the same number must do nothing at all.
extern "C" fn answer(_signal: libc::c_int, info: *const Info, context: *const libc::ucontext_t) {
    if info.is_null() || context.is_null() {
        return;
    }
    // SAFETY: with SA_SIGINFO the kernel gives a `siginfo_t` of 128 bytes, of which any bits are an
    // `Info`, and the context of the interrupted code. `errno` is this thread's, and always there.
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
