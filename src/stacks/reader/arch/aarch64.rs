//! aarch64: the return address of the innermost function may be in the link register only.
//!
//! A frame record is two words: the caller's frame pointer and the return address (Procedure Call
//! Standard for the Arm 64-bit Architecture, "The Frame Pointer"). A leaf function may have none,
//! so the link register is part of what a walk starts with. Instructions have 4 bytes, so the one
//! before a return address is found without decoding.

#![expect(
    unsafe_code,
    reason = "the handler gets a pointer to what it interrupted"
)]

use super::Registers;
use framehop::UnwindRegsNative;
use framehop::aarch64::PtrAuthMask;

/// The bits of an address. User space has 48 (or 52, if a program asks for them with a hint, which
/// is not supported here); above them a pointer-authentication signature may stand.
///
/// A signed return address must lose its signature before it is compared or looked up, since the
/// signature is random for each process.
const ADDRESS: u64 = u64::MAX >> 16;

/// Converts to the registers of `framehop`.
///
/// The program counter is not part of them; the unwinder gets it separately.
pub(crate) fn registers(from: Registers) -> UnwindRegsNative {
    let mask = PtrAuthMask(ADDRESS);
    UnwindRegsNative::new_with_ptr_auth_mask(mask, from.link, from.sp, from.frame)
}

/// Returns the registers with the frame that starts at `record`, where the caller's frame pointer
/// is stored, and with `returns` as the return address.
///
/// Both registers are set, because the rule of a function without a frame of its own returns
/// through the link register.
pub(crate) fn with_frame(
    mut registers: UnwindRegsNative,
    record: u64,
    returns: u64,
) -> UnwindRegsNative {
    registers.set_fp(record);
    registers.set_lr(returns);
    registers
}

/// Returns the registers of the code that a signal interrupted.
///
/// # Safety
///
/// `context` must be the third argument of a handler that was installed with `SA_SIGINFO`, in that
/// handler.
pub(crate) unsafe fn interrupted(context: *const libc::ucontext_t) -> Registers {
    // SAFETY: the kernel has written a `ucontext_t` there, on the stack of the handler
    // (sigaction(2)).
    let registers = unsafe { &(*context).uc_mcontext };
    Registers {
        pc: registers.pc,
        sp: registers.sp,
        frame: registers.regs[29],
        link: registers.regs[30],
    }
}

/// Reads the instruction before a return address.
///
/// `None` if the memory cannot be read.
fn instruction(read: impl Fn(u64, &mut [u8]) -> bool, returns: u64) -> Option<u32> {
    let mut code = [0; 4];
    let before = (returns & ADDRESS).wrapping_sub(4);
    read(before, &mut code).then(|| u32::from_le_bytes(code))
}

/// Returns whether a call instruction ends at `returns`. If not, it is not a return address, even
/// if it looks like one.
pub(crate) fn is_call(read: impl Fn(u64, &mut [u8]) -> bool, returns: u64) -> bool {
    // BL; BLR, even with a signed target.
    instruction(read, returns).is_some_and(|code| {
        code >> 26 == 0b10_0101
            || code & 0xffff_fc1f == 0xd63f_0000
            || code & 0xfeff_f800 == 0xd63f_0800
    })
}

/// Returns the function that the call before `returns` calls, if the instruction names it.
///
/// Only BL has its target in the instruction: 26 bits, signed, in units of 4 bytes. The target of a
/// call through a register is not known.
pub(crate) fn called(read: impl Fn(u64, &mut [u8]) -> bool, returns: u64) -> Option<u64> {
    let code = instruction(read, returns)?;
    let words = (code << 6).cast_signed() >> 6;
    let at = (returns & ADDRESS).wrapping_sub(4);
    (code >> 26 == 0b10_0101).then(|| at.wrapping_add_signed(i64::from(words) * 4))
}
