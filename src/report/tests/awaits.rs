use super::task;
use crate::stacks::awaits::Awaited;

/// It said `awaits: []`, as of a task that registered no waker.
#[test]
fn the_awaits_of_a_woken_task_are_not_known_if_its_names_came_late() {
    let mut row = task("poller", None, Vec::new());
    let awaited = |always_ready| {
        let chains = Vec::new();
        Some(Awaited {
            chains,
            always_ready,
        })
    };
    row.rows[0].show_awaits(awaited(Some(9)));
    assert_eq!((row.awaits(), row.always_ready()), (None, Some(9)));
    let json = serde_json::to_value(&row).expect("every row is JSON");
    assert_eq!(json["awaits"], serde_json::Value::Null);
    row.rows[0].show_awaits(awaited(None));
    assert_eq!((row.awaits(), row.always_ready()), (Some(&[][..]), None));
}
