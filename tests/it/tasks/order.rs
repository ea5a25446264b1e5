//! Tests of the order in which groups drain.

use crate::scenario::{GUARD, alone, quiet, told};
use headcount::TaskGroup;
use std::future::pending;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Spawns a task that sends the name of its group when it is told to drain.
fn says(group: &TaskGroup, said: &Sender<&'static str>) {
    let (member, said) = (group.clone(), said.clone());
    drop(group.spawn("says", async move {
        member.draining().await;
        said.send(member.name()).unwrap();
    }));
}

/// Returns the names in the order in which they were sent.
fn order(make: impl FnOnce(&TaskGroup) -> Vec<TaskGroup>) -> Vec<&'static str> {
    let (said, heard) = channel();
    let report = quiet().build().unwrap().run(async |tasks| {
        let groups = make(&tasks);
        for group in groups.iter().chain([&tasks]) {
            says(group, &said);
        }
        // Groups live as long as their tasks.
        drop(groups);
    });
    drop(said);
    let names: Vec<_> = heard.iter().collect();
    let n = names.len();
    assert_eq!(
        told(&report),
        format!("clean 0: main ended; {n} of {n} ended; 0 cancelled")
    );
    names
}

#[test]
fn groups_drain_in_the_reverse_order_of_their_creation_and_before_their_parent() {
    alone(|| {
        let names = order(|tasks| {
            let a = tasks.group("a");
            let b = tasks.group("b");
            let inner = a.group("inner");
            let c = tasks.group("c");
            let deep = inner.group("deep");
            vec![a, b, inner, c, deep]
        });
        assert_eq!(names, ["c", "b", "a/inner/deep", "a/inner", "a", ""]);
    });
}

#[test]
fn a_group_drains_after_those_that_it_was_declared_to_drain_after() {
    alone(|| {
        let names = order(|tasks| {
            let a = tasks.group("a");
            let b = tasks.group("b");
            let c = tasks.group("c").drain_after(&a);
            let d = tasks.group("d").drain_after(&c).drain_after(&b);
            vec![a, b, c, d]
        });
        assert_eq!(names, ["b", "a", "c", "d", ""]);
    });
}

#[test]
fn a_cycle_of_groups_is_refused() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let refused = |make: &dyn Fn()| {
                let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
                *panic.unwrap_err().downcast::<String>().unwrap()
            };
            let (a, b) = (tasks.group("a"), tasks.group("b"));
            let c = tasks.group("c").drain_after(&b);
            let b = b.drain_after(&a);
            assert_eq!(
                refused(&|| drop(a.clone().drain_after(&c))),
                "group 'a' cannot drain after 'c': both need the same parent, and the order must have no cycle"
            );
            assert_eq!(
                refused(&|| drop(a.clone().drain_after(&a))),
                "group 'a' cannot drain after 'a': both need the same parent, and the order must have no cycle"
            );
            assert_eq!(
                refused(&|| drop(a.group("inner").drain_after(&b))),
                "group 'a/inner' cannot drain after 'b': both need the same parent, and the order must have no cycle"
            );
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_group_that_hangs_does_not_take_the_time_of_the_others() {
    alone(|| {
        let (said, heard) = channel();
        let report = quiet()
            .drain_budget(Duration::from_secs(2))
            .build()
            .unwrap()
            .run(async |tasks| {
                let (first, second) = (tasks.group("first"), tasks.group("second"));
                says(&first, &said);
                says(&second, &said);
                says(&tasks, &said);
                let hangs = tasks.group("hangs");
                drop(hangs.spawn("ignores", pending::<()>()));
            });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 3 of 4 ended, ignored hangs/ignores; 1 cancelled"
        );
        let names: Vec<_> = heard.try_iter().collect();
        assert_eq!(names, ["second", "first", ""]);
        assert!(report.total < GUARD);
    });
}

#[test]
fn tasks_of_a_group_drain_together() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            let together = std::sync::Arc::new(tokio::sync::Barrier::new(50));
            for _ in 0..50 {
                let (member, together) = (group.clone(), together.clone());
                // No task ends before all have been told to drain.
                drop(group.spawn("member", async move {
                    member.draining().await;
                    together.wait().await;
                }));
            }
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 50 of 50 ended; 0 cancelled"
        );
    });
}
