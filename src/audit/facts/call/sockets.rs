//! The addresses of our own sockets, by descriptor number: no table of the system's sockets is searched.

#![expect(
    unsafe_code,
    reason = "libc has no safe call for a socket that somebody else owns and may close"
)]

use super::files::printable;
use super::memory;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The length of `sockaddr_storage`: every address fits.
const ADDRESS: usize = 128;

/// The address of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Ip(SocketAddr),
    /// A path, or `@` and an abstract name; empty for none.
    Unix(String),
    Netlink,
    Other,
}

type Asker =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

// === impl Address ===

impl Address {
    /// socket(7): two bytes of family, then what it says.
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
                // The name of an abstract one begins with a zero (unix(7)), a path ends with one.
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

/// `tcp 127.0.0.1:5432` for the other side of a connection, `tcp listen 127.0.0.1:80`, `udp on 0.0.0.0:53`.
pub(super) fn describe(number: i32) -> String {
    let peer = address(number, libc::getpeername);
    let own = address(number, libc::getsockname);
    let kind = kind(number, peer.as_ref().or(own.as_ref()));
    let listens = option(number, libc::SO_ACCEPTCONN) == Some(1);
    match (peer, own) {
        (_, Some(own)) if listens => format!("{kind} listen {own}"),
        // A server's side of a unix connection has the name that both know.
        (Some(peer), Some(own)) if peer.is_unnamed() => format!("{kind} {own}"),
        (Some(Address::Netlink | Address::Other), _) => kind,
        (Some(peer), _) => format!("{kind} {peer}"),
        (None, None | Some(Address::Netlink | Address::Other)) => kind,
        (None, Some(own)) => format!("{kind} on {own}"),
    }
}

/// The address that a thread is connecting to, from the arguments of its call.
pub(super) fn connecting(number: i32, address: u64, length: u64) -> Option<String> {
    let length = usize::try_from(length).ok()?.min(ADDRESS);
    let address = Address::parse(&memory(address, length)?)?;
    let named = matches!(address, Address::Ip(_) | Address::Unix(_));
    named.then(|| format!("{} {address}", kind(number, Some(&address))))
}

fn kind(number: i32, address: Option<&Address>) -> String {
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

fn address(number: i32, ask: Asker) -> Option<Address> {
    let mut bytes = [0_u8; ADDRESS];
    let mut length = ADDRESS as libc::socklen_t;
    // SAFETY: `ask` is `getpeername` or `getsockname`. The kernel writes at most `length` bytes to `bytes`, in any
    // alignment, and the length of the address to `length`; both live through the call and it keeps neither. The number
    // is only looked up: where its owner has closed it, the call fails, and where it is another file's, that one stays
    // as it was, for neither call changes anything. So no `BorrowedFd` is claimed, which would promise that it is open.
    let result = unsafe { ask(number, bytes.as_mut_ptr().cast(), &raw mut length) };
    let length = usize::try_from(length).ok()?;
    (result == 0).then(|| Address::parse(bytes.get(..length)?))?
}

/// A number among the socket's options (socket(7)).
fn option(number: i32, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `value`, and the length written to
    // `length`; both live through the call and it keeps neither. SO_TYPE, SO_PROTOCOL and SO_ACCEPTCONN are read without
    // a change to the socket (SO_ERROR would clear it). The number may be closed or another's, as above.
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
