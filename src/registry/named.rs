//! Whether tokio itself is told the names of tasks, which only tokio-console shows.

use super::kind::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

static NAMED: AtomicBool = AtomicBool::new(false);

/// From here on names are told.
pub(crate) fn set() {
    NAMED.store(true, Ordering::Relaxed);
}

/// The name to tell, if it is to be told.
#[cfg_attr(
    not(tokio_unstable),
    expect(dead_code, reason = "tokio takes no names")
)]
#[inline]
pub(crate) fn name(kind: impl FnOnce() -> &'static Kind) -> Option<String> {
    let is_set = NAMED.load(Ordering::Relaxed);
    is_set.then(kind).map(|kind| match kind.group() {
        "" => kind.name.to_owned(),
        group => format!("{group}/{}", kind.name),
    })
}
