//! Tests of unregistered threads: the report has the kernel's wait reason and the stack.

use super::{report, stopped};

#[test]
fn a_thread_in_accept() {
    insta::assert_snapshot!(report("thread-in-accept", 3), @r#"
    headcount thread-in-accept: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "metrics-http" (tid N, unknown)  blocked in accept(fd N → tcp listen 127.0.0.1:P), age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_in_recv_on_a_socket() {
    insta::assert_snapshot!(report("thread-in-recv", 3), @r#"
    headcount thread-in-recv: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "pg-reader" (tid N, unknown)  blocked in recv(fd N → tcp 127.0.0.1:P), age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_in_recv_on_a_channel() {
    insta::assert_snapshot!(report("thread-in-channel", 3), @r#"
    headcount thread-in-channel: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "thumbnailer" (tid N, unknown)  waiting on futex A, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_in_a_condition() {
    insta::assert_snapshot!(report("thread-in-condvar", 3), @r#"
    headcount thread-in-condvar: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "flusher" (tid N, unknown)  waiting on futex A, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_that_joins_another() {
    let ended = stopped("thread-in-join", 3);
    ended.assert_leads_to("thread-in-join");
    ended.assert_leads_to("joined by thread-in-join");
    insta::assert_snapshot!(ended.steady(), @r#"
    headcount thread-in-join: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  2 threads linger (2 ended, N expected)
    │  ├─ ✗ thread "pool-owner" (tid N, unknown)  waiting for thread N to end, age T, cpu T
    │  └─ ✗ thread "pool-helper" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 2 threads  total T
    "#);
}

#[test]
fn a_thread_that_waits_for_a_child() {
    insta::assert_snapshot!(report("thread-in-child-wait", 3), @r#"
    headcount thread-in-child-wait: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "converter" (tid N, unknown)  waiting for child N, age T, cpu T
    │  └─ ✗ child process N  cat
    └─ lingering: 1 thread, 1 child process total T
    "#);
}

#[test]
fn a_thread_whose_thread_local_blocks_at_its_end() {
    insta::assert_snapshot!(report("thread-local-drop", 3), @r#"
    headcount thread-local-drop: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "logger" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn two_threads_that_take_two_locks_in_either_order() {
    let ended = stopped("lock-order", 3);
    ended.assert_leads_to("lock-order");
    ended.assert_leads_to("other side of lock-order");
    insta::assert_snapshot!(ended.steady(), @r#"
    headcount lock-order: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  2 threads linger (2 ended, N expected)
    │  ├─ ✗ thread "debit" (tid N, unknown)  waiting on futex A, age T, cpu T
    │  └─ ✗ thread "credit" (tid N, unknown)  waiting on futex A, age T, cpu T
    └─ lingering: 2 threads  total T
    "#);
}

#[test]
fn an_exporter_whose_collector_reads_nothing() {
    insta::assert_snapshot!(report("black-hole-exporter", 3), @r#"
    headcount black-hole-exporter: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "OtlpExporter" (tid N, unknown)  blocked in send(fd N → tcp 127.0.0.1:P), age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_that_blocks_all_signals() {
    insta::assert_snapshot!(report("blocks-all-signals", 3), @r#"
    headcount blocks-all-signals: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "realtime-audio" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_that_waits_for_a_signal() {
    insta::assert_snapshot!(report("thread-in-sigwait", 3), @r#"
    headcount thread-in-sigwait: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "hup-listener" (tid N, unknown)  waiting for a signal, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_that_c_started() {
    insta::assert_snapshot!(report("thread-of-c", 3), @r#"
    headcount thread-of-c: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "hangs" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn a_thread_in_a_callback_of_the_loader() {
    insta::assert_snapshot!(report("loader-callback", 3), @r#"
    headcount loader-callback: stopping (SIGTERM)
    ├─ 1 drain  T of 500ms  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "profiler" (tid N, unknown)  sleeping for T, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}
