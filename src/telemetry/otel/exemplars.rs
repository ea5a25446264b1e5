//! For each bucket of the durations a trace that was in it: from a graph to a task, by one click.

use super::super::names;
use super::super::text::Exemplar;
use super::record::group;
use crate::registry::kind::Kind;
use crate::registry::observer::Ids;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As many groups as there are names for in the metrics, and some.
const GROUPS: usize = 16;
const BUCKETS: usize = 32;

/// The last exported task of each bucket, by groups.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Vec<OfGroup>>);

/// Notes the tasks of a request.
pub(super) struct Noting<'a>(MutexGuard<'a, Vec<OfGroup>>);

#[derive(Debug)]
struct OfGroup {
    group: &'static str,
    buckets: [Option<Noted>; BUCKETS],
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    ids: Ids,
    nanos: u64,
    /// In Unix time.
    nanos_at: u64,
}

// === impl Noting ===

impl Noting<'_> {
    /// A task of that kind took so long, and ended at that time, in nanoseconds.
    pub(super) fn note(&mut self, kind: &Kind, ids: Ids, nanos: u64, unix: u64) {
        let group = group(kind);
        let groups = &mut *self.0;
        let found = groups.iter().position(|known| known.group == group);
        let place = match found {
            Some(place) => place,
            None if groups.len() >= GROUPS => return,
            None => {
                groups.push(OfGroup {
                    group,
                    buckets: [None; BUCKETS],
                });
                groups.len() - 1
            }
        };
        // As the registry counts durations.
        let bucket = (u64::BITS - (nanos >> 10).leading_zeros()) as usize;
        groups[place].buckets[bucket.min(BUCKETS - 1)] = Some(Noted {
            ids,
            nanos,
            nanos_at: unix,
        });
    }
}

// === impl Exemplars ===

impl Exemplars {
    pub(super) fn lock(&self) -> Noting<'_> {
        Noting(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// That of a bucket, by its upper bound.
    pub(super) fn find(&self, family: &str, group: &str, bound: f64) -> Option<Exemplar> {
        if family != names::TASK_DURATION.name {
            return None;
        }
        let groups = self.lock().0;
        let buckets = &groups.iter().find(|known| known.group == group)?.buckets;
        let of = |bucket: usize| (1024_u64 << bucket) as f64 / 1e9;
        let bucket = (0..BUCKETS - 1).find(|bucket| of(*bucket) >= bound);
        let noted = buckets[bucket.unwrap_or(BUCKETS - 1)]?;
        let Ids { trace, span } = noted.ids;
        Some(Exemplar {
            trace_id: format!("{trace:032x}"),
            span_id: format!("{span:016x}"),
            value: noted.nanos as f64 / 1e9,
            seconds: noted.nanos_at as f64 / 1e9,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::kind::{self, Options};
    use crate::task::TaskKind;
    use std::panic::Location;

    #[test]
    fn a_bucket_has_the_last_trace_that_was_in_it() {
        let options = Options::of(TaskKind::Async);
        let path = kind::intern_path(kind::ROOT_PATH, "exemplars");
        let kind = kind::intern(path, "task", Location::caller(), &options).kind;
        let exemplars = Exemplars::default();
        for (trace, nanos) in [(1, 1000), (2, 1023), (3, 5000)] {
            exemplars
                .lock()
                .note(kind, Ids { trace, span: 9 }, nanos, 1_000_000_000);
        }
        let found = |bound| {
            let found = exemplars.find("headcount_task_duration_seconds", "exemplars", bound);
            found.map(|found| found.to_string())
        };
        let second = " # {trace_id=\"00000000000000000000000000000002\",span_id=\"0000000000000009\"} 0.000001023 1.000";
        assert_eq!(found(1024.0 / 1e9).as_deref(), Some(second));
        assert_eq!(found(2048.0 / 1e9), None);
        assert!(found(8192.0 / 1e9).is_some_and(|found| found.contains("0003")));
        assert_eq!(found(f64::INFINITY), None);
    }
}
