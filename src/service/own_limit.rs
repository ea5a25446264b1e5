//! The limits of this process and this machine: open files, memory, ports. A failure because of one
//! says nothing about the server or the command that was to be reached.
//!
//! The soft limit of open files is raised at the start of a run, and given back to commands: some
//! of them walk all descriptors up to the limit, and programs that use select(2) break above 1024
//! (<https://0pointer.net/blog/file-descriptor-limits.html>).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;

/// The soft limit of open files before it was raised; unset if it was not.
static FILES_BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit of open files to the hard one. Does nothing if it is not allowed.
pub(super) fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if before != limit.maximum && setrlimit(Resource::Nofile, limit).is_ok() {
        FILES_BEFORE.get_or_init(|| before);
    }
}

/// Returns the soft limit of open files for commands; `None` if they inherit the right one.
pub(super) fn files_of_commands() -> Option<u64> {
    FILES_BEFORE.get().copied().flatten()
}

/// Sets the soft limit of open files of this process, for the commands that it starts.
pub(super) fn set_files(soft: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(soft);
    setrlimit(Resource::Nofile, limit).ok();
}

/// Returns whether an error is about a limit on this side, and not about the other side.
///
/// `EADDRNOTAVAIL` of connect(2) means that no local port is left (ip(7), `ip_local_port_range`), or
/// that this machine has no address of the kind, as for `::1` in a container without IPv6. Only the
/// first one is a limit. `EAGAIN` of fork(2) is not among them, because it has another meaning for
/// sockets.
pub(super) fn is_cause(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => true,
        Some(Errno::ADDRNOTAVAIL) => is_without_ports(),
        _ => false,
    }
}

/// Returns whether a limit has kept a process from being started.
pub(super) fn is_cause_of_start(error: &io::Error) -> bool {
    // EAGAIN of fork(2) and execve(2) is a limit of processes.
    error.kind() == io::ErrorKind::WouldBlock || is_cause(error)
}

/// Returns whether no local TCP port can be had at the moment.
///
/// The socket does not listen and does not share its port, so it competes for one as connect(2)
/// does.
fn is_without_ports() -> bool {
    let v4 = TcpSocket::new_v4()
        .and_then(|socket| socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))));
    let v6 = TcpSocket::new_v6()
        .and_then(|socket| socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))));
    // Without IPv6, its socket fails with another error.
    let in_use = |bound: &io::Result<()>| matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    v4.is_err() || in_use(&v6)
}

/// Returns the error if no socket can be opened at the moment because of a limit.
///
/// A name lookup without descriptors fails as if the name did not exist.
pub(super) fn of_sockets() -> Option<io::Error> {
    let error = UdpSocket::bind(("0.0.0.0", 0)).err()?;
    is_cause(&error).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_the_machine_does_not_have_is_no_limit() {
        let error = io::Error::from(Errno::ADDRNOTAVAIL);
        assert!(!is_cause(&error), "ports are left");
        assert!(is_cause(&Errno::MFILE.into()));
        assert!(is_cause_of_start(&Errno::AGAIN.into()));
        assert!(!is_cause_of_start(&Errno::NOENT.into()));
    }
}
