//! The futures of tokio that a task waits for in the end, in words: `a Mutex`, `room in a bounded
//! channel`.
//!
//! They are recognized by their source files, because a release build names inlined functions
//! without their paths. The files are those of tokio 1.54 and tokio-util 0.7. A future of another
//! library, or of a file that is not listed, has no words.

use crate::stacks::frame::Frame;

/// A file in tokio's `src`, or a folder of it that ends with `/`. Frames in it say what a task waits
/// for, if there is also a frame in the second file.
type Leaf = (&'static str, Option<&'static str>, &'static str);

/// The files, from the outermost frame inwards: the first file of a frame that is listed decides. Of
/// several lines about a file the first counts.
#[rustfmt::skip]
const LEAVES: [Leaf; 37] = [
    ("task/join_set.rs", None, "a task of a JoinSet"),
    ("process/", Some("process/unix/pidfd_reaper.rs"), "a child process"),
    ("process/", Some("process/unix/reap.rs"), "a child process"),
    ("process/", Some("io/poll_evented.rs"), "a pipe of a child process"),
    ("process/", None, "a child process"),
    ("fs/", None, "the file system"),
    ("signal/", None, "a signal"),
    ("net/addr.rs", None, "the lookup of a host name"),
    ("net/lookup_host.rs", None, "the lookup of a host name"),
    ("io/stdin.rs", None, "standard input"),
    ("io/stdout.rs", None, "standard output"),
    ("io/stderr.rs", None, "standard error"),
    ("io/util/mem.rs", None, "a pipe in memory"),
    ("sync/mutex.rs", None, "a Mutex"),
    ("sync/rwlock.rs", None, "an RwLock"),
    ("sync/rwlock/", None, "an RwLock"),
    ("sync/semaphore.rs", None, "a permit of a Semaphore"),
    ("sync/barrier.rs", None, "a Barrier"),
    ("sync/once_cell.rs", None, "a OnceCell"),
    ("sync/set_once.rs", None, "a SetOnce"),
    ("sync/oneshot.rs", None, "a oneshot channel"),
    ("sync/broadcast.rs", None, "a message in a broadcast channel"),
    ("sync/watch.rs", None, "a change in a watch channel"),
    ("sync/mpsc/bounded.rs", Some("sync/batch_semaphore.rs"), "room in a bounded channel"),
    ("sync/mpsc/bounded.rs", Some("sync/notify.rs"), "a channel to be closed"),
    ("sync/mpsc/unbounded.rs", Some("sync/notify.rs"), "a channel to be closed"),
    ("sync/mpsc/", None, "a message in a channel"),
    ("sync/mpsc.rs", None, "room in a bounded channel"),
    ("sync/cancellation_token.rs", None, "a CancellationToken"),
    ("sync/cancellation_token/", None, "a CancellationToken"),
    ("task/task_tracker.rs", None, "the tasks of a TaskTracker"),
    ("sync/notify.rs", None, "a Notify"),
    ("runtime/task/join.rs", None, "a JoinHandle"),
    ("time/interval.rs", None, "the next tick of an interval"),
    ("time/delay_queue.rs", None, "a timer"),
    ("time/timeout.rs", Some("time/sleep.rs"), "its timeout"),
    ("time/sleep.rs", None, "a timer"),
];

/// Sockets and other files that are polled, and their names.
const POLLED: [(&str, &str); 8] = [
    ("net/tcp/listener.rs", "a tcp connection to accept"),
    ("net/unix/listener.rs", "a unix connection to accept"),
    ("net/tcp/", "a tcp connection"),
    ("net/udp.rs", "a udp socket"),
    ("net/unix/pipe.rs", "a pipe"),
    ("net/unix/", "a unix socket"),
    ("io/async_fd.rs", "a file descriptor"),
    ("runtime/io/", "a socket"),
];

/// Returns in words what the future waits for whose frames these are, the innermost first; `None` if
/// it is not known. Frames of other libraries are not looked at. `socket` is the socket that it polls,
/// if that is known.
pub(crate) fn waits_for(frames: &[Frame], socket: Option<&str>) -> Option<String> {
    let files: Vec<&str> = frames.iter().filter_map(file_in_tokio).collect();
    let is_in = |file: &str, place: &str| match place.ends_with('/') {
        true => file.starts_with(place),
        false => file == place,
    };
    let mut outermost_first = files.iter().rev();
    let leaf = outermost_first.find_map(|file| {
        let matches = |(place, inner, _): &&Leaf| {
            let has = |inner: &str| files.iter().any(|file| is_in(file, inner));
            is_in(file, place) && inner.is_none_or(has)
        };
        LEAVES.iter().find(matches)
    });
    if let Some((_, _, words)) = leaf {
        return Some((*words).to_owned());
    }
    let mut polled = files.iter().rev().filter_map(|file| {
        let mut all = POLLED.iter();
        all.find(|(place, _)| is_in(file, place))
    });
    let (_, words) = polled.next()?;
    let listens = socket.and_then(|socket| socket.split_once(" listen "));
    Some(match (words.ends_with("accept"), listens) {
        (true, Some((_, address))) => format!("{words} on {address}"),
        (true, None) => (*words).to_owned(),
        (false, _) => format!("{} to be {}", socket.unwrap_or(words), direction(frames)),
    })
}

/// Returns whether the frame is of tokio or tokio-util.
pub(super) fn is_of_tokio(frame: &Frame) -> bool {
    file_in_tokio(frame).is_some()
}

/// Returns the file below `src` of a frame of tokio or tokio-util.
fn file_in_tokio(frame: &Frame) -> Option<&str> {
    let (package, file) = frame.file.as_deref()?.rsplit_once("/src/")?;
    let package = package
        .rsplit_once('/')
        .map_or(package, |(_, package)| package);
    let name = match package.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => package,
    };
    ["tokio", "tokio-util"].contains(&name).then_some(file)
}

/// Returns the kind of readiness that a socket is polled for, by the functions that poll it.
fn direction(frames: &[Frame]) -> &'static str {
    let calls = |words: &[&str]| {
        let has = |frame: &Frame| words.iter().any(|word| frame.function.contains(word));
        frames.iter().any(has)
    };
    // Names without a generic part, in which other functions may be named.
    let reads = calls(&["poll_read", "readable", "poll_recv", "poll_peek"]);
    let writes = calls(&["poll_write", "writable", "poll_send", "connect"]);
    match (reads, writes) {
        (true, false) => "readable",
        (false, true) => "writable",
        _ => "ready",
    }
}

#[cfg(test)]
mod tests {
    use super::waits_for;
    use crate::stacks::frame::Frame;

    fn words(frames: &[(&str, &str)]) -> String {
        let frame = |(function, file): &(&str, &str)| Frame {
            file: Some(format!("tokio-1.54.1/src/{file}")),
            ..Frame::bare(*function)
        };
        let frames: Vec<Frame> = frames.iter().map(frame).collect();
        waits_for(&frames, None).unwrap_or_default()
    }

    /// The frames are those of a release build with line tables only.
    #[test]
    fn the_futures_of_tokio_are_told_by_their_files() {
        for (expected, frames) in [
            (
                "a Mutex",
                &[
                    ("poll", "sync/batch_semaphore.rs"),
                    ("{async_fn#0}", "sync/mutex.rs"),
                    ("{async_fn#0}", "sync/mutex.rs"),
                ][..],
            ),
            (
                "room in a bounded channel",
                &[
                    ("poll", "sync/batch_semaphore.rs"),
                    ("{async_fn#0}", "sync/mpsc/bounded.rs"),
                ],
            ),
            (
                "a message in a channel",
                &[
                    ("{closure#0}", "sync/mpsc/chan.rs"),
                    ("{async_fn#0}", "sync/mpsc/bounded.rs"),
                ],
            ),
            (
                "a child process",
                &[
                    ("poll_ready", "runtime/io/registration.rs"),
                    ("poll", "process/unix/pidfd_reaper.rs"),
                    ("{async_fn#0}", "process/mod.rs"),
                ],
            ),
            (
                "a pipe of a child process",
                &[
                    ("poll_read", "io/poll_evented.rs"),
                    ("poll_read", "process/mod.rs"),
                    ("poll", "io/util/read.rs"),
                ],
            ),
            ("a JoinHandle", &[("poll", "runtime/task/join.rs")]),
            (
                "the file system",
                &[
                    ("poll", "runtime/task/join.rs"),
                    ("{async_fn#0}", "fs/mod.rs"),
                ],
            ),
            (
                "its timeout",
                &[("poll", "time/sleep.rs"), ("poll", "time/timeout.rs")],
            ),
            (
                "a Mutex",
                &[("poll", "sync/mutex.rs"), ("poll", "time/timeout.rs")],
            ),
            (
                "a tcp connection to be readable",
                &[
                    ("poll_readiness", "runtime/io/scheduled_io.rs"),
                    ("poll_read", "net/tcp/stream.rs"),
                    ("poll", "io/util/read_exact.rs"),
                ],
            ),
            (
                "a tcp connection to be writable",
                &[("poll_write_ready", "net/tcp/stream.rs")],
            ),
            (
                "a tcp connection to accept",
                &[
                    ("poll", "runtime/io/registration.rs"),
                    ("{async_fn#0}", "net/tcp/listener.rs"),
                ],
            ),
            (
                "a udp socket to be ready",
                &[("{async_fn#0}", "net/udp.rs")],
            ),
            ("", &[("poll", "future/maybe_done.rs")]),
            ("", &[]),
        ] {
            assert_eq!(words(frames), expected, "{frames:?}");
        }
    }

    #[test]
    fn a_socket_is_named_if_it_is_known() {
        let frame = |file: &str| Frame {
            file: Some(format!("tokio-1.54.1/src/{file}")),
            ..Frame::bare("poll_read")
        };
        let words = |file, socket| waits_for(&[frame(file)], Some(socket)).unwrap_or_default();
        let peer = "tcp 127.0.0.1:5432";
        assert_eq!(
            words("net/tcp/stream.rs", peer),
            "tcp 127.0.0.1:5432 to be readable"
        );
        let listener = "tcp listen 127.0.0.1:80";
        let accept = "a tcp connection to accept on 127.0.0.1:80";
        assert_eq!(words("net/tcp/listener.rs", listener), accept);
        assert_eq!(words("sync/mutex.rs", peer), "a Mutex");
    }

    #[test]
    fn tokio_is_recognized_wherever_its_sources_are() {
        let is_mutex = |file: &str| {
            let frame = Frame {
                file: Some(file.to_owned()),
                ..Frame::bare("poll")
            };
            waits_for(&[frame], None).is_some()
        };
        assert!(is_mutex("/build/vendor/tokio/src/sync/mutex.rs"));
        assert!(is_mutex(
            "/cargo/git/checkouts/tokio-1a2b/3c4d/tokio/src/sync/mutex.rs"
        ));
        assert!(is_mutex("tokio-util-0.7.20/src/sync/mpsc.rs"));
        assert!(!is_mutex("tokio-postgres-0.7.1/src/sync/mutex.rs"));
        assert!(!is_mutex("src/sync/mutex.rs"));
    }
}
