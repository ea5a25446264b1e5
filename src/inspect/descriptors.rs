//! The descriptors of a process that its tasks wait for, in words.
//!
//! tokio registers each socket with epoll(7) under the address of its own record of it, which the
//! kernel shows (see `stacks::reader::sockets`). The descriptor's link in `/proc/PID/fd` has the inode of a
//! socket, and the tables in `/proc/PID/net` have its addresses. This needs no help of the process, and
//! no debug information.

use crate::stacks::reader::sockets;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The most descriptors of a process that are looked at.
const DESCRIPTORS: usize = 1 << 17;
/// The most lines of a table of sockets, which are those of the whole network namespace.
const LINES: usize = 1 << 18;
/// The most bytes of a line. A path of a socket has at most 108, and the kernel may write 4 for each.
const LINE: u64 = 1024;
/// The state of a listening socket in the tables.
const LISTENS: &str = "0A";

/// The descriptors of one process.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The folder of the process.
    process: PathBuf,
    /// Descriptors by the addresses of tokio's records.
    records: OnceCell<HashMap<u64, i32>>,
    /// Sockets in words, by their inodes.
    sockets: OnceCell<HashMap<u64, String>>,
    /// Descriptors in words, by number.
    named: RefCell<HashMap<i32, Option<String>>>,
}

// === impl Descriptors ===

impl Descriptors {
    /// Prepares the descriptors of the process that the folder describes. They are read when they are
    /// needed.
    pub(crate) fn of(process: &Path) -> Self {
        Self {
            process: process.to_owned(),
            records: OnceCell::new(),
            sockets: OnceCell::new(),
            named: RefCell::default(),
        }
    }

    /// Describes the descriptor with a record of tokio, as in `tcp 127.0.0.1:5432 (from
    /// 127.0.0.1:51864)`. `None` if it is not known.
    pub(crate) fn describe(&self, record: u64) -> Option<String> {
        self.of_number(*self.records().get(&record)?)
    }

    /// Describes the descriptor with a number. `None` if it is closed, or cannot be looked at.
    pub(crate) fn of_number(&self, number: i32) -> Option<String> {
        let mut named = self.named.borrow_mut();
        let name = named.entry(number).or_insert_with(|| self.name(number));
        name.clone()
    }

    /// Returns whether the descriptor is that of a process (pidfd_open(2)).
    pub(crate) fn is_process(&self, record: u64) -> bool {
        let number = self.records().get(&record);
        number.is_some_and(|number| self.target(*number).contains("[pidfd]"))
    }

    fn records(&self) -> &HashMap<u64, i32> {
        let read = || sockets::registered(&self.process, DESCRIPTORS, |_| true);
        self.records.get_or_init(read)
    }

    fn target(&self, number: i32) -> String {
        let link = self.process.join("fd").join(number.to_string());
        let target = fs::read_link(link).unwrap_or_default();
        target.to_string_lossy().into_owned()
    }

    fn name(&self, number: i32) -> Option<String> {
        let target = self.target(number);
        let socket = target.strip_prefix("socket:[");
        let Some(inode) = socket.and_then(|inode| inode.strip_suffix(']')) else {
            return (!target.is_empty()).then(|| format!("descriptor {number} ({target})"));
        };
        let inode: u64 = inode.parse().ok()?;
        let sockets = self.sockets.get_or_init(|| read_sockets(&self.process));
        sockets.get(&inode).cloned()
    }
}

/// Reads the sockets of the network namespace of a process, in words.
fn read_sockets(process: &Path) -> HashMap<u64, String> {
    let mut sockets = HashMap::new();
    let table = |name: &str| lines(File::open(process.join("net").join(name)).ok());
    for (name, kind) in [
        ("tcp", "tcp"),
        ("tcp6", "tcp"),
        ("udp", "udp"),
        ("udp6", "udp"),
    ] {
        sockets.extend(table(name).filter_map(|line| internet(kind, &line)));
    }
    sockets.extend(table("unix").filter_map(|line| unix(&line)));
    sockets
}

/// Returns the lines of a table without its first one, each when it is needed. Ends at the first that is
/// too long.
fn lines<R: Read>(table: Option<R>) -> impl Iterator<Item = String> {
    let mut table = table.map(BufReader::new);
    let lines = std::iter::from_fn(move || {
        let mut line = Vec::new();
        let mut rest = table.as_mut()?.by_ref().take(LINE);
        rest.read_until(b'\n', &mut line).ok()?;
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        is_whole.then(|| String::from_utf8_lossy(&line).into_owned())
    });
    lines.skip(1).take(LINES)
}

/// Parses a line of `/proc/net/tcp` or another table of its form (proc_pid_net(5)): the second and
/// third field are the addresses, the fourth is the state, and the tenth is the inode.
fn internet(kind: &str, line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, own, peer, state, ..] = fields.as_slice() else {
        return None;
    };
    let inode = fields.get(9)?.parse().ok()?;
    let (own, peer) = (address(own)?, address(peer)?);
    let words = if kind == "tcp" && *state == LISTENS {
        format!("tcp listen {own}")
    } else if peer.port() == 0 {
        format!("{kind} on {own}")
    } else {
        format!("{kind} {peer} (from {own})")
    };
    Some((inode, words))
}

/// Parses a line of `/proc/net/unix`: the seventh field is the inode, and the eighth the path, if
/// there is one.
fn unix(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let flags = fields.next()?;
    let inode = fields.nth(2)?.parse().ok()?;
    // The flag of a socket that accepts connections (`__SO_ACCEPTCON`).
    let listens = if flags == "00010000" { "listen " } else { "" };
    let path = fields.next().unwrap_or("(no name)");
    Some((inode, format!("unix {listens}{}", crate::text::plain(path))))
}

/// Parses an address, as in `0100007F:0050`: words of four bytes in the order of this machine, and the
/// port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip.as_bytes().chunks(8);
    let words = words.map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Option<Vec<[u8; 4]>> = words.map(|word| word.map(u32::to_ne_bytes)).collect();
    let bytes = bytes?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<Ipv4Addr as From<[u8; 4]>>::from(bytes.try_into().ok()?)),
        16 => {
            let bytes: [u8; 16] = bytes.try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Descriptors, LINES, internet, lines, unix};
    use std::cell::Cell;
    use std::io::{self, Read};
    use std::path::Path;

    /// A table without an end, which counts the bytes that were read.
    struct Endless<'a>(&'a Cell<usize>, &'static [u8]);

    impl Read for Endless<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = into.len().min(self.1.len());
            into[..count].copy_from_slice(&self.1[..count]);
            self.0.set(self.0.get() + count);
            Ok(count)
        }
    }

    #[test]
    fn a_table_is_read_up_to_a_bound() {
        let read = Cell::new(0);
        assert_eq!(lines(Some(Endless(&read, b"1: a\n"))).count(), LINES);
        assert!(read.get() < 6 * LINES, "{} bytes", read.get());
        let read = Cell::new(0);
        assert_eq!(lines(Some(Endless(&read, b"long"))).count(), 0);
        assert!(read.get() < 10_000, "{} bytes", read.get());
        let short: Vec<String> = lines(Some(&b"head\none\ntwo\n"[..])).collect();
        assert_eq!(short, ["one", "two"]);
        assert_eq!(lines(None::<&[u8]>).count(), 0);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_described_by_their_addresses() {
        for (kind, line, words) in [
            (
                "tcp",
                "0: 0100007F:CA98 0100007F:1538 01 00000000:00000000 02:0 00000000 1000 0 7712 1 0 20",
                "tcp 127.0.0.1:5432 (from 127.0.0.1:51864)",
            ),
            (
                "tcp",
                "1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:0 00000000 0 0 7712 1 0 100",
                "tcp listen 0.0.0.0:80",
            ),
            (
                "udp",
                "2: 0100007F:0035 00000000:0000 07 00000000:00000000 00:0 00000000 0 0 7712 2 0 0",
                "udp on 127.0.0.1:53",
            ),
            (
                "tcp",
                "3: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000100007F:1538 01 0:0 02:0 0 0 0 7712",
                "tcp 127.0.0.1:5432 (from 127.0.0.1:80)",
            ),
        ] {
            assert_eq!(
                internet(kind, line),
                Some((7712, words.to_owned())),
                "{line}"
            );
        }
        assert_eq!(internet("tcp", "sl local_address rem_address"), None);
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 7712 /run/shop.sock";
        assert_eq!(
            unix(line),
            Some((7712, "unix listen /run/shop.sock".to_owned()))
        );
        let line = "0000000000000000: 00000003 00000000 00000000 0001 03 7713";
        assert_eq!(unix(line), Some((7713, "unix (no name)".to_owned())));
    }

    #[test]
    fn a_record_that_is_not_registered_is_not_described() {
        let own = Descriptors::of(Path::new("/proc/self"));
        assert_eq!(own.describe(64), None);
        assert!(!own.is_process(64));
    }
}
