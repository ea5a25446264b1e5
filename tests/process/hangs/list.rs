//! The list of all culprits.

use crate::host::Host;
use crate::{dependency, foreign, tasks, threads, workers};

pub(crate) struct Culprit {
    pub(crate) name: &'static str,
    /// Description for the table.
    pub(crate) is: &'static str,
    pub(crate) leaves: Leaves,
    /// The number of parts that call `begun`.
    pub(crate) parts: usize,
    /// True if it blocks the thread of `main`.
    pub(crate) is_in_main: bool,
    pub(crate) place: fn(&Host<'_>),
}

/// The remains of a culprit after everything that can be cancelled was cancelled.
#[derive(Clone, Copy)]
pub(crate) enum Leaves {
    Nothing,
    Threads,
    /// Tasks, and the threads that they block.
    Tasks,
}

use Leaves::{Nothing, Tasks, Threads};

const fn culprit(
    name: &'static str,
    is: &'static str,
    leaves: Leaves,
    parts: usize,
    place: fn(&Host<'_>),
) -> Culprit {
    Culprit {
        name,
        is,
        leaves,
        parts,
        is_in_main: false,
        place,
    }
}

#[rustfmt::skip]
pub(crate) const CULPRITS: &[Culprit] = &[
    culprit("awaits-for-ever", "a task awaits a message that never comes", Nothing, 1, tasks::awaits_for_ever),
    culprit("own-sender", "a task reads a channel and holds its sender", Nothing, 1, tasks::own_sender),
    culprit("lock-across-await", "a task awaits a lock that another holds across an await", Nothing, 2, tasks::lock_across_await),
    culprit("swallows-cancellation", "a task continues when it is told to stop", Nothing, 1, tasks::swallows_cancellation),
    culprit("spins-when-told", "when told to stop, a task loops over futures that are always ready", Nothing, 1, tasks::spins_when_told),
    culprit("restarts-for-ever", "a task restarts another whenever it ends", Nothing, 2, tasks::restarts_for_ever),
    culprit("drop-blocks", "a `Drop` reads from a silent peer", Tasks, 1, tasks::drop_blocks),
    culprit("drop-panics", "a `Drop` panics", Nothing, 1, tasks::drop_panics),
    culprit("busy-loop", "a task computes forever", Tasks, 1, workers::busy_loop),
    culprit("sleeps-on-worker", "a task in `std::thread::sleep`", Tasks, 1, workers::sleeps_on_worker),
    culprit("reads-on-worker", "a task in a blocking read", Tasks, 1, workers::reads_on_worker),
    culprit("locks-on-worker", "a task waits for a mutex that a thread holds", Tasks, 2, workers::locks_on_worker),
    culprit("all-workers-blocked", "every worker is blocked", Tasks, 2, workers::all_workers_blocked),
    culprit("blocks-in-place", "a task in `block_in_place` and `block_on`", Tasks, 1, workers::blocks_in_place),
    culprit("tracked-blocking", "a tracked `spawn_blocking` does not end", Tasks, 1, workers::tracked_blocking),
    culprit("bare-spawn-blocking", "a bare `spawn_blocking` does not end", Threads, 1, dependency::bare_spawn_blocking),
    culprit("file-in-pool", "a file that does not answer, read by `tokio::fs`", Threads, 1, workers::file_in_pool),
    culprit("stdin-in-pool", "standard input, read by tokio", Threads, 1, workers::stdin_in_pool),
    culprit("bare-spawn", "a bare `tokio::spawn` in a dependency", Nothing, 1, dependency::bare_spawn),
    culprit("bare-spawn-on-worker", "a bare `tokio::spawn` that blocks its worker", Tasks, 1, dependency::bare_spawn_on_worker),
    culprit("runtime-in-runtime", "a runtime inside the runtime", Tasks, 1, workers::runtime_in_runtime),
    Culprit { is_in_main: true, ..culprit("main-wedged", "`main` does not return", Tasks, 0, workers::main_wedged) },
    culprit("thread-in-accept", "a thread in `accept`", Threads, 1, threads::accepts),
    culprit("thread-in-recv", "a thread in `recv` on a socket", Threads, 1, threads::reads_socket),
    culprit("thread-in-channel", "a thread in `recv` on a channel", Threads, 1, threads::reads_channel),
    culprit("thread-in-condvar", "a thread in `Condvar::wait`", Threads, 1, threads::waits_for_condition),
    culprit("thread-in-join", "a thread that joins another", Threads, 2, threads::joins),
    culprit("thread-in-child-wait", "a thread in `Child::wait`", Threads, 1, threads::waits_for_child),
    culprit("thread-local-drop", "a thread blocked in the `Drop` of a thread-local", Threads, 1, threads::blocks_at_its_end),
    culprit("lock-order", "two threads take two locks in opposite order", Threads, 2, threads::locks_in_order),
    culprit("black-hole-exporter", "an exporter whose collector reads nothing", Threads, 1, threads::exports),
    culprit("blocks-all-signals", "a thread that blocks all signals", Threads, 1, foreign::blocks_all_signals),
    culprit("thread-in-sigwait", "a thread in `sigwait`", Threads, 1, foreign::waits_for_signal),
    culprit("thread-of-c", "a thread started by C code", Threads, 1, foreign::started_by_c),
    culprit("loader-callback", "a thread in a callback of `dl_iterate_phdr`", Threads, 1, foreign::holds_loader),
];

pub(crate) fn named(name: &str) -> &'static Culprit {
    let mut culprits = CULPRITS.iter();
    let found = culprits.find(|culprit| culprit.name == name);
    found.unwrap_or_else(|| panic!("no culprit '{name}'; `hangs list` prints them all"))
}
