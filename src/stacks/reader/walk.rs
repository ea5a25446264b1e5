//! Unwinds a stack: from registers and memory to a list of return addresses.
//!
//! A thread that answered a signal has all its registers, so [`Walker::walk_capture`] is a plain
//! unwind over the copy. Of a thread read from outside only the program counter and the stack
//! pointer are known. [`Walker::walk_from`] unwinds until a function needs another register, then
//! searches the stack for its frame:
//!
//! 1. Every word within 4 KiB that is a return address after a call may be the end of a frame
//!    record; up to 32 are tried.
//! 2. A candidate after a call of this very function ranks first, one after a call with an unknown
//!    target next.
//! 3. The first candidate from which the walk reaches the start of a thread wins. It is exact only
//!    if it ranks first and no other such candidate succeeds.
//!
//! Memory may change while it is read, so nothing of it is trusted: every address is checked by the
//! kernel or against the modules, and every loop has a bound.
//!
//! Only `.eh_frame` rules are followed; the frame pointer is used where a rule refers to it. A
//! stack that was changed by hand, as by a coroutine library, ends at the first frame without a
//! rule.

use super::arch::{self, Registers};
use super::memory::Memory;
use super::modules::Modules;
use super::signal::Capture;
use crate::stacks::Stack;
use framehop::{CacheNative, FrameAddress, MayAllocateDuringUnwind, UnwindRegsNative, Unwinder};

/// The most frames of a stack; the outermost functions of a deeper one are not seen.
///
/// A recursion can have a million frames, and each costs memory in a report. A stack of this depth
/// is not complete.
const FRAMES: usize = 512;
/// The bytes above the stack pointer in which the frame of a thread that is read from outside is
/// searched.
///
/// The frames of functions that wait in the kernel are small. A larger one, with a buffer on the
/// stack, is not found, and the stack ends there.
const WINDOW: u64 = 4096;
/// The most candidates for a frame that are tried.
///
/// Each candidate may cost a walk of [`FRAMES`] frames.
const TRIES: usize = 32;

/// An unwinder, with its cache of unwinding rules.
pub(super) struct Walker {
    cache: CacheNative<MayAllocateDuringUnwind>,
}

/// The result of one walk.
struct Walk {
    /// The program counter, then return addresses. Never empty.
    addresses: Vec<usize>,
    /// True if it reached a function that returns nowhere. False if [`FRAMES`] were reached.
    is_complete: bool,
    /// The registers at the function that needed an unknown register, if one did.
    lacks: Option<UnwindRegsNative>,
}

// === impl Walker ===

impl Default for Walker {
    fn default() -> Self {
        Self {
            cache: CacheNative::new(),
        }
    }
}

impl Walker {
    /// Unwinds the copy of a thread that answered a signal.
    ///
    /// The stack is exact by construction: the thread copied it while it stood in the handler. It
    /// is incomplete if the thread uses more than the 64 KiB that were copied.
    pub(super) fn walk_capture(&mut self, capture: &Capture, modules: &Modules) -> Stack {
        let registers = capture.registers;
        let mut read = |address| capture.word(address).ok_or(());
        let walk = self.walk(
            registers.pc,
            arch::registers(registers),
            true,
            modules,
            &mut read,
        );
        Stack {
            addresses: walk.addresses,
            is_exact: true,
            is_complete: walk.is_complete,
        }
    }

    /// Unwinds a thread of which only `pc` and `sp` are known. The result is marked exact if the
    /// frame was found without doubt; it is so only if the thread does not move meanwhile, which
    /// the caller checks.
    ///
    /// Makes at most one walk to the function that needs the frame, and one for each candidate. If
    /// no candidate reaches the start of a thread, the longest walk from a call of this very
    /// function is returned as approximate, or what was known before the search.
    pub(super) fn walk_from(
        &mut self,
        pc: u64,
        sp: u64,
        memory: &mut Window<'_>,
        modules: &Modules,
    ) -> Stack {
        let registers = arch::registers(Registers {
            pc,
            sp,
            frame: arch::UNKNOWN,
            link: arch::UNKNOWN,
        });
        let known = self.walk(pc, registers, true, modules, &mut |address| {
            memory.word(address).ok_or(())
        });
        let Some(lacks) = known.lacks else {
            return known.into_stack(true);
        };
        let function = known
            .addresses
            .last()
            .and_then(|pc| modules.function(*pc as u64));
        let mut places = memory.frames(sp, lacks.sp(), modules);
        // A candidate after a call of this very function is right, or left over from an earlier
        // call of it. A call with an unknown target is likelier than one of another function, which
        // may have jumped here.
        let rank = |place: &Place| match place.called {
            Some(_) if place.called == function => 0,
            None => 1,
            Some(_) => 2,
        };
        places.sort_by_key(rank);
        let mut longest = None;
        let mut found = places.iter().filter_map(|place| {
            let walk = self.resume(&known, lacks, place, memory, modules);
            let rank = rank(place);
            // A stack that is too deep is never complete.
            if walk.is_complete || walk.addresses.len() >= FRAMES {
                return Some((walk, rank));
            }
            let length = |walk: &Option<Walk>| walk.as_ref().map_or(0, |walk| walk.addresses.len());
            if rank == 0 && walk.addresses.len() > length(&longest) {
                longest = Some(walk);
            }
            None
        });
        match found.next() {
            Some((walk, rank)) => {
                let is_only = rank == 0 && found.next().is_none_or(|(_, rank)| rank > 0);
                walk.into_stack(is_only)
            }
            None => longest.unwrap_or(known).into_stack(false),
        }
    }

    /// Continues a walk that stopped for lack of the frame, with a candidate for it.
    ///
    /// The last known function is unwound again with the frame, so its address is not added twice.
    /// The known part is copied, because other candidates start from it too.
    fn resume(
        &mut self,
        known: &Walk,
        lacks: UnwindRegsNative,
        place: &Place,
        memory: &mut Window<'_>,
        modules: &Modules,
    ) -> Walk {
        let registers = arch::with_frame(lacks, place.record, place.returns);
        let is_first = known.addresses.len() == 1;
        let pc = known.addresses.last().copied().unwrap_or(0) as u64;
        let mut read = |address| memory.word(address).ok_or(());
        let rest = self.walk(pc, registers, is_first, modules, &mut read);
        let mut addresses = known.addresses.clone();
        addresses.extend(rest.addresses.iter().skip(1));
        Walk { addresses, ..rest }
    }

    /// Unwinds from `pc` until the start of a thread, an unknown register, unreadable memory or
    /// [`FRAMES`]. `is_first` is true if `pc` is an instruction pointer, not a return address.
    ///
    /// The registers are kept from before each step: a step that needs an unknown register may have
    /// changed others, and the search begins from the state before it.
    fn walk<F: FnMut(u64) -> Result<u64, ()>>(
        &mut self,
        pc: u64,
        mut registers: UnwindRegsNative,
        is_first: bool,
        modules: &Modules,
        read: &mut F,
    ) -> Walk {
        let mut at = match FrameAddress::from_return_address(pc) {
            Some(address) if !is_first => address,
            _ => FrameAddress::from_instruction_pointer(pc),
        };
        let mut walk = Walk {
            addresses: vec![pc as usize],
            is_complete: false,
            lacks: None,
        };
        while walk.addresses.len() < FRAMES {
            let before = registers;
            let mut lacks = false;
            let mut known = |address| match arch::is_unknown(address) {
                true => {
                    lacks = true;
                    Err(())
                }
                false => read(address),
            };
            let unwinder = &modules.unwinder;
            let next = unwinder.unwind_frame(at, &mut registers, &mut self.cache, &mut known);
            let next = next.ok().flatten();
            let Some(next) = next.filter(|next| !arch::is_unknown(*next)) else {
                let needs = lacks || next.is_some();
                walk.lacks = needs.then_some(before);
                break;
            };
            let Some(address) = FrameAddress::from_return_address(next) else {
                break;
            };
            at = address;
            walk.addresses.push(next as usize);
        }
        walk.is_complete = walk.lacks.is_none() && self.is_root(at, modules);
        walk
    }

    /// Returns whether the function at `at` returns to none, according to its module: where threads
    /// begin, the return address is marked "undefined". That a walk ended there proves nothing by
    /// itself.
    ///
    /// One step is unwound with made-up registers, over memory in which every word reads as the
    /// same number. With all of that readable, the only reason for "no caller" is the rule itself.
    /// Code outside of the modules has no rule, and is no root.
    fn is_root(&mut self, at: FrameAddress, modules: &Modules) -> bool {
        let known = Registers {
            pc: at.address(),
            sp: 1 << 20,
            frame: 1 << 20,
            link: 1 << 20,
        };
        let mut registers = arch::registers(known);
        let mut everything = |_| Ok(1 << 20);
        let unwinder = &modules.unwinder;
        let next = unwinder.unwind_frame(at, &mut registers, &mut self.cache, &mut everything);
        modules.has_code(at.address()) && next == Ok(None)
    }
}

// === impl Walk ===

impl Walk {
    /// Returns the stack of the walk.
    fn into_stack(self, is_exact: bool) -> Stack {
        Stack {
            addresses: self.addresses,
            is_exact,
            is_complete: self.is_complete,
        }
    }
}

/// The memory of a stack that is read from outside, fetched piece by piece.
pub(super) struct Window<'a> {
    /// Each piece that is fetched costs one system call, two at the end of the mapping.
    memory: &'a Memory,
    /// The lowest address: the stack pointer. Nothing below it is read.
    start: u64,
    /// The bytes fetched so far. They are of different moments, so a frame may be torn; the second
    /// look in `quiet` finds that.
    bytes: Vec<u8>,
    /// True once the mapped memory ended.
    is_whole: bool,
}

/// A candidate for a frame.
///
/// It is right only if the rest of the stack confirms it.
struct Place {
    /// The address of the saved frame pointer; the return address follows it.
    record: u64,
    /// The return address.
    returns: u64,
    /// The function that the call before `returns` calls, if the instruction names it.
    called: Option<u64>,
}

/// The first piece of a stack that is read; each further piece doubles what is there. Most threads
/// use little.
const PIECE: usize = 8 << 10;
/// The most bytes of a stack that are read.
///
/// Each doubling keeps the number of system calls at six.
const MOST: usize = 256 << 10;

// === impl Window ===

impl<'a> Window<'a> {
    /// Starts at the stack pointer, and reads nothing yet.
    pub(super) fn new(memory: &'a Memory, start: u64) -> Self {
        Self {
            memory,
            start,
            bytes: Vec::new(),
            is_whole: false,
        }
    }

    /// Returns the word at `address`, and reads more of the stack if needed.
    ///
    /// `None` for an address below the start, beyond [`MOST`], or beyond the mapped memory.
    /// `address` comes from a rule or from the stack, and may be any number.
    fn word(&mut self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let end = offset.checked_add(8)?;
        while self.bytes.len() < end {
            if self.is_whole || end > MOST {
                return None;
            }
            let had = self.bytes.len();
            let more = had.max(PIECE);
            self.bytes.resize(had + more, 0);
            let read = self
                .memory
                .read(self.start + had as u64, &mut self.bytes[had..]);
            self.bytes.truncate(had + read);
            self.is_whole = read < more;
        }
        let word = self.bytes.get(offset..end)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }

    /// Returns the candidates for the frame of the function with the stack pointer `from`, the
    /// innermost first.
    ///
    /// Looks at every aligned word from the larger of the two pointers on. Each word that lies in
    /// the code of a module costs a look at the instruction before it, which is cached by address.
    fn frames(&mut self, sp: u64, from: u64, modules: &Modules) -> Vec<Place> {
        let end = from.max(sp) + WINDOW;
        let mut places = Vec::new();
        let mut record = from.max(sp).next_multiple_of(8);
        while record < end && places.len() < TRIES {
            let Some(returns) = self.word(record + 8) else {
                break;
            };
            if let Some(called) = modules.call_before(returns, self.memory) {
                places.push(Place {
                    record,
                    returns,
                    called,
                });
            }
            record += 8;
        }
        places
    }
}

#[cfg(test)]
mod tests;
