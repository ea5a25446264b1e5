//! Tests of the reader against what tokio itself says.

use super::*;
use crate::inspect::list::End;
use std::collections::HashSet;
use std::future;
use std::sync::{Arc, Barrier};
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

fn bounds() -> Bounds {
    Bounds {
        tasks: 1 << 22,
        until: End::At(Instant::now() + Duration::from_secs(60)),
    }
}

fn workers() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("a runtime")
}

fn read(runtime: &Runtime) -> OwnReader {
    OwnReader::new(0, runtime.handle()).expect("the layout is known")
}

/// The ids that a look has.
fn ids(look: &Look) -> HashSet<u64> {
    assert_eq!(look.given_up, 0);
    assert_eq!(look.misplaced, 0);
    let ids: HashSet<u64> = look.tasks.iter().map(|task| task.id).collect();
    assert_eq!(ids.len(), look.tasks.len(), "each task is listed once");
    ids
}

#[test]
fn every_task_is_listed_with_its_id() {
    let current = Builder::new_current_thread().build().expect("a runtime");
    for runtime in [workers(), current] {
        let reader = read(&runtime);
        assert_eq!(
            ids(&reader.look(runtime.handle(), bounds())),
            HashSet::new()
        );
        let tasks: Vec<_> = (0..1000)
            .map(|_| runtime.spawn(future::pending::<()>()))
            .collect();
        let spawned: HashSet<u64> = tasks.iter().map(|task| number(task.id())).collect();
        let look = reader.look(runtime.handle(), bounds());
        assert_eq!(ids(&look), spawned);
        assert!(look.tasks.iter().all(|task| task.state.has_join_handle()));
        // The task of the reader itself may be ending: in the list or the count alone.
        let (before, after) = look.counted.expect("there is a count");
        assert!((999..=1001).contains(&before), "{before}");
        assert!((999..=1001).contains(&after), "{after}");
    }
}

#[test]
fn a_second_reader_finds_the_lists_among_tasks_that_are_there() {
    let runtime = workers();
    for _ in 0..100 {
        runtime.spawn(future::pending::<()>());
    }
    assert_eq!(
        ids(&read(&runtime).look(runtime.handle(), bounds())).len(),
        100
    );
    assert_eq!(
        ids(&read(&runtime).look(runtime.handle(), bounds())).len(),
        100
    );
}

#[test]
fn a_task_that_has_ended_is_not_listed() {
    let runtime = workers();
    let reader = read(&runtime);
    let (end, ends) = oneshot::channel::<()>();
    let task = runtime.spawn(async {
        ends.await.ok();
    });
    let look = reader.look(runtime.handle(), bounds());
    let [seen] = look.tasks[..] else {
        panic!("one task")
    };
    assert_eq!(seen.id, number(task.id()));
    assert!(reader.again(runtime.handle(), &seen).is_some());
    end.send(()).expect("the task waits");
    runtime.block_on(task).expect("it ends");
    // Its handle is told before it leaves the list.
    let begun = std::time::Instant::now();
    while reader.again(runtime.handle(), &seen).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    assert_eq!(
        ids(&reader.look(runtime.handle(), bounds())),
        HashSet::new()
    );
}

#[test]
fn tasks_are_listed_while_every_worker_is_stuck() {
    let runtime = workers();
    let both = Arc::new(Barrier::new(3));
    for _ in 0..2 {
        let begun = Arc::new(Barrier::new(2));
        let (begins, both) = (Arc::clone(&begun), Arc::clone(&both));
        runtime.spawn(async move {
            begins.wait();
            both.wait();
        });
        begun.wait();
    }
    let starved = runtime.spawn(async {});
    let look = read(&runtime).look(runtime.handle(), bounds());
    let running = look.tasks.iter().filter(|task| task.state.is_running());
    assert_eq!(running.count(), 2);
    let starved = number(starved.id());
    let starved = look.tasks.iter().find(|task| task.id == starved);
    assert_eq!(starved.map(|task| task.state.as_str()), Some("woken"));
    both.wait();
}

#[test]
fn a_task_with_no_waker_left_is_told_from_one_that_will_be_woken() {
    let runtime = workers();
    let (wake, woken) = oneshot::channel::<()>();
    let waits = runtime.spawn(async {
        woken.await.ok();
    });
    let lost = runtime.spawn(future::pending::<()>());
    let reader = read(&runtime);
    let states = loop {
        let look = reader.look(runtime.handle(), bounds());
        let mut states = look.tasks.iter();
        // Neither was polled yet, or one is being polled.
        if states.all(|task| task.state.as_str() == "waiting") {
            break look;
        }
    };
    let of = |id| {
        let mut tasks = states.tasks.iter();
        let task = tasks.find(|task| task.id == number(id));
        task.expect("it is listed").state
    };
    assert!(!of(waits.id()).can_never_wake(0));
    assert!(of(lost.id()).can_never_wake(0));
    drop(wake);
}

/// 200 tasks stay while others start and end all the time.
#[test]
fn tasks_that_stay_are_in_every_look_while_others_come_and_go() {
    let runtime = workers();
    let stay: HashSet<u64> = (0..200)
        .map(|_| number(runtime.spawn(future::pending::<()>()).id()))
        .collect();
    let reader = read(&runtime);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let churn = runtime.spawn(async move {
        while !*stopped.borrow_and_update() {
            #[expect(clippy::disallowed_methods, reason = "untracked tasks are needed")]
            let some: Vec<_> = (0..50).map(|_| tokio::spawn(async {})).collect();
            for task in some {
                task.await.expect("it ends");
            }
        }
    });
    let mut whole = 0;
    for _ in 0..200 {
        let look = reader.look(runtime.handle(), bounds());
        // A thread that had to wait for a processor finds cells reused for tasks of other lists. The look
        // then says that it is not whole.
        if look.is_whole() {
            assert!(stay.is_subset(&ids(&look)), "{look:?}");
            whole += 1;
        }
    }
    assert!(whole > 0, "no look was whole");
    stop.send(true).expect("it runs");
    runtime.block_on(churn).expect("it ends");
}

#[test]
fn a_runtime_that_is_closed_has_no_tasks() {
    let runtime = workers();
    for _ in 0..100 {
        runtime.spawn(future::pending::<()>());
    }
    let (reader, handle) = (read(&runtime), runtime.handle().clone());
    assert_eq!(reader.look(&handle, bounds()).tasks.len(), 100);
    drop(runtime);
    let look = reader.look(&handle, bounds());
    assert_eq!(look.tasks.len(), 0);
    assert_eq!(look.counted, Some((0, 0)));
}

#[test]
fn a_look_ends_at_its_bounds() {
    let runtime = workers();
    for _ in 0..5000 {
        runtime.spawn(future::pending::<()>());
    }
    let reader = read(&runtime);
    let few = reader.look(
        runtime.handle(),
        Bounds {
            tasks: 100,
            ..bounds()
        },
    );
    assert!((100..300).contains(&few.tasks.len()), "{}", few.tasks.len());
    assert!(few.given_up > 0);
    let late = reader.look(
        runtime.handle(),
        Bounds {
            until: End::At(Instant::now()),
            ..bounds()
        },
    );
    assert!(late.tasks.len() < 5000, "{}", late.tasks.len());
}
