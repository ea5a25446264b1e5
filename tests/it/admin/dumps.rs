//! The dump of the admin server.

use super::client::with_admin;
use crate::scenario::wait_until;
use serde_json::json;
use std::process::Command;

#[test]
fn a_dump_has_no_arguments_of_command_lines() {
    with_admin(
        |builder| builder,
        |client| {
            let mut child = Command::new("sleep")
                .arg("1000")
                .spawn()
                .expect("sleep runs");
            client.tasks.spawn("idler", std::future::pending::<()>());
            let dump = client.json("/api/dump");
            child.kill().expect("it is alive");
            child.wait().expect("it is a child");
            let pid = json!(child.id());
            let rows = dump["children"].as_array().expect("they are observed");
            let row = rows.iter().find(|row| row["pid"] == pid);
            assert_eq!(row.expect("it is listed")["command"], "sleep");
            let names = dump["root"]["kinds"].as_array().expect("a list");
            assert!(names.iter().any(|kind| kind["name"] == "idler"), "{dump:#}");
        },
    );
}

#[test]
fn dumps_are_at_most_one_a_second() {
    with_admin(
        |builder| builder,
        |client| {
            let first = client.get("/api/dump?format=text");
            assert!(first.body.starts_with("headcount test: dump, running\n"));
            // A machine may need a second for a request.
            let mut answers = std::iter::repeat_with(|| client.get("/api/dump")).take(1000);
            let second = answers.find(|answer| answer.status != 200);
            let second = second.expect("two within a second");
            assert_eq!(second.status, 429, "{second:?}");
            assert_eq!(second.header("retry-after"), Some("1"));
            let why = "{\"error\":\"a dump was taken less than a second ago\"}";
            assert_eq!(second.body, why);
            let wrong = client.get("/api/dump?format=xml");
            assert_eq!(wrong.status, 400);
            let is_taken = || client.get("/api/dump").status == 200;
            wait_until(is_taken, || "no dump is taken again".to_owned());
        },
    );
}
