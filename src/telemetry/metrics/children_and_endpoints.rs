//! The metrics `child_*` and `endpoint_*`.

use super::family::{Buckets, Families};
use super::names;
use crate::telemetry::supervised::{BOUNDS, CHILDREN, ENDPOINTS, EndpointState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds `child_*` and `endpoint_*` of a root, which is given by its number.
pub(super) fn read(root: u64, families: &mut Families) {
    let sum = |values: &mut dyn Iterator<Item = &AtomicU64>| -> u64 {
        values.map(|value| value.load(Ordering::Relaxed)).sum()
    };
    for (name, states) in CHILDREN.of(root) {
        let live = states
            .iter()
            .filter(|child| child.live.load(Ordering::Relaxed));
        families.add(&names::CHILD_LIVE, &[&name], live.count() as f64);
        let restarts = sum(&mut states.iter().map(|child| &child.restarts));
        families.add(&names::CHILD_RESTARTS, &[&name], restarts as f64);
        let used: Vec<_> = states.iter().map(|child| child.used()).collect();
        // What is not known has no series: 0 would be wrong.
        let seconds = used.iter().filter_map(|(seconds, _)| *seconds);
        if let Some(seconds) = seconds.reduce(|sum, seconds| sum + seconds) {
            families.add(&names::CHILD_CPU, &[&name], seconds);
        }
        let bytes = used.iter().filter_map(|(_, bytes)| *bytes);
        if let Some(bytes) = bytes.reduce(u64::saturating_add) {
            families.add(&names::CHILD_RESIDENT, &[&name], bytes as f64);
        }
    }
    for (name, states) in ENDPOINTS.of(root) {
        let is_up = |state: &Arc<EndpointState>| state.is_up() == Some(true);
        let up = states.iter().all(is_up);
        families.add(&names::ENDPOINT_UP, &[&name], f64::from(u8::from(up)));
        let transitions = sum(&mut states.iter().map(|state| &state.transitions));
        families.add(&names::ENDPOINT_TRANSITIONS, &[&name], transitions as f64);
        let nanos = sum(&mut states.iter().map(|state| &state.nanos));
        let mut buckets = Buckets {
            sum: nanos as f64 / 1e9,
            ..Buckets::default()
        };
        for (place, bound) in BOUNDS.iter().enumerate() {
            buckets.count += sum(&mut states.iter().map(|state| &state.checks[place]));
            buckets.up_to.push((*bound, buckets.count));
        }
        buckets.count += sum(&mut states.iter().map(|state| &state.checks[BOUNDS.len()]));
        let failed = sum(&mut states.iter().map(|state| &state.failed));
        // A scrape may see a failure before its check.
        let succeeded = buckets.count.saturating_sub(failed);
        families.add(&names::ENDPOINT_CHECKS, &[&name, "ok"], succeeded as f64);
        families.add(&names::ENDPOINT_CHECKS, &[&name, "failed"], failed as f64);
        families.add_histogram(&names::ENDPOINT_CHECK, &[&name], &buckets);
    }
}
