//! The system call that a thread is in, its stack pointer and its program counter.
//!
//! The line has the number in decimal, then up to six arguments, the stack pointer and the program
//! counter in hexadecimal. A thread that is blocked, but not in a call, has -1 and the last two
//! only. The numbers are those of the architecture; `waits` knows the ones in which threads wait.

/// A line of `/proc/self/task/TID/syscall` (proc_pid_syscall(5)), of a thread that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitPoint {
    /// `None` for a thread that waits outside of a call.
    pub(crate) call: Option<SystemCall>,
    /// The stack pointer.
    pub(crate) sp: u64,
    /// The program counter.
    pub(crate) pc: u64,
}

/// The number of a call and its arguments, as registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SystemCall {
    /// As in libc's `SYS_` constants for this architecture.
    pub(crate) number: libc::c_long,
    /// All six, even if the call takes fewer: the others are leftovers of earlier code.
    pub(crate) arguments: [u64; 6],
}

// === impl WaitPoint ===

impl WaitPoint {
    /// Parses a line; `None` for a thread that runs: its line is the word `running`.
    ///
    /// Allocates two short vectors. Anything else than the known forms is `None`, so that a future
    /// format cannot be misread.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [number, registers @ ..] = fields.as_slice() else {
            return None;
        };
        let number = number.parse().ok()?;
        let register = |field: &&str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
        let registers: Vec<u64> = registers.iter().map(register).collect::<Option<_>>()?;
        let [arguments @ .., sp, pc] = registers.as_slice() else {
            return None;
        };
        // The number is -1 outside of a call, and there are no arguments.
        let arguments = <[u64; 6]>::try_from(arguments).ok();
        let call = arguments.map(|arguments| SystemCall { number, arguments });
        Some(Self {
            call,
            sp: *sp,
            pc: *pc,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::WaitPoint;

    #[test]
    fn a_thread_waits_in_a_call_or_outside_of_one() {
        let in_call = WaitPoint::parse("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd0 0x7f00");
        let in_call = in_call.expect("it waits");
        let call = in_call.call.expect("in a call");
        assert_eq!((call.number, call.arguments), (202, [1, 2, 3, 4, 5, 6]));
        assert_eq!((in_call.sp, in_call.pc), (0x7ffd0, 0x7f00));
        let outside = WaitPoint::parse("-1 0x7ffd0 0x7f00").expect("it waits");
        assert_eq!((outside.call, outside.sp), (None, 0x7ffd0));
        for line in ["running", "", "202", "202 0x1 0x2 x 0x4 0x5 0x6 0x7 0x8"] {
            assert_eq!(WaitPoint::parse(line), None, "{line}");
        }
    }
}
