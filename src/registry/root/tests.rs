//! Tests of roots at the bound of scopes.

use super::Root;
use crate::alone::alone;
use crate::registry::bounds::SCOPES;
use crate::registry::kind::ROOT_PATH;
use crate::registry::scope::{self, Owned};

/// The story: a root that found no scope left shared the first one of the process, and released it
/// at its end, although that scope belonged to another root. A group could then take it.
#[test]
fn a_root_that_shares_a_scope_does_not_release_it() {
    alone(|| {
        let (idle, busy) = (Root::new(), Root::new());
        assert_eq!(idle.scope.number, 0);
        let mut groups: Vec<Owned> = Vec::new();
        while let Some(group) = scope::create_below(busy.scope, ROOT_PATH) {
            groups.push(group);
        }
        assert_eq!(groups.len(), SCOPES - 2);
        let late = Root::new();
        assert_eq!(late.scope.number, idle.scope.number);
        drop(late);
        let group = scope::create_below(busy.scope, ROOT_PATH);
        assert!(group.is_none(), "the first root still has it: {group:?}");
        drop(idle);
        let group = scope::create_below(busy.scope, ROOT_PATH);
        assert_eq!(group.map(|group| group.scope().number), Some(0));
    });
}
