//! Processes that stop one after the other, and the check that their budgets fit into the drain.
//!
//! A process is told to stop once all that depend on it have ended, so in the worst case the stop
//! budgets along a chain of dependencies add up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::service::config::problem::Problems;
use crate::service::config::value::{Value, shown};
use crate::service::config::{Kind, Task};
use crate::service::process::{Condition, ProcessSettings, Ready, Restart};

use super::listed;

/// The shortest time to which a default budget is reduced. A process that needs longer must say so.
const SHORTEST_DEFAULT: Duration = Duration::from_secs(2);

/// The processes, by name.
type Processes<'t> = BTreeMap<&'t str, &'t ProcessSettings>;

/// Shortens default stop budgets until the longest chain fits into the drain, and reports a problem
/// if none can be shortened any further.
///
/// `declared` holds the tables of all tasks. The dependencies must exist and have no cycle.
pub(in crate::service::config) fn fit(
    declared: &[(&str, Range<usize>, Value<'_>)],
    tasks: &mut [Task],
    drain: Duration,
    problems: &Problems,
) {
    let written = |name: &str| {
        let task = declared.iter().find(|(declared, ..)| *declared == name);
        task.is_some_and(|(.., value)| value.has("stop_budget"))
    };
    let before = budgets(&processes(tasks));
    let mut budgets = before.clone();
    loop {
        let (needed, chain) = longest(&processes(tasks), &budgets);
        if needed <= drain {
            break;
        }
        let free: Vec<&String> = chain.iter().filter(|name| !written(name)).collect();
        let free_time: Duration = free.iter().map(|name| budgets[*name]).sum();
        let share = drain.saturating_sub(needed.saturating_sub(free_time));
        let share = share / u32::try_from(free.len().max(1)).unwrap_or(u32::MAX);
        let share = share.max(SHORTEST_DEFAULT);
        let mut is_shorter = false;
        for name in free {
            let budget = budgets.get_mut(name).expect("the chain is made of them");
            is_shorter |= share < *budget;
            *budget = share.min(*budget);
        }
        if !is_shorter {
            let chain: Vec<(&str, Duration)> = chain
                .iter()
                .map(|name| (name.as_str(), before[name]))
                .collect();
            refuse(declared, &chain, drain, problems);
            return;
        }
    }
    for task in tasks {
        if let (Kind::Process(process), Some(budget)) = (&mut task.kind, budgets.get(&task.name)) {
            process.stop_budget = *budget;
        }
    }
}

fn processes(tasks: &[Task]) -> Processes<'_> {
    tasks
        .iter()
        .filter_map(|task| match &task.kind {
            Kind::Process(process) => Some((task.name.as_str(), process)),
            _ => None,
        })
        .collect()
}

fn budgets(processes: &Processes<'_>) -> BTreeMap<String, Duration> {
    let budget =
        |(name, process): (&&str, &&ProcessSettings)| ((*name).to_owned(), process.stop_budget);
    processes.iter().map(budget).collect()
}

/// Returns the chain whose budgets add up to the most, with their sum. The one that stops last
/// comes first.
fn longest(
    processes: &Processes<'_>,
    budgets: &BTreeMap<String, Duration>,
) -> (Duration, Vec<String>) {
    let mut times: BTreeMap<&str, (Duration, Option<&str>)> = BTreeMap::new();
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, process) in processes {
        for (on, condition) in &process.depends_on {
            if let Some((on, other)) = processes.get_key_value(on.as_str())
                && stops_after(other, *condition)
            {
                dependents.entry(on).or_default().push(name);
            }
        }
    }
    for name in processes.keys() {
        measure(name, &dependents, budgets, &mut times);
    }
    let Some((last, (needed, _))) = times.iter().max_by_key(|(_, (time, _))| *time) else {
        return (Duration::ZERO, Vec::new());
    };
    let mut chain = vec![(*last).to_owned()];
    let mut next = times[last].1;
    while let Some(name) = next {
        chain.push(name.to_owned());
        next = times[name].1;
    }
    (*needed, chain)
}

/// Fills in the time until a process has stopped, with the dependent for which it waits longest.
///
/// It recurses as deep as the longest chain, which has at most as many tasks as a configuration.
fn measure<'n>(
    name: &'n str,
    dependents: &BTreeMap<&'n str, Vec<&'n str>>,
    budgets: &BTreeMap<String, Duration>,
    times: &mut BTreeMap<&'n str, (Duration, Option<&'n str>)>,
) -> Duration {
    if let Some((time, _)) = times.get(name) {
        return *time;
    }
    let mut longest = (Duration::ZERO, None);
    for dependent in dependents.get(name).into_iter().flatten() {
        let time = measure(dependent, dependents, budgets, times);
        if longest.1.is_none() || time > longest.0 {
            longest = (time, Some(*dependent));
        }
    }
    let time = budgets[name] + longest.0;
    times.insert(name, (time, longest.1));
    time
}

/// Returns whether a process may still run when those that depend on it under this condition do. One
/// that must have exited before is not there any more to be stopped.
fn stops_after(process: &ProcessSettings, condition: Condition) -> bool {
    let ends_first = condition == Condition::Exited
        || (condition == Condition::Ready && matches!(process.ready, Ready::Exit(_)));
    !ends_first || process.restart == Restart::Always
}

/// Reports a chain that does not fit, at the process that stops last.
fn refuse(
    declared: &[(&str, Range<usize>, Value<'_>)],
    chain: &[(&str, Duration)],
    drain: Duration,
    problems: &Problems,
) {
    let last = chain.first().map(|(name, _)| *name);
    let Some((_, at, value)) = declared.iter().find(|(name, ..)| Some(*name) == last) else {
        return;
    };
    let needed: Duration = chain.iter().map(|(_, budget)| *budget).sum();
    // In the order in which they stop.
    let names = listed(chain.iter().rev().map(|(name, _)| *name), ", then ");
    let times: Vec<String> = chain.iter().rev().map(|(_, time)| shown(*time)).collect();
    let times = listed(times.iter().map(String::as_str), " + ");
    problems.add(
        at.clone(),
        &*value.path,
        format!(
            "is the last of a chain that stops one after the other: {names}; the stop budgets add up to {}, but \
             shutdown.drain is {}",
            shown(needed),
            shown(drain)
        ),
        format!(
            "{times}; allowed: a sum of at most {}; shorten stop_budget, or increase shutdown.drain",
            shown(drain)
        ),
    );
}
