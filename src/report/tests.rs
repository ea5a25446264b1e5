//! Reports and dumps from canned values: what no program leaves behind twice in the same way.

use super::dump::{Dump, Group, Phase, Thread};
use super::{
    CancelLayer, CloseLayer, DrainLayer, Frame, Outcome, Reason, Report, TaskFinding,
    ThreadFinding, Timing,
};
use crate::task::{TaskId, TaskKind};
use crate::threads::ThreadClass;
use std::time::Duration;

fn frame(function: &str, line: u32) -> Frame {
    Frame {
        function: function.to_owned(),
        file: Some("src/db.rs".to_owned()),
        line: Some(line),
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

fn task(name: &str, tid: Option<u32>, stack: Vec<Frame>) -> TaskFinding {
    TaskFinding {
        group: "http".to_owned(),
        name: name.to_owned(),
        kind: TaskKind::Async,
        daemon: false,
        spawned: format!("src/{name}.rs:1:2"),
        count: 1,
        ids: vec![TaskId(1)],
        age: Duration::from_secs(7),
        draining: Some(Duration::from_secs(5)),
        on_thread: tid.map(|tid| format!("\"worker\" (tid {tid})")),
        held: tid.map(|_| Duration::from_secs(6)),
        tid,
        stack,
        stack_note: None,
        awaits: None,
    }
}

fn thread(tid: u32, stack: Vec<Frame>) -> ThreadFinding {
    ThreadFinding {
        name: "pg-reader".to_owned(),
        tid,
        class: ThreadClass::Unknown,
        age: Duration::from_secs(7),
        cpu: Duration::ZERO,
        state: "sleeping".to_owned(),
        waits: "parked".to_owned(),
        started: None,
        task: None,
        tried: Vec::new(),
        appeared_while_stopping: true,
        stack,
        stack_note: None,
        no_stack: None,
    }
}

fn report(ignored: Vec<TaskFinding>, lingering: Vec<TaskFinding>) -> Report {
    Report {
        schema: super::SCHEMA,
        service: "orders".to_owned(),
        pid: 1,
        reason: Reason::MainEnded,
        outcome: Outcome::Lingering,
        required_failed: false,
        total: Duration::from_secs(1),
        pre_drain: Duration::ZERO,
        drain: DrainLayer {
            timing: timing(),
            tasks: 4,
            ended: 1,
            ignored,
            panicked: Vec::new(),
        },
        cancel: CancelLayer {
            timing: timing(),
            cancelled: 1,
            untracked: Some(Vec::new()),
            lingering,
            starved: 0,
            panicked: Vec::new(),
        },
        close: CloseLayer {
            timing: timing(),
            ended: 1,
            expected: 5,
            excused: Vec::new(),
            threads: Vec::new(),
            hints: Vec::new(),
            children: Vec::new(),
        },
        not_observed: Vec::new(),
        flush: Vec::new(),
    }
}

#[test]
fn a_stack_is_shown_once_where_its_thread_is_named_last() {
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
    insta::assert_snapshot!(report.to_text(false), @r#"
    headcount orders: stopping (main ended)
    ├─ 1 drain    5ms of 1s        1 of 4 tasks ended
    │  ├─ ✗ http/came-back  ignored drain for 5.0s, on thread "worker" (tid 1) for 6.0s, spawned src/came-back.rs:1:2
    │  │     0 read (src/db.rs:1)
    │  │     1 handle (src/db.rs:2)
    │  ├─ ✗ http/main  ignored drain for 5.0s, on thread "worker" (tid 2) for 6.0s, spawned src/main.rs:1:2
    │  └─ ✗ http/stuck  ignored drain for 5.0s, on thread "worker" (tid 3) for 6.0s, spawned src/stuck.rs:1:2
    ├─ 2 cancel   5ms of 1s        1 tracked cancelled, 0 untracked dropped
    │  ├─ ✗ http/main  does not come back from its poll, on thread "worker" (tid 2) for 6.0s, age 7.0s, spawned src/main.rs:1:2
    │  │     0 read (src/db.rs:3)
    │  │     1 handle (src/db.rs:2)
    │  ├─ ✗ http/stuck  does not come back from its poll, on thread "worker" (tid 3) for 6.0s, age 7.0s, spawned src/stuck.rs:1:2
    │  ├─ ✗ http/starved  was cancelled and lives, age 7.0s, spawned src/starved.rs:1:2
    │  └─ ! no worker free to drop 1 task
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
fn a_deep_stack_is_cut_and_ends_with_where_it_began() {
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

/// A task that blocks in a library is deep in it.
#[test]
fn of_a_deep_stack_of_libraries_what_the_program_called_is_shown() {
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
        "… 14 more, of libraries",
        "20 orders::bridge (src/db.rs:20)",
        "… 1 more, of libraries",
        "22 orders::serve (src/db.rs:22)",
        "… 2 more, down to f24 (tokio-1.54.1/src/worker.rs:24)",
    ];
    assert_eq!(program[6..], rest);
    // One of the program's own is near enough.
    stack.insert(3, frame("orders::hook", 3));
    assert_eq!(shown(&stack).len(), 13);
}

#[test]
fn addresses_are_one_line() {
    let address = |at: usize| Frame {
        function: format!("{at:#x}"),
        file: (at > 16).then(|| format!("orders+{:#x}", at - 16)),
        line: None,
    };
    let stack: Vec<_> = (16..50).map(address).collect();
    let [line] = &*shown(&stack) else { panic!() };
    assert!(line.starts_with("at 0x10 ← orders+0x1 ← "), "{line}");
    assert!(line.ends_with(" ← orders+0x1f ← 2 more"), "{line}");
}

#[test]
fn what_is_around_every_wait_and_every_task_is_left_out() {
    let at = |function: &str, file: Option<&str>| Frame {
        function: function.to_owned(),
        file: file.map(str::to_owned),
        line: file.map(|_| 1),
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
    assert_eq!(shown(&stack)[2..], ["… 3 more, of the runtime"]);
    assert_eq!(shown(&stack[3..])[0], "0 orders::wait (src/db.rs:1)");
}

#[test]
fn what_a_stack_is_not_is_said_and_why_there_is_none_once() {
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
    │  ├─ ✗ thread "pg-reader" (tid 2, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  │     (no stack: it ended)
    │  ├─ ✗ thread "pg-reader" (tid 3, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  ├─ ✗ thread "pg-reader" (tid 4, unknown)  parked, age 7.0s, cpu 0.0s, appeared while stopping
    │  │     (no stack: not read in time)
    │  └─ ! 2 threads wait for one mutex (futex 0x10): "a" (tid 1), "b" (tid 2)
    └─ lingering: 4 threads               total 1.000s
    "#);
}

fn dumped(name: &str, tid: u32, stack: Vec<Frame>) -> Thread {
    Thread {
        name: name.to_owned(),
        tid,
        class: ThreadClass::Worker,
        there_before: false,
        spawned: None,
        age: Duration::from_secs(7),
        cpu: Duration::ZERO,
        state: "sleeping".to_owned(),
        waits: Some("parked".to_owned()),
        stack,
        stack_note: None,
        no_stack: None,
        task: None,
    }
}

fn dump(threads: Vec<Thread>) -> Dump {
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
fn in_a_dump_a_stack_that_many_threads_have_is_shown_once() {
    let mut blind = dumped("blind", 4, Vec::new());
    blind.no_stack = Some("it ended".to_owned());
    let dump = dump(vec![
        dumped("a", 1, deep(2)),
        dumped("b", 2, deep(3)),
        dumped("c", 3, deep(2)),
        blind.clone(),
        blind,
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
    │  │  └─ the stack of tid 1
    │  ├─ "blind" (tid 4, worker)  parked, age 7.0s, cpu 0µs
    │  │  └─ (no stack: it ended)
    │  └─ "blind" (tid 4, worker)  parked, age 7.0s, cpu 0µs
    └─ 1 hint
    "#);
    let text = dump.to_text();
    let (_, below) = text
        .split_once("├─ 0 tracked tasks\n")
        .expect("tasks come first");
    assert_eq!(below, threads);
}
