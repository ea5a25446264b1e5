//! Equal chains, folded as they are read: most tasks of a program wait in a few ways.

use super::Tree;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// The chains that are looked at before the others.
const RECENT: usize = 8;

/// The chains that differ in more than the numbers of sockets, timers and tasks.
#[derive(Debug, Default)]
pub(crate) struct Folds {
    /// Each with its number, and the last of those that are folded into it.
    known: FxHashMap<Box<str>, (usize, Rc<Tree>)>,
    key: String,
    /// Some of the last ones, and the place of the next one among them.
    recent: Vec<(usize, Rc<Tree>)>,
    next: usize,
}

// === impl Folds ===

impl Folds {
    /// Returns the number of the chains that these are folded into. They are shared with the last ones of
    /// that number if they are equal in all.
    pub(crate) fn fold(&mut self, tree: Tree) -> (usize, Rc<Tree>) {
        if let Some(same) = self.recent.iter().find(|recent| *recent.1 == tree) {
            return same.clone();
        }
        let folded = self.by_key(tree);
        match self.recent.get_mut(self.next) {
            Some(oldest) => *oldest = folded.clone(),
            None => self.recent.push(folded.clone()),
        }
        self.next = (self.next + 1) % RECENT;
        folded
    }

    fn by_key(&mut self, tree: Tree) -> (usize, Rc<Tree>) {
        self.key.clear();
        tree.key(&mut self.key);
        let next = self.known.len();
        let Some((number, last)) = self.known.get_mut(&*self.key) else {
            let tree = Rc::new(tree);
            self.known
                .insert(self.key.as_str().into(), (next, Rc::clone(&tree)));
            return (next, tree);
        };
        if **last != tree {
            *last = Rc::new(tree);
        }
        (*number, Rc::clone(last))
    }
}

#[cfg(test)]
mod tests {
    use super::Folds;
    use crate::inspect::chain::Tree;
    use crate::inspect::chain::walk::{Hold, Kind, Node};
    use std::rc::Rc;

    #[test]
    fn chains_are_shared_if_they_are_equal_and_counted_together_if_numbers_differ() {
        let tree = |leaf: &str| Tree {
            roots: vec![Node::new(Kind::Leaf, leaf, Hold::Awaited)],
            ..Tree::default()
        };
        let mut folds = Folds::default();
        let (first, of_first) = folds.fold(tree("tcp 10.0.0.1:80 to be readable"));
        let (again, of_again) = folds.fold(tree("tcp 10.0.0.1:80 to be readable"));
        let (other, of_other) = folds.fold(tree("tcp 10.0.0.2:80 to be readable"));
        let (timer, _) = folds.fold(tree("a timer"));
        assert_eq!((first, again, other), (0, 0, 0));
        assert_eq!(timer, 1);
        assert!(Rc::ptr_eq(&of_first, &of_again));
        assert_eq!(*of_other, tree("tcp 10.0.0.2:80 to be readable"));
    }
}
