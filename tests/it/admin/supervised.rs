//! The children and endpoints that a service supervises, in the API and in `/readyz`.

use super::client::{Client, LONG, with_admin};
use headcount::telemetry::{Child, Endpoint};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

fn first(client: &Client, kind: &str) -> Value {
    client.json(&format!("/api/{kind}"))[kind][0].clone()
}

/// Reads the first child until `done` returns true.
#[track_caller]
fn until(client: &Client, done: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let child = first(client, "children");
        if done(&child) {
            return child;
        }
        assert!(begun.elapsed() < LONG, "{child:#}");
        std::thread::yield_now();
    }
}

#[test]
fn a_child_is_shown_from_its_registration_to_its_end() {
    with_admin(
        |builder| builder,
        |client| {
            let proxy = Child::register(&client.tasks.group("process"), "proxy");
            let none = json!({
                "processes": null, "cpu_seconds": null, "cpu_cores": null, "resident_bytes": null
            });
            let unborn = json!({
                "name": "process/proxy", "state": "not started", "live": false, "pid": null,
                "program": null, "running_seconds": null, "restarts": 0, "last_exit": null,
                "told_to_stop": null, "waits_for": [], "killed": [], "unstopped": [], "usage": none, "lines": []
            });
            assert_eq!(first(client, "children"), unborn);
            proxy.started(4_000_000, "/opt/proxy/bin/proxy --password secret");
            proxy.waits_for(&["web".to_owned()]);
            proxy.told(15);
            let live = first(client, "children");
            assert_eq!(live["program"], "proxy");
            assert_eq!(live["state"], "running");
            assert_eq!(live["pid"], 4_000_000);
            assert_eq!(live["waits_for"], json!(["web"]));
            assert_eq!(live["told_to_stop"]["what"], "SIGTERM");
            assert!(!live.to_string().contains("secret"), "{live}");
            // No process has this pid.
            assert_eq!(live["usage"], none);
            proxy.ended("exited with code 3");
            proxy.restarted();
            proxy.set_state("backoff");
            let ended = first(client, "children");
            assert_eq!(ended["state"], "backoff");
            assert_eq!(
                (&ended["live"], &ended["pid"]),
                (&json!(false), &json!(null))
            );
            assert_eq!(ended["restarts"], 1);
            assert_eq!(ended["told_to_stop"], json!(null));
            proxy.started(4_000_001, "proxy");
            let again = first(client, "children");
            assert_eq!(again["last_exit"]["what"], "exited with code 3");
            drop(proxy);
            assert_eq!(client.json("/api/children")["children"], json!([]));
        },
    );
}

#[test]
fn the_usage_of_a_child_is_that_of_its_whole_tree() {
    with_admin(
        |builder| builder,
        |client| {
            // A shell that has used some CPU time, and waits for a child of its own.
            let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000 & wait";
            let mut command = Command::new("sh");
            let mut shell = command.args(["-c", script]).spawn().expect("sh runs");
            let child = Child::register(&client.tasks, "shell");
            child.started(shell.id(), "sh -c script");
            let seen = until(client, |child| child["usage"]["processes"] == 2);
            let usage = &seen["usage"];
            assert!(usage["resident_bytes"].as_u64() > Some(100_000), "{usage}");
            let cpu = usage["cpu_seconds"].as_f64().expect("it is known");
            assert!(cpu > 0.0, "{usage}");
            let stat = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id()));
            let sleeper: i32 = stat.expect("it is alive").trim().parse().expect("one pid");
            let sleeper = rustix::process::Pid::from_raw(sleeper).expect("not 0");
            shell.kill().expect("it is alive");
            shell.wait().expect("it is a child");
            rustix::process::kill_process(sleeper, rustix::process::Signal::KILL)
                .expect("it is alive");
            child.ended("killed by SIGKILL");
            let ended = first(client, "children");
            assert_eq!(ended["usage"]["processes"], json!(null));
            assert!(
                ended["usage"]["cpu_seconds"].as_f64() >= Some(cpu),
                "{ended}"
            );
        },
    );
}

#[test]
fn the_last_lines_of_a_child_are_bounded_and_without_secrets() {
    with_admin(
        |builder| builder,
        |client| {
            let child = Child::register(&client.tasks, "web");
            for n in 0..100 {
                child.said(&format!("line {n}"));
            }
            child.said(&"x".repeat(100_000));
            // The cut is where the password is.
            child.said(&format!(
                "{} postgres://me:hunter2@db/orders",
                "y".repeat(170)
            ));
            child.said("GET /?token=hunter2&page=2 \u{1b}[2J");
            let child = first(client, "children");
            let lines = child["lines"].as_array().expect("a list");
            assert_eq!(lines.len(), 20);
            assert_eq!(lines[16], "line 99");
            assert_eq!(lines[17], "x".repeat(200));
            let url = format!("{} postgres://…@db/orders", "y".repeat(170));
            assert_eq!(lines[18], url);
            assert_eq!(lines[19], "GET /?token=…&page=2 \u{fffd}[2J");
        },
    );
}

#[test]
fn an_endpoint_is_shown_with_its_last_failure() {
    with_admin(
        |builder| builder,
        |client| {
            let db = Endpoint::register(&client.tasks.group("checks"), "db");
            let unknown = json!({
                "name": "checks/db", "up": null, "since_seconds": null, "transitions": 0,
                "checks": 0, "failed": 0, "last_check": null, "last_failure": null
            });
            assert_eq!(first(client, "endpoints"), unknown);
            db.checked(Duration::from_secs(2));
            db.failed("cannot connect to postgres://me:hunter2@db");
            db.turned(false);
            db.checked(Duration::from_millis(3));
            db.turned(true);
            let up = first(client, "endpoints");
            assert_eq!(up["up"], true);
            assert_eq!((&up["checks"], &up["failed"]), (&json!(2), &json!(1)));
            assert_eq!(up["transitions"], 2);
            assert_eq!(up["last_check"]["took_seconds"], 0.003);
            let failure = &up["last_failure"]["what"];
            assert_eq!(failure, "cannot connect to postgres://…@db");
        },
    );
}

#[test]
fn the_body_of_readyz_lists_children_and_endpoints_and_is_bounded() {
    with_admin(
        |builder| builder,
        |client| {
            let web = Child::register(&client.tasks.group("process"), "web");
            web.set_state("starting");
            let [db, cache] = ["db", "cache"].map(|name| Endpoint::register(&client.tasks, name));
            db.turned(false);
            let ready = client.get("/readyz");
            assert_eq!(ready.status, 200);
            let lines =
                "child process/web: starting\nendpoint db: down\nendpoint cache: not known yet\n";
            assert_eq!(ready.body, format!("ready\n{lines}"));
            client.tasks.set_unready("process web", "not ready yet");
            let unready = client.get("/readyz");
            assert_eq!(unready.status, 503);
            let body = format!("not ready: process web: not ready yet\n{lines}");
            assert_eq!(unready.body, body);
            let many = (0..200).map(|n| Endpoint::register(&client.tasks, &format!("e{n}")));
            let many: Vec<Endpoint> = many.collect();
            let body = client.get("/readyz").body;
            assert_eq!(body.lines().count(), 102);
            assert!(body.ends_with("\nand 103 more\n"), "{body}");
            drop((cache, many));
        },
    );
}

#[test]
fn a_child_that_ends_in_a_shutdown_is_shown_until_the_end() {
    let listed = with_admin(
        |builder| builder.drain_budget(LONG),
        |client| {
            let (release, held) = std::sync::mpsc::channel::<()>();
            client
                .tasks
                .spawn_blocking("holds", move || held.recv().ok());
            let child = Child::register(&client.tasks, "web");
            client.tasks.stop("test");
            // Readiness fails a little before a child that ends is kept.
            while client.json("/api/runtime")["phase"] != "draining" {
                std::thread::yield_now();
            }
            child.ended("exited with code 0");
            drop(child);
            let listed = client.json("/api/children");
            drop(release);
            listed
        },
    );
    let end = &listed["children"][0]["last_exit"]["what"];
    assert_eq!(end, "exited with code 0", "{listed}");
}
