//! Tests of tasks that block no thread: the report has the chain of their awaits.

use super::{report, report_of_worker, stopped};

#[test]
fn a_task_that_awaits_for_ever() {
    insta::assert_snapshot!(report("awaits-for-ever", 0), @r"
    headcount awaits-for-ever: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ feed  ignored drain for T, spawned <spawn of awaits-for-ever>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_task_that_holds_its_own_sender() {
    insta::assert_snapshot!(report("own-sender", 0), @r"
    headcount own-sender: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ inbox  ignored drain for T, spawned <spawn of own-sender>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn tasks_that_wait_for_a_lock_across_an_await() {
    let ended = stopped("lock-across-await", 0);
    ended.assert_leads_to("lock-across-await");
    ended.assert_leads_to("holder of lock-across-await");
    insta::assert_snapshot!(ended.steady(), @r"
    headcount lock-across-await: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 3 tasks ended
    │  ├─ ✗ refresh  ignored drain for T, spawned <spawn of the holder>
    │  └─ ✗ lookup  ignored drain for T, spawned <spawn of lock-across-await>
    ├─ 2 cancel  T of 20s  2 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_task_that_continues_when_it_is_told_to_stop() {
    insta::assert_snapshot!(report("swallows-cancellation", 0), @r"
    headcount swallows-cancellation: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ poller  ignored drain for T, spawned <spawn of swallows-cancellation>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_task_that_loops_over_ready_futures_when_it_is_told_to_stop() {
    let report = report("spins-when-told", 0);
    // Now and then it yields its worker.
    let report = report.replace(", on thread \"headcount-work\" (tid N) for T", "");
    insta::assert_snapshot!(report, @r"
    headcount spins-when-told: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ poller  ignored drain for T, spawned <spawn of spins-when-told>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_task_that_restarts_another() {
    insta::assert_snapshot!(report("restarts-for-ever", 0), @r"
    headcount restarts-for-ever: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 3 tasks ended
    │  ├─ ✗ supervisor  ignored drain for T, spawned <spawn of restarts-for-ever>
    │  └─ ✗ supervised  ignored drain for T, spawned <spawn of the supervised>
    ├─ 2 cancel  T of 20s  2 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_drop_that_blocks() {
    insta::assert_snapshot!(report_of_worker("drop-blocks"), @r#"
    headcount drop-blocks: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ client  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spawn of drop-blocks>
    ├─ 2 cancel  T of 300ms  nothing to cancel
    │  └─ ✗ client  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spawn of drop-blocks>
    ├─ 3 close  T of 300ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  blocked in recv(fd N → tcp 127.0.0.1:P), age T, cpu T, running task client
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_drop_that_panics() {
    insta::assert_snapshot!(report("drop-panics", 0), @r"
    headcount drop-panics: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  1 of 2 tasks ended
    │  └─ ✗ client  ignored drain for T, spawned <spawn of drop-panics>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    │  └─ ! client  panicked at <drop-panics>: 'a drop that panics', spawned <spawn of drop-panics>
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[cfg(tokio_unstable)]
#[test]
fn a_bare_spawn_of_a_dependency() {
    // The location is that of the spawn.
    insta::assert_snapshot!(stopped("bare-spawn", 0).steady(), @r"
    headcount bare-spawn: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  0 tracked cancelled, 1 untracked dropped
    │  └─ ! untracked ×1  spawned <bare-spawn>
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}
