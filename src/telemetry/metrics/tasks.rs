//! The metrics `task_*`.
//!
//! They are read from the counters of the registry, so the cost of a scrape grows with the number
//! of names, not with the number of tasks. The states and the oldest ages come from a [`Survey`],
//! which looks at a bounded number of slots in each scrape.
//!
//! At most 8 groups, 64 names and 20 spawn sites have series of their own: the first ones that
//! appear. The others share the series of `_other`.
//!
//! The counters of the registry belong to the process, and live as long as it. So each runtime
//! notes them at its start and subtracts them from every later reading. A second runtime in one
//! process therefore begins at 0, but tasks that run in both at once under one kind are counted in
//! both.
//!
//! A kind is one spawn site with its name, group and options. Several kinds with one name and group
//! share a row here.

use super::family::{Buckets, Families};
use super::names;
use super::source::Source;
use crate::registry::count::histogram::Totals;
use crate::registry::kind::{self, Kind, OTHER};
use crate::registry::query::survey::{Survey, Surveyed};
use crate::registry::{self, Counts, bounds};
use crate::report::KindRow;
use crate::report::dump::Phase;
use crate::report::row::short;
use crate::task::{TaskOutcome, TaskState};
use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

/// The most pairs of group and name with series of their own.
///
/// With 5 states, 4 outcomes and 1 start these are at most 640 series, and 10 more for the `_other`
/// of each group.
const NAMES: usize = 64;
/// The most spawn sites with series of their own.
///
/// Each has two series. A spawn site is in the source, so a program without generated code has few.
const SITES: usize = 20;
/// The label of tasks outside any group. No group can have this name.
pub(crate) const ROOT: &str = "/";
/// The outcomes, in the order of [`Counts::ended`].
///
/// An outcome's number is its index here.
const OUTCOMES: [TaskOutcome; 4] = [
    TaskOutcome::Completed,
    TaskOutcome::Failed,
    TaskOutcome::Panicked,
    TaskOutcome::Cancelled,
];
/// The upper bounds of the exported buckets, in nanoseconds: every second one of the registry, in
/// factors of four from 1 µs to 18 min.
///
/// Exemplars use the same bounds, to find the bucket of a task.
pub(crate) const BOUNDS: [u64; 16] = {
    let mut bounds = [1024; 16];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] <<= 2 * i;
        i += 1;
    }
    bounds
};

/// The state that is kept between scrapes.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// The counters at the start of this runtime, which are subtracted: the counters last as long
    /// as the process. The index is the number of the kind. Kinds that are made later have no
    /// entry, and count from 0.
    before: Vec<Counts>,
    /// The histograms of durations at the start of this runtime, by group label. All labels have an
    /// entry, also those not in use yet.
    durations_before: Vec<Totals>,
    /// The histograms of polls at the start of this runtime, by group label.
    polls_before: Vec<Totals>,
    /// It continues where the last scrape stopped, if the slots are too many for one.
    survey: Survey,
    /// Pairs of group and name with series of their own, at most [`NAMES`]. They keep them. A name
    /// that moved would make one series fall and another rise, which reads as a restart.
    names: Vec<(&'static str, &'static str)>,
    /// Spawn sites with series of their own, at most [`SITES`]. They keep them.
    sites: Vec<&'static Location<'static>>,
}

/// The counts of one name.
#[derive(Debug, Default)]
struct Row {
    live: u64,
    /// Spawned since the start of this runtime.
    started: u64,
    /// Ended since the start of this runtime, by outcome.
    ended: [u64; 4],
    /// Found by the survey, by state; a sample unless the survey is complete.
    states: [u64; 5],
}

// === impl Tasks ===

impl Tasks {
    /// Reads all counters of the process. Called at the start of a runtime.
    pub(crate) fn new() -> Self {
        let labels = 0..bounds::GROUP_LABELS;
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

    /// Adds `task_*`. The group `/` is present even if no task was spawned.
    ///
    /// The survey comes first and takes about a millisecond; the counters are read after it. A task
    /// that ends in between is in the counters as ended, and in a complete survey still as live.
    pub(crate) fn read(&mut self, source: &Source, families: &mut Families) {
        let seen = self.survey.take(&source.root);
        let groups = Groups::new();
        let rows = self.rows(&groups, &seen);
        let shown = shown_groups(&rows);
        let stopping = source.progress.phase() != Phase::Running;
        for ((group, task), row) in &rows {
            row.write(families, group, task, (&seen, stopping));
        }
        self.write_groups(&groups, &shown, &seen, families);
        write_lingering(source, &groups, &shown, families);
        self.write_untracked(source, families);
    }

    /// Returns the counts of tracked tasks by group and name, with the names beyond the bound under
    /// `_other`.
    ///
    /// `_other` of a group sums the names beyond the bound and the kinds that the registry itself
    /// has merged under that name.
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
            // A kind without a start since, and without a live task, belongs to another runtime.
            let is_here = counts.started > before.started || states != [0; 5];
            if kind.options.untracked || !is_here {
                continue;
            }
            let name = self.name(groups.of(kind), kind.name);
            rows.entry(name).or_default().add(&counts, &before, &states);
        }
        rows
    }

    /// Returns the labels of a name. The first [`NAMES`] names keep theirs; the others become
    /// `_other`.
    ///
    /// A name has its series for the life of the runtime, even if its tasks end.
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

    /// Adds the histograms and the oldest age of each group.
    ///
    /// Several labels of the registry may have one name, so their histograms are added up.
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

    /// Adds the untracked tasks, and the tasks that can never wake. By spawn site only if the hooks of
    /// tokio see them; sites beyond the bound are summed under `_other`.
    ///
    /// A family of which nothing is known is left out, so that 0 always means "none".
    fn write_untracked(&mut self, source: &Source, families: &mut Families) {
        let looked = source.untracked_for_scrape();
        if let Some(unwakeable) = looked.as_ref().and_then(|look| look.unwakeable()) {
            families.add(&names::TASK_UNWAKEABLE, &[], unwakeable as f64);
        }
        if !source.root.sees_untracked() {
            if let Some(live) = looked.and_then(|look| look.live()) {
                families.add(&names::TASK_UNTRACKED, &[], live as f64);
            }
            return;
        }
        let mut all = 0;
        let mut sites: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (kind, live, started) in registry::untracked_sites(&source.root) {
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

    /// Returns the label of a spawn site. The first [`SITES`] sites keep theirs. Two sites may have
    /// one label, if they differ only in the path that is cut off; their series are summed.
    fn site(&mut self, site: &'static Location<'static>) -> String {
        if !self.sites.contains(&site) {
            if self.sites.len() == SITES {
                return OTHER.to_owned();
            }
            self.sites.push(site);
        }
        short(site)
    }
}

// === impl Row ===

impl Row {
    /// Adds the counts of one kind; several kinds have the same name if they differ in spawn site
    /// or options.
    ///
    /// The subtraction saturates: the counters are sums of shards that are read one after the
    /// other, and a reading may be behind an earlier one of another thread.
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

    /// Adds ten series. If the survey was complete, the states are what it counted, which may
    /// differ from the counters by tasks that started or ended meanwhile. Otherwise they are an
    /// estimate that adds up to the live tasks.
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
        for (state, live) in TaskState::ALL.iter().zip(states) {
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

/// Splits `live` tasks over the states in the proportions of a sample. The counts add up to `live`.
///
/// If the sample has no task of the name, all are counted as running, or as draining while the
/// service stops.
///
/// The largest state takes the error of the rounding, which is the smallest relative to it.
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

/// The names of the group labels, as the registry assigned them. The index is the number of the
/// label. Labels are given out in the order in which groups first have tasks.
pub(crate) struct Groups(Vec<&'static str>);

impl Groups {
    /// Takes the lock of the registry's index for a copy.
    pub(crate) fn new() -> Self {
        let named = |name: &'static str| if name.is_empty() { ROOT } else { name };
        Self(kind::labels().into_iter().map(named).collect())
    }

    /// Returns the label name of a kind. A label that was given out after this copy is `_other`
    /// until the next scrape.
    fn of(&self, kind: &Kind) -> &'static str {
        self.0.get(kind.label).copied().unwrap_or(OTHER)
    }

    /// Returns the numbers of the labels with this name.
    fn labels(&self, group: &str) -> impl Iterator<Item = usize> {
        let labels = self.0.iter().enumerate();
        labels.filter_map(move |(label, name)| (*name == group).then_some(label))
    }

    /// Returns the label name of a group path in a report.
    ///
    /// A report has paths, not labels.
    fn of_path<'a>(&self, path: &'a str) -> &'a str {
        match path {
            "" => ROOT,
            path if self.0.contains(&path) => path,
            _ => OTHER,
        }
    }
}

/// Returns the label names to show, sorted and without duplicates. The root is always among them.
fn shown_groups(rows: &BTreeMap<(&'static str, &'static str), Row>) -> Vec<&'static str> {
    let mut shown = vec![ROOT];
    shown.extend(rows.keys().map(|(group, _)| *group));
    shown.sort_unstable();
    shown.dedup();
    shown
}

/// Adds the tracked tasks that a layer left alive, from the report; 0 until the report is final.
///
/// It adds series of 0 for every shown group, so an alert on them has a value to compare before the
/// first shutdown.
fn write_lingering(
    source: &Source,
    groups: &Groups,
    shown: &[&'static str],
    families: &mut Families,
) {
    let report = source.progress.timeline().report;
    let of = |findings: Option<&Vec<KindRow>>, group: &str| -> u64 {
        let findings = findings.into_iter().flatten();
        findings
            .filter(|task| groups.of_path(task.group) == group)
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

/// Returns the histogram of some labels, without the observations before this runtime.
///
/// `labels` must be below the number of labels of the registry, for each of which `before` has an
/// entry.
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

/// Returns the cumulative form of a histogram of the registry.
///
/// Bucket `i` of the registry holds durations below 1.024 µs · 2ⁱ that no lower bucket holds.
///
/// A bucket that is not exported is contained in the next larger one. The last bounded bucket of
/// the registry is exported, so `+Inf` alone adds only the unbounded one.
fn cumulative(counts: &[u64], nanos: u64) -> Buckets {
    let mut buckets = Buckets {
        sum: nanos as f64 / 1e9,
        ..Buckets::default()
    };
    // The last bucket has no upper bound.
    let (last, bounded) = counts.split_last().unwrap_or((&0, &[]));
    for (i, count) in bounded.iter().enumerate() {
        buckets.count += count;
        let bound = 1024_u64 << i;
        if BOUNDS.contains(&bound) {
            buckets.up_to.push((bound as f64 / 1e9, buckets.count));
        }
    }
    buckets.count += last;
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_split_as_in_the_sample_and_add_up_to_the_live_tasks() {
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
    fn buckets_are_cumulative_and_count_every_observation() {
        let mut counts = vec![0; 32];
        (counts[0], counts[1], counts[2], counts[31]) = (1, 2, 3, 4);
        let buckets = cumulative(&counts, 5_000_000_000);
        assert_eq!(buckets.up_to[..2], [(1.024e-6, 1), (4.096e-6, 6)]);
        assert_eq!(buckets.up_to.len(), 16);
        assert_eq!((buckets.count, buckets.sum), (10, 5.0));
    }
}
