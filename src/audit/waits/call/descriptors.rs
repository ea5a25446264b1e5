//! The file descriptors of this process: paths, kinds of files, and the addresses of sockets.
//!
//! Another thread may close a descriptor, or open another file under its number, at any time; the
//! description may then be of either. Each socket is asked by system call; the tables of the
//! system's sockets below `/proc/net` are not searched.
//!
//! The target of a link below `/proc/self/fd` tells the kind: a path, `pipe:[inode]`,
//! `socket:[inode]`, or `anon_inode:[kind]` (proc_pid_fd(5)). Only sockets need more: up to five
//! calls that change nothing in the socket. The link is read again after them, so that the
//! addresses belong to the inode that was seen first.

#![expect(
    unsafe_code,
    reason = "libc has no safe call for a socket that other code owns and may close"
)]

use crate::audit::proc;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The most characters of a path.
///
/// A report shows it in one line; the kernel's own limit is 4,096 bytes.
const SHOWN: usize = 200;
/// The length of `sockaddr_storage`: every address fits.
const ADDRESS: usize = 128;

/// The address of one end of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// IPv4 or IPv6, with the port.
    Ip(SocketAddr),
    /// A path, or `@` and an abstract name; empty if the socket has no name.
    Unix(String),
    /// The kernel; its address says nothing, so the protocol is shown instead.
    Netlink,
    /// A family that is not decoded.
    Other,
}

/// `getpeername` or `getsockname`.
type Asker =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

// === impl Address ===

impl Address {
    /// Parses a `sockaddr` (socket(7)): two bytes of family, then the address in the form of that
    /// family. `None` if it is too short.
    ///
    /// The bytes come from the kernel, or from the memory of a thread that may be changing them, so
    /// nothing in them is trusted.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let port = || Some(u16::from_be_bytes(*rest.first_chunk()?));
        Some(match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let ip: [u8; 4] = *rest.get(2..)?.first_chunk()?;
                Self::Ip((Ipv4Addr::from(ip), port()?).into())
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *rest.get(6..)?.first_chunk()?;
                let scope = rest.get(22..)?.first_chunk().copied().unwrap_or_default();
                let scope = u32::from_ne_bytes(scope);
                Self::Ip(SocketAddrV6::new(Ipv6Addr::from(ip), port()?, 0, scope).into())
            }
            libc::AF_UNIX => Self::Unix(match rest.split_first() {
                // An abstract name begins with a zero byte (unix(7)); a path ends with one.
                Some((0, [])) | None => String::new(),
                Some((0, name)) => format!("@{}", printable(&String::from_utf8_lossy(name))),
                Some(_) => {
                    let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                    printable(&String::from_utf8_lossy(path))
                }
            }),
            libc::AF_NETLINK => Self::Netlink,
            _ => Self::Other,
        })
    }

    /// Returns whether this is a Unix socket without a name.
    fn is_unnamed(&self) -> bool {
        matches!(self, Self::Unix(name) if name.is_empty())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(name) if name.is_empty() => f.write_str("(no name)"),
            Self::Unix(name) => f.write_str(name),
            Self::Netlink | Self::Other => Ok(()),
        }
    }
}

/// Returns what a descriptor refers to: a path, a kind such as `pipe`, or the addresses of a
/// socket. `None` if it is closed.
///
/// A socket that was replaced during the look yields `None`, as a closed one does.
pub(super) fn describe(number: i32) -> Option<String> {
    let target = target_of(number)?;
    if target.starts_with("socket:") {
        let socket = socket(number);
        // The inode is still the same, so the addresses are of this socket.
        return (target_of(number)? == target).then_some(socket);
    }
    Some(kind_of(&target))
}

/// Returns the target of the link in `/proc/self/fd`.
///
/// One system call. A path that is not UTF-8 is shown with replacement characters.
fn target_of(number: i32) -> Option<String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Returns the kind of a file that is not a socket: `pipe` for `pipe:[1234]`, `eventfd` for
/// `anon_inode:[eventfd]`, or the path.
fn kind_of(target: &str) -> String {
    if target.starts_with("pipe:") {
        return "pipe".to_owned();
    }
    match target.strip_prefix("anon_inode:") {
        Some(kind) => {
            let kind = kind.trim_matches(['[', ']']);
            if kind == "eventpoll" { "epoll" } else { kind }.to_owned()
        }
        None => printable(target),
    }
}

/// Returns the process that a pidfd refers to (pidfd_open(2)).
///
/// The field is -1 once the process was waited for, which does not parse as a pid.
pub(super) fn process_of(number: i32) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok()
}

/// Describes a socket: `tcp 127.0.0.1:5432` with the address of the peer, `tcp listen
/// 127.0.0.1:80`, or `udp on 0.0.0.0:53` if there is no peer.
///
/// `getpeername` fails for a socket that is not connected, which is how the three forms are told
/// apart.
fn socket(number: i32) -> String {
    let peer = address(number, libc::getpeername);
    let own = address(number, libc::getsockname);
    let kind = socket_kind(number, peer.as_ref().or(own.as_ref()));
    let listens = option(number, libc::SO_ACCEPTCONN) == Some(1);
    match (peer, own) {
        (_, Some(own)) if listens => format!("{kind} listen {own}"),
        // The server's end of a Unix connection has the name that both ends know.
        (Some(peer), Some(own)) if peer.is_unnamed() => format!("{kind} {own}"),
        (Some(Address::Netlink | Address::Other), _) => kind,
        (Some(peer), _) => format!("{kind} {peer}"),
        (None, None | Some(Address::Netlink | Address::Other)) => kind,
        (None, Some(own)) => format!("{kind} on {own}"),
    }
}

/// Describes the address that a thread is connecting to, from the arguments of its call.
///
/// `None` for families other than IP and Unix. At most 128 bytes are read, whatever the call
/// claims.
pub(super) fn connecting(number: i32, address: u64, length: u64) -> Option<String> {
    let length = usize::try_from(length).ok()?.min(ADDRESS);
    let address = Address::parse(&proc::memory(address, length)?)?;
    let named = matches!(address, Address::Ip(_) | Address::Unix(_));
    named.then(|| format!("{} {address}", socket_kind(number, Some(&address))))
}

/// Returns the kind of a socket, such as `tcp` or `netlink route`.
fn socket_kind(number: i32, address: Option<&Address>) -> String {
    let kind = match (address, option(number, libc::SO_TYPE)) {
        (Some(Address::Ip(_)), Some(libc::SOCK_STREAM)) => "tcp",
        (Some(Address::Ip(_)), Some(libc::SOCK_DGRAM)) => "udp",
        (Some(Address::Ip(_)), _) => "ip",
        (Some(Address::Unix(_)), _) => "unix",
        (Some(Address::Netlink), _) => {
            return match option(number, libc::SO_PROTOCOL) {
                Some(libc::NETLINK_ROUTE) => "netlink route".to_owned(),
                Some(libc::NETLINK_KOBJECT_UEVENT) => "netlink uevent".to_owned(),
                _ => "netlink".to_owned(),
            };
        }
        _ => "socket",
    };
    kind.to_owned()
}

/// Asks the kernel for an address of a socket; `None` if there is none, or the descriptor is not a
/// socket.
fn address(number: i32, ask: Asker) -> Option<Address> {
    let mut bytes = [0_u8; ADDRESS];
    let mut length = ADDRESS as libc::socklen_t;
    // SAFETY: `ask` is `getpeername` or `getsockname`. The kernel writes at most `length` bytes to
    // `bytes`, in any alignment, and the length of the address to `length`; both live through the
    // call and it keeps neither. The descriptor is only looked up: if it was closed, the call
    // fails, and if it is of another file, that file is not changed. So no `BorrowedFd` is used,
    // which would promise that it is open.
    let result = unsafe { ask(number, bytes.as_mut_ptr().cast(), &raw mut length) };
    let length = usize::try_from(length).ok()?;
    (result == 0).then(|| Address::parse(bytes.get(..length)?))?
}

/// Reads an integer option of a socket (socket(7)).
///
/// `None` if the descriptor is no socket, or was closed.
fn option(number: i32, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `value`, and the
    // length written to `length`; both live through the call and it keeps neither. SO_TYPE,
    // SO_PROTOCOL and SO_ACCEPTCONN are read without a change to the socket (SO_ERROR would clear
    // it). The descriptor may be closed or another file's, as in `address`.
    let result = unsafe {
        libc::getsockopt(
            number,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(value)
}

/// Cuts a path to [`SHOWN`] characters and replaces control characters, which would move the cursor
/// of a terminal.
///
/// The name of a file may be chosen by another user, and a report goes to terminals and logs.
fn printable(path: &str) -> String {
    let shown = path.chars().take(SHOWN);
    shown
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
