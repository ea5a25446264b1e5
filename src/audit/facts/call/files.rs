//! What is behind a file descriptor of ours. Another thread may close it, or open another under its number, at any time.

use super::sockets;

/// A path is cut off after so many characters.
const SHOWN: usize = 200;

/// A path, a kind, or the addresses of a socket.
pub(super) fn what_is(number: i32) -> Option<String> {
    let target = target_of(number)?;
    if target.starts_with("socket:") {
        let socket = sockets::describe(number);
        // Its inode is the same: the addresses were this one's.
        return (target_of(number)? == target).then_some(socket);
    }
    Some(kind_of(&target))
}

fn target_of(number: i32) -> Option<String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// `pipe:[1234]` is a pipe, and `anon_inode:[eventfd]` an eventfd.
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

/// Without what would move the cursor of the terminal that it is shown on.
pub(super) fn printable(path: &str) -> String {
    let shown = path.chars().take(SHOWN);
    shown
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The process behind a pidfd (pidfd_open(2)).
pub(super) fn process_of(number: i32) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok()
}
