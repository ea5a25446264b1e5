//! Programs that use what many use and stop well: nobody is accused, and who lives is said to, and why.
//!
//! Which threads are expected is told by their names, or by their stacks: those need the feature `stacks`.

use crate::program::{Ended, Program, example};
#[cfg(feature = "stacks")]
use crate::text::marked;
use crate::text::without_digits;
use rustix::process::Signal;

/// Starts it, stops it, and has its end.
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

/// The report of one that stops well.
#[track_caller]
fn report(name: &str) -> String {
    stopped("innocent", &[name], 0).report()
}

/// How many threads jemalloc has, and how many of the blocking pool there were, depends on the machine.
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

/// Function, file and line of the mark stand together in the report.
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
    │  └─ · 2 threads expected: rayon's global pool has no end
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
    │  └─ · 1 thread expected: tracing-appender's worker ends with its guard
    └─ clean  total T
    ");
}

/// Its runtime looked up a name, on a thread that it keeps for ten seconds.
#[cfg(feature = "stacks")]
#[test]
fn the_blocking_client_of_reqwest() {
    insta::assert_snapshot!(report("reqwest"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (3 ended)
    │  ├─ · 1 thread expected: reqwest's blocking client keeps its runtime until it is dropped
    │  └─ · 1 thread expected: idle, of a tokio runtime that is not headcount's
    ├─ tasks of other tokio runtimes: not observed (1 thread is named like theirs)
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
    │  └─ · N threads expected: jemalloc's background threads have no end
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
fn the_runtime_of_a_library_that_has_nothing_to_do() {
    insta::assert_snapshot!(report("other-runtime"), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 30s  no thread lingers (2 ended)
    │  └─ · 3 threads expected: idle, of a tokio runtime that is not headcount's
    ├─ tasks of other tokio runtimes: not observed (3 threads are named like theirs)
    └─ clean  total T
    ");
}

/// The other side of it: what such a runtime is at when all else has ended is named.
#[cfg(feature = "stacks")]
#[test]
fn the_runtime_of_a_library_that_is_at_work_is_no_innocent() {
    let ended = stopped("innocent", &["other-runtime-in-use"], 3);
    assert_leads_to(&ended, "at work in another runtime");
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "tokio-rt-worker" (tid N, unknown)  sleeping for T, age T, cpu T
    │  └─ · 1 thread expected: idle, of a tokio runtime that is not headcount's
    ├─ tasks of other tokio runtimes: not observed (2 threads are named like theirs)
    └─ lingering: 1 thread  total T
    "#);
}

/// And so is a job of rayon's pool that does not end.
#[cfg(feature = "stacks")]
#[test]
fn a_job_of_rayon_that_does_not_end_is_no_innocent() {
    let ended = stopped("innocent", &["rayon-in-use"], 3);
    assert_leads_to(&ended, "at work in rayon");
    insta::assert_snapshot!(ended.report(), @r#"
    headcount innocent: stopping (SIGTERM)
    ├─ 1 drain  T of 30s  the only task ended
    ├─ 2 cancel  T of 30s  nothing to cancel
    ├─ 3 close  T of 300ms  1 thread lingers (2 ended, N expected)
    │  ├─ ✗ thread "innocent" (tid N, unknown)  sleeping for T, age T, cpu T
    │  └─ · 1 thread expected: rayon's global pool has no end
    └─ lingering: 1 thread  total T
    "#);
}
