//! The links between tasks: which one gives what another one waits for.
//!
//! A oneshot channel is joined with the task that owns its sender, a lock with a task that owns a
//! guard of it, and a `JoinHandle` with its task. A guard or sender that was moved away is still in
//! the state of a coroutine, so one in a local is "perhaps".

use super::Tree;
use super::walk::{Hold, Kind, Link, Node};
use rustc_hash::FxHashMap;
use std::collections::HashSet;
use std::rc::Rc;

/// The most tasks of a chain of tasks.
const LINKED: usize = 6;
/// The most things that a summary says a future waits for.
const TEXTS: usize = 3;
/// The most places that a summary names.
const PLACES: usize = 2;

/// The tasks of a process with their chains.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    all: Vec<Read>,
    /// Tasks by what they give. The flag is false for one that may have given it away.
    by: FxHashMap<Link, (usize, bool)>,
}

/// One task.
#[derive(Debug)]
struct Read {
    id: u64,
    /// The type of its future, shortened.
    name: Rc<str>,
    tree: Option<Rc<Tree>>,
}

/// A frame of the program's own code below which there is none that is awaited.
struct Innermost<'n> {
    node: &'n Node,
    depth: usize,
    hold: Hold,
}

// === impl Tasks ===

impl Tasks {
    /// Makes room for tasks.
    pub(crate) fn reserve(&mut self, tasks: usize) {
        self.all.reserve(tasks);
        self.by.reserve(tasks);
    }

    /// Adds a task with its chains, if they could be read. Returns its number.
    pub(crate) fn add(
        &mut self,
        header: u64,
        id: u64,
        name: Rc<str>,
        tree: Option<Rc<Tree>>,
    ) -> usize {
        let at = self.all.len();
        self.by.insert(Link::Task(header), (at, true));
        for (link, is_sure) in tree.iter().flat_map(|tree| &tree.gives) {
            if *is_sure || !self.by.contains_key(link) {
                self.by.insert(*link, (at, *is_sure));
            }
        }
        self.all.push(Read { id, name, tree });
        at
    }

    /// Returns the chains of a task.
    pub(crate) fn tree(&self, at: usize) -> Option<&Tree> {
        self.all[at].tree.as_deref()
    }

    /// Returns true if the task awaits something in the program's own code.
    pub(crate) fn is_in_program(&self, at: usize) -> bool {
        let mut own = Vec::new();
        let tree = self.all[at].tree.as_ref();
        tree.inspect(|tree| innermost(&tree.roots, 0, Hold::Awaited, &mut own));
        own.iter().any(|frame| frame.hold == Hold::Awaited)
    }

    /// Describes in one line where a task waits, and for what; `None` if its chains were not read.
    pub(crate) fn summary(&self, at: usize) -> Option<String> {
        let roots = &self.all[at].tree.as_ref()?.roots;
        let mut own = Vec::new();
        innermost(roots, 0, Hold::Awaited, &mut own);
        own.sort_by_key(|frame| (frame.hold, std::cmp::Reverse(frame.depth)));
        if own.is_empty() {
            let frame = last_frame(roots).map(|frame| format!("{frame}, "));
            let waits = self.waits(roots, &mut HashSet::from([at]));
            return Some(format!("{}waiting for {waits}", frame.unwrap_or_default()));
        }
        let mut texts: Vec<(String, usize)> = Vec::new();
        for frame in own {
            let place = frame.node.shown_place();
            let held = match frame.hold {
                Hold::Awaited => "",
                _ => "not awaited now: ",
            };
            let waits = self.waits(&frame.node.below, &mut HashSet::from([at]));
            let text = format!("{held}{}{place}, waiting for {waits}", frame.node.text);
            match texts.iter_mut().find(|known| known.0 == text) {
                Some(known) => known.1 += 1,
                None => texts.push((text, 1)),
            }
        }
        let more = texts.len().saturating_sub(PLACES);
        let texts = texts.into_iter().take(PLACES);
        let texts = texts.map(|(text, count)| match count {
            1 => text,
            count => format!("{count} × {text}"),
        });
        let text = texts.collect::<Vec<String>>().join("; ");
        Some(match more {
            0 => text,
            more => format!("{text}; and {more} more"),
        })
    }

    /// Describes the leaves below some nodes, and what the tasks wait for that give them.
    fn waits(&self, nodes: &[Node], seen: &mut HashSet<usize>) -> String {
        let (mut leaves, mut notes) = (Vec::new(), Vec::new());
        collect(nodes, &mut leaves, &mut notes);
        let mut texts: Vec<String> = Vec::new();
        for leaf in leaves {
            let mut text = leaf.text.to_string();
            text += &self.from(leaf);
            if let Some((of, _)) = leaf.link.and_then(|link| self.by.get(&link)) {
                let roots = self.tree(*of).map_or(&[][..], |tree| &tree.roots);
                if !seen.insert(*of) {
                    text += ", a task of this chain itself";
                } else if seen.len() <= LINKED && !roots.is_empty() {
                    text += &format!(", which waits for {}", self.waits(roots, seen));
                }
            }
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.is_empty() {
            let note = notes.first().map(|note| note.text.to_string());
            return note.unwrap_or_else(|| "something that is not known".to_owned());
        }
        let more = texts.len().saturating_sub(TEXTS);
        texts.truncate(TEXTS);
        let text = texts.join(" or ");
        match more {
            0 => text,
            more => format!("{text} or {more} more"),
        }
    }

    /// Names the task that gives what a leaf waits for, as in `, from task 6 (shop::fetch)`; empty if it
    /// is not known.
    pub(crate) fn from(&self, leaf: &Node) -> String {
        let Some((of, is_sure)) = leaf.link.and_then(|link| self.by.get(&link)) else {
            return String::new();
        };
        let of = &self.all[*of];
        let word = match (leaf.link, is_sure) {
            (Some(Link::Task(_)), _) => " of",
            (Some(Link::Lock(_)), _) => ", perhaps held by",
            (_, true) => ", from",
            (_, false) => ", perhaps from",
        };
        format!("{word} task {} ({})", of.id, of.name)
    }
}

/// Finds the frames of the program's own code with none below that is awaited.
fn innermost<'n>(nodes: &'n [Node], depth: usize, hold: Hold, out: &mut Vec<Innermost<'n>>) {
    for node in nodes {
        let hold = hold.max(node.hold);
        if hold == Hold::Doubtful {
            continue;
        }
        let before = out.len();
        innermost(&node.below, depth + usize::from(node.is_own()), hold, out);
        // One with only frames below that it holds is still the one that waits.
        let is_innermost = out[before..].iter().all(|inner| inner.hold > hold);
        if node.is_own() && is_innermost {
            out.push(Innermost { node, depth, hold });
        }
    }
}

/// Collects the leaves and notes that are awaited.
fn collect<'n>(nodes: &'n [Node], leaves: &mut Vec<&'n Node>, notes: &mut Vec<&'n Node>) {
    for node in nodes.iter().filter(|node| node.hold == Hold::Awaited) {
        match node.kind {
            Kind::Leaf => leaves.push(node),
            Kind::Note => notes.push(node),
            Kind::Frame => {}
        }
        collect(&node.below, leaves, notes);
    }
}

/// Returns the innermost frame that is awaited.
fn last_frame(nodes: &[Node]) -> Option<&str> {
    let mut awaited = nodes.iter().filter(|node| node.hold == Hold::Awaited);
    awaited.find_map(|node| {
        let own = (node.kind == Kind::Frame).then_some(&*node.text);
        last_frame(&node.below).or(own)
    })
}

#[cfg(test)]
mod tests {
    use super::{Hold, Kind, Link, Node, Rc, Tasks, Tree};
    use crate::inspect::program::Place;

    fn frame(text: &str, line: u64, below: Vec<Node>) -> Node {
        let place = Place {
            file: "src/main.rs".to_owned(),
            line,
            library: None,
        };
        Node {
            place: Some(place.into()),
            below,
            ..Node::new(Kind::Frame, text, Hold::Awaited)
        }
    }

    fn leaf(text: &str, link: Option<Link>) -> Node {
        Node {
            link,
            ..Node::new(Kind::Leaf, text, Hold::Awaited)
        }
    }

    fn tree(roots: Vec<Node>, gives: &[(Link, bool)]) -> Option<Rc<Tree>> {
        let tree = Tree {
            roots,
            gives: gives.to_vec(),
            ..Tree::default()
        };
        Some(tree.into())
    }

    #[test]
    fn a_task_is_followed_to_the_one_that_gives_what_it_waits_for() {
        let mut tasks = Tasks::default();
        let waits = frame(
            "quote",
            7,
            vec![leaf("a oneshot channel", Some(Link::Oneshot(64)))],
        );
        tasks.add(16, 1, "quote".into(), tree(vec![waits], &[]));
        let reads = frame(
            "fetch",
            9,
            vec![leaf("tcp 10.0.0.1:80 to be readable", None)],
        );
        tasks.add(
            32,
            2,
            "fetch".into(),
            tree(vec![reads], &[(Link::Oneshot(64), true)]),
        );
        // An earlier owner still has a copy of the sender.
        tasks.add(
            48,
            3,
            "other".into(),
            tree(Vec::new(), &[(Link::Oneshot(64), false)]),
        );
        assert_eq!(
            tasks.summary(0).as_deref(),
            Some(
                "quote (src/main.rs:7), waiting for a oneshot channel, from task 2 (fetch), which waits for tcp \
                 10.0.0.1:80 to be readable"
            )
        );
    }

    #[test]
    fn tasks_that_wait_for_each_other_are_told_once() {
        let mut tasks = Tasks::default();
        for (at, other) in [(16, 32), (32, 16)] {
            let waits = leaf("a JoinHandle", Some(Link::Task(other)));
            tasks.add(
                at,
                at,
                "join".into(),
                tree(vec![frame("join", at, vec![waits])], &[]),
            );
        }
        assert_eq!(
            tasks.summary(0).as_deref(),
            Some(
                "join (src/main.rs:16), waiting for a JoinHandle of task 32 (join), which waits for a JoinHandle of \
                 task 16 (join), a task of this chain itself"
            )
        );
    }

    #[test]
    fn a_future_that_is_held_or_moved_away_is_not_waited_for() {
        let held = |hold, text| Node {
            hold,
            ..frame(text, 1, vec![])
        };
        let below = vec![
            leaf("a Mutex", None),
            held(Hold::Held, "kept"),
            held(Hold::Doubtful, "freed"),
        ];
        let mut tasks = Tasks::default();
        tasks.add(
            16,
            1,
            "stock".into(),
            tree(vec![frame("stock", 5, below)], &[]),
        );
        let summary = tasks.summary(0).expect("it has a tree");
        assert!(
            summary
                .starts_with("stock (src/main.rs:5), waiting for a Mutex; not awaited now: kept"),
            "{summary}"
        );
        assert!(!summary.contains("freed"), "{summary}");
        tasks.add(32, 2, "bare".into(), None);
        assert_eq!(tasks.summary(1), None);
    }
}
