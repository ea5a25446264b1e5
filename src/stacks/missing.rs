//! The stand-in where stacks cannot be read: every read fails with the reason.

use super::{Chain, Means, Stack};

/// The reason that every read fails with. It follows "no stack: " in a report, like every error of
/// a read.
const WHY: &str = if cfg!(feature = "stacks") {
    "reading stacks is not supported on this platform"
} else {
    "built without the feature `stacks`"
};

/// Does nothing.
///
/// Nothing needs preparation: no read can succeed.
pub(super) const fn prepare() {}

/// Returns the reason for each thread.
///
/// Never blocks, and keeps the order and the number of `tids`, on which callers rely.
pub(super) fn read(tids: &[u32], _means: Means) -> Vec<Result<Stack, String>> {
    tids.iter().map(|_| Err(WHY.to_owned())).collect()
}

/// Does nothing: sockets cannot be found.
pub(super) const fn clear_stack() {}

/// Returns none: sockets cannot be found.
pub(super) const fn pointers() -> Vec<usize> {
    Vec::new()
}

/// Does nothing: sockets cannot be found.
pub(super) fn name_sockets<'a>(_chains: impl Iterator<Item = &'a mut Chain>) {}
