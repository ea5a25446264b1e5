//! The mark that each command carries in its environment, and by which its processes are found when
//! neither headcount nor the helper processes are left.
//!
//! A process keeps the environment that it was started with, and passes it on (execve(2)), so the
//! mark holds for the whole tree, except for what clears its environment. It names the run of
//! headcount by pid and start time, so that the processes of a run that is alive are told from those
//! of one that was killed. It also has the PID namespace and the user, because the pids of another
//! namespace mean nothing here.

use std::{fs, os::unix::ffi::OsStrExt, time::Duration, time::Instant};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, getuid, pidfd_open, pidfd_send_signal};

use super::guardian::{describe, parent_of, started_at};

/// The variable that holds the mark.
pub(super) const VARIABLE: &str = "HEADCOUNT_TREE";
/// The time between the stop signal and SIGKILL for processes of a run that was killed.
const STOP_BUDGET: Duration = Duration::from_secs(1);
/// The time after SIGKILL after which processes are left alone.
const KILL_BUDGET: Duration = Duration::from_secs(1);
/// The pause between two looks at processes that were told to end.
const LOOK: Duration = Duration::from_millis(10);

/// The names of the processes that earlier runs left behind.
#[derive(Debug, PartialEq)]
pub(super) struct Strays {
    pub(super) ended: Vec<String>,
    /// The processes that have survived SIGKILL, or appeared too late.
    pub(super) alive: Vec<String>,
}

/// Returns the mark of this run of headcount: `service:user:namespace:pid:start`.
pub(super) fn own(service: &str) -> String {
    let pid = std::process::id();
    let start = started_at(pid).unwrap_or_default();
    format!("{}{pid}:{start}", of_service(service))
}

/// Returns the mark of the helper processes of a run with this mark, which their command does not get.
/// The name of a service has no spaces, so it is not the mark of a command.
pub(super) fn of_helper(mark: &str) -> String {
    format!("helper of {mark}")
}

/// Returns the part of the mark that all runs of the service have in common.
fn of_service(service: &str) -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let namespace = namespace.as_os_str().as_bytes();
    // As `pid:[4026531836]`.
    let number: String = String::from_utf8_lossy(namespace)
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    format!("{service}:{}:{number}:", getuid().as_raw())
}

/// Returns the mark of a process; `None` if it has none or cannot be read.
pub(super) fn of(pid: Pid) -> Option<String> {
    let variables = fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).ok()?;
    let mut variables = variables.split(|byte| *byte == 0);
    let mark = variables.find_map(|variable| {
        let value = variable.strip_prefix(VARIABLE.as_bytes())?;
        value.strip_prefix(b"=")
    })?;
    Some(String::from_utf8_lossy(mark).into_owned())
}

/// Ends the processes of earlier runs of the service that were killed together with their helper
/// processes. It takes at most two seconds, and no time if there are none.
pub(super) fn end_strays(service: &str) -> Strays {
    let common = of_service(service);
    let find = || strays(&common);
    let tell = |pid, signals: &[Signal]| signal(pid, &common, signals);
    let begun = Instant::now();
    end_all(find, tell, || begun.elapsed())
}

/// Tells the processes that `find` returns to end, and kills what is left after [`STOP_BUDGET`], until
/// it returns none or [`KILL_BUDGET`] has elapsed too.
fn end_all(
    mut find: impl FnMut() -> Vec<Pid>,
    tell: impl Fn(Pid, &[Signal]),
    elapsed: impl Fn() -> Duration,
) -> Strays {
    // Those that were told, with their names: a process that has ended has none.
    let mut told: Vec<(Pid, String)> = Vec::new();
    loop {
        let left = find();
        let elapsed = elapsed();
        for pid in &left {
            if !told.iter().any(|(one, _)| one == pid) {
                told.push((*pid, describe(*pid)));
                tell(*pid, &[Signal::TERM, Signal::CONT]);
            }
            if elapsed > STOP_BUDGET {
                tell(*pid, &[Signal::KILL]);
            }
        }
        if left.is_empty() || elapsed > STOP_BUDGET + KILL_BUDGET {
            let (alive, ended) = told.into_iter().partition(|(pid, _)| left.contains(pid));
            return Strays {
                ended: names(ended),
                alive: names(alive),
            };
        }
        std::thread::sleep(LOOK);
    }
}

/// Returns the names of processes.
fn names(processes: Vec<(Pid, String)>) -> Vec<String> {
    processes.into_iter().map(|(_, name)| name).collect()
}

/// Returns the processes that carry the mark of a run of this service that is not alive. This process
/// and those above it are left out: headcount may have been started by such a process.
fn strays(common: &str) -> Vec<Pid> {
    let above: Vec<Pid> = std::iter::successors(Some(getpid()), |pid| parent_of(*pid)).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| {
        let number = process.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(number)
    });
    pids.filter(|pid| !above.contains(pid) && is_stray(*pid, common))
        .collect()
}

/// Returns whether a process carries the mark of a run of this service that is not alive.
fn is_stray(pid: Pid, common: &str) -> bool {
    let mark = of(pid);
    let run = mark.as_deref().and_then(|mark| mark.strip_prefix(common));
    let Some((owner, start)) = run.and_then(|run| run.split_once(':')) else {
        return false;
    };
    let owner = owner.parse().ok().and_then(started_at);
    // A pid that was reused belongs to another process, which started later.
    owner.is_none() || owner != start.parse().ok()
}

/// Signals a stray, and not another process that got its pid meanwhile.
fn signal(pid: Pid, common: &str, signals: &[Signal]) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if is_stray(pid, common) {
        for signal in signals {
            // It may have ended.
            pidfd_send_signal(&process, *signal).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn only_what_is_gone_in_the_end_has_ended() {
        let pid = |number| Pid::from_raw(number).expect("not zero");
        // No processes have such pids, so they have no names.
        let (first, late, stubborn) = (pid(i32::MAX), pid(i32::MAX - 1), pid(i32::MAX - 2));
        let looks = [vec![first, stubborn], vec![late, stubborn], vec![stubborn]];
        let look = Cell::new(0);
        let find = || looks[look.replace(look.get() + 1)].clone();
        let elapsed = || {
            if look.get() < 3 {
                Duration::ZERO
            } else {
                Duration::MAX
            }
        };
        let strays = end_all(find, |_, _| {}, elapsed);
        let name = |pid: Pid| format!(" (pid {})", pid.as_raw_pid());
        let expected = Strays {
            ended: vec![name(first), name(late)],
            alive: vec![name(stubborn)],
        };
        assert_eq!(strays, expected);
    }
}
