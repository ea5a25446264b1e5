//! Tests of blocked runtime threads: the report has the task's name and the thread's stack.

use super::{report, report_of_worker, stopped};

#[test]
fn a_busy_loop() {
    insta::assert_snapshot!(report_of_worker("busy-loop"), @r#"
    headcount busy-loop: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ index  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of busy-loop>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ index  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of busy-loop>
    ├─ 3 close  T of 300ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  on CPU, age T, cpu T, running task index
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_sleep_on_a_worker() {
    insta::assert_snapshot!(report_of_worker("sleeps-on-worker"), @r#"
    headcount sleeps-on-worker: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ backoff  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of sleeps-on-worker>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ backoff  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of sleeps-on-worker>
    ├─ 3 close  T of 300ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  sleeping for T, age T, cpu T, running task backoff
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_blocking_read_on_a_worker() {
    insta::assert_snapshot!(report_of_worker("reads-on-worker"), @r#"
    headcount reads-on-worker: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ session  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of reads-on-worker>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ session  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of reads-on-worker>
    ├─ 3 close  T of 300ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  blocked in recv(fd N → tcp 127.0.0.1:P), age T, cpu T, running task session
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_mutex_held_by_a_thread_on_a_worker() {
    let ended = stopped("locks-on-worker", 3);
    ended.assert_leads_to("locks-on-worker");
    ended.assert_leads_to("holder of locks-on-worker");
    insta::assert_snapshot!(ended.steady_of_worker(), @r#"
    headcount locks-on-worker: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ lookup  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of locks-on-worker>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ lookup  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of locks-on-worker>
    ├─ 3 close  T of 300ms  2 threads linger (1 ended, N expected)
    │  ├─ ✗ thread "headcount-work" (tid N, worker)  waiting on futex A, age T, cpu T, running task lookup
    │  └─ ✗ thread "cache-sweep" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 1 task, 2 threads  total T
    "#);
}

#[test]
fn all_workers_blocked() {
    insta::assert_snapshot!(report_of_worker("all-workers-blocked"), @r#"
    headcount all-workers-blocked: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 3 tasks ended
    │  └─ ✗ hasher ×2  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of all-workers-blocked>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ hasher ×2  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of all-workers-blocked>
    ├─ 3 close  T of 300ms  2 threads linger (0 ended, N expected)
    │  └─ ✗ thread "headcount-work" ×2 (tids N, N, worker)  sleeping for T, age T, cpu T, running task hasher
    └─ lingering: 2 tasks, 2 threads  total T
    "#);
}

#[test]
fn a_block_in_place() {
    insta::assert_snapshot!(report_of_worker("blocks-in-place"), @r#"
    headcount blocks-in-place: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ bridge  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of blocks-in-place>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ bridge  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of blocks-in-place>
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  waiting on futex A, age T, cpu T, running task bridge
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_tracked_blocking_closure() {
    insta::assert_snapshot!(report("tracked-blocking", 3), @r#"
    headcount tracked-blocking: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ reindex (blocking)  ignored drain for T, on thread "headcount-work" (tid N), spawned <spawn of tracked-blocking>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ reindex (blocking)  still running (a closure cannot be cancelled), on thread "headcount-work" (tid N), age T, spawned <spawn of tracked-blocking>
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  sleeping for T, age T, cpu T, running task reindex
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_bare_blocking_closure() {
    insta::assert_snapshot!(report("bare-spawn-blocking", 3), @r#"
    headcount bare-spawn-blocking: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  sleeping for T, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_file_that_does_not_answer() {
    insta::assert_snapshot!(report("file-in-pool", 3), @r#"
    headcount file-in-pool: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ settings  ignored drain for T, spawned <spawn of file-in-pool>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  blocked in read(fd N → pipe), age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn standard_input() {
    insta::assert_snapshot!(report("stdin-in-pool", 3), @r#"
    headcount stdin-in-pool: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ console  ignored drain for T, spawned <spawn of stdin-in-pool>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  blocked in read(fd N → pipe), age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[cfg(tokio_unstable)]
#[test]
fn a_bare_spawn_that_blocks_its_worker() {
    insta::assert_snapshot!(report_of_worker("bare-spawn-on-worker"), @r#"
    headcount bare-spawn-on-worker: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ untracked ×1  spawned <spawn of bare-spawn-on-worker>, 1 still alive
    ├─ 3 close  T of 300ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  sleeping for T, age T, cpu T
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

/// Without stacks, headcount cannot tell that the inner runtime's worker is idle.
#[cfg(feature = "stacks")]
#[test]
fn a_runtime_inside_the_runtime() {
    insta::assert_snapshot!(report("runtime-in-runtime", 3), @r#"
    headcount runtime-in-runtime: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ sync-client (blocking)  ignored drain for T, on thread "headcount-work" (tid N), spawned <spawn of runtime-in-runtime>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ sync-client (blocking)  still running (a closure cannot be cancelled), on thread "headcount-work" (tid N), age T, spawned <spawn of runtime-in-runtime>
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "headcount-work" (tid N, blocking)  waiting on futex A, age T, cpu T, running task sync-client
    │  └─ · 1 thread expected: idle, in a tokio runtime that headcount does not own
    ├─ tasks of other tokio runtimes: not observed (1 thread is theirs)
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_main_that_does_not_return() {
    insta::assert_snapshot!(report("main-wedged", 70), @r#"
    headcount main-wedged: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  0 of 1 task ended
    │  └─ ✗ main  ignored drain for T, on thread "main" (tid N) for T, spawned <main of hangs>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ main  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <main of hangs>
    ├─ 3 close  T of 300ms  no thread lingers (2 ended)
    └─ forced: 1 task  total T
    "#);
}
