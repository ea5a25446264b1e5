//! x86_64: the return address is always on the stack.
//!
//! A frame record is the saved `rbp` with the return address above it (System V ABI, AMD64
//! Architecture Processor Supplement, "The Stack Frame"). Instructions differ in length, so whether
//! one ends at an address is guessed from the bytes before it. A wrong guess makes one more
//! candidate for a frame; the walk that starts from it then does not reach the start of a thread.

#![expect(
    unsafe_code,
    reason = "the handler gets a pointer to what it interrupted"
)]

use super::Registers;
use framehop::UnwindRegsNative;

/// Converts to the registers of `framehop`.
///
/// All three are needed: rules compute the caller's frame from `rsp` or `rbp`.
pub(crate) fn registers(from: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(from.pc, from.sp, from.frame)
}

/// Returns the registers with the frame that starts at `record`, where the caller's frame pointer
/// is stored. The return address is read from the stack.
pub(crate) fn with_frame(mut registers: UnwindRegsNative, record: u64, _: u64) -> UnwindRegsNative {
    registers.set_bp(record);
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
    let registers = unsafe { &(*context).uc_mcontext.gregs };
    let register = |which: i32| registers[which as usize].cast_unsigned();
    Registers {
        pc: register(libc::REG_RIP),
        sp: register(libc::REG_RSP),
        frame: register(libc::REG_RBP),
        link: 0,
    }
}

/// The most bytes of a call instruction. Opcode, ModRM, SIB and a displacement of 4 bytes. A REX
/// prefix would stand before them and need not be read.
const CALL: usize = 7;

/// Returns whether a call instruction ends at `returns`. If not, it is not a return address, even
/// if it looks like one.
///
/// False if fewer than seven bytes before `returns` can be read, as at the very start of a mapping.
pub(crate) fn is_call(read: impl Fn(u64, &mut [u8]) -> bool, returns: u64) -> bool {
    let mut code = [0; CALL];
    if !read(returns.wrapping_sub(CALL as u64), &mut code) {
        return false;
    }
    // `call rel32`, or `call r/m64` (opcode FF /2) with an operand of 1 to 6 bytes.
    let indirect = |at: usize| code[at] == 0xff && code[at + 1] >> 3 & 7 == 2;
    code[2] == 0xe8 || (0..=CALL - 2).any(indirect)
}

/// Returns the function that the call before `returns` calls, if the instruction names it.
///
/// A call through the table of imported functions reads the table, which has the target once the
/// loader has resolved it. Other calls through registers or memory are not decoded.
pub(crate) fn called(read: impl Fn(u64, &mut [u8]) -> bool, returns: u64) -> Option<u64> {
    let mut code = [0; 6];
    if !read(returns.wrapping_sub(6), &mut code) {
        return None;
    }
    let [a, b, c, d] = [code[2], code[3], code[4], code[5]];
    let offset = i64::from(i32::from_le_bytes([a, b, c, d]));
    let target = returns.wrapping_add_signed(offset);
    match code {
        [_, 0xe8, ..] => Some(target),
        // Through the table of imported functions.
        [0xff, 0x15, ..] => {
            let mut function = [0; 8];
            read(target, &mut function).then(|| u64::from_le_bytes(function))
        }
        _ => None,
    }
}
