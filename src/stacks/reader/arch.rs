//! The parts of unwinding that differ between architectures: registers, and the form of a call
//! instruction.

#[cfg_attr(target_arch = "x86_64", path = "arch/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arch/aarch64.rs")]
mod native;

pub(super) use native::{called, interrupted, is_call, registers, with_frame};

/// The value of a register that is not known. It is not a valid address, so memory at an address
/// computed from it cannot be read.
///
/// It is above the addresses of user space on both architectures (not canonical on x86_64), so that
/// a bug could only cause a failed read. The walk recognizes values near it and stops, instead of
/// reading.
pub(super) const UNKNOWN: u64 = 0xdead_0000_0000_0000;

/// The registers from which a stack is unwound. Other registers are not kept: the unwinding rules
/// of compiled code refer to these alone, apart from rare hand-written functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Registers {
    /// The program counter: the next instruction of the innermost function, not a return address.
    pub(super) pc: u64,
    /// The stack pointer. Memory below it is not part of the stack.
    pub(super) sp: u64,
    /// The frame pointer. `rbp` on x86_64, `x29` on aarch64. A function may use it for something
    /// else if it was compiled without frame pointers.
    pub(super) frame: u64,
    /// The return address of the function, on architectures that have a register for it. `x30` on
    /// aarch64; 0 on x86_64, where nothing reads it.
    pub(super) link: u64,
}

/// Returns whether an address was computed from an unknown register: it is within 1 TiB of
/// [`UNKNOWN`].
///
/// Rules add offsets to registers, which are far below 1 TiB in any real frame.
pub(super) fn is_unknown(address: u64) -> bool {
    address.wrapping_sub(UNKNOWN).wrapping_add(1 << 40) < 1 << 41
}
