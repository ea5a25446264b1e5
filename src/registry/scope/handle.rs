//! Handles that keep a scope from being reused.
//!
//! [`Owned`] is what a group has, once; [`Held`] is for those that use a scope for a while, such as
//! a drain of its parent. Neither keeps tasks alive or is kept by them: a scope with live tasks is
//! not vacant, whether it has handles or not.

use super::{Scope, index};
use std::ops::Deref;
use std::sync::atomic::Ordering;

/// A guard that keeps a scope from being reused for another group.
#[derive(Debug)]
pub(crate) struct Held(&'static Scope);

/// The scope of a group or a root, which may be reused after this is dropped: once its tasks have
/// ended.
#[derive(Debug)]
pub(crate) struct Owned {
    /// The group's scope, or the shared one.
    pub(super) scope: &'static Scope,
    /// Set if the scope is owned by another group or root.
    pub(super) shared: Option<Held>,
}

// === impl Held ===

impl Held {
    /// Holds the scope. The caller holds the lock of the index, so the scope is not being reused.
    ///
    /// Costs one atomic addition.
    pub(super) fn new(scope: &'static Scope) -> Self {
        scope.held.fetch_add(1, Ordering::AcqRel);
        Self(scope)
    }

    /// Returns the scope.
    pub(crate) fn scope(&self) -> &'static Scope {
        self.0
    }
}

impl Deref for Held {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Owned ===

impl Owned {
    /// Returns the scope.
    pub(crate) fn scope(&self) -> &'static Scope {
        self.scope
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.shared.is_none() {
            index().gone.push_back(self.scope.number);
        }
    }
}
