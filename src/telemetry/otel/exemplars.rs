//! For each bucket of the durations a trace that was in it: from a graph to a task, by one click.

use super::super::names;
use super::super::text::Exemplar;
use super::record::{Ids, group};
use crate::registry::kind::Kind;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// As many groups as there are names for in the metrics, and some.
const GROUPS: usize = 16;
const BUCKETS: usize = 32;

/// The last exported task of each bucket.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<&'static str, [Option<Noted>; BUCKETS]>>);

#[derive(Debug, Clone, Copy)]
struct Noted {
    ids: Ids,
    nanos: u64,
    /// In Unix time.
    nanos_at: u64,
}

// === impl Exemplars ===

impl Exemplars {
    /// A task of that kind took so long, and ended at that time, in nanoseconds.
    pub(super) fn note(&self, kind: &Kind, ids: Ids, nanos: u64, unix: u64) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = group(kind);
        if groups.len() >= GROUPS && !groups.contains_key(group) {
            return;
        }
        let buckets = groups.entry(group).or_default();
        // As the registry counts durations.
        let bucket = (u64::BITS - (nanos >> 10).leading_zeros()) as usize;
        buckets[bucket.min(BUCKETS - 1)] = Some(Noted {
            ids,
            nanos,
            nanos_at: unix,
        });
    }

    /// That of a bucket, by its upper bound.
    pub(super) fn find(&self, family: &str, group: &str, bound: f64) -> Option<Exemplar> {
        if family != names::TASK_DURATION.name {
            return None;
        }
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = groups.get(group)?;
        let of = |bucket: usize| (1024_u64 << bucket) as f64 / 1e9;
        let bucket = (0..BUCKETS - 1).find(|bucket| of(*bucket) >= bound);
        let noted = buckets[bucket.unwrap_or(BUCKETS - 1)]?;
        Some(Exemplar {
            trace_id: format!("{:032x}", noted.ids.trace),
            span_id: format!("{:016x}", noted.ids.span),
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
            exemplars.note(kind, Ids { trace, span: 9 }, nanos, 1_000_000_000);
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
