//! The threads and child processes of this process, read from `/proc`.
//!
//! Every function reads at one moment; a thread or a process that ends meanwhile is left out, or
//! read as `None`. Nothing is stopped or signalled, and no lock is taken. The formats are those of
//! proc(5) and its pages, such as proc_pid_stat(5).
//!
//! It does not judge what it reads: [`super::threads`] compares it with the baseline and with the
//! registered threads.
//!
//! The files that are read, and what they cost: `stat` for each listed thread, `status` for
//! signals, `wchan` and `syscall` for a wait, `schedstat` for a sample, `children` for each thread
//! when children are listed. Each is a small file that the kernel generates when it is read: an
//! open, a read or two, and a close. A list of a thousand threads therefore takes milliseconds, and
//! is not made on a hot path.

pub(crate) mod maps;
#[cfg(all(
    feature = "service",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod other;
#[cfg(feature = "admin")]
pub(crate) mod processes;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod syscall;

use crate::text::without_user_info;
use crate::threads::own_tid;
use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// The identity of a thread: its id and its start time, in clock ticks since boot. The kernel
/// reuses ids; the start time tells two threads with the same id apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadKey {
    /// The kernel's thread id, as `gettid` returns it.
    pub(crate) tid: u32,
    /// Field 22 of `stat`. Two threads could share an id and a tick only if the kernel reused the
    /// id within 10 ms.
    start: u64,
}

/// A thread as `/proc/self/task/TID/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsThread {
    /// The id and the start time.
    pub(crate) key: ThreadKey,
    /// The name: at most 15 bytes. A thread that was never named has the name of its creator.
    pub(crate) comm: String,
    /// The kernel's one-letter state (proc_pid_stat(5)).
    pub(crate) state: char,
    /// CPU time used so far, user and system. It counts in clock ticks, usually of 10 ms, so a
    /// thread that uses little may show zero.
    pub(crate) cpu: Duration,
}

/// Scheduler statistics of a thread (`schedstat`, see `scheduler/sched-stats` in the kernel's
/// documentation).
#[cfg(tokio_unstable)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The `schedstat` line, if the thread sleeps. If the line is the same in two samples, the
    /// thread slept all the time between them. `None` if the thread runs or could run: while it
    /// waits for a processor the line does not change either.
    pub(crate) asleep: Option<String>,
    /// The time it has spent on a processor.
    pub(crate) ran: Duration,
}

/// Sets of signals of one thread; signal 1 is the lowest bit.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signals {
    /// The thread's mask (`SigBlk`). All bits are set for a moment while a thread starts or ends.
    pub(crate) blocked: u64,
    /// Signals sent to this thread that it has not received yet (`SigPnd`); those sent to the
    /// process as a whole are not in it.
    pub(crate) pending: u64,
}

/// A live child process of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    /// The child's process id. The kernel does not reuse it before the child was waited for.
    pub(crate) pid: u32,
    /// The command line, at most 200 characters; the name in brackets if there is none.
    pub(crate) command: String,
    /// The id of the thread that forked it. The children of a thread that ends pass to another
    /// thread.
    pub(crate) forked_by: u32,
}

/// Returns whether threads and children can be listed. They cannot be without `/proc`, or if
/// `/proc` is of another PID namespace (pid_namespaces(7)): its ids are then not those that threads
/// have here.
///
/// Costs one look at a path of `/proc`. It is asked anew each time, because `/proc` may be mounted
/// or unmounted while the process runs.
pub(crate) fn is_observed() -> bool {
    is_thread(own_tid())
}

// === impl OsThread ===

impl OsThread {
    /// Returns the time since the thread started, when `uptime` was the time since boot.
    pub(crate) fn age(&self, uptime: Duration) -> Duration {
        // In whole ticks, as the start is.
        ticks(to_ticks(uptime).saturating_sub(self.key.start))
    }

    /// Returns the kernel's one-letter state in words (proc_pid_stat(5)).
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            'R' => "running",
            'S' | 'I' => "sleeping",
            'D' => "in uninterruptible sleep",
            'T' | 't' => "stopped",
            _ => "in an unknown state",
        }
    }
}

/// Lists the threads of the process, without those that end while the list is read.
///
/// In the order in which the kernel lists them. Allocates a string for each name. The calling
/// thread is in the list.
pub(crate) fn threads() -> Vec<OsThread> {
    let tids = task_folders().filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    tids.filter_map(thread).collect()
}

/// Lists the `/proc/self/task/TID` folders; none if threads are not observed.
///
/// Entries that cannot be read are skipped: a list of some threads is of more use than none.
fn task_folders() -> impl Iterator<Item = DirEntry> {
    let folder = is_observed().then(|| fs::read_dir("/proc/self/task"));
    folder.into_iter().flatten().flatten().flatten()
}

/// Returns whether this process has a thread with this id.
///
/// True for a zombie thread too, as long as its folder exists.
pub(crate) fn is_thread(tid: u32) -> bool {
    Path::new(&format!("/proc/self/task/{tid}")).exists()
}

/// Reads thread `tid` of this process; `None` if it has ended: it has no files any more, or is a
/// zombie.
pub(crate) fn thread(tid: u32) -> Option<OsThread> {
    parse_stat(tid, &read(tid, "stat").ok()?)
}

/// Returns the kernel's one-letter state of a thread; `None` if it has ended.
///
/// Reads and parses the whole of `stat`.
pub(crate) fn state(tid: u32) -> Option<char> {
    thread(tid).map(|thread| thread.state)
}

/// Returns whether the thread has ended.
///
/// True also for an id that was never a thread of this process.
pub(crate) fn is_over(tid: u32) -> bool {
    thread(tid).is_none()
}

/// Reads the scheduler statistics of thread `tid`. Returns `None` if the thread has ended, or if
/// the kernel does not count.
///
/// `schedstat` is read before `stat`: a thread that runs in between has a line that differs from
/// the next sample's. A time of zero means a kernel without the counters.
#[cfg(tokio_unstable)]
pub(crate) fn counted(tid: u32) -> Option<Counted> {
    let ran = read(tid, "schedstat").ok()?;
    let thread = thread(tid)?;
    let nanos = ran.split_ascii_whitespace().next()?.parse().ok()?;
    (nanos > 0).then(|| Counted {
        asleep: matches!(thread.state, 'S' | 'D').then_some(ran),
        ran: Duration::from_nanos(nanos),
    })
}

/// Reads the signals of thread `tid` (proc_pid_status(5)); `None` if it has ended.
#[cfg(target_os = "linux")]
pub(crate) fn signals(tid: u32) -> Option<Signals> {
    parse_status(&read(tid, "status").ok()?)
}

/// Returns the function of the kernel in which the thread waits, if the kernel shows it
/// (proc_pid_wchan(5)).
///
/// `None` for a thread that runs, for one without permission to look, and on a kernel without
/// symbols.
pub(crate) fn kernel_function(tid: u32) -> Option<String> {
    let function = read(tid, "wchan").ok()?;
    (function != "0" && !function.is_empty()).then_some(function)
}

/// Reads the file `name` of thread `tid`, without the newline at its end.
///
/// Text that is not UTF-8, which a name may contain, is replaced and not an error.
pub(crate) fn read(tid: u32, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(tid, name)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned())
}

/// Opens the file `name` of thread `tid`. It stays the file of this thread even when the id is used
/// again. `syscall` needs the right to trace the process (ptrace(2)), which a process has for
/// itself unless it is not dumpable.
pub(crate) fn open(tid: u32, name: &str) -> io::Result<File> {
    File::open(format!("/proc/self/task/{tid}/{name}"))
}

/// Reads memory of this process, which another thread may be writing at the same time; `None` if
/// not all of it can be read. An address that is not mapped is an error, and no fault.
///
/// Costs an open, a read and a close for each call, and allocates `length` bytes first; the callers
/// read at most some hundred bytes. It needs a process that is dumpable (prctl(2)).
#[cfg(target_os = "linux")]
pub(crate) fn memory(address: u64, length: usize) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length];
    // Opened each time: after a fork, a file opened before shows the memory of the parent.
    let memory = File::open("/proc/self/mem").ok()?;
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}

/// Splits the line of a `stat` file into the name and the fields from the third on (proc_pid_stat(5)).
/// The name is in parentheses and may contain any character, parentheses too, so fields are counted
/// from the last one.
fn fields(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, comm) = before.split_once('(')?;
    Some((comm, after.split_ascii_whitespace().collect()))
}

/// Parses the fields of `stat` that are needed. Returns `None` for a zombie.
///
/// Also used for processes, which have the same format in `/proc/PID/stat`. A number that is
/// missing or malformed makes the whole line `None`.
fn parse_stat(tid: u32, stat: &str) -> Option<OsThread> {
    let (comm, fields) = fields(stat)?;
    // Field 3 is the state, 14 and 15 the CPU time, 22 the start time.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = fields.first()?.chars().next()?;
    // A zombie has ended: only its exit status is left.
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    Some(OsThread {
        key: ThreadKey {
            tid,
            start: number(22)?,
        },
        comm: comm.to_owned(),
        state,
        cpu: ticks(number(14)? + number(15)?),
    })
}

/// Parses the sets of signals of a `status` file.
///
/// `None` unless both lines are there.
#[cfg(target_os = "linux")]
fn parse_status(status: &str) -> Option<Signals> {
    let set = |name: &str| {
        let digits = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(digits.trim(), 16).ok()
    };
    Some(Signals {
        blocked: set("SigBlk:")?,
        pending: set("SigPnd:")?,
    })
}

/// Lists the live child processes that are not in `known`, sorted by pid. The kernel lists children
/// per thread, so each thread's `children` file is read (proc_tid_children(5)).
///
/// The list is reliable only for children that neither start nor end meanwhile
/// (proc_tid_children(5)): one that ends can make the kernel skip another. A later listing finds
/// it. Without the file, on a kernel built without `CONFIG_PROC_CHILDREN`, no child is found.
pub(crate) fn children(known: &HashSet<u32>) -> Vec<Child> {
    let mut children = Vec::new();
    for thread in task_folders() {
        let forked_by = thread.file_name().to_str().and_then(|tid| tid.parse().ok());
        let line = fs::read_to_string(thread.path().join("children"));
        // A thread that ended meanwhile no longer has this file; its children now belong to another
        // thread.
        let (Some(forked_by), Ok(line)) = (forked_by, line) else {
            continue;
        };
        let pids = line
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok());
        // A zombie has ended: only its exit status is left, for the parent to wait for.
        let live = pids.filter(|pid| !known.contains(pid) && start_of(*pid).is_some());
        children.extend(live.map(|pid| Child {
            pid,
            command: command_of(pid),
            forked_by,
        }));
    }
    children.sort_by_key(|child| child.pid);
    children
}

/// Returns when a process was started, in clock ticks since boot; `None` if it has ended, whether
/// it was reaped or not. Together with the pid this identifies a process until the next boot.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let process = parse_stat(pid, &String::from_utf8_lossy(&stat))?;
    Some(process.key.start)
}

/// Returns the command line without user info in URLs, cut to 200 characters; the name in brackets
/// if there is none.
///
/// The program may have overwritten its arguments, so the text is shown and never interpreted.
fn command_of(pid: u32) -> String {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = read("cmdline");
    if line.is_empty() {
        return format!("[{}]", String::from_utf8_lossy(&read("comm")).trim_end());
    }
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let line = words.join(" ");
    without_user_info(&line).chars().take(200).collect()
}

/// Returns the time since the machine booted, including time in suspend (`CLOCK_BOOTTIME`). The
/// start times of `stat` are of this clock too, so that an age can be computed from both.
pub(crate) fn uptime() -> Duration {
    crate::recorder::uptime()
}

/// Converts clock ticks, the unit of `stat`, to a duration.
///
/// The unit is `sysconf(_SC_CLK_TCK)`, 100 a second on every common system. The result is cut to
/// milliseconds.
fn ticks(n: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(n.saturating_mul(1000) / per_second)
}

/// Converts a duration to clock ticks, rounded down.
///
/// It rounds as the kernel does for the start time, so that the age of a new thread is not
/// negative.
fn to_ticks(time: Duration) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second();
    let nanos = u64::from(time.subsec_nanos());
    time.as_secs() * per_second + nanos * per_second / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn a_thread_name_may_hold_parentheses_and_spaces() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 1";
        let thread = parse_stat(17, stat).expect("a valid line");
        assert_eq!(thread.comm, "a) b (c");
        assert_eq!((thread.state, thread.key.start), ('S', 12345));
        assert_eq!(thread.cpu.as_millis(), 3000);
    }

    #[test]
    fn a_zombie_is_not_listed() {
        let stat = "17 (a) Z 1 17 17 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 1";
        assert_eq!(parse_stat(17, stat), None);
    }
}
