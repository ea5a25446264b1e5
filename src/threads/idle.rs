//! Recognition of idle threads of thread pools that never end.
//!
//! An idle thread of such a pool is expected at the end of a process, a busy one is not. It is
//! recognized by the functions and files of its stack. File names come first, because an optimized
//! program names inlined functions without their paths. A version of a pool with other file names
//! is not recognized, so its threads are reported.

/// A pool with threads that may outlive the shutdown while they are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// rayon-core 1.13. A thread runs jobs (src/job.rs) or sleeps (src/sleep/mod.rs).
    Rayon,
    /// tokio 1.54. A worker runs tasks in `run_task` (src/runtime/scheduler/multi_thread/worker.rs)
    /// or is parked (park.rs in the same folder). A thread of the blocking pool waits on a
    /// condition variable in src/runtime/blocking/pool.rs. A current-thread runtime parks in
    /// src/runtime/scheduler/current_thread/mod.rs, on a thread that a library has started.
    Tokio,
}

// === impl Pool ===

impl Pool {
    /// Returns whether a thread belongs to this pool and is idle.
    ///
    /// `calls` are the frames of its stack, the innermost first. `roots` are the functions that it
    /// was started with.
    pub(super) fn is_idle<'a>(
        self,
        calls: &[String],
        mut roots: impl Iterator<Item = &'a str>,
    ) -> bool {
        let any = |texts: &[&str]| {
            calls
                .iter()
                .any(|call| texts.iter().any(|text| call.contains(text)))
        };
        match self {
            Self::Rayon => {
                roots.any(|root| root.starts_with("rayon_core::registry::"))
                    && !any(&["rayon_core::job::", "/src/job.rs:"])
            }
            Self::Tokio => {
                let is_of_pool = |call: &String| {
                    call.contains("tokio-") && call.contains("/src/runtime/blocking/pool.rs:")
                };
                let Some(pool) = calls.iter().position(is_of_pool) else {
                    return is_parked_alone(calls) && roots.any(is_of_package);
                };
                let waits = pool > 0 && calls[pool - 1].contains("wait");
                let is_parked = any(&["/src/runtime/scheduler/multi_thread/park.rs:"]);
                // A task that wakes another one runs code of park.rs too.
                (waits || is_parked) && !any(&["run_task"])
            }
        }
    }
}

/// Returns whether a thread runs a tokio runtime, or a part of one.
pub(super) fn is_of_tokio(calls: &[String]) -> bool {
    let places = ["/src/runtime/blocking/pool.rs:", CURRENT_THREAD];
    let is_of_runtime =
        |call: &String| call.contains("tokio-") && places.iter().any(|place| call.contains(place));
    calls.iter().any(is_of_runtime)
}

/// The file of tokio's current-thread scheduler.
const CURRENT_THREAD: &str = "/src/runtime/scheduler/current_thread/mod.rs:";

/// Returns whether a current-thread runtime is parked on the thread: its innermost frame of the
/// scheduler has called the driver, and neither a task nor the future of `block_on`.
fn is_parked_alone(calls: &[String]) -> bool {
    let is_of_scheduler = |call: &String| call.contains("tokio-") && call.contains(CURRENT_THREAD);
    let Some(scheduler) = calls.iter().position(is_of_scheduler) else {
        return false;
    };
    let drivers = [
        "/src/runtime/driver.rs:",
        "/src/runtime/park.rs:",
        "/src/runtime/io/driver.rs:",
    ];
    let own = ["/src/runtime/", "/src/loom/"];
    let others = ["std/", "core/", "alloc/", "mio-", "parking_lot"];
    let is_of_driver = |call: &String| match place(call) {
        // A function of the C library, which may have debug information.
        None => true,
        Some(place) if !place.contains(".rs:") => true,
        Some(place) if place.starts_with("tokio-") => own.iter().any(|own| place.contains(own)),
        Some(place) => others.iter().any(|other| place.starts_with(other)),
    };
    let inside = &calls[..scheduler];
    inside.iter().all(is_of_driver)
        && inside
            .iter()
            .any(|call| drivers.iter().any(|driver| call.contains(driver)))
}

/// Returns whether the function is of a package with a version, and so not of the program.
fn is_of_package(call: &str) -> bool {
    let package = place(call).and_then(|place| place.split_once('/'));
    let version = package.and_then(|(name, _)| name.rsplit_once('-'));
    version.is_some_and(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns the file and line of a call, if there are any.
fn place(call: &str) -> Option<&str> {
    let (_, place) = call.rsplit_once(" (")?;
    place.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::{Pool, is_of_tokio};

    /// The outer frames of a worker in a debug build, without those that every thread has.
    const WORKER: [&str; 5] = [
        "tokio::runtime::scheduler::multi_thread::worker::run (tokio-1.54.1/src/runtime/scheduler/multi_thread/worker.rs:549)",
        "tokio::runtime::blocking::pool::Task::run (tokio-1.54.1/src/runtime/blocking/pool.rs:220)",
        "tokio::runtime::blocking::pool::Inner::run (tokio-1.54.1/src/runtime/blocking/pool.rs:764)",
        "std::sys::backtrace::__rust_begin_short_backtrace (std/src/sys/backtrace.rs:158)",
        "clone3",
    ];

    fn is_idle(pool: Pool, inside: &[&str], outside: &[&str], root: &str) -> bool {
        let calls: Vec<String> = inside
            .iter()
            .chain(outside)
            .map(|call| (*call).to_owned())
            .collect();
        pool.is_idle(&calls, std::iter::once(root))
    }

    #[test]
    fn a_worker_of_tokio_is_idle_while_it_is_parked() {
        let worker = |inside: &[&str]| is_idle(Pool::Tokio, inside, &WORKER, "tokio::runtime::");
        assert!(worker(&[
            "epoll_wait",
            "tokio::runtime::scheduler::multi_thread::park::Inner::park_driver (tokio-1.54.1/src/runtime/scheduler/multi_thread/park.rs:240)",
            "park (tokio-1.54.1/src/runtime/scheduler/multi_thread/worker.rs:850)",
        ]));
        assert!(!worker(&[
            "clock_nanosleep",
            "app::refresh (src/refresh.rs:12)",
            "run_task (tokio-1.54.1/src/runtime/scheduler/multi_thread/worker.rs:696)",
        ]));
        // A task that wakes another worker.
        assert!(!worker(&[
            "write",
            "unpark (tokio-1.54.1/src/runtime/scheduler/multi_thread/park.rs:90)",
            "app::refresh (src/refresh.rs:12)",
            "run_task (tokio-1.54.1/src/runtime/scheduler/multi_thread/worker.rs:696)",
        ]));
        assert!(!worker(&[]));
    }

    #[test]
    fn a_thread_of_the_blocking_pool_is_idle_while_it_waits_for_work() {
        let waits = "wait_timeout (tokio-1.54.1/src/loom/std/parking_lot.rs:176)";
        let read = "tokio::fs::read::read::{closure} (tokio-1.54.1/src/fs/read.rs:90)";
        assert!(is_idle(Pool::Tokio, &["syscall", waits], &WORKER[2..], ""));
        assert!(!is_idle(Pool::Tokio, &["read", read], &WORKER[1..], ""));
        assert!(!is_idle(
            Pool::Tokio,
            &["syscall", waits],
            &["app::run (src/pool.rs:3)"],
            ""
        ));
        assert!(!is_idle(Pool::Tokio, &[], &[], ""));
    }

    /// The frames of a thread of tokio-util's `LocalPoolHandle` outside of its scheduler.
    const ALONE: [&str; 3] = [
        "tokio::runtime::scheduler::current_thread::Context::park_internal (tokio-1.54.1/src/runtime/scheduler/current_thread/mod.rs:470)",
        "tokio::runtime::runtime::Runtime::block_on (tokio-1.54.1/src/runtime/runtime.rs:349)",
        "tokio_util::task::spawn_pinned::LocalWorkerHandle::run (tokio-util-0.7.20/src/task/spawn_pinned.rs:420)",
    ];

    #[test]
    fn a_current_thread_runtime_of_a_library_is_idle_while_it_is_parked() {
        let parked = [
            "epoll_wait (./misc/../sysdeps/unix/sysv/linux/epoll_wait.c:30)",
            "mio::poll::Poll::poll (mio-1.0.4/src/poll.rs:435)",
            "tokio::runtime::io::driver::Driver::turn (tokio-1.54.1/src/runtime/io/driver.rs:149)",
            "tokio::runtime::driver::Driver::park (tokio-1.54.1/src/runtime/driver.rs:78)",
        ];
        let is_idle = |inside: &[&str], root| is_idle(Pool::Tokio, inside, &ALONE, root);
        assert!(is_idle(&parked, ALONE[2]));
        let own = "orders::cache::run (src/cache.rs:12)";
        assert!(!is_idle(&parked, own), "the thread is the program's");
        assert!(!is_idle(
            &["read", "app::refresh (src/refresh.rs:12)"],
            ALONE[2]
        ));
        let wakes = [&parked[..], &["app::refresh (src/refresh.rs:12)"]].concat();
        assert!(!is_idle(&wakes, ALONE[2]), "a task of it is polled");
        assert!(!is_idle(&[], ALONE[2]), "it is not in the driver");
    }

    #[test]
    fn a_thread_of_a_tokio_runtime_is_recognized_by_its_stack() {
        let of = |calls: &[&str]| {
            is_of_tokio(
                &calls
                    .iter()
                    .map(|call| (*call).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(of(&WORKER) && of(&ALONE));
        assert!(!of(&["read", "app::tokio_reader (src/tokio-reader.rs:3)"]));
    }

    #[test]
    fn a_thread_of_rayon_is_idle_unless_it_runs_a_job() {
        let root = "rayon_core::registry::ThreadBuilder::run";
        let sleeps = "rayon_core::sleep::Sleep::sleep (rayon-core-1.13.0/src/sleep/mod.rs:200)";
        let runs = "execute (rayon-core-1.13.0/src/job.rs:64)";
        assert!(is_idle(Pool::Rayon, &[sleeps], &[root], root));
        assert!(!is_idle(Pool::Rayon, &["app::sum", runs], &[root], root));
        assert!(!is_idle(
            Pool::Rayon,
            &[sleeps],
            &["app::pool"],
            "app::pool"
        ));
    }
}
