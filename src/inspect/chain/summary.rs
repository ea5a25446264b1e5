//! The chains of a task as lines of text, and a key by which equal ones are folded.

use super::Tree;
use super::links::Tasks;
use super::walk::{Hold, Kind, Node};
use std::fmt::Write as _;

/// A line of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The number of nodes around it.
    pub(crate) level: usize,
    pub(crate) kind: Kind,
    /// True for a frame of the program's own code.
    pub(crate) is_own: bool,
    pub(crate) text: String,
}

// === impl Line ===

impl Line {
    /// Returns the kind in one word.
    pub(crate) fn kind_word(&self) -> &'static str {
        match self.kind {
            Kind::Frame if self.is_own => "own",
            Kind::Frame => "library",
            Kind::Leaf => "wakes",
            Kind::Note => "note",
        }
    }
}

/// Returns the chains of a task as lines, from the task's own future to the leaves.
pub(crate) fn lines(tasks: &Tasks, tree: &Tree) -> Vec<Line> {
    let mut lines = Vec::new();
    add(tasks, &tree.roots, 0, &mut lines);
    if tree.is_cut {
        lines.push(Line {
            level: 0,
            kind: Kind::Note,
            is_own: false,
            text: "there is more: a bound was reached".to_owned(),
        });
    }
    lines
}

fn add(tasks: &Tasks, nodes: &[Node], level: usize, lines: &mut Vec<Line>) {
    for node in nodes {
        let held = match node.hold {
            Hold::Awaited => "",
            Hold::Held => "(held) ",
            Hold::Doubtful => "(held, or moved away) ",
        };
        let from = tasks.from(node);
        lines.push(Line {
            level,
            kind: node.kind,
            is_own: node.is_own(),
            text: format!("{held}{}{from}{}", node.text, node.shown_place()),
        });
        add(tasks, &node.below, level + 1, lines);
    }
}

// === impl Tree ===

impl Tree {
    /// Writes a text that is the same for chains that differ only in numbers: those of sockets, timers
    /// and tasks.
    pub(super) fn key(&self, into: &mut String) {
        key_of(&self.roots, into);
    }
}

fn key_of(nodes: &[Node], key: &mut String) {
    for node in nodes {
        key.push(match node.kind {
            Kind::Frame => 'f',
            Kind::Leaf => 'l',
            Kind::Note => 'n',
        });
        key.push(match node.hold {
            Hold::Awaited => 'a',
            Hold::Held => 'h',
            Hold::Doubtful => 'd',
        });
        match node.kind {
            Kind::Leaf => key.extend(node.text.split(|c: char| c.is_ascii_digit())),
            _ => key.push_str(&node.text),
        }
        if let Some(place) = &node.place {
            write!(key, "\n{}\n{}", place.file, place.line).expect("a String takes every write");
        }
        key.push('[');
        key_of(&node.below, key);
        key.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::{Hold, Kind, Node, Tree};
    use crate::inspect::program::Place;

    #[test]
    fn chains_differ_in_lines_and_not_in_peers() {
        let tree = |line, leaf: &str, hold| {
            let place = Place {
                file: "src/a.rs".to_owned(),
                line,
                library: None,
            };
            let frame = Node {
                place: Some(place.into()),
                below: vec![Node::new(Kind::Leaf, leaf, hold)],
                ..Node::new(Kind::Frame, "load", Hold::Awaited)
            };
            Tree {
                roots: vec![frame],
                ..Tree::default()
            }
        };
        let key = |tree: &Tree| {
            let mut key = String::new();
            tree.key(&mut key);
            key
        };
        let first = tree(7, "tcp 10.0.0.1:80 to be readable", Hold::Awaited);
        let other_peer = tree(7, "tcp 10.0.0.2:81 to be readable", Hold::Awaited);
        assert_eq!(key(&first), key(&other_peer));
        for other in [
            tree(8, "tcp 10.0.0.1:80 to be readable", Hold::Awaited),
            tree(7, "tcp 10.0.0.1:80 to be writable", Hold::Awaited),
            tree(7, "tcp 10.0.0.1:80 to be readable", Hold::Held),
        ] {
            assert_ne!(key(&first), key(&other));
        }
    }
}
