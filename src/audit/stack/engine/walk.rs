//! Unwinding: from registers and memory to a list of addresses.

use super::super::Stack;
use super::arch::{self, Registers};
use super::memory::Memory;
use super::modules::Modules;
use super::signal::Capture;
use framehop::{CacheNative, FrameAddress, MayAllocateDuringUnwind, UnwindRegsNative, Unwinder};

/// A deeper stack is cut: its outermost functions are not seen.
const FRAMES: usize = 512;
/// How far above the stack pointer the frame of a thread that is read from outside is searched.
const WINDOW: u64 = 4096;
/// So many places of a frame are tried.
const TRIES: usize = 32;

/// Keeps what unwinding has learned.
pub(super) struct Walker {
    cache: CacheNative<MayAllocateDuringUnwind>,
}

/// How far one walk came.
struct Walk {
    addresses: Vec<usize>,
    is_complete: bool,
    /// The registers of the function that needed what is not known.
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
    /// The stack of a thread that was stopped.
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

    /// The stack of a thread of which the kernel tells no more than where it is. It is exact if the thread does not move.
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
        // One whose caller calls this very function is right, or left from an earlier call of it. A caller that does not
        // tell whom it calls is likelier than one that calls another, which may have jumped here.
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

    /// Goes on where a walk lacked the frame, with a frame that may be it.
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

    /// Whether the function at that address returns to none, by what its module says of it: where threads begin, the
    /// return address is "undefined". That a walk went no further proves nothing.
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
    fn into_stack(self, is_exact: bool) -> Stack {
        Stack {
            addresses: self.addresses,
            is_exact,
            is_complete: self.is_complete,
        }
    }
}

/// The stack of a thread that is read from outside, piece by piece.
pub(super) struct Window<'a> {
    memory: &'a Memory,
    start: u64,
    bytes: Vec<u8>,
    /// What was read ends where the memory does.
    is_whole: bool,
}

/// A place that looks like a frame.
struct Place {
    record: u64,
    returns: u64,
    /// The function that returns there, where the call tells.
    called: Option<u64>,
}

/// What is read of a stack at first, and at most. Most threads use little.
const PIECE: usize = 8 << 10;
const MOST: usize = 256 << 10;

// === impl Window ===

impl<'a> Window<'a> {
    pub(super) fn new(memory: &'a Memory, start: u64) -> Self {
        Self {
            memory,
            start,
            bytes: Vec::new(),
            is_whole: false,
        }
    }

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

    /// What looks like a frame of the function whose stack pointer is `from`, the innermost first.
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
