//! The sockets that tasks wait for.
//!
//! An await chain shows that a task waits for a socket, but not for which. Tokio registers each
//! socket with epoll(7) under the address of its own record of it (`ScheduledIo`, aligned to 128
//! bytes in tokio 1.54), and the kernel lists those addresses in the `fdinfo` of the epoll
//! (proc_pid_fdinfo(5)). A task that waits registers its waker in the record, so an address within
//! the record is on the stack at that moment. It tells the descriptor, and the kernel knows the
//! addresses of its two ends.
//!
//! Nothing in the record is read, so a change of it cannot mislead. If tokio registers sockets in
//! another way, none is found.

use crate::audit::{proc, waits};
use crate::stacks::Chain;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The part of the stack in which the address is looked for. The functions between the record and
/// the waker have a few hundred bytes, and more without optimization.
const DEPTH: usize = 4096;
/// The alignment and size of tokio's records.
const RECORD: usize = 128;
/// No memory is mapped below this address (`vm.mmap_min_addr`, proc_sys_vm(5)).
const LOWEST: usize = 1 << 16;

/// The most descriptors of a process of which the sockets are named. The search reads the link of
/// each descriptor, and one line for each that is registered.
const DESCRIPTORS: usize = 1000;

/// The part of the stack that is cleared before a poll: as much as the frames of a task may take.
const CLEARED: usize = 32 * 1024;

/// Clears the part of the stack that the next calls of this function's caller use, so that no
/// addresses of earlier calls are found there.
#[inline(never)]
pub(in crate::stacks) fn clear_stack() {
    std::hint::black_box(&mut [0_u8; CLEARED]);
}

/// Returns the beginnings of the records in which the words on the stack of this thread may lie, if
/// they are addresses. Empty if the process may not read its own memory.
///
/// Costs three system calls. The kernel copies the memory, because what is there may be anything.
pub(in crate::stacks) fn pointers() -> Vec<usize> {
    let here = 0_u8;
    let begin = std::ptr::from_ref(&here).addr() & !(size_of::<usize>() - 1);
    let Some(bytes) = proc::memory(begin as u64, DEPTH) else {
        return Vec::new();
    };
    let words = bytes.chunks_exact(size_of::<usize>());
    let words = words.filter_map(|word| Some(usize::from_ne_bytes(word.try_into().ok()?)));
    let mut seen = HashSet::new();
    words
        .map(|word| word - word % RECORD)
        .filter(|record| *record >= LOWEST && seen.insert(*record))
        .collect()
}

/// Puts the sockets into the chains that wait for one. Must run while their tasks are still waiting.
///
/// A stack may have addresses of earlier calls in the same poll too. If it has those of several
/// sockets, none is named. Nor is any in a process with more than [`DESCRIPTORS`] descriptors, so that
/// a shutdown with many connections is not delayed.
pub(in crate::stacks) fn name_sockets<'a>(chains: impl Iterator<Item = &'a mut Chain>) {
    let chains: Vec<&mut Chain> = chains.filter(|chain| !chain.pointers.is_empty()).collect();
    let pointers = chains
        .iter()
        .flat_map(|chain| chain.pointers.iter().copied());
    let pointers: HashSet<usize> = pointers.collect();
    if pointers.is_empty() {
        return;
    }
    let is_wanted = |record: &u64| usize::try_from(*record).is_ok_and(|at| pointers.contains(&at));
    let files = registered(Path::new("/proc/self"), DESCRIPTORS, is_wanted);
    for chain in chains {
        let found = chain
            .pointers
            .drain(..)
            .filter_map(|pointer| files.get(&(pointer as u64)));
        let found: HashSet<i32> = found.copied().collect();
        if let [file] = found.into_iter().collect::<Vec<i32>>()[..] {
            chain.socket = waits::describe(file);
        }
    }
}

/// Returns the descriptors that are registered with an epoll of a process under addresses that are
/// wanted. `process` is its folder, such as `/proc/self`. Empty if it has more than `most`
/// descriptors.
pub(crate) fn registered(
    process: &Path,
    most: usize,
    is_wanted: impl Fn(&u64) -> bool,
) -> HashMap<u64, i32> {
    let mut found = HashMap::new();
    for number in descriptors(process, most).unwrap_or_default() {
        let target = std::fs::read_link(process.join("fd").join(&number));
        if !target.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]") {
            continue;
        }
        let info = std::fs::read_to_string(process.join("fdinfo").join(&number));
        let entries = info.unwrap_or_default();
        let entries = entries.lines().filter_map(registration);
        found.extend(entries.filter(|(data, _)| is_wanted(data)));
    }
    found
}

/// Returns the numbers of the descriptors of a process; `None` if there are more than `most`. Reads at
/// most one more.
fn descriptors(process: &Path, most: usize) -> Option<Vec<String>> {
    let all = std::fs::read_dir(process.join("fd")).ok()?.flatten();
    let numbers = all.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers: Vec<String> = numbers.take(most.saturating_add(1)).collect();
    (numbers.len() <= most).then_some(numbers)
}

/// Parses `tfd:        4 events:       19 data:     7f0012345680  pos:0 ino:1a2cd sdev:9` into the
/// data and the descriptor.
fn registration(line: &str) -> Option<(u64, i32)> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let data = words
        .find_map(|word| (word == "data:").then_some(()))
        .and_then(|()| words.next())?;
    Some((u64::from_str_radix(data, 16).ok()?, number))
}

#[cfg(test)]
mod tests {
    use super::{Chain, DESCRIPTORS, descriptors, name_sockets, registration};
    use crate::stacks::await_probe::AwaitProbe;
    use std::future::Future;
    use std::path::Path;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn an_entry_of_an_epoll_is_read() {
        let line = "tfd:        4 events:       19 data:     7f0012345680  pos:0 ino:1a2cd sdev:9";
        assert_eq!(registration(line), Some((0x7f00_1234_5680, 4)));
        for other in [
            "pos:\t0",
            "tfd: x events: 1 data: 4",
            "tfd: 4 events: 1 data:",
            "",
        ] {
            assert_eq!(registration(other), None, "{other}");
        }
    }

    #[test]
    fn no_descriptor_is_listed_of_a_process_with_too_many() {
        let own = Path::new("/proc/self");
        let listed = descriptors(own, DESCRIPTORS).expect("a test has few");
        // Other tests open and close some meanwhile; the directory itself is one.
        assert!(listed.len() >= 3, "{listed:?}");
        assert_eq!(descriptors(own, 2), None);
    }

    #[tokio::test]
    async fn the_socket_that_a_future_waits_for_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let client = tokio::net::TcpStream::connect(address)
            .await
            .expect("it listens");
        let probe = AwaitProbe::new(Waker::noop());
        let waker = probe.waker();
        {
            let mut readable = pin!(client.readable());
            let poll = readable.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(matches!(poll, Poll::Pending), "nothing was sent");
        }
        let mut chains: Vec<Chain> = probe.close().chains;
        name_sockets(chains.iter_mut());
        let sockets: Vec<_> = chains.iter().map(|chain| chain.socket.as_deref()).collect();
        assert_eq!(sockets, [Some(&*format!("tcp {address}"))]);
    }
}
