//! Where stacks cannot be read, this says so.

use super::{Means, Stack};

const WHY: &str = if cfg!(feature = "stacks") {
    "stacks are not read on this system"
} else {
    "built without the feature `stacks`"
};

pub(super) const fn prepare() {}

pub(super) fn read(tids: &[u32], _means: Means) -> Vec<Result<Stack, String>> {
    tids.iter().map(|_| Err(WHY.to_owned())).collect()
}
