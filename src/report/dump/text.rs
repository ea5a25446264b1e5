//! The dump as a tree for people.

use super::{Dump, Group, Kind, States, Task, Thread};
use crate::report::terminal::awaiting;
use crate::report::{self, brief, count, milliseconds, stack, times};
use crate::task::TaskState;
use crate::threads::ThreadClass;
use std::collections::HashMap;

/// A line, and the lines below it.
struct Node {
    text: String,
    below: Vec<Self>,
}

pub(super) fn tree(dump: &Dump) -> String {
    let mut text = String::new();
    draw(&sections(dump), "", &mut text);
    text
}

pub(super) fn threads_tree(dump: &Dump) -> String {
    let mut text = String::new();
    draw(&thread_sections(dump), "", &mut text);
    text
}

/// Every line is one: what others have named may hold any character.
fn draw(nodes: &[Node], indent: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let is_last = at + 1 == nodes.len();
        text.push_str(indent);
        text.push_str(if is_last { "└─ " } else { "├─ " });
        text.extend(node.text.chars().map(|c| match c {
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        }));
        text.push('\n');
        let bar = if is_last { "   " } else { "│  " };
        draw(&node.below, &format!("{indent}{bar}"), text);
    }
}

fn sections(dump: &Dump) -> Vec<Node> {
    let mut tasks = group_nodes(dump, &dump.root);
    tasks.extend(more(dump.unlisted_tasks));
    let mut sections = vec![Node {
        text: count(dump.tasks, "tracked task"),
        below: tasks,
    }];
    if let Some(sites) = &dump.untracked {
        let live = sites.iter().map(|site| site.live).sum();
        let row = |site: &super::UntrackedSite| {
            leaf(format!("×{}  spawned {}", site.live, short(&site.spawned)))
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
        let row = |child: &report::ChildFinding| leaf(format!("{}  {}", child.pid, child.command));
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

fn thread_sections(dump: &Dump) -> Vec<Node> {
    let Some(threads) = &dump.threads else {
        return Vec::new();
    };
    // Threads of a pool are all at one place, and why there is no stack may hold for all.
    let (mut shown, mut said) = (HashMap::new(), None);
    let node = |thread: &'_ Thread| {
        let stack = match shown.get(&thread.stack) {
            Some(tid) if thread.stack.len() > 1 => vec![format!("the stack of tid {tid}")],
            _ => {
                shown.insert(thread.stack.clone(), thread.tid);
                let none = thread.no_stack.as_deref();
                let none = none.filter(|why| said.as_deref() != Some(*why));
                stack::lines(&thread.stack, thread.stack_note.as_deref(), none)
            }
        };
        said = thread.no_stack.clone();
        thread_node(thread, stack)
    };
    let mut below: Vec<Node> = threads.iter().map(node).collect();
    below.extend(more(dump.unlisted_threads));
    let text = count(threads.len() as u64 + dump.unlisted_threads, "thread");
    let hints = dump.hints.iter().cloned().map(leaf);
    std::iter::once(Node { text, below }).chain(hints).collect()
}

fn leaf(text: String) -> Node {
    Node {
        text,
        below: Vec::new(),
    }
}

fn more(unlisted: u64) -> Option<Node> {
    (unlisted > 0).then(|| leaf(format!("and {unlisted} more")))
}

fn group_nodes(dump: &Dump, group: &Group) -> Vec<Node> {
    let kinds = group.kinds.iter().map(|kind| kind_node(dump, kind));
    let groups = group.groups.iter().map(|inner| Node {
        text: format!("{}{}{}", inner.name, times(inner.count), state(inner)),
        below: group_nodes(dump, inner),
    });
    kinds.chain(groups).collect()
}

/// ` (draining)`, ` (3 draining)`, and nothing for groups that work.
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

fn kind_node(dump: &Dump, kind: &Kind) -> Node {
    let mark = report::mark(kind.kind);
    let daemon = if kind.daemon { ", daemon" } else { "" };
    let (name, spawned) = (&kind.name, short(&kind.spawned));
    let head = format!("{name}{mark}{}", times(kind.count));
    if let ([task], 1) = (kind.rows.as_slice(), kind.count) {
        let (standing, awaits) = (standing(dump, task), awaits(task));
        return leaf(format!(
            "{head}  {standing}{daemon}, spawned {spawned}{awaits}"
        ));
    }
    let (states, oldest) = (states(&kind.states), brief(kind.oldest));
    let row = |task: &Task| {
        leaf(format!(
            "#{}  {}{}",
            task.id,
            standing(dump, task),
            awaits(task)
        ))
    };
    Node {
        text: format!("{head}  {states}, oldest {oldest}{daemon}, spawned {spawned}"),
        below: telling(&kind.rows).map(row).collect(),
    }
}

/// Those that hold a thread or are stalled, and the first of those that await the same.
fn telling(rows: &[Task]) -> impl Iterator<Item = &Task> {
    let is_told = |(at, task): &(usize, &Task)| {
        let before = || rows[..*at].iter().any(|row| row.awaits == task.awaits);
        let is_news = task.on_thread.is_some() || task.state == TaskState::Stalled;
        is_news || task.awaits.is_some() && !before()
    };
    rows.iter()
        .enumerate()
        .filter(is_told)
        .map(|(_, task)| task)
}

/// `running`, or `39 running, 1 created`.
fn states(states: &States) -> String {
    let all = [
        (states.created, "created"),
        (states.running, "running"),
        (states.stalled, "stalled"),
        (states.draining, "draining"),
        (states.cancelling, "cancelling"),
    ];
    let parts: Vec<_> = all.into_iter().filter(|(n, _)| *n > 0).collect();
    match parts.as_slice() {
        [(_, word)] => (*word).to_owned(),
        parts => {
            let words: Vec<_> = parts
                .iter()
                .map(|(n, word)| format!("{n} {word}"))
                .collect();
            words.join(", ")
        }
    }
}

/// `running, age 3.0s, last poll 2.0s ago, on thread "headcount-work" (tid 17)`.
fn standing(dump: &Dump, task: &Task) -> String {
    let (state, age) = (task.state.as_str(), brief(task.age));
    let polled = task.last_poll.map_or_else(String::new, |since| {
        format!(", last poll {} ago", brief(since))
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

fn awaits(task: &Task) -> String {
    awaiting(task.awaits.as_deref())
}

fn thread_node(thread: &Thread, stack: Vec<String>) -> Node {
    let class = match thread.class {
        ThreadClass::Unknown if thread.there_before => "there before",
        class => class.as_str(),
    };
    let mut text = format!(
        "\"{}\" (tid {}, {class})  {}, age {}, cpu {}",
        thread.name,
        thread.tid,
        thread.waits.as_ref().unwrap_or(&thread.state),
        brief(thread.age),
        milliseconds(thread.cpu),
    );
    if let Some(task) = &thread.task {
        text += &format!(", holds task {task}");
    }
    // Where ours start is no news.
    let started = thread.spawned.as_ref();
    if let Some(started) = started.filter(|_| thread.class != ThreadClass::Control) {
        text += &format!(", started {}", short(started));
    }
    let below = stack.into_iter().map(leaf).collect();
    Node { text, below }
}

/// A place without the folder where cargo keeps the sources of others: the crate's name and version come first.
fn short(place: &str) -> &str {
    let inside = place.split_once("/registry/src/");
    inside
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or(place, |(_, rest)| rest)
}
