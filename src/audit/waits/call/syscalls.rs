//! The system calls in which threads wait, by number, for x86_64 and aarch64. The numbers are
//! libc's for the target architecture. A call that is not in the table is reported by its number.
//!
//! A call belongs here if a thread can be seen waiting in it, even if only on a slow disk. The
//! table is searched in order; `futex` and `epoll_wait` come first, because most threads wait
//! there.

use Kind::{Absolute, Child, ChildById, Connect, File, Futex, Other, Poll, Resumed, Signal, Sleep};

/// The meaning of a call's arguments: the part of them that shows what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first argument is a file descriptor.
    File,
    /// The first is a file descriptor; the second and third are the address of the peer and its
    /// length.
    Connect,
    /// The first and second are a list of `struct pollfd` and its length.
    Poll,
    /// The first is a length of time, as a `struct timespec`.
    Sleep,
    /// The third is a time: a moment of the clock in the first argument if the second has
    /// `TIMER_ABSTIME`, a length of time otherwise.
    Absolute,
    /// See futex(2).
    Futex,
    /// The first is a pid.
    Child,
    /// The second is a pid or a pidfd, according to the first (waitid(2)).
    ChildById,
    /// It waits for a signal.
    Signal,
    /// A call of another kind that was interrupted by a stop of the process, and resumed.
    Resumed,
    /// The arguments are not decoded.
    Other,
}

/// The number, the name and the kind of a call.
///
/// The name is static, so that a wait costs no allocation for it.
type Entry = (libc::c_long, &'static str, Kind);

/// Returns the name and the kind of a call.
///
/// A linear search over 73 entries at most, once for each thread in a report.
pub(super) fn of(number: libc::c_long) -> Option<(&'static str, Kind)> {
    let find = |calls: &'static [Entry]| calls.iter().find(|call| call.0 == number);
    let (_, name, kind) = find(&CALLS).or_else(|| find(&OLD))?;
    Some((name, *kind))
}

/// The calls of all architectures, under the names of their libc functions if those differ: `recv`
/// is `recvfrom`.
const CALLS: [Entry; 66] = [
    (libc::SYS_futex, "futex", Futex),
    (libc::SYS_epoll_pwait, "epoll_wait", File),
    (libc::SYS_epoll_pwait2, "epoll_wait", File),
    (libc::SYS_ppoll, "poll", Poll),
    (libc::SYS_pselect6, "select", Other),
    (libc::SYS_nanosleep, "nanosleep", Sleep),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Absolute),
    (libc::SYS_wait4, "wait4", Child),
    (libc::SYS_waitid, "waitid", ChildById),
    (libc::SYS_rt_sigtimedwait, "sigwait", Signal),
    (libc::SYS_rt_sigsuspend, "sigsuspend", Signal),
    (libc::SYS_restart_syscall, "restart_syscall", Resumed),
    (libc::SYS_read, "read", File),
    (libc::SYS_readv, "readv", File),
    (libc::SYS_pread64, "pread", File),
    (libc::SYS_preadv, "preadv", File),
    (libc::SYS_preadv2, "preadv", File),
    (libc::SYS_write, "write", File),
    (libc::SYS_writev, "writev", File),
    (libc::SYS_pwrite64, "pwrite", File),
    (libc::SYS_pwritev, "pwritev", File),
    (libc::SYS_pwritev2, "pwritev", File),
    (libc::SYS_recvfrom, "recv", File),
    (libc::SYS_recvmsg, "recvmsg", File),
    (libc::SYS_recvmmsg, "recvmmsg", File),
    (libc::SYS_sendto, "send", File),
    (libc::SYS_sendmsg, "sendmsg", File),
    (libc::SYS_sendmmsg, "sendmmsg", File),
    (libc::SYS_accept, "accept", File),
    (libc::SYS_accept4, "accept", File),
    (libc::SYS_connect, "connect", Connect),
    (libc::SYS_shutdown, "shutdown", File),
    (libc::SYS_close, "close", File),
    (libc::SYS_flock, "flock", File),
    (libc::SYS_fcntl, "fcntl", File),
    (libc::SYS_ioctl, "ioctl", File),
    (libc::SYS_fsync, "fsync", File),
    (libc::SYS_fdatasync, "fdatasync", File),
    (libc::SYS_sync_file_range, "sync_file_range", File),
    (libc::SYS_syncfs, "syncfs", File),
    (libc::SYS_fallocate, "fallocate", File),
    (libc::SYS_ftruncate, "ftruncate", File),
    (libc::SYS_getdents64, "getdents", File),
    (libc::SYS_fstat, "fstat", File),
    (libc::SYS_sendfile, "sendfile", File),
    (libc::SYS_splice, "splice", File),
    (libc::SYS_tee, "tee", File),
    (libc::SYS_vmsplice, "vmsplice", File),
    (libc::SYS_copy_file_range, "copy_file_range", File),
    (libc::SYS_io_uring_enter, "io_uring_enter", File),
    (libc::SYS_mq_timedreceive, "mq_receive", File),
    (libc::SYS_mq_timedsend, "mq_send", File),
    (libc::SYS_io_getevents, "io_getevents", Other),
    (libc::SYS_futex_waitv, "futex_waitv", Other),
    (libc::SYS_msgrcv, "msgrcv", Other),
    (libc::SYS_msgsnd, "msgsnd", Other),
    (libc::SYS_semop, "semop", Other),
    (libc::SYS_semtimedop, "semtimedop", Other),
    (libc::SYS_openat, "open", Other),
    (libc::SYS_clone, "clone", Other),
    (libc::SYS_clone3, "clone", Other),
    (libc::SYS_execve, "execve", Other),
    (libc::SYS_getrandom, "getrandom", Other),
    (libc::SYS_sync, "sync", Other),
    (libc::SYS_munmap, "munmap", Other),
    (libc::SYS_madvise, "madvise", Other),
];

/// Calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD: [Entry; 7] = [
    (libc::SYS_epoll_wait, "epoll_wait", File),
    (libc::SYS_poll, "poll", Poll),
    (libc::SYS_select, "select", Other),
    (libc::SYS_pause, "pause", Signal),
    (libc::SYS_getdents, "getdents", File),
    (libc::SYS_open, "open", Other),
    (libc::SYS_vfork, "vfork", Other),
];
/// aarch64 was given only the newer forms of these calls, such as `ppoll` and `openat`.
#[cfg(target_arch = "aarch64")]
const OLD: [Entry; 0] = [];
