//! Pools that have no end: whether one of their threads waits for work, or is at it.
//!
//! It goes by files where they are known, because an optimised program names inlined functions without their paths.

/// A pool whose threads may outlive the shutdown while they wait for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// rayon-core 1.13: the threads run jobs (src/job.rs) or sleep (src/sleep/mod.rs).
    Rayon,
    /// tokio 1.54: a worker runs tasks by `run_task` (src/runtime/scheduler/multi_thread/worker.rs) or is parked
    /// (park.rs beside it); a thread of the blocking pool waits on a condition in src/runtime/blocking/pool.rs.
    Tokio,
}

// === impl Pool ===

impl Pool {
    /// Whether the thread with these calls, the innermost first, is of such a pool and has nothing to do. `roots` are
    /// the functions that it was started with.
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
                    return false;
                };
                let waits = pool > 0 && calls[pool - 1].contains("wait");
                let is_parked = any(&["/src/runtime/scheduler/multi_thread/park.rs:"]);
                // A task that wakes another goes through park.rs too.
                (waits || is_parked) && !any(&["run_task"])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;

    /// Without what is the same in all, as they are in a debug build.
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
        // It wakes another worker.
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
