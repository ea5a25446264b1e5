//! Checks each answer against `/api/openapi.json`, and the paths of the document against the
//! server.

use super::client::{Client, with_admin};
use super::schema;
use headcount::telemetry::{Child, Endpoint};
use serde_json::Value;
use std::sync::mpsc::Sender;
use std::time::Duration;

fn document(client: &Client) -> Value {
    client.json("/api/openapi.json")
}

/// What is gone when it is dropped: a task that blocks a thread, a child and an endpoint.
struct Populated {
    _release: Sender<()>,
    _child: Child,
    _endpoint: Endpoint,
}

/// Creates everything that an answer can contain: tasks in groups, an untracked task, one that blocks
/// a thread, a child and an endpoint.
fn populate(client: &Client) -> Populated {
    let child = Child::register(&client.tasks, "proxy");
    child.started(std::process::id(), "proxy");
    child.ended("exited with code 1");
    child.started(std::process::id(), "proxy");
    child.told(15);
    child.said("line");
    let endpoint = Endpoint::register(&client.tasks, "db");
    endpoint.checked(Duration::from_millis(3));
    endpoint.failed("refused");
    endpoint.turned(false);
    let group = client.tasks.group("http");
    group.spawn("connection", std::future::pending::<()>());
    client
        .tasks
        .task("daemon")
        .daemon()
        .spawn(std::future::pending::<()>());
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, starts) = std::sync::mpsc::channel::<()>();
    client.tasks.spawn_blocking("holds", move || {
        drop(started);
        held.recv().ok()
    });
    starts.recv().ok();
    #[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
    drop(tokio::spawn(std::future::pending::<()>()));
    Populated {
        _release: release,
        _child: child,
        _endpoint: endpoint,
    }
}

#[track_caller]
fn assert_fits(document: &Value, path: &str, answer: &Value) {
    let pointer = format!(
        "/paths/{}/get/responses/200/content/application~1json/schema",
        path.replace('/', "~1")
    );
    let schema = document.pointer(&pointer).expect("the path is described");
    let problems = schema::problems(document, schema, answer);
    assert_eq!(problems, [""; 0], "{path}: {answer:#}");
}

#[test]
fn every_path_of_the_document_answers_as_described_and_there_are_no_others() {
    with_admin(
        |builder| builder,
        |client| {
            let _release = populate(client);
            let document = document(client);
            let paths = document["paths"].as_object().expect("an object");
            for (path, methods) in paths {
                let methods: Vec<&String> =
                    methods.as_object().expect("an object").keys().collect();
                assert_eq!(methods, ["get"], "{path}");
                if path == "/api/events" {
                    // It has no end.
                    continue;
                }
                let answer = client.get(path);
                assert_eq!(answer.status, 200, "{path}: {}", answer.body);
                let kind = answer.header("content-type").expect("it has one");
                let kind = kind.split(';').next().expect("a part");
                let pointer = format!("/get/responses/200/content/{}", kind.replace('/', "~1"));
                assert!(paths[path].pointer(&pointer).is_some(), "{path}: {kind}");
                if kind == "application/json" {
                    let answer = serde_json::from_str(&answer.body).expect("it is JSON");
                    assert_fits(&document, path, &answer);
                }
            }
            let routes = include_str!("../../../src/admin/routes.rs");
            let routes = routes.matches(".route(\"").count();
            assert_eq!(routes, paths.len(), "routes in the source, and described");
        },
    );
}

#[test]
fn the_parameters_of_tasks_are_those_of_the_document() {
    with_admin(
        |builder| builder,
        |client| {
            let _release = populate(client);
            let document = document(client);
            let parameters = &document["paths"]["/api/tasks"]["get"]["parameters"];
            for parameter in parameters.as_array().expect("a list") {
                let name = parameter["name"].as_str().expect("a name");
                let value = match name {
                    "limit" => "1",
                    "after" => "0-0",
                    "state" => parameter["schema"]["enum"][1].as_str().expect("a word"),
                    _ => "x",
                };
                let answer = client.json(&format!("/api/tasks?{name}={value}"));
                assert_fits(&document, "/api/tasks", &answer);
            }
            let unknown = client.get("/api/tasks?nothing=1");
            let known: Vec<&str> = parameters
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            let said = format!(
                "{{\"error\":\"unknown parameter; allowed: {}\"}}",
                known.join(", ")
            );
            assert_eq!((unknown.status, unknown.body), (400, said));
        },
    );
}

#[test]
fn the_lists_contain_exactly_what_is_live() {
    with_admin(
        |builder| builder,
        |client| {
            let _release = populate(client);
            let tasks = client.json("/api/tasks");
            let holds = tasks["tasks"]
                .as_array()
                .expect("a list")
                .iter()
                .find(|task| task["name"] == "holds");
            let holds = holds.expect("it lives");
            assert_eq!(
                (&holds["kind"], &holds["state"]),
                (&Value::from("blocking"), &Value::from("running"))
            );
            assert!(holds["on_thread"].is_u64(), "{holds}");
            let threads = client.json("/api/threads");
            let its = threads["threads"]
                .as_array()
                .expect("a list")
                .iter()
                .find(|thread| thread["tid"] == holds["on_thread"]);
            assert_eq!(its.expect("it is a thread")["class"], "blocking");
            let untracked = client.json("/api/untracked");
            assert_eq!(untracked["live"], 1, "{untracked}");
            if cfg!(tokio_unstable) {
                let site = untracked["sites"][0]["spawned"].as_str().expect("a place");
                assert!(site.starts_with("tests/it/admin/contract.rs:"), "{site}");
            }
            let runtime = client.json("/api/runtime");
            assert_eq!(runtime["service"], "test");
            assert_eq!(runtime["tasks_live"], 4, "{runtime}");
            assert_eq!(runtime["runtime"]["workers"], 2);
            assert_eq!(
                client.json("/api/report"),
                serde_json::json!({"phase": "running", "report": null, "previous": null})
            );
        },
    );
}
