//! Dumps, through the interface that services use.

use crate::scenario::{Gate, alone, quiet};
use headcount::ThreadKind;
use headcount::report::Dump;
use headcount::report::dump::Thread;
use headcount::threads::ThreadClass;
use std::future::pending;

/// A service with one of each, each where it stays.
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
            #[expect(clippy::disallowed_methods, reason = "it is what must be shown")]
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

/// Whether the control thread, which starts meanwhile, has registered, and whatever else has begun.
fn has_control(dump: &Dump) -> bool {
    let threads = || dump.threads.iter().flatten();
    let is_known = |thread: &Thread| thread.there_before || thread.class != ThreadClass::Unknown;
    threads().any(|thread| thread.name == "headcount-control" && thread.spawned.is_some())
        && threads().all(is_known)
}

fn all_polled(tasks: &headcount::TaskGroup) -> bool {
    let snapshot = tasks.snapshot();
    let mut states = snapshot
        .tasks()
        .iter()
        .map(headcount::group::TaskRow::state);
    states.all(|state| state == headcount::TaskState::Running)
}

/// Whether no task is on a thread that will leave it.
fn is_parked(group: &headcount::report::dump::Group) -> bool {
    let mut kinds = group.kinds.iter();
    let is_async = |kind: &headcount::report::dump::Kind| kind.kind == headcount::TaskKind::Async;
    let parked =
        kinds.all(|kind| !is_async(kind) || kind.rows.iter().all(|row| row.on_thread.is_none()));
    parked && group.groups.iter().all(is_parked)
}

/// The numbers that differ from run to run, what depends on features, and threads that may be there or not.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let is_left_out = line.contains("there before") || line.contains("\"headcount-log\"");
        if is_left_out || crate::report::is_of_stack(line) {
            continue;
        }
        let line = match line.split_once(", awaiting ") {
            // A row of its own, for what it awaits.
            Some((row, _)) if row.contains("─ #") => continue,
            Some((row, _)) => row,
            None => line,
        };
        let (tree, rest) = line.split_at(line.find(|c| !"│├└─ ".contains(c)).unwrap_or(0));
        // The last thread may be one of those left out.
        let tree = tree.replace("   └─", "   ├─");
        let rest = without_waits(rest);
        let rest = match rest.split_once(" threads") {
            Some(_) => "N threads\n".to_owned(),
            None => crate::report::normal(&rest),
        };
        normal += &format!("{tree}{rest}");
    }
    normal
}

/// What a thread waits for at this moment, which differs from run to run, becomes `S`.
fn without_waits(row: &str) -> String {
    let thread = row.starts_with('"').then(|| row.split_once(")  "));
    match (thread.flatten(), row.rsplit_once(", age ")) {
        (Some((head, _)), Some((_, tail))) => format!("{head})  S, age {tail}"),
        _ => row.to_owned(),
    }
}

#[test]
fn a_dump_shows_all_that_lives_as_a_tree() {
    alone(|| {
        let dump = eventful();
        let text = normal(&dump.to_text());
        crate::report::assert_snapshot("dump_text", &text);
        assert_eq!(dump.to_string(), dump.to_text());
    });
}

#[cfg(feature = "json")]
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
        // It logs of the untracked tasks.
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
async fn a_dump_of_an_attached_runtime_says_what_it_cannot_see() {
    let headcount = headcount::attach(&tokio::runtime::Handle::current()).unwrap();
    let group = headcount.tasks().group("http");
    drop(group.spawn("accept", pending::<()>()));
    let dump = headcount.dump();
    assert_eq!((dump.tasks, dump.untracked), (1, None));
    let blind = "untracked tasks: not observed, the runtime is not headcount's";
    assert_eq!(dump.not_observed, [blind]);
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
