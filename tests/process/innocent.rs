//! Tests of programs that use common libraries and shut down cleanly: nothing is reported as a
//! culprit, and expected threads are listed with the reason.
//!
//! Threads are expected by their names or by their stacks; the latter needs the feature `stacks`.

use crate::program::{Ended, Program, example};
#[cfg(feature = "stacks")]
use crate::text::marked;
use crate::text::without_digits;
use rustix::process::Signal;

/// Starts the program, stops it, and returns its end.
#[track_caller]
fn stopped(program: &str, name: &[&str], code: i32) -> Ended {
    let mut command = example(program, name);
    command.env("RAYON_NUM_THREADS", "2");
    let mut program = Program::start(command);
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(code);
    ended
}

/// Returns the report of a program that shuts down cleanly.
#[track_caller]
fn report(name: &str) -> String {
    stopped("innocent", &[name], 0).report()
}

/// Removes the numbers of jemalloc's and blocking-pool threads, which depend on the machine.
fn without_counts(ended: &Ended) -> String {
    ["(", "· "].iter().fold(ended.report(), |text, before| {
        let mut parts = text.split(before);
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| match without_digits(part) {
            rest if rest.len() < part.len() => format!("{before}N{rest}"),
            _ => format!("{before}{part}"),
        });
        first + &rest.collect::<String>()
    })
}

/// Asserts that function, file and line of the mark stand together in the report.
#[cfg(feature = "stacks")]
#[track_caller]
fn assert_leads_to(ended: &Ended, mark: &str) {
    let (function, place) = marked(mark);
    let leads = |line: &String| line.contains(&function) && line.contains(&place);
    assert!(ended.stderr.iter().any(leads), "{ended:#?}");
}

#[cfg(feature = "stacks")]
#[test]
fn the_global_pool_of_rayon() {
    insta::assert_snapshot!(report("rayon"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (3 ended)
    │  └─ · 2 threads expected: rayon's global pool never ends
    └─ clean  total T
    ");
}

#[test]
fn the_worker_of_tracing_appender() {
    insta::assert_snapshot!(report("tracing-appender"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    │  └─ · 1 thread expected: tracing-appender's worker runs until its guard is dropped
    └─ clean  total T
    ");
}

/// The client's runtime resolved a name on a thread that it keeps for ten seconds.
#[cfg(feature = "stacks")]
#[test]
fn the_blocking_client_of_reqwest() {
    insta::assert_snapshot!(report("reqwest"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (3 ended)
    │  ├─ · 1 thread expected: idle, in a tokio runtime that headcount does not own
    │  └─ · 1 thread expected: reqwest's blocking client keeps its runtime until it is dropped
    ├─ tasks of other tokio runtimes: not observed (1 thread is theirs)
    └─ clean  total T
    ");
}

#[test]
fn a_watcher_of_notify() {
    insta::assert_snapshot!(report("notify"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    │  └─ · 1 thread expected: notify watches until its watcher is dropped
    └─ clean  total T
    ");
}

#[test]
fn the_background_threads_of_jemalloc() {
    insta::assert_snapshot!(without_counts(&stopped("innocent_jemalloc", &[], 0)), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 5s  the only task ended
    ├─ 2 cancel  T of 2s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (N ended)
    │  └─ · N threads expected: jemalloc's background threads never end
    └─ clean  total T
    ");
}

#[test]
fn a_connection_of_tokio_postgres() {
    insta::assert_snapshot!(report("postgres"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  all 4 tasks ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[cfg(feature = "stacks")]
#[test]
fn the_idle_runtime_of_a_library() {
    insta::assert_snapshot!(report("other-runtime"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    │  └─ · 3 threads expected: idle, in a tokio runtime that headcount does not own
    ├─ tasks of other tokio runtimes: not observed (3 threads are theirs)
    └─ clean  total T
    ");
}

/// The counterpart: the report names what such a runtime is still doing after everything else has
/// ended.
#[cfg(feature = "stacks")]
#[test]
fn the_busy_runtime_of_a_library_lingers() {
    let ended = stopped("innocent", &["other-runtime-in-use"], 3);
    assert_leads_to(&ended, "at work in another runtime");
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "tokio-rt-worker" (tid N, unknown)  sleeping for T, age T, cpu T
    │  └─ · 1 thread expected: idle, in a tokio runtime that headcount does not own
    ├─ tasks of other tokio runtimes: not observed (2 threads are theirs)
    └─ lingering: 1 thread  total T
    "#);
}

#[cfg(feature = "stacks")]
#[test]
fn idle_current_thread_runtimes_of_a_library() {
    insta::assert_snapshot!(report("local-pool"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    │  └─ · 2 threads expected: idle, in a tokio runtime that headcount does not own
    ├─ tasks of other tokio runtimes: not observed (2 threads are theirs)
    └─ clean  total T
    ");
}

/// The counterparts: a task that blocks its thread, and a runtime on a thread of the program.
#[cfg(feature = "stacks")]
#[test]
fn a_current_thread_runtime_that_is_busy_or_the_program_s_lingers() {
    let ended = stopped("innocent", &["local-pool-in-use"], 3);
    assert_leads_to(&ended, "at work in another runtime");
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "innocent" (tid N, unknown)  sleeping for T, age T, cpu T
    │  └─ · 1 thread expected: idle, in a tokio runtime that headcount does not own
    ├─ tasks of other tokio runtimes: not observed (2 threads are theirs)
    └─ lingering: 1 thread  total T
    "#);
    let ended = stopped("innocent", &["own-local-runtime"], 3);
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "cache" (tid N, unknown)  waiting on futex A, age T, cpu T
    ├─ tasks of other tokio runtimes: not observed (1 thread is theirs)
    └─ lingering: 1 thread  total T
    "#);
}

/// The counterpart for rayon: a job in its pool that does not end.
#[cfg(feature = "stacks")]
#[test]
fn a_job_of_rayon_that_does_not_end_lingers() {
    let ended = stopped("innocent", &["rayon-in-use"], 3);
    assert_leads_to(&ended, "at work in rayon");
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "innocent" (tid N, unknown)  sleeping for T, age T, cpu T
    │  └─ · 1 thread expected: rayon's global pool never ends
    └─ lingering: 1 thread  total T
    "#);
}
