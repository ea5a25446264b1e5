//! `task_*`: from the registry's counters, so what they cost grows with the names, not with the tasks.
//!
//! Bounded: 8 groups, 64 names, 20 spawn sites, in the order in which they came; `_other` holds the rest.

use super::family::{Buckets, Families};
use super::names;
use super::watched::Watched;
use crate::registry::histogram::Totals;
use crate::registry::kind::{self, Kind, OTHER};
use crate::registry::survey::{Survey, Surveyed};
use crate::registry::{self, Counts};
use crate::report::TaskFinding;
use crate::report::dump::Phase;
use crate::task::{TaskOutcome, TaskState};
use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

/// Names, each in its group, with series of their own.
const NAMES: usize = 64;
/// Spawn sites with series of their own.
const SITES: usize = 20;
/// The group of tasks that are in none. No group can have this name.
pub(crate) const ROOT: &str = "/";
const STATES: [TaskState; 5] = [
    TaskState::Created,
    TaskState::Running,
    TaskState::Stalled,
    TaskState::Draining,
    TaskState::Cancelling,
];
const OUTCOMES: [TaskOutcome; 4] = [
    TaskOutcome::Completed,
    TaskOutcome::Failed,
    TaskOutcome::Panicked,
    TaskOutcome::Cancelled,
];
/// Every second of the registry's buckets is shown: factors of four, from 1 µs to 18 min.
const SHOWN: usize = 2;

/// What is remembered from one scrape to the next.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// What the counters stood at before this runtime: they last as long as the process.
    before: Vec<Counts>,
    durations_before: Vec<Totals>,
    polls_before: Vec<Totals>,
    survey: Survey,
    names: Vec<(&'static str, &'static str)>,
    sites: Vec<&'static Location<'static>>,
}

/// The tasks of one name.
#[derive(Debug, Default)]
struct Row {
    live: u64,
    started: u64,
    ended: [u64; 4],
    states: [u64; 5],
}

// === impl Tasks ===

impl Tasks {
    pub(crate) fn new() -> Self {
        let labels = 0..kind::GROUP_LABELS;
        Self {
            before: registry::all_counts()
                .into_iter()
                .map(|(_, counts)| counts)
                .collect(),
            durations_before: labels.clone().map(registry::durations).collect(),
            polls_before: labels.map(registry::polls).collect(),
            survey: Survey::default(),
            names: Vec::new(),
            sites: Vec::new(),
        }
    }

    pub(crate) fn read(&mut self, watched: &Watched, families: &mut Families) {
        let seen = self.survey.take(&watched.root);
        let groups = Groups::new();
        let rows = self.rows(&groups, &seen);
        let shown = shown_groups(&rows);
        let stopping = watched.standing.phase() != Phase::Running;
        for ((group, task), row) in &rows {
            row.write(families, group, task, (&seen, stopping));
        }
        self.write_groups(&groups, &shown, &seen, families);
        write_lingering(watched, &groups, &shown, families);
        self.write_untracked(watched, families);
    }

    /// Every name with what happened to its tasks, bounded.
    fn rows(
        &mut self,
        groups: &Groups,
        seen: &Surveyed,
    ) -> BTreeMap<(&'static str, &'static str), Row> {
        let mut rows: BTreeMap<_, Row> = BTreeMap::new();
        for (kind, counts) in registry::all_counts() {
            let number = kind.number as usize;
            let before = self.before.get(number).copied().unwrap_or_default();
            let states = seen.states.get(number).copied().unwrap_or_default();
            // Those of a runtime that is gone are gone.
            let is_here = counts.started > before.started || states != [0; 5];
            if kind.options.untracked || !is_here {
                continue;
            }
            let name = self.name(groups.of(kind), kind.name);
            rows.entry(name).or_default().add(&counts, &before, &states);
        }
        rows
    }

    /// The labels of a name: those that come first keep theirs.
    fn name(&mut self, group: &'static str, task: &'static str) -> (&'static str, &'static str) {
        let name = (group, task);
        if task == OTHER || self.names.contains(&name) {
            return name;
        }
        if self.names.len() == NAMES {
            return (group, OTHER);
        }
        self.names.push(name);
        name
    }

    fn write_groups(
        &self,
        groups: &Groups,
        shown: &[&'static str],
        seen: &Surveyed,
        families: &mut Families,
    ) {
        for group in shown {
            let labels: Vec<usize> = groups.labels(group).collect();
            let durations = since(&self.durations_before, &labels, registry::durations);
            families.add_histogram(&names::TASK_DURATION, &[group], &durations);
            let polls = since(&self.polls_before, &labels, registry::polls);
            families.add_histogram(&names::TASK_POLL, &[group], &polls);
            let ages = labels.iter().filter_map(|label| seen.oldest[*label]);
            let oldest = ages.max().unwrap_or(Duration::ZERO);
            families.add(&names::TASK_OLDEST, &[group], oldest.as_secs_f64());
        }
    }

    fn write_untracked(&mut self, watched: &Watched, families: &mut Families) {
        if !watched.root.sees_untracked() {
            return;
        }
        let mut all = 0;
        let mut sites: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (kind, live, started) in registry::untracked_sites(&watched.root) {
            all += live;
            let site = sites.entry(self.site(kind.site)).or_default();
            site.0 += live;
            site.1 += started;
        }
        families.add(&names::TASK_UNTRACKED, &[], all as f64);
        for (site, (live, started)) in sites {
            families.add(&names::TASK_UNTRACKED_SITE, &[&site], live as f64);
            families.add(
                &names::TASK_UNTRACKED_SITE_STARTED,
                &[&site],
                started as f64,
            );
        }
    }

    fn site(&mut self, site: &'static Location<'static>) -> String {
        if !self.sites.contains(&site) {
            if self.sites.len() == SITES {
                return OTHER.to_owned();
            }
            self.sites.push(site);
        }
        short(&site.to_string()).to_owned()
    }
}

// === impl Row ===

impl Row {
    fn add(&mut self, counts: &Counts, before: &Counts, states: &[u64; 5]) {
        self.live += counts.live();
        self.started += counts.started.saturating_sub(before.started);
        for (sum, (all, before)) in self
            .ended
            .iter_mut()
            .zip(counts.ended.iter().zip(&before.ended))
        {
            *sum += all.saturating_sub(*before);
        }
        for (sum, state) in self.states.iter_mut().zip(states) {
            *sum += state;
        }
    }

    fn write(
        &self,
        families: &mut Families,
        group: &str,
        task: &str,
        (seen, stopping): (&Surveyed, bool),
    ) {
        let states = if seen.complete {
            self.states
        } else {
            estimate(self.live, self.states, stopping)
        };
        for (state, live) in STATES.iter().zip(states) {
            let labels = [group, task, state.as_str()];
            families.add(&names::TASK_LIVE, &labels, live as f64);
        }
        families.add(&names::TASK_STARTED, &[group, task], self.started as f64);
        for (outcome, ended) in OUTCOMES.iter().zip(self.ended) {
            let labels = [group, task, outcome.as_str()];
            families.add(&names::TASK_FINISHED, &labels, ended as f64);
        }
    }
}

/// So many live tasks, in the shares of a sample. A name that the sample has none of is taken to do what most do.
fn estimate(live: u64, sample: [u64; 5], stopping: bool) -> [u64; 5] {
    let size: u64 = sample.iter().sum();
    let usual = if stopping {
        TaskState::Draining as usize
    } else {
        TaskState::Running as usize
    };
    let mut states = sample.map(|state| match size {
        0 => 0,
        size => (live as f64 * state as f64 / size as f64).round() as u64,
    });
    let most = (0..states.len())
        .max_by_key(|state| states[*state])
        .unwrap_or(usual);
    let rest = if size == 0 { usual } else { most };
    let others: u64 = states.iter().sum::<u64>() - states[rest];
    states[rest] = live.saturating_sub(others);
    states
}

/// The groups that have a label of their own, as the registry gave them out.
pub(crate) struct Groups(Vec<&'static str>);

impl Groups {
    pub(crate) fn new() -> Self {
        let named = |name: &'static str| if name.is_empty() { ROOT } else { name };
        Self(kind::labels().into_iter().map(named).collect())
    }

    fn of(&self, kind: &Kind) -> &'static str {
        self.0.get(kind.label).copied().unwrap_or(OTHER)
    }

    fn labels(&self, group: &str) -> impl Iterator<Item = usize> {
        let labels = self.0.iter().enumerate();
        labels.filter_map(move |(label, name)| (*name == group).then_some(label))
    }

    /// The label of a path that a report names.
    fn of_path<'a>(&self, path: &'a str) -> &'a str {
        match path {
            "" => ROOT,
            path if self.0.contains(&path) => path,
            _ => OTHER,
        }
    }
}

/// The root first: it is there when nothing else is.
fn shown_groups(rows: &BTreeMap<(&'static str, &'static str), Row>) -> Vec<&'static str> {
    let mut shown = vec![ROOT];
    shown.extend(rows.keys().map(|(group, _)| *group));
    shown.sort_unstable();
    shown.dedup();
    shown
}

fn write_lingering(
    watched: &Watched,
    groups: &Groups,
    shown: &[&'static str],
    families: &mut Families,
) {
    let report = watched.standing.course().seen().report;
    let of = |findings: Option<&Vec<TaskFinding>>, group: &str| -> u64 {
        let findings = findings.into_iter().flatten();
        findings
            .filter(|task| groups.of_path(&task.group) == group)
            .map(|task| task.count)
            .sum()
    };
    let report = report.as_deref();
    let layers = [
        ("drain", report.map(|report| &report.drain.ignored)),
        ("cancel", report.map(|report| &report.cancel.lingering)),
    ];
    for (layer, findings) in layers {
        for group in shown {
            let count = of(findings, group);
            families.add(&names::TASK_LINGERING, &[layer, group], count as f64);
        }
    }
}

/// What was counted under some labels in the time of this runtime.
fn since(before: &[Totals], labels: &[usize], read: fn(usize) -> Totals) -> Buckets {
    let mut sum = Totals::default();
    for label in labels {
        let (all, before) = (read(*label), &before[*label]);
        sum.nanos += all.nanos.saturating_sub(before.nanos);
        let counts = all.buckets.iter().zip(&before.buckets);
        for (sum, (all, before)) in sum.buckets.iter_mut().zip(counts) {
            *sum += all.saturating_sub(*before);
        }
    }
    cumulative(&sum.buckets, sum.nanos)
}

/// The registry's bucket `i` holds what is below 1.024 µs · 2ⁱ.
fn cumulative(counts: &[u64], nanos: u64) -> Buckets {
    let mut buckets = Buckets {
        sum: nanos as f64 / 1e9,
        ..Buckets::default()
    };
    // The last has no bound.
    let (last, bounded) = counts.split_last().unwrap_or((&0, &[]));
    for (i, count) in bounded.iter().enumerate() {
        buckets.count += count;
        if i % SHOWN == 0 {
            let bound = 1024_u64 << i;
            buckets.up_to.push((bound as f64 / 1e9, buckets.count));
        }
    }
    buckets.count += last;
    buckets
}

/// A place without the folders of cargo's registry, which name a machine.
pub(crate) fn short(place: &str) -> &str {
    let inside = place
        .split_once("/registry/src/")
        .and_then(|(_, rest)| rest.split_once('/'));
    inside.map_or(place, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_gives_the_shares_and_the_counters_the_sum() {
        assert_eq!(
            estimate(1000, [0, 30, 0, 10, 0], false),
            [0, 750, 0, 250, 0]
        );
        assert_eq!(estimate(10, [1, 1, 1, 0, 0], false).iter().sum::<u64>(), 10);
        assert_eq!(estimate(7, [0; 5], false), [0, 7, 0, 0, 0]);
        assert_eq!(estimate(7, [0; 5], true), [0, 0, 0, 7, 0]);
        assert_eq!(estimate(0, [3, 0, 0, 0, 0], false), [0; 5]);
    }

    #[test]
    fn buckets_are_cumulative_and_hold_all() {
        let mut counts = vec![0; 32];
        (counts[0], counts[1], counts[2], counts[31]) = (1, 2, 3, 4);
        let buckets = cumulative(&counts, 5_000_000_000);
        assert_eq!(buckets.up_to[..2], [(1.024e-6, 1), (4.096e-6, 6)]);
        assert_eq!(buckets.up_to.len(), 16);
        assert_eq!((buckets.count, buckets.sum), (10, 5.0));
    }

    #[test]
    fn a_site_in_a_dependency_names_no_machine() {
        let place = "/home/x/.cargo/registry/src/index.crates.io-1949/redis-0.27.2/src/aio.rs:1:2";
        assert_eq!(short(place), "redis-0.27.2/src/aio.rs:1:2");
        assert_eq!(short("src/main.rs:1:2"), "src/main.rs:1:2");
    }
}
