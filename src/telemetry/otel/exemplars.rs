//! Exemplars of the duration histograms: for each bucket the trace of a task in it, so that a graph
//! can link to a trace.
//!
//! Only exported spans are noted, so every exemplar refers to a trace that the collector was sent.
//!
//! The exporting thread notes while it encodes spans. A scrape in OpenMetrics looks up one exemplar
//! for each bucket. Both take one lock; the exporting thread holds it for the encoding of one
//! request, for which a scrape waits.
//!
//! The last task of a bucket wins. Nothing ages: an exemplar may refer to a trace that its store
//! has deleted already. The trace is noted before its request is sent, so it is missing in the
//! store if that request fails.

use super::record::group;
use crate::registry::kind::Kind;
use crate::registry::observer::Ids;
use crate::telemetry::metrics::names;
use crate::telemetry::metrics::tasks::BOUNDS;
use crate::telemetry::metrics::text::Exemplar;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most groups with exemplars; the metrics have series of their own for fewer. The bound limits
/// memory and the search, which is linear.
const GROUPS: usize = 16;
/// The number of exported buckets. The last one has no upper bound.
const BUCKETS: usize = BOUNDS.len() + 1;

/// The last exported task of each bucket, by group.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Vec<OfGroup>>);

/// The locked exemplars, while the spans of one request are encoded.
///
/// It spares a lock for each span.
pub(super) struct Noting<'a>(MutexGuard<'a, Vec<OfGroup>>);

/// The exemplars of one group.
#[derive(Debug)]
struct OfGroup {
    /// The path of the group, or `/`. Groups that the metrics show as `_other` are kept under their
    /// own path, so that series has no exemplars.
    group: &'static str,
    buckets: [Option<Noted>; BUCKETS],
}

/// A task in a bucket.
#[derive(Debug, Clone, Copy)]
struct Noted {
    /// The span that the exemplar refers to.
    ids: Ids,
    /// The duration of the task, in nanoseconds.
    nanos: u64,
    /// The end of the task, in Unix time, in nanoseconds.
    nanos_at: u64,
}

// === impl Noting ===

impl Noting<'_> {
    /// Notes a task of this kind that took `nanos` and ended at the Unix time `unix`, both in
    /// nanoseconds.
    ///
    /// It replaces the exemplar of the bucket. Groups beyond the first [`GROUPS`] are ignored.
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
        let bucket = BOUNDS.partition_point(|bound| *bound <= nanos);
        groups[place].buckets[bucket] = Some(Noted {
            ids,
            nanos,
            nanos_at: unix,
        });
    }
}

// === impl Exemplars ===

impl Exemplars {
    /// Locks the exemplars until the result is dropped. A poisoned lock is used as it is: at worst
    /// one exemplar is older.
    pub(super) fn lock(&self) -> Noting<'_> {
        Noting(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the exemplar of a bucket, which is given by its upper bound in seconds.
    ///
    /// Only the family `headcount_task_duration_seconds` has exemplars.
    ///
    /// Called on the thread of the scrape, for each bucket of each histogram. It takes the lock
    /// only for that family, and allocates only for an exemplar that it found.
    pub(super) fn find(&self, family: &str, group: &str, bound: f64) -> Option<Exemplar> {
        if family != names::TASK_DURATION.name {
            return None;
        }
        let groups = self.lock().0;
        let buckets = &groups.iter().find(|known| known.group == group)?.buckets;
        let bucket = BOUNDS.partition_point(|nanos| (*nanos as f64 / 1e9) < bound);
        let noted = buckets[bucket]?;
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
    fn a_bucket_has_the_trace_of_the_last_task_in_it() {
        let options = Options::of(TaskKind::Async);
        let path = kind::intern_path(kind::ROOT_PATH, "exemplars");
        let kind = kind::intern(path, "task", Location::caller(), &options, || "").kind;
        let exemplars = Exemplars::default();
        for (trace, nanos) in [(1, 1000), (2, 1023), (3, 5000), (4, 20_000), (5, 40_000)] {
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
        assert_eq!(found(4096.0 / 1e9), None);
        // From 4,096 ns to 16,384 ns the registry has two buckets, and the metrics have one.
        assert!(found(16_384.0 / 1e9).is_some_and(|found| found.contains("0003")));
        assert!(found(65_536.0 / 1e9).is_some_and(|found| found.contains("0005")));
        assert_eq!(found(f64::INFINITY), None);
    }
}
