//! Times and identities of boots and runs that do not depend on the wall clock, which may jump.
//!
//! The wall clock may be set while a run is down, so how long ago a run was alive is computed from
//! the time since the boot, and whether that is the same boot is told by the boot's id. Both are
//! from the kernel; neither needs a file of headcount's own.

pub(super) use crate::audit::proc::uptime as now;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the kernel's random id of this boot, or an empty string if it cannot be read.
///
/// The kernel makes it at each boot (random(4)). An empty id equals another empty one, so without
/// `/proc` two boots look like one.
pub(super) fn id() -> String {
    read_line("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Returns a unique id for a run: a random UUID from the kernel, or else the pid and the time.
///
/// It links a marker with the report of the same run. The kernel makes a new UUID at each read
/// (random(4)).
pub(super) fn run_id() -> String {
    read_line("/proc/sys/kernel/random/uuid").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        format!("{}-{nanos}", std::process::id())
    })
}

/// Returns the trimmed content of a file, or `None` if it cannot be read or is empty.
///
/// For small files of the kernel; it has no bound on the length.
fn read_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Serde functions for wall clock times, as seconds since 1970.
pub(super) mod seconds {
    use super::{Duration, SystemTime, UNIX_EPOCH};
    use serde::{Deserialize, Deserializer, Serializer};

    /// A time before 1970 is written as 0.
    pub(in crate::state) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_f64(since.as_secs_f64())
    }

    /// A number that is negative, not finite or too large reads as 1970, since a damaged time is no
    /// reason to reject the file.
    pub(in crate::state) fn deserialize<'d, D: Deserializer<'d>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Ok(UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH))
    }
}
