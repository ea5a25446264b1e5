//! The reference from a group up to the control side of its runtime.
//!
//! Groups drain on the control runtime, and its thread ends when its owner is dropped. A group may
//! outlive the runtime that it came from, for example in a static, so it owns the control side too.
//! That owner is built on top of groups: this module names it by a trait, and never calls it.

use std::fmt::Debug;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The owner of the control thread, which ends when the last reference to the owner is dropped.
pub(crate) trait ControlThread: Debug + Send + Sync {}

/// A handle on the control runtime that keeps its thread alive as long as a group exists.
#[derive(Debug, Clone)]
pub(crate) struct ControlSide {
    /// The control runtime. Its timers fire even when every worker is blocked.
    pub(super) handle: Handle,
    #[expect(dead_code, reason = "it is held, not read")]
    owner: Arc<dyn ControlThread>,
}

// === impl ControlSide ===

impl ControlSide {
    pub(crate) fn new(handle: Handle, owner: Arc<dyn ControlThread>) -> Self {
        Self { handle, owner }
    }
}
