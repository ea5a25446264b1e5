//! Tests of dumps through the public API.

use crate::scenario::{Gate, alone, quiet};
use headcount::ThreadKind;
use headcount::report::{Dump, ThreadRow};
use headcount::threads::ThreadClass;
use std::future::pending;

/// Runs a service with one of each kind of task, each in a stable state, and returns its dump.
fn eventful() -> Dump {
    let gate = Gate::default();
    let runtime = quiet().name("orders").build().unwrap();
    let dumper = runtime.dumper();
    let mut dump = None;
    runtime.run(async |tasks| {
        let http = tasks.group("http");
        let connections = http.group("connections");
        for _ in 0..40 {
            drop(connections.spawn("request", pending::<()>()));
        }
        let begun = Gate::default();
        let (inside, held) = (begun.clone(), gate.clone());
        drop(tasks.spawn_blocking("reindex", move || {
            inside.open();
            held.wait();
        }));
        begun.wait();
        drop(tasks.task("probe").daemon().spawn(pending::<()>()));
        let begun = Gate::default();
        let (inside, held) = (begun.clone(), gate.clone());
        drop(
            tasks.spawn_thread("a-very-long-watcher", ThreadKind::Tracked, move || {
                inside.open();
                held.wait();
            }),
        );
        begun.wait();
        for _ in 0..3 {
            #[expect(clippy::disallowed_methods, reason = "an untracked task is under test")]
            drop(tokio::spawn(pending::<()>()));
        }
        crate::scenario::until(|| {
            let is_polled = all_polled(&tasks);
            let taken = dumper.dump();
            let is_still = is_polled && is_parked(&taken.root) && has_control(&taken);
            dump = is_still.then_some(taken);
            is_still
        })
        .await;
        gate.open();
        tasks.cancel().await;
    });
    dump.expect("main ran")
}

/// Returns whether the control thread, which starts in parallel, has registered, and all other
/// threads have started.
fn has_control(dump: &Dump) -> bool {
    let threads = || dump.threads.iter().flatten();
    let is_known = |thread: &ThreadRow| thread.there_before || thread.class != ThreadClass::Unknown;
    threads().any(|thread| thread.name == "headcount-control" && thread.started.is_some())
        && threads().all(is_known)
}

fn all_polled(tasks: &headcount::TaskGroup) -> bool {
    let snapshot = tasks.snapshot();
    let mut states = snapshot.tasks().map(|row| row.state);
    states.all(|state| state == headcount::TaskState::Running)
}

/// Returns whether no task is on a thread that it will leave.
fn is_parked(group: &headcount::report::dump::Group) -> bool {
    let mut kinds = group.kinds.iter();
    let is_async = |kind: &headcount::report::KindRow| kind.kind == headcount::TaskKind::Async;
    let parked =
        kinds.all(|kind| !is_async(kind) || kind.rows.iter().all(|row| row.on_thread.is_none()));
    parked && group.groups.iter().all(is_parked)
}

/// Removes the numbers that differ between runs, the parts that depend on features, and optional
/// threads.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let is_left_out = line.contains("pre-existing") || line.contains("\"headcount-log\"");
        if is_left_out || crate::report::is_of_stack(line) {
            continue;
        }
        let row = crate::report::without_awaits(line);
        if row != line && row.contains("─ #") {
            // A separate row for what a task awaits.
            continue;
        }
        let line = row.as_str();
        let (tree, rest) = line.split_at(line.find(|c| !"│├└─ ".contains(c)).unwrap_or(0));
        // The last thread may be one of those removed.
        let tree = match rest.starts_with('"') {
            true => tree.replace("└─", "├─"),
            false => tree.replace("   └─", "   ├─"),
        };
        let rest = without_waits(rest);
        let rest = match rest.split_once(" threads") {
            Some(_) => "N threads\n".to_owned(),
            // An age that is known from the second look on.
            None => crate::report::normal(&rest).replace(", older than Ns", ""),
        };
        normal += &format!("{tree}{rest}");
    }
    normal
}

/// Replaces what a thread is waiting for, which differs between runs, with `S`.
fn without_waits(row: &str) -> String {
    let thread = row.starts_with('"').then(|| row.split_once(")  "));
    match (thread.flatten(), row.rsplit_once(", age ")) {
        (Some((head, _)), Some((_, tail))) => format!("{head})  S, age {tail}"),
        _ => row.to_owned(),
    }
}

#[test]
fn a_dump_shows_everything_live_as_a_tree() {
    alone(|| {
        let dump = eventful();
        let text = normal(&dump.to_text());
        crate::report::assert_snapshot("dump_text", &text);
        assert_eq!(dump.to_string(), dump.to_text());
    });
}

#[test]
fn a_dump_is_one_line_of_json() {
    alone(|| {
        let line = eventful().to_json();
        assert!(!line.contains('\n'));
        let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let threads = value["threads"]
            .as_array_mut()
            .expect("threads are observed");
        threads.retain(|thread| thread["there_before"] == false);
        // This thread logs warnings about untracked tasks.
        threads.retain(|thread| thread["name"] != "headcount-log");
        for thread in threads {
            assert!(thread["waits"].is_string(), "{thread}");
            thread["waits"] = "S".into();
        }
        crate::report::settle(&mut value);
        let text = serde_json::to_string_pretty(&value).unwrap();
        crate::report::assert_snapshot("dump_json", &text);
    });
}

#[test]
fn a_dump_is_bounded_and_says_how_many_more_there_are() {
    const GROUPS: u64 = 3;
    let runtime = quiet().build().unwrap();
    for _ in 0..GROUPS {
        let group = runtime.tasks().group("pool");
        for _ in 0..2000 {
            drop(group.spawn("connection", pending::<()>()));
        }
    }
    for n in 0..1200 {
        drop(runtime.tasks().spawn(&format!("kind {n}"), pending::<()>()));
    }
    let dump = runtime.dump();
    assert_eq!(dump.tasks, 2000 * GROUPS + 1200);
    assert_eq!((dump.root.kinds.len(), dump.unlisted_tasks), (999, 201));
    let [pool] = dump.root.groups.as_slice() else {
        panic!("{:?}", dump.root.groups);
    };
    assert_eq!((pool.count, pool.kinds[0].count), (GROUPS, 2000 * GROUPS));
    let text = dump.to_text();
    assert!(
        text.contains("│  ├─ pool ×3\n│  │  └─ connection ×6000  "),
        "{text}"
    );
    assert!(text.contains("│  └─ and 201 more\n"), "{text}");
}

#[tokio::test]
async fn a_dump_of_an_attached_runtime_has_its_untracked_tasks() {
    let headcount = headcount::attach(&tokio::runtime::Handle::current()).unwrap();
    let group = headcount.tasks().group("http");
    drop(group.spawn("accept", pending::<()>()));
    let dump = headcount.dump();
    assert_eq!((dump.tasks, dump.untracked), (1, Some(Vec::new())));
    assert!(dump.not_observed.is_empty());
    #[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
    let untracked = tokio::spawn(pending::<()>());
    let rows = headcount.dump().untracked.unwrap();
    assert_eq!((rows.len(), rows[0].live), (1, 1));
    untracked.abort();
    group.cancel().await;
}

#[test]
fn a_name_with_line_breaks_is_one_line() {
    let gate = Gate::default();
    let runtime = quiet().build().unwrap();
    let (begun, held) = (Gate::default(), gate.clone());
    let inside = begun.clone();
    let thread =
        runtime
            .tasks()
            .spawn_thread("two\nlines\u{1b}[2J", ThreadKind::Daemon, move || {
                inside.open();
                held.wait();
            });
    begun.wait();
    let text = runtime.dump().to_text();
    gate.open();
    thread.join().unwrap();
    assert!(
        text.contains("─ \"two\u{fffd}lines\u{fffd}[2J\" (tid "),
        "{text}"
    );
}
