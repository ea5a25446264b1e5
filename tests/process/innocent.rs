//! Programs that use what many use and stop well: nobody is accused, and who lives is said to, and why.
//!
//! Which threads are expected is told by their names, or by their stacks: those need the feature `stacks`.

use crate::program::{Program, example};
use crate::text::marked;
use rustix::process::Signal;

/// Its report after SIGTERM, steady. How many threads a library has depends on the machine.
#[track_caller]
fn report(program: &str, arguments: &[&str], code: i32) -> String {
    let mut program = Program::start(example(program, arguments));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(code);
    let text = ended.report();
    let words = text.split_inclusive(' ').map(|word| {
        let is_number = word.trim_end().parse::<u32>().is_ok();
        if is_number { "N " } else { word }
    });
    words.collect()
}

#[cfg(feature = "stacks")]
#[test]
fn the_global_pool_of_rayon() {
    insta::assert_snapshot!(report("innocent", &["rayon"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  the only task ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (3 ended)
    │  └─ · N threads expected: rayon's global pool has no end
    └─ clean  total T
    ");
}

#[test]
fn the_worker_of_tracing_appender() {
    insta::assert_snapshot!(report("innocent", &["tracing-appender"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  the only task ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (2 ended)
    │  └─ · N thread expected: tracing-appender's worker ends with its guard
    └─ clean  total T
    ");
}

/// Its runtime looked up a name, on a thread that it keeps for ten seconds.
#[cfg(feature = "stacks")]
#[test]
fn the_blocking_client_of_reqwest() {
    insta::assert_snapshot!(report("innocent", &["reqwest"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  the only task ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (3 ended)
    │  ├─ · N thread expected: reqwest's blocking client keeps its runtime until it is dropped
    │  └─ · N thread expected: idle, of a tokio runtime that is not headcount's
    ├─ tasks of other tokio runtimes: not observed (1 thread is named like theirs)
    └─ clean  total T
    ");
}

#[test]
fn a_watcher_of_notify() {
    insta::assert_snapshot!(report("innocent", &["notify"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  the only task ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (2 ended)
    │  └─ · N thread expected: notify watches until its watcher is dropped
    └─ clean  total T
    ");
}

#[test]
fn the_background_threads_of_jemalloc() {
    insta::assert_snapshot!(report("innocent_jemalloc", &[], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 5s  the only task ended
    ├─ N cancel  T of 2s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (5 ended)
    │  └─ · N threads expected: jemalloc's background threads have no end
    └─ clean  total T
    ");
}

#[test]
fn a_connection_of_tokio_postgres() {
    insta::assert_snapshot!(report("innocent", &["postgres"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  all N tasks ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[cfg(feature = "stacks")]
#[test]
fn the_runtime_of_a_library_that_has_nothing_to_do() {
    insta::assert_snapshot!(report("innocent", &["other-runtime"], 0), @r"
    headcount innocent: stopping (SIGTERM)
    ├─ N drain  T of 30s  the only task ended
    ├─ N cancel  T of 30s  nothing to cancel
    ├─ N close  T of 30s  no thread lingers (2 ended)
    │  └─ · N threads expected: idle, of a tokio runtime that is not headcount's
    ├─ tasks of other tokio runtimes: not observed (3 threads are named like theirs)
    └─ clean  total T
    ");
}

/// The other side of it: what such a runtime is at when all else has ended is named.
#[cfg(feature = "stacks")]
#[test]
fn the_runtime_of_a_library_that_is_at_work_is_no_innocent() {
    let mut program = Program::start(example("innocent", &["other-runtime-in-use"]));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(3);
    let (function, place) = marked("at work in another runtime");
    let leads = |line: &String| line.contains(&function) && line.contains(&place);
    assert!(ended.stderr.iter().any(leads), "{ended:#?}");
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
    let mut program = Program::start(example("innocent", &["rayon-in-use"]));
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(3);
    let (function, place) = marked("at work in rayon");
    let leads = |line: &String| line.contains(&function) && line.contains(&place);
    assert!(ended.stderr.iter().any(leads), "{ended:#?}");
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
