//! What tasks want of each other: that it exists, that it can come true, that nobody waits in a
//! circle.
//!
//! Does not order the tasks: at run time each waits for its own dependencies.

use std::collections::HashMap;
use std::ops::Range;

use crate::service::process::{Condition, Restart};

use super::problem::Problems;
use super::reader::closest;
use super::{Kind, Task};

/// The most names that a message lists.
const LISTED: usize = 12;

/// One task waits for another.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) wants: Wants,
    /// Where this is written, for the complaint.
    pub(super) key: String,
    pub(super) at: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// The process starts when the other has reached this.
    Condition(Condition),
    /// The process is ready when this endpoint is up.
    Endpoint,
}

/// Complains about every link that cannot work.
///
/// `names` are all declared tasks; `tasks` those of them that could be read.
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
            complain(link, (String::new(), String::new()));
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
        let help = "take one of these dependencies out".to_owned();
        complain(
            link,
            (format!("the tasks wait for each other: {cycle}"), help),
        );
    }
}

fn depends_on_itself() -> (String, String) {
    (
        "the task waits for itself".to_owned(),
        "take this dependency out".to_owned(),
    )
}

fn unknown(wanted: &str, names: &[&str]) -> (String, String) {
    let declared = format!("declared: {}", listed(names.iter().copied(), ", "));
    let help = match closest(wanted, names) {
        Some(meant) => format!("did you mean `{meant}`? {declared}"),
        None => declared,
    };
    (
        format!("no task is called {}", super::problem::quoted(wanted)),
        help,
    )
}

/// Why the link can never come true, if it cannot.
fn never(link: &Link, kind: &Kind, tasks: &[Task]) -> Option<(String, String)> {
    let (what, allowed) = match (link.wants, kind) {
        (Wants::Endpoint, Kind::Endpoint(_)) => return None,
        (Wants::Endpoint, other) => (
            format!("is a {} task, not an endpoint", other.word()),
            endpoints(tasks),
        ),
        // Only processes start one after the other; the other kinds run from the begin.
        (Wants::Condition(_), Kind::Endpoint(_)) => (
            "is an endpoint, and only processes can be waited for".to_owned(),
            format!(
                "a process; one that has `ready = {{ endpoint = \"{}\" }}` waits for the endpoint",
                link.to
            ),
        ),
        (Wants::Condition(_), Kind::Resources(_)) => (
            "has no readiness and no end that could be waited for".to_owned(),
            "a process".to_owned(),
        ),
        (Wants::Condition(Condition::Exited), Kind::Process(process))
            if process.restart == Restart::Always =>
        {
            (
                "restarts always, so it never stays exited".to_owned(),
                "\"started\", \"ready\"; or restart = \"on-failure\" there".to_owned(),
            )
        }
        (Wants::Condition(_), Kind::Process(_)) => return None,
    };
    Some((
        format!("`{}` {what}", link.to),
        format!("allowed: {allowed}"),
    ))
}

fn endpoints(tasks: &[Task]) -> String {
    let endpoints = tasks
        .iter()
        .filter(|task| matches!(task.kind, Kind::Endpoint(_)))
        .map(|task| task.name.as_str());
    match listed(endpoints, ", ") {
        none if none.is_empty() => "an endpoint task, and none is declared".to_owned(),
        some => some,
    }
}

/// Each link that closes a circle, with the whole circle.
fn cycles<'l>(names: &[&str], links: &'l [Link]) -> Vec<(&'l Link, String)> {
    let waits = waits(names, links);
    // Depth first with a stack of our own, so that no file is too deep.
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

/// For each name, by its place in `names`, whom it waits for.
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
    fn a_circle_is_named_whole_and_without_what_leads_to_it() {
        let links = [("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "y")];
        assert_eq!(
            circles(&["x", "a", "b", "c", "y"], &links),
            ["a -> b -> c -> a"]
        );
    }

    #[test]
    fn two_circles_are_both_named() {
        let links = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")];
        assert_eq!(
            circles(&["a", "b", "c", "d"], &links),
            ["a -> b -> a", "c -> d -> c"]
        );
    }

    #[test]
    fn a_diamond_is_no_circle() {
        let links = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")];
        assert_eq!(circles(&["a", "b", "c", "d"], &links), Vec::<String>::new());
    }

    #[test]
    fn a_circle_of_ten_thousand_is_found_and_shortened() {
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
