//! The dependencies between tasks, and the check that each of them can be met.
//!
//! Reports a dependency on a task that does not exist, on a state that the other task never reaches,
//! dependency cycles, and chains that cannot stop within the drain. It does not compute a start order: at run time each process waits for its
//! own dependencies.

mod chains;

use std::collections::HashMap;
use std::ops::Range;

pub(super) use chains::fit as fit_stops;

use crate::service::process::{Condition, Restart};

use super::problem::{Problems, closest, quoted};
use super::{Kind, Task};

/// The maximum number of names in a message.
const LISTED: usize = 12;

/// A dependency of one task on another.
#[derive(Debug)]
pub(super) struct Link {
    /// The task that waits.
    pub(super) from: String,
    /// The task that it waits for, as named in the file: there may be none of that name.
    pub(super) to: String,
    pub(super) wants: Wants,
    /// The dotted key and the byte range of the dependency in the file, for messages.
    pub(super) key: String,
    pub(super) at: Range<usize>,
}

/// The kind of a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// The process starts once the other one has reached this state.
    Condition(Condition),
    /// The process is ready once this endpoint is up.
    Endpoint,
    /// The process depends on an endpoint, whichever it is: a key of it has no effect otherwise. Such a
    /// link is from the process to itself.
    AnyEndpoint,
}

/// Reports every dependency that cannot be met.
///
/// `names` are all declared tasks, and `tasks` the ones that were read without a problem. A
/// dependency on a task that was declared but not read is accepted, so that one mistake is not
/// reported twice.
pub(super) fn check(names: &[&str], tasks: &[Task], links: &[Link], problems: &Problems) {
    let read: HashMap<&str, &Kind> = tasks
        .iter()
        .map(|task| (task.name.as_str(), &task.kind))
        .collect();
    let complain = |link: &Link, (what, help): (String, String)| {
        problems.add(link.at.clone(), &*link.key, what, help);
    };
    for link in links {
        if problems.is_full() {
            // Only counted: the message would not be shown.
            complain(link, (String::new(), String::new()));
        } else if link.wants == Wants::AnyEndpoint {
            if !may_depend_on_endpoint(&link.from, names, &read) {
                complain(link, no_endpoint(tasks));
            }
        } else if link.from == link.to {
            complain(link, depends_on_itself());
        } else if !names.contains(&link.to.as_str()) {
            complain(link, unknown(&link.to, names));
        } else if let Some(complaint) = read
            .get(link.to.as_str())
            .and_then(|kind| never(link, kind, tasks))
        {
            complain(link, complaint);
        }
    }
    for (link, cycle) in cycles(names, links) {
        let help = "remove one of these dependencies".to_owned();
        complain(link, (format!("dependency cycle: {cycle}"), help));
    }
}

/// Returns true if the process depends on an endpoint, or on a task that was not read.
fn may_depend_on_endpoint(process: &str, names: &[&str], read: &HashMap<&str, &Kind>) -> bool {
    let Some(Kind::Process(process)) = read.get(process) else {
        return true;
    };
    let mut wanted = process.depends_on.keys().map(String::as_str);
    wanted.any(|name| match read.get(name) {
        Some(kind) => matches!(kind, Kind::Endpoint(_)),
        None => names.contains(&name),
    })
}

fn no_endpoint(tasks: &[Task]) -> (String, String) {
    let help = format!("endpoints that `depends_on` can name: {}", endpoints(tasks));
    (
        "has no effect: `depends_on` names no endpoint".to_owned(),
        help,
    )
}

fn depends_on_itself() -> (String, String) {
    (
        "the task depends on itself".to_owned(),
        "remove this dependency".to_owned(),
    )
}

/// Returns the problem and its help for a dependency on a task that is not declared.
fn unknown(wanted: &str, names: &[&str]) -> (String, String) {
    let declared = format!("declared tasks: {}", listed(names.iter().copied(), ", "));
    let help = match closest(wanted, names) {
        Some(meant) => format!("did you mean `{meant}`? {declared}"),
        None => declared,
    };
    (format!("there is no task named {}", quoted(wanted)), help)
}

/// Returns a problem and its help if the dependency can never be met.
fn never(link: &Link, kind: &Kind, tasks: &[Task]) -> Option<(String, String)> {
    let (what, allowed) = match (link.wants, kind) {
        (Wants::Endpoint, Kind::Endpoint(_)) => return None,
        (Wants::Endpoint, other) => (
            format!("is a {} task, not an endpoint", other.word()),
            endpoints(tasks),
        ),
        (Wants::AnyEndpoint, _) | (Wants::Condition(Condition::Ready), Kind::Endpoint(_)) => {
            return None;
        }
        (Wants::Condition(_), Kind::Endpoint(_)) => (
            "is an endpoint task, which can only be waited for until it is up".to_owned(),
            "\"ready\"".to_owned(),
        ),
        (
            Wants::Condition(_),
            other @ (Kind::Resources(_) | Kind::Prewarm(_) | Kind::Progress(_)),
        ) => (
            format!(
                "is a {} task; a process can only depend on other processes and on endpoints",
                other.word()
            ),
            "a process or an endpoint".to_owned(),
        ),
        (Wants::Condition(Condition::Exited), Kind::Process(process))
            if process.restart == Restart::Always =>
        {
            (
                "is always restarted, so it never stays exited".to_owned(),
                "\"started\", \"ready\"; or set restart = \"on-failure\" for that process"
                    .to_owned(),
            )
        }
        (Wants::Condition(_), Kind::Process(_)) => return None,
    };
    Some((
        format!("`{}` {what}", link.to),
        format!("allowed: {allowed}"),
    ))
}

/// Lists the endpoint tasks for the help.
fn endpoints(tasks: &[Task]) -> String {
    let endpoints = tasks
        .iter()
        .filter(|task| matches!(task.kind, Kind::Endpoint(_)))
        .map(|task| task.name.as_str());
    match listed(endpoints, ", ") {
        none if none.is_empty() => "an endpoint task; none is declared".to_owned(),
        some => some,
    }
}

/// Finds the dependency cycles: returns each link that closes one, with the names on the cycle.
///
/// A depth-first search that visits each link once. Every cycle contains a returned link, but where
/// cycles share links, not every cycle is listed.
fn cycles<'l>(names: &[&str], links: &'l [Link]) -> Vec<(&'l Link, String)> {
    let waits = waits(names, links);
    // The stack is on the heap, so that a long chain of dependencies does not overflow the thread's.
    let mut found = Vec::new();
    let mut done = vec![false; names.len()];
    let mut depth: Vec<Option<usize>> = vec![None; names.len()];
    for start in 0..names.len() {
        if done[start] {
            continue;
        }
        depth[start] = Some(0);
        let mut path = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            let Some((link, to)) = waits[node].get(*next) else {
                done[node] = true;
                depth[node] = None;
                path.pop();
                continue;
            };
            *next += 1;
            if let Some(first) = depth[*to] {
                let circle = path[first..].iter().map(|(node, _)| names[*node]);
                found.push((*link, listed(circle.chain([names[*to]]), " -> ")));
            } else if !done[*to] {
                depth[*to] = Some(path.len());
                path.push((*to, 0));
            }
        }
    }
    found
}

/// Returns for each name, by its index in `names`, the links to the tasks that it waits for.
///
/// Endpoints of `ready` and `liveness` are left out: they wait for nothing, so they are on no cycle. So are links to the task
/// itself and to unknown tasks, which `check` reports.
fn waits<'l>(names: &[&str], links: &'l [Link]) -> Vec<Vec<(&'l Link, usize)>> {
    let place: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(place, name)| (*name, place))
        .collect();
    let mut waits: Vec<Vec<_>> = names.iter().map(|_| Vec::new()).collect();
    for link in links {
        let ends = place
            .get(link.from.as_str())
            .zip(place.get(link.to.as_str()));
        match ends {
            Some((from, to)) if from != to && link.wants != Wants::Endpoint => {
                waits[*from].push((link, *to));
            }
            _ => {}
        }
    }
    waits
}

/// Joins the names; if there are too many, the last one is preceded by the number left out.
fn listed<'n>(names: impl Iterator<Item = &'n str>, between: &str) -> String {
    let names: Vec<&str> = names.collect();
    if names.len() <= LISTED {
        return names.join(between);
    }
    let (first, last) = (&names[..LISTED - 1], names[names.len() - 1]);
    format!(
        "{}{between}… ({} more){between}{last}",
        first.join(between),
        names.len() - LISTED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: &str, to: &str) -> Link {
        Link {
            from: from.to_owned(),
            to: to.to_owned(),
            wants: Wants::Condition(Condition::Started),
            key: String::new(),
            at: 0..0,
        }
    }

    fn circles(names: &[&str], links: &[(&str, &str)]) -> Vec<String> {
        let links: Vec<Link> = links.iter().map(|(from, to)| link(from, to)).collect();
        cycles(names, &links)
            .into_iter()
            .map(|(_, circle)| circle)
            .collect()
    }

    #[test]
    fn a_cycle_is_named_completely_and_without_the_path_to_it() {
        let links = [("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "y")];
        assert_eq!(
            circles(&["x", "a", "b", "c", "y"], &links),
            ["a -> b -> c -> a"]
        );
    }

    #[test]
    fn two_cycles_are_both_named() {
        let links = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")];
        assert_eq!(
            circles(&["a", "b", "c", "d"], &links),
            ["a -> b -> a", "c -> d -> c"]
        );
    }

    #[test]
    fn a_diamond_is_not_a_cycle() {
        let links = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")];
        assert_eq!(circles(&["a", "b", "c", "d"], &links), Vec::<String>::new());
    }

    #[test]
    fn a_cycle_of_ten_thousand_tasks_is_found_and_shortened() {
        let names: Vec<String> = (0..10_000).map(|i| format!("t{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut links: Vec<(&str, &str)> =
            names.windows(2).map(|pair| (pair[0], pair[1])).collect();
        links.push((names[9_999], names[0]));
        let circles = circles(&names, &links);
        assert_eq!(circles.len(), 1);
        assert!(circles[0].starts_with("t0 -> t1 -> "), "{}", circles[0]);
        assert!(
            circles[0].ends_with(" -> … (9989 more) -> t0"),
            "{}",
            circles[0]
        );
    }
}
