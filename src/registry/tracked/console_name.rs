//! Names of tasks for tokio itself, which only tokio-console shows. Building the name costs an
//! allocation per spawn, so it is off until a console is in use.

use crate::registry::kind::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

/// True if tokio is to get the names.
///
/// Relaxed: a task that is spawned at the same moment may have no name.
static NAMED: AtomicBool = AtomicBool::new(false);

/// Passes the names of tasks that are spawned from here on to tokio.
pub(crate) fn set() {
    NAMED.store(true, Ordering::Relaxed);
}

/// Returns the name for tokio, the group's path and the task's name; `None` if no console is in
/// use.
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
