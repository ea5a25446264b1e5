//! Reports and dumps from made-up values, which no program leaves behind twice in the same way.

mod awaits;
mod verdict;

use super::dump::{Dump, Group, Phase};
use super::{
    CancelLayer, CloseLayer, DrainLayer, Frame, KindRow, Outcome, Reason, Report, TaskRow,
    ThreadRow, Timing,
};
use crate::task::{TaskId, TaskKind, TaskState};
use crate::threads::ThreadClass;
use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

fn frame(function: &str, line: u32) -> Frame {
    Frame {
        function: function.to_owned(),
        file: Some("src/db.rs".to_owned()),
        line: Some(line),
        waits_for: None,
    }
}

fn deep(frames: u32) -> Vec<Frame> {
    (0..frames).map(|at| frame(&format!("f{at}"), at)).collect()
}

fn timing() -> Timing {
    Timing {
        took: Duration::from_millis(5),
        budget: Duration::from_secs(1),
        cut: false,
    }
}

fn task(name: &'static str, tid: Option<u32>, stack: Vec<Frame>) -> KindRow {
    let row = TaskRow {
        id: TaskId(1),
        group: "http",
        name,
        kind: TaskKind::Async,
        spawned: Location::caller(),
        required: false,
        daemon: false,
        state: TaskState::Draining,
        age: Duration::from_secs(7),
        last_poll: Some(Duration::from_secs(6)),
        on_thread: tid,
        dropping: false,
        awaits: None,
        always_ready: None,
        future: "",
    };
    KindRow {
        group: row.group,
        name,
        kind: row.kind,
        daemon: row.daemon,
        spawned: row.spawned,
        count: 1,
        states: [0, 0, 0, 1, 0],
        oldest: row.age,
        draining: Some(Duration::from_secs(5)),
        never_started: 0,
        not_polled: 0,
        held_by: None,
        rows: vec![row],
        on_thread: tid.map(|tid| format!("\"worker\" (tid {tid})")),
        stack,
        stack_note: None,
        future: "",
    }
}

fn thread(tid: u32, stack: Vec<Frame>) -> ThreadRow {
    ThreadRow {
        tid,
        name: "pg-reader".to_owned(),
        class: ThreadClass::Unknown,
        own: false,
        there_before: false,
        started: None,
        age: Duration::from_secs(7),
        cpu: Duration::ZERO,
        state: "sleeping",
        waits: Some("parked".to_owned()),
        task: None,
        tried: Vec::new(),
        appeared_while_stopping: true,
        stack,
        stack_note: None,
        no_stack: None,
    }
}

fn report(ignored: Vec<KindRow>, lingering: Vec<KindRow>) -> Report {
    Report {
        schema: super::SCHEMA,
        service: "orders".to_owned(),
        pid: 1,
        reason: Reason::MainEnded,
        outcome: Outcome::Lingering,
        required_failed: false,
        strict: false,
        total: Duration::from_secs(1),
        pre_drain: Duration::ZERO,
        drain: DrainLayer {
            timing: timing(),
            tasks: 4,
            ended: 1,
            ignored,
            not_polled: Vec::new(),
            panicked: Vec::new(),
        },
        cancel: CancelLayer {
            timing: timing(),
            cancelled: 1,
            untracked: Some(Vec::new()),
            lingering,
            not_polled: Vec::new(),
            late: Vec::new(),
            starved: 0,
            panicked: Vec::new(),
        },
        close: CloseLayer {
            timing: timing(),
            ended: 1,
            expected: 5,
            excused: BTreeMap::new(),
            blocked: Vec::new(),
            undecided: Vec::new(),
            threads: Vec::new(),
            hints: Vec::new(),
            children: Vec::new(),
        },
        failed_tasks: BTreeMap::new(),
        panicked_tasks: BTreeMap::new(),
        given_up_processes: BTreeMap::new(),
        lost_records: BTreeMap::new(),
        verdict: None,
        processes: Vec::new(),
        not_observed: Vec::new(),
        flush: Vec::new(),
    }
}

#[test]
fn a_stack_is_shown_once_with_the_last_row_of_its_thread() {
    let early = vec![frame("read", 1), frame("handle", 2)];
    let late = vec![frame("read", 3), frame("handle", 2)];
    let ignored = ["came-back", "main", "stuck"].map(|name| match name {
        "came-back" => task(name, Some(1), early.clone()),
        "main" => task(name, Some(2), early.clone()),
        _ => task(name, Some(3), early.clone()),
    });
    let lives = vec![
        task("main", Some(2), late.clone()),
        task("stuck", Some(3), late.clone()),
        task("starved", None, Vec::new()),
    ];
    let mut report = report(ignored.to_vec(), lives);
    report.cancel.starved = 1;
    report.close.threads = vec![thread(3, late)];
    let site = report.drain.ignored[0].spawned.to_string();
    let text = report.to_text(false).replace(&site, "SITE");
    insta::assert_snapshot!(text, @r#"
    headcount orders: stopping (main ended)
    ├─ 1 drain    5ms of 1s        1 of 4 tasks ended
    │  ├─ ✗ http/came-back  ignored drain for 5.0s, on thread "worker" (tid 1) for 6.0s, spawned SITE
    │  │     0 read (src/db.rs:1)
    │  │     1 handle (src/db.rs:2)
    │  ├─ ✗ http/main  ignored drain for 5.0s, on thread "worker" (tid 2) for 6.0s, spawned SITE
    │  └─ ✗ http/stuck  ignored drain for 5.0s, on thread "worker" (tid 3) for 6.0s, spawned SITE
    ├─ 2 cancel   5ms of 1s        1 tracked cancelled, 0 untracked dropped
    │  ├─ ✗ http/main  stuck inside poll, on thread "worker" (tid 2) for 6.0s, age 7.0s, spawned SITE
    │  │     0 read (src/db.rs:3)
    │  │     1 handle (src/db.rs:2)
    │  ├─ ✗ http/stuck  stuck inside poll, on thread "worker" (tid 3) for 6.0s, age 7.0s, spawned SITE
    │  ├─ ✗ http/starved  still alive after cancel, age 7.0s, spawned SITE
    │  └─ · no worker free to drop 1 task
    ├─ 3 close    5ms of 1s        1 thread lingers (1 ended, 5 expected)
    │  └─ ✗ thread "pg-reader" (tid 3, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │        0 read (src/db.rs:3)
    │        1 handle (src/db.rs:2)
    └─ lingering: 3 tasks, 1 thread       total 1.000s
    "#);
}

fn shown(stack: &[Frame]) -> Vec<String> {
    super::stack::lines(stack, None, None)
}

#[test]
fn a_deep_stack_is_cut_and_ends_with_its_outermost_frame() {
    assert_eq!(shown(&deep(12)).len(), 12);
    let one_more = shown(&deep(13));
    assert_eq!(one_more[12], "12 f12 (src/db.rs:12)");
    let cut = shown(&deep(100));
    assert_eq!(cut.len(), 13);
    assert_eq!(cut[11], "11 f11 (src/db.rs:11)");
    assert_eq!(cut[12], "… 88 more, down to f99 (src/db.rs:99)");
    let long = [frame(&"ä".repeat(101), 1)];
    let shortened = format!("0 {}… (src/db.rs:1)", "ä".repeat(100));
    assert_eq!(shown(&long), [shortened]);
    let below = super::stack::below(&deep(1), None, None);
    assert_eq!(below, "\n      0 f0 (src/db.rs:0)");
}

/// A task that blocks in a library is deep inside it.
#[test]
fn a_deep_stack_of_libraries_shows_the_frames_of_the_program() {
    let of = |file: &str, line| Frame {
        file: Some(file.to_owned()),
        ..frame(&format!("f{line}"), line)
    };
    let mut stack: Vec<_> = (0..20)
        .map(|at| of("tokio-1.54.1/src/park.rs", at))
        .collect();
    let libraries = shown(&stack);
    assert_eq!(libraries[11], "11 f11 (tokio-1.54.1/src/park.rs:11)");
    assert_eq!(
        libraries[12],
        "… 8 more, down to f19 (tokio-1.54.1/src/park.rs:19)"
    );
    stack.push(frame("orders::bridge", 20));
    stack.push(of("hyper-1.2.0/src/server.rs", 21));
    stack.push(frame("orders::serve", 22));
    stack.push(of("tokio-1.54.1/src/worker.rs", 23));
    stack.push(of("tokio-1.54.1/src/worker.rs", 24));
    let program = shown(&stack);
    assert_eq!(program[5], "5 f5 (tokio-1.54.1/src/park.rs:5)");
    let rest = [
        "… 14 more, in libraries",
        "20 orders::bridge (src/db.rs:20)",
        "… 1 more, in libraries",
        "22 orders::serve (src/db.rs:22)",
        "… 2 more, down to f24 (tokio-1.54.1/src/worker.rs:24)",
    ];
    assert_eq!(program[6..], rest);
    // A frame of the program among the innermost ones is enough.
    stack.insert(3, frame("orders::hook", 3));
    assert_eq!(shown(&stack).len(), 13);
}

#[test]
fn addresses_are_one_line() {
    let address = |at: usize| Frame {
        function: format!("{at:#x}"),
        file: (at > 16).then(|| format!("orders+{:#x}", at - 16)),
        line: None,
        waits_for: None,
    };
    let stack: Vec<_> = (16..50).map(address).collect();
    let [line] = &*shown(&stack) else { panic!() };
    assert!(line.starts_with("at 0x10 ← orders+0x1 ← "), "{line}");
    assert!(line.ends_with(" ← orders+0x1f ← 2 more"), "{line}");
}

#[test]
fn frames_around_every_wait_and_every_task_are_left_out() {
    let at = |function: &str, file: Option<&str>| Frame {
        function: function.to_owned(),
        file: file.map(str::to_owned),
        line: file.map(|_| 1),
        waits_for: None,
    };
    let mut stack = vec![
        at("syscall", None),
        at("futex_wait", Some("std/src/sys/pal/unix/futex.rs")),
        at("std::thread::park", Some("std/src/thread/functions.rs")),
        at("orders::wait", Some("src/db.rs")),
        at("call_once", Some("core/src/ops/function.rs")),
    ];
    assert_eq!(shown(&stack[..3]).len(), 3, "it is all there is");
    let own = [
        "0 std::thread::park (std/src/thread/functions.rs:1)",
        "1 orders::wait (src/db.rs:1)",
        "2 call_once (core/src/ops/function.rs:1)",
    ];
    assert_eq!(shown(&stack), own);
    stack.push(at("poll", Some("src/registry/tracked.rs")));
    stack.push(at("run", Some("tokio-1.54.1/src/worker.rs")));
    assert_eq!(shown(&stack)[..2], own[..2]);
    assert_eq!(shown(&stack)[2..], ["… 3 more, in the runtime"]);
    assert_eq!(shown(&stack[3..])[0], "0 orders::wait (src/db.rs:1)");
}

#[test]
fn limits_of_a_stack_are_shown_and_a_shared_reason_for_none_once() {
    let mut report = report(Vec::new(), Vec::new());
    let mut guessed = thread(1, deep(1));
    guessed.stack_note = Some("approximate, incomplete".to_owned());
    let mut blind = [2, 3, 4].map(|tid| thread(tid, Vec::new()));
    for (at, thread) in blind.iter_mut().enumerate() {
        let why = if at < 2 {
            "it ended"
        } else {
            "not read in time"
        };
        thread.no_stack = Some(why.to_owned());
        thread.name = format!("pg-reader-{}", thread.tid);
    }
    report.close.threads = std::iter::once(guessed).chain(blind).collect();
    let hint = "2 threads wait for one mutex (futex 0x10): \"a\" (tid 1), \"b\" (tid 2)";
    report.close.hints = vec![hint.to_owned()];
    let text = report.to_text(false);
    let close = text.find("├─ 3").expect("the last layer");
    insta::assert_snapshot!(&text[close..], @r#"
    ├─ 3 close    5ms of 1s        4 threads linger (1 ended, 5 expected)
    │  ├─ ✗ thread "pg-reader" (tid 1, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  │     0 f0 (src/db.rs:0)
    │  │     (this stack is approximate, incomplete)
    │  ├─ ✗ thread "pg-reader-2" (tid 2, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  │     (no stack: it ended)
    │  ├─ ✗ thread "pg-reader-3" (tid 3, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  ├─ ✗ thread "pg-reader-4" (tid 4, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  │     (no stack: not read in time)
    │  └─ ! 2 threads wait for one mutex (futex 0x10): "a" (tid 1), "b" (tid 2)
    └─ lingering: 4 threads               total 1.000s
    "#);
}

fn dumped(name: &str, tid: u32, stack: Vec<Frame>) -> ThreadRow {
    ThreadRow {
        name: name.to_owned(),
        class: ThreadClass::Worker,
        ..thread(tid, stack)
    }
}

fn dump(threads: Vec<ThreadRow>) -> Dump {
    Dump {
        schema: super::dump::SCHEMA,
        service: "orders".to_owned(),
        pid: 1,
        phase: Phase::Running,
        tasks: 0,
        root: Group::default(),
        unlisted_tasks: 0,
        untracked: None,
        threads: Some(threads),
        unlisted_threads: 0,
        hints: vec!["1 hint".to_owned()],
        children: None,
        unlisted_children: 0,
        not_observed: Vec::new(),
    }
}

#[test]
fn a_dump_shows_a_stack_that_many_threads_have_once() {
    let mut blind = dumped("blind", 4, Vec::new());
    blind.no_stack = Some("it ended".to_owned());
    let dump = dump(vec![
        dumped("a", 1, deep(2)),
        dumped("b", 2, deep(3)),
        dumped("c", 3, deep(2)),
        blind.clone(),
        ThreadRow {
            name: "numb".to_owned(),
            tid: 5,
            ..blind
        },
    ]);
    let threads = dump.threads_tree();
    insta::assert_snapshot!(threads, @r#"
    ├─ 5 threads
    │  ├─ "a" (tid 1, worker)  parked, age 7.0s, cpu 0µs
    │  │  ├─ 0 f0 (src/db.rs:0)
    │  │  └─ 1 f1 (src/db.rs:1)
    │  ├─ "b" (tid 2, worker)  parked, age 7.0s, cpu 0µs
    │  │  ├─ 0 f0 (src/db.rs:0)
    │  │  ├─ 1 f1 (src/db.rs:1)
    │  │  └─ 2 f2 (src/db.rs:2)
    │  ├─ "c" (tid 3, worker)  parked, age 7.0s, cpu 0µs
    │  │  └─ same stack as tid 1
    │  ├─ "blind" (tid 4, worker)  parked, age 7.0s, cpu 0µs
    │  │  └─ (no stack: it ended)
    │  └─ "numb" (tid 5, worker)  parked, age 7.0s, cpu 0µs
    └─ 1 hint
    "#);
    let text = dump.to_text();
    let (_, below) = text
        .split_once("├─ 0 tracked tasks\n")
        .expect("tasks come first");
    assert_eq!(below, threads);
}

#[test]
fn a_spawn_site_in_a_dependency_has_no_path_of_the_machine() {
    let place = "/home/x/.cargo/registry/src/index.crates.io-1949/redis-0.27.2/src/aio.rs:1:2";
    assert_eq!(super::row::in_crate(place), "redis-0.27.2/src/aio.rs:1:2");
    assert_eq!(super::row::in_crate("src/main.rs:1:2"), "src/main.rs:1:2");
}

/// The threads of a pool wait at one place, each at a futex of its own.
#[test]
fn threads_that_are_alike_are_one_row_with_a_count() {
    let pool = |stack: u32| {
        (0..50).map(move |at| ThreadRow {
            name: format!("pool-{stack}"),
            waits: Some(format!("waiting on futex 0x{at:x}0")),
            age: Duration::from_secs(u64::from(at)),
            cpu: Duration::from_millis(100),
            ..thread(100 * stack + at, deep(stack))
        })
    };
    let other = ThreadRow {
        task: Some("import".to_owned()),
        ..thread(7, deep(2))
    };
    let threads: Vec<_> = pool(2).chain([other]).chain(pool(3)).collect();
    let mut report = report(Vec::new(), Vec::new());
    report.close.threads = threads.clone();
    let text = report.to_text(false);
    let close = text.find("├─ 3").expect("the last layer");
    insta::assert_snapshot!(&text[close..], @r#"
    ├─ 3 close    5ms of 1s        101 threads linger (1 ended, 5 expected)
    │  ├─ ✗ thread "pool-2" ×50 (tids 200, 201, 202 and 47 more, unknown)  waiting on futex 0x00, age 49.0s, cpu 5.0s, appeared while stopping
    │  │     0 f0 (src/db.rs:0)
    │  │     1 f1 (src/db.rs:1)
    │  ├─ ✗ thread "pg-reader" (tid 7, unknown)  parked, age 7.0s, cpu 0.0s, running task import, appeared while stopping
    │  │     same stack as tid 200
    │  └─ ✗ thread "pool-3" ×50 (tids 300, 301, 302 and 47 more, unknown)  waiting on futex 0x00, age 49.0s, cpu 5.0s, appeared while stopping
    │        0 f0 (src/db.rs:0)
    │        1 f1 (src/db.rs:1)
    │        2 f2 (src/db.rs:2)
    └─ lingering: 101 threads             total 1.000s
    "#);
    insta::assert_snapshot!(dump(threads).threads_tree(), @r#"
    ├─ 101 threads
    │  ├─ "pool-2" ×50 (tids 200, 201, 202 and 47 more, unknown)  waiting on futex 0x00, age 49.0s, cpu 5.000s
    │  │  ├─ 0 f0 (src/db.rs:0)
    │  │  └─ 1 f1 (src/db.rs:1)
    │  ├─ "pg-reader" (tid 7, unknown)  parked, age 7.0s, cpu 0µs, running task import
    │  │  └─ same stack as tid 200
    │  └─ "pool-3" ×50 (tids 300, 301, 302 and 47 more, unknown)  waiting on futex 0x00, age 49.0s, cpu 5.000s
    │     ├─ 0 f0 (src/db.rs:0)
    │     ├─ 1 f1 (src/db.rs:1)
    │     └─ 2 f2 (src/db.rs:2)
    └─ 1 hint
    "#);
}

/// Returns a frame of a library around the program's.
fn library(function: &str, file: &str) -> Frame {
    Frame {
        function: function.to_owned(),
        file: Some(file.to_owned()),
        line: Some(9),
        waits_for: None,
    }
}

#[test]
fn the_verdict_names_the_first_culprit_its_place_and_what_holds_it() {
    let recv = vec![
        library("syscall", "./misc/syscall.c"),
        library(
            "std::thread::functions::park",
            "std/src/thread/functions.rs",
        ),
        library("std::sync::mpsc::Receiver<T>::recv", "std/src/sync/mpsc.rs"),
        frame("orders::import", 15),
        library("poll", "src/registry/tracked.rs"),
    ];
    let ignored = vec![
        task("importer", Some(3), recv.clone()),
        task("orders", None, Vec::new()),
    ];
    let spawned = format!("{}:{}", file!(), ignored[1].spawned.line());
    let mut of_drain = report(ignored.clone(), Vec::new());
    let verdict = |report: &Report| super::verdict::of(report);
    assert_eq!(
        verdict(&of_drain).as_deref(),
        Some(
            "http/importer (src/db.rs:15), blocked in a channel's recv, held the stop for 5.0s; and 1 more"
        )
    );
    of_drain.drain.ignored.remove(0);
    let waits = format!("http/orders ({spawned}), held the stop for 5.0s");
    assert_eq!(verdict(&of_drain), Some(waits));
    of_drain.drain.ignored[0].rows[0].awaits = Some(vec![vec![
        library(
            "<tokio::sync::oneshot::Receiver<T> as core::future::future::Future>::poll",
            "tokio-1.54.1/src/sync/oneshot.rs",
        ),
        frame("orders::answer", 21),
    ]]);
    assert_eq!(
        verdict(&of_drain).as_deref(),
        Some("http/orders (src/db.rs:21), awaiting oneshot::Receiver, held the stop for 5.0s")
    );
    of_drain.drain.ignored[0].draining = None;
    assert_eq!(verdict(&of_drain), None, "it was never told");
    let mut lingers = report(ignored.clone(), ignored[..1].to_vec());
    lingers.cancel.lingering[0].rows[0].dropping = true;
    lingers.close.threads = vec![thread(4, recv)];
    assert_eq!(
        verdict(&lingers).as_deref(),
        Some(
            "http/importer (src/db.rs:15), blocked in a channel's recv in its drop, held the stop for 5.0s, and is still there; and 2 more"
        )
    );
    lingers.cancel.lingering.clear();
    lingers.drain.ignored.clear();
    assert_eq!(
        verdict(&lingers).as_deref(),
        Some("thread \"pg-reader\" (src/db.rs:15), blocked in a channel's recv, is still there")
    );
}

#[test]
fn the_verdict_ends_the_report() {
    let mut report = report(Vec::new(), Vec::new());
    report.verdict = Some("importer (src/import.rs:15) held the stop for 5.0s".to_owned());
    let text = report.to_text(false);
    let end = text.find("└─").expect("the outcome");
    assert_eq!(
        &text[end..],
        "└─ lingering                          total 1.000s\n   importer (src/import.rs:15) held the stop for 5.0s\n"
    );
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("it is JSON");
    assert_eq!(
        json["verdict"],
        "importer (src/import.rs:15) held the stop for 5.0s"
    );
}

#[test]
fn a_task_without_stack_and_awaits_is_shown_with_the_type_of_its_future() {
    let of = |name, kind| KindRow {
        future: "orders::import",
        kind,
        ..task(name, None, Vec::new())
    };
    let mut known = of("known", TaskKind::Async);
    known.rows[0].awaits = Some(vec![vec![frame("orders::load", 1)]]);
    let addresses = vec![Frame::bare("0x1234")];
    let ignored = vec![
        of("starved", TaskKind::Async),
        of("closure", TaskKind::Blocking),
        known,
        KindRow {
            stack: vec![frame("orders::load", 1)],
            ..of("read", TaskKind::Async)
        },
        KindRow {
            stack: addresses,
            ..of("nameless", TaskKind::Async)
        },
    ];
    let text = report(ignored, Vec::new()).to_text(false);
    let ends = |name: &str| {
        let row = text
            .lines()
            .find(|line| line.contains(&format!("http/{name}")));
        let (_, end) = row
            .expect("its row")
            .split_once(", spawned ")
            .expect("a site");
        end.split_once(", ").map_or("", |(_, end)| end)
    };
    assert_eq!(ends("starved"), "future orders::import");
    assert_eq!(ends("closure"), "closure orders::import");
    assert_eq!(ends("known"), "awaiting orders::load (src/db.rs:1)");
    assert_eq!(ends("read"), "");
    assert_eq!(ends("nameless"), "future orders::import");
}

#[test]
fn the_function_of_a_task_is_named_by_the_type_of_its_future() {
    let named = |function: &str, future: &str| {
        let library = Frame {
            file: Some("tokio-1.54.1/src/time/timeout.rs".to_owned()),
            ..frame("poll", 3)
        };
        let mut frames = [frame("async fn", 1), frame(function, 2), library];
        super::stack::name_root(&mut frames, future);
        assert_eq!(frames[0].function, "async fn", "it is not the outermost");
        frames[1].function.clone()
    };
    for pathless in ["async fn", "async block", "{async_fn#0}", "{closure}"] {
        assert_eq!(named(pathless, "orders::import"), "orders::import");
    }
    assert_eq!(named("async fn", "dyn Future<Output = a::B>"), "async fn");
    assert_eq!(named("async fn", ""), "async fn");
    assert_eq!(named("orders::load", "orders::import"), "orders::load");
    assert_eq!(named("blocks", "orders::import"), "blocks");
}
