//! Machine code, as far as it can be read without a disassembler: direct calls, and the number that a
//! reference to a task counts.
//!
//! Bytes that only look like a call are excluded by their targets, which must be the beginnings of
//! functions.

/// The fewest and most that a reference may count.
#[cfg(target_arch = "x86_64")]
const REFERENCE: std::ops::RangeInclusive<u32> = 8..=4096;

/// Returns the targets of direct calls and jumps in a function that begins at an address: `e8` and `e9`
/// with an offset of four bytes.
#[cfg(target_arch = "x86_64")]
pub(super) fn calls(body: &[u8], address: u64) -> impl Iterator<Item = u64> {
    const LENGTH: usize = 5;
    let windows = (address..).zip(body.windows(LENGTH));
    windows.filter_map(|(at, bytes)| {
        let (operation, offset) = bytes.split_first()?;
        let offset = i32::from_le_bytes(offset.try_into().ok()?);
        let next = at.wrapping_add(LENGTH as u64);
        matches!(operation, 0xe8 | 0xe9).then(|| next.wrapping_add_signed(offset.into()))
    })
}

/// Returns the targets of direct calls and jumps in a function that begins at an address: `bl` and `b`
/// with an offset of 26 bits, in instructions.
#[cfg(target_arch = "aarch64")]
pub(super) fn calls(body: &[u8], address: u64) -> impl Iterator<Item = u64> {
    const LENGTH: usize = 4;
    let instructions = (address..).step_by(LENGTH).zip(body.chunks_exact(LENGTH));
    instructions.filter_map(|(at, bytes)| {
        let instruction = u32::from_le_bytes(bytes.try_into().ok()?);
        let is_branch = matches!(instruction >> 26, 0b00_0101 | 0b10_0101);
        let offset = (instruction << 6).cast_signed() >> 4;
        is_branch.then(|| at.wrapping_add_signed(offset.into()))
    })
}

/// Returns the number that a function subtracts from the state of a task, as `mov reg, -n` and then
/// `lock xadd`. Other ways to write it are not recognized.
#[cfg(target_arch = "x86_64")]
pub(super) fn reference(body: &[u8]) -> Option<u64> {
    const MOVE: usize = 7;
    const NEAR: usize = 20;
    let exchanges = |bytes: &[u8]| {
        let mut windows = bytes.windows(4);
        windows.any(|bytes| matches!(bytes, [0xf0, 0x48..=0x4d, 0x0f, 0xc1]))
    };
    let moved = body.windows(NEAR).filter_map(|bytes| {
        let is_move = matches!(bytes[..3], [0x48 | 0x49, 0xc7, 0xc0..=0xc7]);
        let number = i32::from_le_bytes(bytes[3..MOVE].try_into().ok()?);
        (is_move && exchanges(&bytes[MOVE..])).then(|| number.wrapping_neg().cast_unsigned())
    });
    one(moved)
}

/// Returns the number that a function passes on as its second argument: `mov esi, n`.
#[cfg(target_arch = "x86_64")]
pub(super) fn argument(body: &[u8]) -> Option<u64> {
    const MOVE: usize = 5;
    let passed = body.windows(MOVE).filter(|bytes| bytes[0] == 0xbe);
    one(passed.filter_map(|bytes| Some(u32::from_le_bytes(bytes[1..].try_into().ok()?))))
}

#[cfg(target_arch = "x86_64")]
fn one(mut numbers: impl Iterator<Item = u32>) -> Option<u64> {
    let one = numbers.find(|number| REFERENCE.contains(number) && number.is_power_of_two());
    one.map(u64::from)
}

/// Returns nothing: the instructions are not known here.
#[cfg(target_arch = "aarch64")]
pub(super) fn reference(_: &[u8]) -> Option<u64> {
    None
}

/// Returns nothing: the instructions are not known here.
#[cfg(target_arch = "aarch64")]
pub(super) fn argument(_: &[u8]) -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{argument, calls, reference};

    #[test]
    fn the_target_of_a_call_is_counted_from_the_next_instruction() {
        let code = [0x90, 0xe8, 0xfb, 0xff, 0xff, 0xff, 0xe9, 0x10, 0, 0, 0];
        let calls: Vec<u64> = calls(&code, 0x1000).collect();
        assert_eq!(calls, [0x1001, 0x101b]);
        assert_eq!(super::calls(&code[..4], 0).count(), 0);
    }

    #[test]
    fn a_reference_counts_what_is_subtracted() {
        let mut code = vec![0x48, 0xc7, 0xc0, 0xc0, 0xff, 0xff, 0xff];
        code.extend([0xf0, 0x48, 0x0f, 0xc1, 0x07]);
        code.resize(40, 0x90);
        assert_eq!(reference(&code), Some(64));
        code[3] = 0x80;
        assert_eq!(reference(&code), Some(128));
        code[8] = 0x90;
        assert_eq!(reference(&code), None);
        assert_eq!(argument(&[0x90, 0xbe, 0x40, 0, 0, 0]), Some(64));
        assert_eq!(argument(&[0x90, 0xbe, 0x41, 0, 0, 0]), None);
    }
}
