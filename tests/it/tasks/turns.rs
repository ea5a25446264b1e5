//! Tests of tasks that have no turn while a service stops, and of tasks that end late: they are told
//! apart from those that are to blame.

use crate::scenario::{GUARD, Gate, SHORT, alone, hasty, told};
use headcount::report::dump::Phase;
use headcount::{Report, TaskGroup};

/// Spawns a task that holds its worker until the gate opens, and waits until it does.
fn hold(tasks: &TaskGroup, name: &str, gate: &Gate) {
    let (inside, held) = (Gate::default(), gate.clone());
    let begun = inside.clone();
    drop(tasks.spawn(name, async move {
        begun.open();
        held.wait();
    }));
    inside.wait();
}

/// Returns the layers of the report that are about tasks, without values that vary.
fn layers(report: &Report) -> String {
    let text = crate::report::normal(&report.to_text(false));
    let begin = text.find("├─ 1").expect("the first layer");
    let end = text.find("├─ 3").expect("the last layer");
    text[begin..end].to_owned()
}

/// Two tasks would end if the only worker polled them. They were told after it was held.
#[test]
fn the_task_that_holds_the_only_worker_is_named_before_those_that_wait_for_it() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty()
            .worker_threads(1)
            .build()
            .unwrap()
            .run(async |tasks| {
                for name in ["orders", "mails"] {
                    let group = tasks.clone();
                    let begun = Gate::default();
                    let inside = begun.clone();
                    drop(tasks.spawn(name, async move {
                        inside.open();
                        group.draining().await;
                    }));
                    begun.wait();
                }
                hold(&tasks, "importer", &gate);
            });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 3 ended, ignored importer, not polled mails orders; \
             0 cancelled, lingering importer, still not polled mails orders; \
             thread headcount-work (worker) holds importer"
        );
        assert_eq!(report.lingering_tasks(), 1);
        insta::assert_snapshot!(layers(&report), @r#"
        ├─ 1 drain  Ns of 100ms  0 of 3 tasks ended
        │  ├─ ✗ importer  ignored drain for Ns, on thread "headcount-work" (tid N) for Ns, spawned tests/it/tasks/turns.rs:N:N
        │  └─ · 2 tasks were not polled since the stop began: importer holds the only worker
        ├─ 2 cancel  Ns of 500ms  nothing to cancel
        │  ├─ ✗ importer  stuck inside poll, on thread "headcount-work" (tid N) for Ns, age Ns, spawned tests/it/tasks/turns.rs:N:N
        │  └─ · no worker free to drop 2 tasks: importer holds the only worker
        "#);
        for task in &report.drain.not_polled {
            assert_eq!((task.not_polled, task.never_started), (1, 0));
            let held_by = task.held_by.as_deref();
            assert_eq!(held_by, Some("importer holds the only worker"));
        }
    });
}

/// One worker is free: nothing wakes the task, which is why it is not polled.
#[test]
fn a_task_that_nothing_wakes_is_to_blame_if_a_worker_is_free() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty()
            .worker_threads(2)
            .build()
            .unwrap()
            .run(async |tasks| {
                let deaf = Gate::default();
                let told = deaf.clone();
                drop(tasks.spawn("deaf", async move {
                    told.open();
                    std::future::pending::<()>().await;
                }));
                deaf.wait();
                hold(&tasks, "importer", &gate);
            });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 2 ended, ignored deaf importer; 1 cancelled, lingering importer; \
             thread headcount-work (worker) holds importer"
        );
        let ignored: Vec<&str> = report.drain.ignored.iter().map(|task| task.name).collect();
        assert_eq!(
            ignored,
            ["importer", "deaf"],
            "the holder comes first, though it is younger"
        );
    });
}

#[test]
fn closures_for_which_no_thread_is_free_never_started() {
    const THREADS: usize = 3;
    alone(|| {
        let gate = Gate::default();
        let report = hasty()
            .configure(|builder| {
                builder.max_blocking_threads(THREADS);
            })
            .build()
            .unwrap()
            .run(async |tasks| {
                for _ in 0..THREADS {
                    let (inside, held) = (Gate::default(), gate.clone());
                    let begun = inside.clone();
                    drop(tasks.spawn_blocking("resize", move || {
                        begun.open();
                        held.wait();
                    }));
                    inside.wait();
                }
                for _ in 0..20 {
                    drop(tasks.spawn_blocking("thumbnail", || ()));
                }
            });
        let (was, text) = (told(&report), layers(&report));
        let (drain, _) = text.split_once("├─ 2").expect("two layers");
        gate.open();
        insta::assert_snapshot!(drain, @r#"
        ├─ 1 drain  Ns of 100ms  0 of 23 tasks ended
        │  ├─ ✗ resize (blocking) ×3  ignored drain for Ns, on thread "headcount-work" (tid N), spawned tests/it/tasks/turns.rs:N:N
        │  └─ · thumbnail (blocking) ×20  never started: all 3 blocking threads are held (resize ×3), spawned tests/it/tasks/turns.rs:N:N
        "#);
        assert!(
            was.contains("not polled thumbnail (blocking) ×20; "),
            "{was}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let row = &json["drain"]["not_polled"][0];
        assert_eq!(row["never_started"], 20, "{row}");
        assert_eq!(row["states"]["draining"], 20, "{row}");
        assert_eq!(
            row["held_by"], "all 3 blocking threads are held (resize ×3)",
            "{row}"
        );
    });
}

#[test]
fn a_closure_that_ends_while_the_threads_are_closed_is_late_and_does_not_linger() {
    alone(|| {
        let runtime = hasty()
            .close_budget(GUARD)
            .deadline(GUARD * 3)
            .cancel_budget(SHORT)
            .build()
            .unwrap();
        let dumper = runtime.dumper();
        let report = runtime.run(async |tasks| {
            drop(tasks.spawn_blocking(
                "poll",
                move || {
                    while dumper.dump().phase != Phase::Closing {}
                },
            ));
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored poll (blocking); 0 cancelled, late poll (blocking)"
        );
        insta::assert_snapshot!(layers(&report), @r#"
        ├─ 1 drain  Ns of 100ms  0 of 1 task ended
        │  └─ ✗ poll (blocking)  ignored drain for Ns, on thread "headcount-work" (tid N), spawned tests/it/tasks/turns.rs:N:N
        ├─ 2 cancel  Ns of 100ms  nothing to cancel
        │  └─ ! poll (blocking)  late: ended in the close layer, spawned tests/it/tasks/turns.rs:N:N
        "#);
    });
}
