//! Tests of stacks: everything that is left is shown with its location, down to the line, and a
//! blocked stack read blocks nothing else.
//!
//! Optimized programs inline calls differently, so these tests are for debug builds.

use crate::program::{Ended, Program, ready};
use crate::text::{is_of_stack, steady_but_locks};
use rustix::process::Signal;
use std::time::Duration;

const SOURCES: [(&str, &str); 2] = [
    (
        "tests/process/scenario/stacks.rs:",
        include_str!("scenario/stacks.rs"),
    ),
    ("tests/process/scenario.rs:", include_str!("scenario.rs")),
];
/// Symbolizing takes a second in a debug build, and longer on a busy machine.
const SOON: Duration = Duration::from_secs(12);

/// Starts the scenario, stops it, and returns its end.
#[track_caller]
fn stopped(scenario: &[&str], code: i32) -> Ended {
    let ended = ready(scenario).stop(Signal::TERM);
    ended.assert_code(code).assert_took_at_most(SOON);
    ended
}

/// Returns the rows of findings, with the lines below them.
fn findings(ended: &Ended) -> String {
    let of_row = |line: &&String| line.starts_with("│  ") || line.starts_with("│   ");
    ended
        .stderr
        .iter()
        .filter(of_row)
        .map(|line| shown(line))
        .collect()
}

/// Returns the line without parts that differ between runs and between versions of libraries.
fn shown(line: &str) -> String {
    let line = if is_of_stack(line) {
        frame(line)
    } else {
        spawned(&steady_but_locks(line))
    };
    line + "\n"
}

/// Replaces a spawn site in the stack scenarios.
fn spawned(line: &str) -> String {
    let (file, _) = SOURCES[0];
    let Some((before, after)) = line.split_once(file) else {
        return line.to_owned();
    };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    format!("{before}<here>{rest}")
}

/// Replaces the line of a frame with its mark, if it has one. The C library may or may not have
/// debug information.
fn frame(line: &str) -> String {
    if let Some((head, _)) = line.split_once("same stack as tid ") {
        return format!("{head}same stack as tid N");
    }
    for function in ["pthread_mutex_lock", "dl_iterate_phdr"] {
        if let Some((head, _)) = line.split_once(function) {
            let head = head.trim_end_matches(|c: char| c == '_' || c.is_ascii_uppercase());
            return format!("{head}{function}");
        }
    }
    let Some((head, place)) = line.rsplit_once(" (") else {
        return cut(line);
    };
    let place = place.trim_end_matches(')');
    let marked = SOURCES.iter().find_map(|(file, text)| {
        let number: usize = place.strip_prefix(file)?.parse().ok()?;
        let line = text.lines().nth(number.checked_sub(1)?)?;
        Some(line.split_once("// mark: ")?.1)
    });
    let head = cut(head);
    match (marked, place.rsplit_once(':')) {
        (Some(mark), _) => format!("{head} <{mark}>"),
        (None, Some((file, _))) => format!("{head} ({file})"),
        (None, None) => line.to_owned(),
    }
}

/// Removes the number of omitted frames, which depends on the library.
fn cut(line: &str) -> String {
    match line.split_once(" more, ") {
        Some((cut, last)) => {
            let cut = cut.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{cut}N more, {last}")
        }
        None => line.to_owned(),
    }
}

#[test]
fn a_thread_that_lingers_is_shown_with_its_stack() {
    insta::assert_snapshot!(findings(&stopped(&["thread-lingers"], 3)), @r#"
    │  └─ ✗ thread "a-very-long-watcher" (tid N, tracked)  parked, age T, cpu T, started <watcher>
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    "#);
}

#[test]
fn a_blocking_closure_is_shown_with_the_stack_of_its_thread_once() {
    insta::assert_snapshot!(findings(&stopped(&["blocking-closure"], 3)), @r#"
    │  └─ ✗ reindex (blocking)  ignored drain for T, on thread "headcount-work" (tid N), spawned <reindex>
    │  └─ ✗ reindex (blocking)  still running (a closure cannot be cancelled), on thread "headcount-work" (tid N), age T, spawned <reindex>
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  parked, age T, cpu T, running task reindex
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::blocking_closure::{closure}::{closure} (tests/process/scenario.rs)
    │        … N more, in the runtime
    "#);
}

#[test]
fn a_task_that_blocks_its_worker_is_shown_with_where_it_does() {
    insta::assert_snapshot!(findings(&stopped(&["sleeping-worker"], 3)), @r#"
    │  └─ ✗ sleeper  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <sleeper>
    │  └─ ✗ sleeper  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <sleeper>
    │  └─ ✗ thread "headcount-work" (tid N, worker)  parked, age T, cpu T, running task sleeper
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::sleeping_worker::{closure}::{closure} (tests/process/scenario.rs)
    │        … N more, in the runtime
    "#);
}

#[test]
fn a_task_that_computes_for_ever_is_shown_with_the_line_that_it_is_at() {
    let shown = findings(&stopped(&["busy-worker"], 3));
    let (_, stack) = shown.split_once("running task spinner\n").expect("its row");
    // The task may be at its beginning or at its end.
    let at = stack.find(" scenario::busy_worker::{closure}::{closure} ");
    let place = &stack[at.unwrap_or_else(|| panic!("{shown}"))..];
    let place = place.lines().next().expect("a line");
    let is_there = place.ends_with("<spins>") || place.ends_with("(tests/process/scenario.rs)");
    assert!(is_there, "{shown}");
}

#[test]
fn a_drop_that_blocks_is_shown() {
    insta::assert_snapshot!(findings(&stopped(&["drop-blocks"], 3)), @r#"
    │  └─ ✗ closer  ignored drain for T, spawned <closer>, awaiting a future that registered no waker, so nothing can wake it
    │  └─ ✗ closer  cancelled T ago, its drop has not returned, on thread "headcount-work" (tid N), age T, spawned <closer>
    │  └─ ✗ thread "headcount-work" (tid N, worker)  parked, age T, cpu T, running task closer
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 <scenario::BlocksInDrop as core::ops::drop::Drop>::drop (tests/process/scenario.rs)
    │        … N more, in the runtime
    "#);
}

#[test]
fn a_main_that_holds_its_thread_is_shown_with_its_stack() {
    insta::assert_snapshot!(findings(&stopped(&["main-wedged"], 70)), @r#"
    │  └─ ✗ main  ignored drain for T, on thread "main" (tid N) for T, spawned <main>
    │  └─ ✗ main  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <main>
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::wedge_main::{closure} (tests/process/scenario.rs)
    │        3 headcount::runtime::Runtime::run_to_end::{closure} (src/runtime.rs)
    │        … N more, in the runtime
    "#);
}

#[test]
fn two_threads_that_lock_in_opposite_orders_are_shown_with_what_each_waits_for() {
    insta::assert_snapshot!(findings(&stopped(&["lock-order"], 3)), @r#"
    │  ├─ ✗ thread "left-first" (tid N, tracked)  waiting for a mutex (futex A), age T, cpu T, started <here>
    │  │     0 std::sync::poison::mutex::Mutex<T>::lock (std/src/sync/poison/mutex.rs)
    │  │     1 <std::sync::poison::mutex::Mutex<()> as scenario::stacks::Lock>::hold <std lock>
    │  │     2 scenario::stacks::in_a_circle::{closure}::{closure}::{closure} <wants right>
    │  │     3 <std::sync::poison::mutex::Mutex<()> as scenario::stacks::Lock>::hold (tests/process/scenario/stacks.rs)
    │  │     4 scenario::stacks::in_a_circle::{closure}::{closure} (tests/process/scenario/stacks.rs)
    │  └─ ✗ thread "right-first" (tid N, tracked)  waiting for a mutex (futex A), age T, cpu T, started <here>
    │        0 std::sync::poison::mutex::Mutex<T>::lock (std/src/sync/poison/mutex.rs)
    │        1 <std::sync::poison::mutex::Mutex<()> as scenario::stacks::Lock>::hold <std lock>
    │        2 scenario::stacks::in_a_circle::{closure}::{closure}::{closure} <wants left>
    │        3 <std::sync::poison::mutex::Mutex<()> as scenario::stacks::Lock>::hold (tests/process/scenario/stacks.rs)
    │        4 scenario::stacks::in_a_circle::{closure}::{closure} (tests/process/scenario/stacks.rs)
    "#);
}

#[test]
fn threads_that_wait_for_one_mutex_are_named_together() {
    insta::assert_snapshot!(findings(&stopped(&["one-mutex"], 3)), @r#"
    │  ├─ ✗ thread "first" (tid N, tracked)  waiting for a mutex (futex A), along with 1 other thread, age T, cpu T, started <here>
    │  │     0 std::sync::poison::mutex::Mutex<T>::lock (std/src/sync/poison/mutex.rs)
    │  │     1 <std::sync::poison::mutex::Mutex<()> as scenario::stacks::Lock>::hold <std lock>
    │  │     2 scenario::stacks::one_mutex::{closure}::{closure} (tests/process/scenario/stacks.rs)
    │  ├─ ✗ thread "second" (tid N, tracked)  waiting for a mutex (futex A), along with 1 other thread, age T, cpu T, started <here>
    │  │     same stack as tid N
    │  └─ ! 2 threads wait for one mutex (futex A): "first" (tid N), "second" (tid N)
    "#);
}

#[cfg(target_env = "gnu")]
#[test]
fn a_posix_mutex_shows_its_holder_and_a_cycle_is_a_deadlock() {
    insta::assert_snapshot!(findings(&stopped(&["posix-lock-order"], 3)), @r#"
    │  ├─ ✗ thread "left-first" (tid N, tracked)  waiting for a mutex (futex A), age T, cpu T, started <here>
    │  │     0 pthread_mutex_lock
    │  │     1 <scenario::stacks::Posix as scenario::stacks::Lock>::hold <posix lock>
    │  │     2 scenario::stacks::in_a_circle::{closure}::{closure}::{closure} <wants right>
    │  │     3 <scenario::stacks::Posix as scenario::stacks::Lock>::hold (tests/process/scenario/stacks.rs)
    │  │     4 scenario::stacks::in_a_circle::{closure}::{closure} (tests/process/scenario/stacks.rs)
    │  ├─ ✗ thread "right-first" (tid N, tracked)  waiting for a mutex (futex A), age T, cpu T, started <here>
    │  │     0 pthread_mutex_lock
    │  │     1 <scenario::stacks::Posix as scenario::stacks::Lock>::hold <posix lock>
    │  │     2 scenario::stacks::in_a_circle::{closure}::{closure}::{closure} <wants left>
    │  │     3 <scenario::stacks::Posix as scenario::stacks::Lock>::hold (tests/process/scenario/stacks.rs)
    │  │     4 scenario::stacks::in_a_circle::{closure}::{closure} (tests/process/scenario/stacks.rs)
    │  ├─ ! 1 thread waits for one mutex (futex A), held by "right-first" (tid N): "left-first" (tid N)
    │  ├─ ! 1 thread waits for one mutex (futex A), held by "left-first" (tid N): "right-first" (tid N)
    │  └─ ! deadlock: "left-first" (tid N) waits for "right-first" (tid N) waits for "left-first" (tid N)
    "#);
}

#[test]
fn a_deep_recursion_is_shown_from_its_end() {
    insta::assert_snapshot!(findings(&stopped(&["deep-recursion"], 3)), @r#"
    │  └─ ✗ thread "deep" (tid N, tracked)  parked, age T, cpu T, started <here>
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::stacks::deeper (tests/process/scenario/stacks.rs)
    │        3 scenario::stacks::deeper <deeper>
    │        4 scenario::stacks::deeper <deeper>
    │        5 scenario::stacks::deeper <deeper>
    │        6 scenario::stacks::deeper <deeper>
    │        7 scenario::stacks::deeper <deeper>
    │        8 scenario::stacks::deeper <deeper>
    │        9 scenario::stacks::deeper <deeper>
    │        10 scenario::stacks::deeper <deeper>
    │        11 scenario::stacks::deeper <deeper>
    │        … N more, down to scenario::stacks::deeper <deeper>
    │        (this stack is incomplete)
    "#);
}

#[test]
fn the_pool_of_rayon_is_expected_by_its_root_function() {
    let ended = stopped(&["rayon-pool"], 0);
    let report = ended.report();
    let row = report.lines().find(|line| line.contains("expected: "));
    let row = row.unwrap_or_else(|| panic!("nothing is excused: {report}"));
    assert!(
        row.ends_with("threads expected: rayon's global pool never ends"),
        "{row}"
    );
    assert!(report.ends_with("└─ clean  total T\n"), "{report}");
}

/// The thread holds the loader's lock, which prevents others from listing modules and starting to
/// symbolize.
#[test]
fn a_thread_in_a_callback_of_the_loader_is_shown_like_others() {
    insta::assert_snapshot!(findings(&stopped(&["in-loader-callback"], 3)), @r#"
    │  └─ ✗ thread "loads" (tid N, unknown)  parked, age T, cpu T
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::stacks::in_callback::never_returns <in the callback>
    │        3 dl_iterate_phdr
    │        4 scenario::stacks::in_callback (tests/process/scenario/stacks.rs)
    │        5 scenario::stacks::hold_the_loader::{closure} (tests/process/scenario/stacks.rs)
    "#);
    insta::assert_snapshot!(findings(&stopped(&["main-wedged-in-loader-callback"], 70)), @r#"
    │  └─ ✗ main  ignored drain for T, on thread "main" (tid N) for T, spawned <main>
    │  └─ ✗ main  stuck inside poll, on thread "main" (tid N) for T, age T, spawned <main>
    │        0 std::thread::functions::park (std/src/thread/functions.rs)
    │        1 scenario::wait_for_ever (tests/process/scenario.rs)
    │        2 scenario::stacks::in_callback::never_returns <in the callback>
    │        3 dl_iterate_phdr
    │        4 scenario::stacks::in_callback (tests/process/scenario/stacks.rs)
    │        5 scenario::stacks::scenario::{closure}::{closure} (tests/process/scenario/stacks.rs)
    │        6 headcount::runtime::Runtime::run_to_end::{closure} (src/runtime.rs)
    │        … N more, in the runtime
    "#);
}

#[test]
fn last_words_come_in_time_with_the_lock_of_the_loader_held() {
    let ended = stopped(&["control-wedged-in-loader-callback"], 70);
    let text = ended.stderr.join("\n");
    let row = text.find("\"loads\" (tid ").expect("its row");
    let below = text[row..].lines().nth(1).expect("a line below it");
    assert!(below.contains("at "), "{text}");
    assert!(below.contains(" ← scenario+0x"), "{text}");
}

/// Addresses symbolized for an earlier dump take no time.
#[test]
fn last_words_end_with_names_where_there_is_time() {
    let mut program = ready(&["control-wedged"]);
    dumped(&mut program, " threads\n");
    program.error_line("\"headcount-control\"");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(70).assert_took_at_most(SOON);
    let said = ended
        .stderr
        .iter()
        .skip_while(|line| !line.contains(": forced: the deadline"));
    let said: Vec<&String> = said.collect();
    let names = said
        .iter()
        .position(|line| line.ends_with(": the same threads with function names:"));
    let (facts, named) = said.split_at(names.expect("names"));
    assert!(
        facts.iter().any(|line| line.contains("─ at libc.so.6+0x")),
        "{facts:#?}"
    );
    let main = named
        .iter()
        .position(|line| line.contains("─ \"main\" (tid "));
    let frame = named[main.expect("it lives") + 1];
    assert!(frame.contains("─ 0 "), "{named:#?}");
}

/// Sends SIGQUIT, and returns the dump up to the line that contains `last`.
fn dumped(program: &mut Program, last: &str) -> String {
    program.signal(Signal::QUIT);
    let mut text = program.error_line("dump (SIGQUIT)") + "\n";
    while !text.contains(last) {
        text += &shown(&program.error_line(""));
    }
    text
}

#[test]
fn sigquit_shows_every_thread_with_its_stack() {
    let mut program = ready(&["thread-lingers"]);
    let text = dumped(&mut program, "<watcher>\n");
    let row = text.find("\"a-very-long-watcher\"").expect("its row");
    let stack: String = (0..2).map(|_| shown(&program.error_line(""))).collect();
    // Without `tokio_unstable`, a line follows the threads.
    let stack = stack.replace('│', " ");
    insta::assert_snapshot!(format!("{}{stack}", &text[row..]), @r#"
    "a-very-long-watcher" (tid N, tracked)  waits, age T, cpu T, started <watcher>
          ├─ 0 std::thread::functions::park (std/src/thread/functions.rs)
          └─ 1 scenario::wait_for_ever (tests/process/scenario.rs)
    "#);
    let stacks = text.lines().filter(|line| line.contains("─ 0 ")).count();
    assert!(stacks >= 5, "{text}");
    program.stop(Signal::TERM).assert_code(3);
}

#[test]
fn a_dump_shows_a_thousand_threads_and_a_shared_stack_once() {
    let mut program = ready(&["many-threads"]);
    let text = dumped(&mut program, " more\n");
    // Threads that are alike are one row with their number.
    let threads = |line: &str| -> usize {
        if line.contains("(tid N, ") {
            return 1;
        }
        let alike = line.split_once(" ×").map_or("", |(_, rest)| rest);
        let number = alike.split(' ').next().unwrap_or("");
        number.parse().unwrap_or(0)
    };
    let listed: usize = text.lines().map(threads).sum();
    assert_eq!(listed, 1000, "{text}");
    let all = text
        .lines()
        .find(|line| line.ends_with(" threads"))
        .expect("their number");
    assert!(all.contains("─ 12"), "{all}");
    // Some threads may not have arrived there yet.
    let largest = text.lines().map(threads).max();
    assert!(largest > Some(100), "{text}");
    assert!(text.lines().count() < 200, "{text}");
    program.stop(Signal::TERM).assert_code(0);
}

mod json {
    use super::{Signal, ready, stopped};
    use serde_json::Value;

    fn functions(thread: &Value) -> Vec<&str> {
        let frames = thread["stack"].as_array().expect("a list").iter();
        frames
            .map(|frame| frame["function"].as_str().expect("a name"))
            .collect()
    }

    #[test]
    fn stacks_are_data_with_every_frame() {
        let mut program = ready(&["thread-lingers-as-json"]);
        program.signal(Signal::QUIT);
        let dump: Value = serde_json::from_str(&program.line()).expect("it is JSON");
        let mut threads = dump["threads"].as_array().expect("a list").iter();
        let watcher = threads.find(|thread| thread["name"] == "a-very-long-watcher");
        let watcher = watcher.expect("it lives");
        assert_eq!(functions(watcher).last(), Some(&"scenario::wait_for_ever"));
        assert_eq!(watcher["waits"], "parked");
        assert_eq!(
            (&watcher["stack_note"], &watcher["no_stack"]),
            (&Value::Null, &Value::Null)
        );
        program.stop(Signal::TERM).assert_code(3);

        let ended = stopped(&["thread-lingers-as-json"], 3);
        let line = ended.stdout.last().expect("a line of JSON");
        let report: Value = serde_json::from_str(line).expect("it is JSON");
        let thread = &report["close"]["threads"][0];
        let functions = functions(thread);
        assert!(
            functions.len() > 3,
            "those of the standard library too: {functions:?}"
        );
        assert_eq!(functions.last(), Some(&"scenario::wait_for_ever"));
        let frame = thread["stack"].as_array().and_then(|stack| stack.last());
        assert_eq!(frame.expect("a frame")["file"], "tests/process/scenario.rs");
    }
}
