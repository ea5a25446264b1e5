//! The dump as a tree for a terminal.
//!
//! Sections follow each other: tracked tasks by group, untracked tasks by spawn site, threads with
//! their stacks, child processes, and the parts that are not observed. A stack or a reason that
//! several threads share is shown once, and threads that are alike are one line.

use super::{Dump, Group};
use crate::report::alike::{Alike, alike};
use crate::report::chain::awaiting;
use crate::report::row::{self, KindRow, TaskRow, UntrackedRow};
use crate::report::{self, brief, count, milliseconds, stack, times};
use crate::task::TaskState;
use crate::text::plain;
use crate::threads::ThreadClass;
use std::collections::HashMap;
use std::time::Duration;

/// One line of the tree, and the lines below it.
struct Node {
    text: String,
    below: Vec<Self>,
}

/// Draws the whole dump.
pub(super) fn tree(dump: &Dump) -> String {
    let mut text = String::new();
    draw(&sections(dump), "", &mut text);
    text
}

/// Draws the threads and the hints only.
pub(super) fn threads_tree(dump: &Dump) -> String {
    let mut text = String::new();
    draw(&thread_sections(dump), "", &mut text);
    text
}

/// Draws the nodes. Names and commands may contain any character, and each node must stay one line.
fn draw(nodes: &[Node], indent: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let is_last = at + 1 == nodes.len();
        text.push_str(indent);
        text.push_str(if is_last { "└─ " } else { "├─ " });
        text.push_str(&plain(&node.text));
        text.push('\n');
        let bar = if is_last { "   " } else { "│  " };
        draw(&node.below, &format!("{indent}{bar}"), text);
    }
}

/// The shortest age of untracked tasks that is shown: it is that of a look, and no more exact.
const WORTH: Duration = Duration::from_secs(1);

/// Returns the top level of the tree.
fn sections(dump: &Dump) -> Vec<Node> {
    let mut tasks = group_nodes(dump, &dump.root);
    tasks.extend(more(dump.unlisted_tasks));
    let mut sections = vec![Node {
        text: count(dump.tasks, "tracked task"),
        below: tasks,
    }];
    if let Some(sites) = &dump.untracked {
        let live = sites.iter().map(|site| site.live).sum();
        let row = |site: &UntrackedRow| {
            let mut text = format!("×{}  {}", site.live, site.place());
            if site.running > 0 {
                text += &format!(", {} on a thread", site.running);
            }
            if let Some(age) = site.age.filter(|age| *age >= WORTH) {
                text += &format!(", older than {}", brief(age));
            }
            if let Some(clause) = site.never_wake() {
                text += &format!(", {clause}");
            }
            Node {
                text,
                below: site.awaiting().into_iter().map(leaf).collect(),
            }
        };
        if live > 0 {
            sections.push(Node {
                text: count(live, "untracked task"),
                below: sites.iter().map(row).collect(),
            });
        }
    }
    sections.extend(thread_sections(dump));
    if let Some(children) = dump.children.as_ref().filter(|all| !all.is_empty()) {
        let row = |child: &report::ChildRow| leaf(format!("{}  {}", child.pid, child.command));
        let mut below: Vec<Node> = children.iter().map(row).collect();
        below.extend(more(dump.unlisted_children));
        let text = match children.len() as u64 + dump.unlisted_children {
            1 => "1 child process".to_owned(),
            n => format!("{n} child processes"),
        };
        sections.push(Node { text, below });
    }
    sections.extend(dump.not_observed.iter().cloned().map(leaf));
    sections
}

/// Returns the section of the threads, and the hints.
fn thread_sections(dump: &Dump) -> Vec<Node> {
    let Some(threads) = &dump.threads else {
        return Vec::new();
    };
    // The threads of a pool all have one stack, and a reason for a missing stack may hold for all
    // threads.
    let (mut shown, mut said) = (HashMap::new(), None);
    let nodes = alike(threads).into_iter().map(|threads| {
        let thread = threads.first;
        let stack = match shown.get(&thread.stack) {
            Some(tid) if thread.stack.len() > 1 => vec![format!("same stack as tid {tid}")],
            _ => {
                shown.insert(&thread.stack, thread.tid);
                let none = thread.no_stack.as_deref();
                let none = none.filter(|why| said != Some(*why));
                stack::lines(&thread.stack, thread.stack_note.as_deref(), none)
            }
        };
        said = thread.no_stack.as_deref();
        thread_node(&threads, stack)
    });
    let mut below: Vec<Node> = nodes.collect();
    below.extend(more(dump.unlisted_threads));
    let text = count(threads.len() as u64 + dump.unlisted_threads, "thread");
    let hints = dump.hints.iter().cloned().map(leaf);
    std::iter::once(Node { text, below }).chain(hints).collect()
}

/// Returns a line with nothing below it.
fn leaf(text: String) -> Node {
    Node {
        text,
        below: Vec::new(),
    }
}

/// Returns the line for entries that are not listed.
fn more(unlisted: u64) -> Option<Node> {
    (unlisted > 0).then(|| leaf(format!("and {unlisted} more")))
}

/// Returns the kinds of a group, then its inner groups.
fn group_nodes(dump: &Dump, group: &Group) -> Vec<Node> {
    let kinds = group.kinds.iter().map(|kind| kind_node(dump, kind));
    let groups = group.groups.iter().map(|inner| Node {
        text: format!("{}{}{}", inner.name, times(inner.count), state(inner)),
        below: group_nodes(dump, inner),
    });
    kinds.chain(groups).collect()
}

/// Returns ` (draining)`, ` (3 draining)`, and nothing for running groups.
fn state(group: &Group) -> String {
    let part = |n: u64, word: &str| match n {
        0 => String::new(),
        n if n == group.count => format!(" ({word})"),
        n => format!(" ({n} {word})"),
    };
    match group.cancelling {
        0 => part(group.draining, "draining"),
        n => part(n, "cancelling"),
    }
}

/// Returns the line of a kind; a single task is described in it, several have lines below.
fn kind_node(dump: &Dump, kind: &KindRow) -> Node {
    let mark = report::mark(kind.kind);
    let daemon = if kind.daemon { ", daemon" } else { "" };
    let (name, spawned) = (kind.name, row::short(kind.spawned));
    let head = format!("{name}{mark}{}", times(kind.count));
    if let ([task], 1) = (kind.rows.as_slice(), kind.count) {
        let started = match kind.never_started {
            1 if task.state != TaskState::Created => ", never started",
            _ => "",
        };
        let (standing, awaits) = (
            standing(dump, task),
            awaiting(task.awaits.as_deref(), task.always_ready),
        );
        return leaf(format!(
            "{head}  {standing}{started}{daemon}, spawned {spawned}{awaits}"
        ));
    }
    let (states, oldest) = (states(kind), brief(kind.oldest));
    let row = |task: &TaskRow| {
        leaf(format!(
            "#{}  {}{}",
            task.id,
            standing(dump, task),
            awaiting(task.awaits.as_deref(), task.always_ready)
        ))
    };
    Node {
        text: format!("{head}  {states}, oldest {oldest}{daemon}, spawned {spawned}"),
        below: telling(&kind.rows).map(row).collect(),
    }
}

/// Selects the tasks worth a line: those on a thread, those that are stalled, and of those with the
/// same awaits the first.
fn telling(rows: &[TaskRow]) -> impl Iterator<Item = &TaskRow> {
    let is_told = |(at, task): &(usize, &TaskRow)| {
        let before = || rows[..*at].iter().any(|row| row.awaits == task.awaits);
        let is_news = task.on_thread.is_some() || task.state == TaskState::Stalled;
        is_news || task.awaits.is_some() && !before()
    };
    rows.iter()
        .enumerate()
        .filter(is_told)
        .map(|(_, task)| task)
}

/// Returns `running`, or `39 running, 1 created`, and the number of those that never started if the
/// states do not show it.
fn states(kind: &KindRow) -> String {
    let all = TaskState::ALL.map(|state| (kind.in_state(state), state.as_str()));
    let parts: Vec<_> = all.into_iter().filter(|(n, _)| *n > 0).collect();
    let states = match parts.as_slice() {
        [(_, word)] => (*word).to_owned(),
        parts => {
            let words: Vec<_> = parts
                .iter()
                .map(|(n, word)| format!("{n} {word}"))
                .collect();
            words.join(", ")
        }
    };
    match kind
        .never_started
        .saturating_sub(kind.in_state(TaskState::Created))
    {
        0 => states,
        n => format!("{states}, {n} never started"),
    }
}

/// Returns `running, age 3.0s, last poll 2.0s ago, on thread "headcount-work" (tid 17)`. Of a task
/// whose drop has not returned it says that, and since when.
fn standing(dump: &Dump, task: &TaskRow) -> String {
    let (state, age) = (task.state.as_str(), brief(task.age));
    let polled = task.last_poll.map_or_else(String::new, |since| {
        let since = brief(since);
        match task.dropping {
            true => format!(", cancelled {since} ago, its drop has not returned"),
            false => format!(", last poll {since} ago"),
        }
    });
    let thread = task.on_thread.map(|tid| {
        let mut threads = dump.threads.iter().flatten();
        match threads.find(|thread| thread.tid == tid) {
            Some(thread) => format!("\"{}\" (tid {tid})", thread.name),
            None => format!("(tid {tid})"),
        }
    });
    let on = report::on_thread(thread.as_deref(), None);
    format!("{state}, age {age}{polled}{on}")
}

/// Returns the line of threads that are alike, with their stack below.
fn thread_node(threads: &Alike<'_>, stack: Vec<String>) -> Node {
    let thread = threads.first;
    let class = match thread.class {
        ThreadClass::Unknown if thread.there_before => "pre-existing",
        class => class.as_str(),
    };
    let mut text = format!(
        "\"{}\"{}  {}, age {}, cpu {}",
        thread.name,
        threads.ids(class),
        thread.waits(),
        brief(threads.age),
        milliseconds(threads.cpu),
    );
    if let Some(task) = &thread.task {
        text += &format!(", running task {task}");
    }
    // The start of headcount's own threads is of no interest.
    if let Some(started) = thread
        .started
        .filter(|_| thread.class != ThreadClass::Control)
    {
        text += &format!(", started {}", row::short(started));
    }
    let below = stack.into_iter().map(leaf).collect();
    Node { text, below }
}
