//! All processes that this one may see, as `/proc` lists them.
//!
//! They are not read at one moment: a process that starts or ends meanwhile may be listed or not.

use super::{fields, ticks};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

/// A process as `/proc/PID/stat` shows it (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stat {
    /// The pid of its parent.
    pub(crate) parent: u32,
    /// The time of its start, in clock ticks since boot.
    pub(crate) start: u64,
    /// True if it has ended, and its parent has not waited for it.
    pub(crate) is_zombie: bool,
    /// Its CPU time, user and system.
    pub(crate) cpu: Duration,
    /// The CPU time of the children that it has waited for, with that of theirs.
    pub(crate) waited: Duration,
    /// Its resident memory, in bytes.
    pub(crate) resident: u64,
}

/// Lists the processes by pid. Returns `None` if there are more than `most`, or if `/proc` cannot be
/// read.
pub(crate) fn all(most: usize) -> Option<HashMap<u32, Stat>> {
    let mut all = HashMap::new();
    let mut text = Vec::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if all.len() == most {
            return None;
        }
        text.clear();
        let read =
            File::open(entry.path().join("stat")).and_then(|mut stat| stat.read_to_end(&mut text));
        let stat = read
            .ok()
            .and_then(|_| parse(&String::from_utf8_lossy(&text)));
        if let Some(stat) = stat {
            all.insert(pid, stat);
        }
    }
    Some(all)
}

/// Returns this process.
pub(crate) fn own() -> Option<Stat> {
    parse(&String::from_utf8_lossy(&fs::read("/proc/self/stat").ok()?))
}

/// Returns whether another process runs the program of this one.
pub(crate) fn is_copy_of_this(pid: u32) -> bool {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe")).ok();
    pid != std::process::id()
        && program(&pid.to_string()).is_some_and(|other| program("self") == Some(other))
}

fn parse(stat: &str) -> Option<Stat> {
    let (_, fields) = fields(stat)?;
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // Field 3 is the state, 4 the parent, 14 to 17 are CPU times, 22 is the start, 24 the memory in
    // pages.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        start: number(22)?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        cpu: ticks(number(14)? + number(15)?),
        waited: ticks(number(16)? + number(17)?),
        resident: number(24)? * rustix::param::page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_parsed() {
        let stat = "17 (a) b) S 9 17 17 0 -1 4194304 1 0 0 0 250 50 30 20 20 0 4 0 12345 1 3 9";
        let expected = Stat {
            parent: 9,
            start: 12345,
            is_zombie: false,
            cpu: Duration::from_secs(3),
            waited: Duration::from_millis(500),
            resident: 3 * rustix::param::page_size() as u64,
        };
        assert_eq!(parse(stat), Some(expected));
    }

    #[test]
    fn too_many_processes_are_not_listed() {
        assert!(
            all(100_000)
                .expect("/proc can be read")
                .contains_key(&std::process::id())
        );
        assert_eq!(all(1), None);
    }
}
