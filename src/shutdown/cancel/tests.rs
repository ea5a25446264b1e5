use super::{late, waited};
use crate::report::KindRow;
use crate::report::row::TaskRow;
use crate::task::{TaskId, TaskKind, TaskState};
use std::collections::HashSet;
use std::panic::Location;
use std::time::Duration;

const HERE: &Location<'static> = Location::caller();

/// Returns a row of cancelled tasks with these ids, each on the thread of the same number if
/// `on_threads`. `without_turn` of them had none.
fn tasks(ids: &[u64], on_threads: bool, without_turn: u64) -> KindRow {
    let row = |id: &u64| TaskRow {
        id: TaskId(*id),
        group: "",
        name: "poll",
        kind: TaskKind::Blocking,
        spawned: HERE,
        required: false,
        daemon: false,
        state: TaskState::Cancelling,
        age: Duration::from_secs(7),
        last_poll: None,
        on_thread: on_threads.then(|| u32::try_from(*id).expect("small")),
        dropping: false,
        awaits: None,
        always_ready: None,
        future: "",
    };
    let rows: Vec<TaskRow> = ids.iter().map(row).collect();
    KindRow {
        group: "",
        name: "poll",
        kind: TaskKind::Blocking,
        daemon: false,
        spawned: HERE,
        count: ids.len() as u64,
        states: [0, 0, 0, 0, ids.len() as u64],
        oldest: Duration::from_secs(7),
        draining: None,
        never_started: without_turn,
        not_polled: 0,
        held_by: None,
        on_thread: on_threads.then(|| format!("\"worker\" (tid {})", ids[0])),
        rows,
        stack: Vec::new(),
        stack_note: None,
        future: "",
    }
}

fn ids(rows: &[KindRow]) -> Vec<u64> {
    let rows = rows.iter().flat_map(|row| &row.rows);
    rows.map(|row| row.id.get()).collect()
}

/// Each row of a kind lost all tasks of the kind that were alive, so fewer had ended than did. The
/// states were those of all, and the thread that of one that was alive.
#[test]
fn late_tasks_are_counted_by_kind_and_described_as_they_were() {
    let left = [
        tasks(&[1, 2, 3], true, 0),
        tasks(&[4, 5], false, 0),
        tasks(&[6, 7, 8], false, 3),
    ];
    let alive = [tasks(&[1], true, 0), tasks(&[7, 8], false, 2)];
    let late = late(&left, &alive, &HashSet::from([1, 7, 8].map(TaskId)));
    assert_eq!(late.len(), 1);
    let row = &late[0];
    assert_eq!((row.count, waited(&late)), (4, 4));
    assert_eq!(ids(&late), [2, 3, 4, 5]);
    assert_eq!(row.in_state(TaskState::Cancelling), 4);
    assert_eq!((row.never_started, row.not_polled), (0, 0));
    assert_eq!(row.on_thread, None);
}

#[test]
fn a_task_that_got_its_turn_meanwhile_is_not_counted_twice() {
    let left = [tasks(&[1, 2], false, 0), tasks(&[3], false, 1)];
    // The third one runs, and both others have ended.
    let alive = [tasks(&[3], true, 0)];
    let late = late(&left, &alive, &HashSet::from([TaskId(3)]));
    assert_eq!(waited(&late), 1);
    assert_eq!(ids(&late).len(), 1);
}

#[test]
fn nothing_is_late_if_all_that_had_a_turn_is_alive() {
    let all = [tasks(&[1, 2], true, 0), tasks(&[3], false, 1)];
    let ids = HashSet::from([1, 2, 3].map(TaskId));
    assert_eq!(late(&all, &all, &ids), []);
    assert_eq!(late(&all, &all[..1], &ids), []);
}
