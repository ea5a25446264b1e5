//! Tests of the admin server of a runtime in this process: which requests it accepts, what it
//! answers, and that no client can hold it up.

mod client;
mod contract;
mod damaged;
mod dumps;
mod events;
mod limits;
mod schema;
mod socket;
mod supervised;

use client::{Client, LONG, with_admin};
use headcount::{BuildError, Runtime};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

#[test]
fn an_address_in_use_is_refused_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("ports are available");
    let address = taken.local_addr().expect("it is bound");
    let outside = tempfile::tempdir().expect("a temporary folder can be created");
    let folder = outside.path().join("state");
    let built = Runtime::builder()
        .admin(address)
        .state_folder(&folder)
        .build();
    let error = built.expect_err("the address is in use");
    assert!(!folder.exists(), "the end of the previous run is not lost");
    let text = error.to_string().replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(text, @"bind the admin server to ADDRESS, where another server is already listening");
    let BuildError::Admin { address: named, .. } = error else {
        panic!("another error: {error:?}")
    };
    assert_eq!(named, address);
}

#[test]
fn an_address_of_another_machine_is_refused_too() {
    // An address reserved for documentation (RFC 5737), so no machine has it.
    let built = Runtime::builder()
        .admin("192.0.2.1:0".parse().expect("an address"))
        .build();
    let error = built.expect_err("no machine has the address");
    insta::assert_snapshot!(error, @"bind the admin server to 192.0.2.1:0, which is not an address of this machine");
}

#[test]
fn without_being_asked_for_there_is_no_server() {
    let runtime = Runtime::builder()
        .print(false)
        .build()
        .expect("threads are available");
    assert_eq!(runtime.admin_address(), None);
}

#[test]
fn the_address_is_free_again_after_the_end() {
    let address: SocketAddr = with_admin(|builder| builder, |client| client.address());
    // Its thread ends by itself and is not joined.
    while TcpListener::bind(address).is_err() {
        std::thread::yield_now();
    }
}

const REFUSED: &str = r#"{"error":"host 'evil.example:9464' is not allowed: use the address, or add the name to the allowed hosts of the admin server"}"#;

#[test]
fn a_request_with_another_host_name_is_refused_whatever_its_path() {
    with_admin(
        |builder| builder.admin_host("Orders.example"),
        |client| {
            for path in ["/", "/metrics", "/livez", "/api/tasks", "/nothing"] {
                let answer = client.ask("GET", path, "host: evil.example:9464\r\n");
                assert_eq!(answer.status, 403, "{path}");
                assert_eq!(answer.body, REFUSED, "{path}");
            }
            for host in [
                "localhost",
                "127.0.0.1:1",
                "[::1]:9464",
                "orders.example:9464",
                "ORDERS.example",
            ] {
                let answer = client.ask("GET", "/livez", &format!("host: {host}\r\n"));
                assert_eq!(answer.status, 200, "{host}");
            }
            let in_the_target =
                client.ask("GET", "http://evil.example/livez", "host: localhost\r\n");
            assert_eq!(in_the_target.status, 403);
        },
    );
}

#[test]
fn a_request_has_one_host_header() {
    with_admin(
        |builder| builder,
        |client| {
            for headers in ["", "host: localhost\r\nhost: localhost\r\n"] {
                let answer = client.ask("GET", "/livez", headers);
                assert_eq!(answer.status, 400, "{headers:?}");
                assert_eq!(
                    answer.body,
                    "{\"error\":\"exactly one Host header is required\"}"
                );
            }
        },
    );
}

/// Such a page could not read the answer, but it could have dumps taken.
#[test]
fn a_request_by_a_page_of_another_site_is_refused_and_a_link_is_followed() {
    with_admin(
        |builder| builder,
        |client| {
            let status = |site: &str, to: &str| {
                let headers = format!(
                    "host: localhost\r\nsec-fetch-site: {site}\r\nsec-fetch-dest: {to}\r\n"
                );
                client.ask("GET", "/", &headers).status
            };
            assert_eq!(status("cross-site", "image"), 403);
            assert_eq!(status("same-site", "empty"), 403);
            assert_eq!(status("cross-site", "iframe"), 403);
            assert_eq!(status("cross-site", "document"), 200);
            assert_eq!(status("same-origin", "empty"), 200);
            assert_eq!(status("none", "document"), 200);
        },
    );
}

#[test]
fn no_method_changes_anything() {
    with_admin(
        |builder| builder,
        |client| {
            for path in [
                "/",
                "/metrics",
                "/livez",
                "/readyz",
                "/api/tasks",
                "/api/openapi.json",
            ] {
                for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
                    let answer = client.ask(method, path, "host: localhost\r\n");
                    assert_eq!(answer.status, 405, "{method} {path}");
                    assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{method} {path}");
                }
                let head = client.ask("HEAD", path, "host: localhost\r\n");
                assert_eq!((head.status, &*head.body), (200, ""), "{path}");
            }
            let unknown = client.get("/api/nothing");
            assert_eq!(unknown.status, 404);
            assert_eq!(
                unknown.body,
                "{\"error\":\"no such path; /api/openapi.json lists all paths\"}"
            );
        },
    );
}

#[test]
fn every_answer_has_security_headers() {
    with_admin(
        |builder| builder,
        |client| {
            for path in ["/", "/metrics", "/api/tasks", "/nothing"] {
                let answer = client.get(path);
                for (name, value) in [
                    ("cache-control", "no-store"),
                    ("x-content-type-options", "nosniff"),
                    ("cross-origin-resource-policy", "same-origin"),
                    ("connection", "close"),
                ] {
                    assert_eq!(answer.header(name), Some(value), "{path}: {}", answer.head);
                }
                let policy = answer
                    .header("content-security-policy")
                    .expect("it has one");
                assert!(
                    policy.starts_with("default-src 'none'; script-src 'self';"),
                    "{policy}"
                );
                assert!(!policy.contains("unsafe"), "{policy}");
                assert_eq!(answer.header("access-control-allow-origin"), None);
            }
        },
    );
}

#[test]
fn the_page_loads_nothing_external_and_inserts_no_text_as_markup() {
    with_admin(
        |builder| builder,
        |client| {
            let (page, script) = (client.get("/").body, client.get("/page.js").body);
            let style = client.get("/page.css").body;
            for text in [&page, &script, &style] {
                assert!(!text.contains("http://") && !text.contains("https://"));
            }
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!script.contains(way), "{way}");
            }
            // The content security policy would block inline scripts and styles.
            assert!(
                !page.contains("<style") && !page.contains("onclick") && !page.contains("<script>")
            );
            for path in ["/page.js", "/page.css", "/favicon.ico"] {
                assert!(page.contains(path), "{path}");
                assert_eq!(client.get(path).status, 200);
            }
        },
    );
}

#[test]
fn a_page_of_tasks_is_followed_by_the_next_and_each_task_is_listed_once() {
    with_admin(
        |builder| builder,
        |client| {
            let group = client.tasks.group("http");
            let deeper = group.group("api");
            for _ in 0..25 {
                group.spawn("connection", std::future::pending::<()>());
                deeper.spawn("request", std::future::pending::<()>());
            }
            client
                .tasks
                .group("httpd")
                .spawn("other", std::future::pending::<()>());
            let mut ids = Vec::new();
            let mut ages = Vec::new();
            let mut path = "/api/tasks?group=http&limit=7".to_owned();
            let mut pages = 0;
            loop {
                let page = client.json(&path);
                pages += 1;
                for task in page["tasks"].as_array().expect("a list") {
                    ids.push(task["id"].as_u64().expect("a number"));
                    ages.push(task["age_seconds"].as_f64().expect("a number"));
                }
                let Some(next) = page["next"].as_str() else {
                    break;
                };
                path = format!("/api/tasks?group=http&limit=7&after={next}");
            }
            assert_eq!((ids.len(), pages), (50, 8));
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 50);
            let names = client.json("/api/tasks?group=http&name=request&state=created&limit=1000");
            let running =
                client.json("/api/tasks?group=http&name=request&state=running&limit=1000");
            let count = |page: &serde_json::Value| page["tasks"].as_array().expect("a list").len();
            assert_eq!(count(&names) + count(&running), 25);
            assert_eq!(count(&client.json("/api/tasks?group=nobody")), 0);
        },
    );
}

#[test]
fn a_wrong_query_is_answered_with_the_allowed_values() {
    with_admin(
        |builder| builder,
        |client| {
            let answers: Vec<String> = [
                "limit=0",
                "limit=1001",
                "limit=many",
                "state=asleep",
                "after=1",
                "after=x-y",
                "page=2",
                "limit=1&limit=2",
                "name=%ff",
            ]
            .iter()
            .map(|query| {
                let answer = client.get(&format!("/api/tasks?{query}"));
                format!("{query}: {} {}", answer.status, answer.body)
            })
            .collect();
            insta::assert_snapshot!(answers.join("\n"), @r#"
            limit=0: 400 {"error":"'limit' must be 1 to 1000"}
            limit=1001: 400 {"error":"'limit' must be 1 to 1000"}
            limit=many: 400 {"error":"'limit' must be 1 to 1000"}
            state=asleep: 400 {"error":"'state' must be one of created, running, stalled, draining, cancelling"}
            after=1: 400 {"error":"'after' must be the 'next' of an earlier answer"}
            after=x-y: 400 {"error":"'after' must be the 'next' of an earlier answer"}
            page=2: 400 {"error":"unknown parameter; allowed: group, name, state, limit, after"}
            limit=1&limit=2: 400 {"error":"'limit' is set twice"}
            name=%ff: 200 {"live":1,"tasks":[],"next":null}
            "#);
        },
    );
}

#[test]
fn a_service_that_lost_a_required_task_says_so() {
    let answer = with_admin(
        |builder| builder.drain_budget(LONG),
        |client: &Client| {
            // Holds the drain, so that the answer comes during the shutdown.
            let (release, held) = std::sync::mpsc::channel::<()>();
            client
                .tasks
                .spawn_blocking("holds", move || held.recv().ok());
            let lost = client.tasks.task("listener").required();
            drop(lost.try_spawn(async { Err::<(), _>("address lost") }));
            // The task ends a moment before the shutdown begins, and both states are valid answers.
            let answer = loop {
                let answer = client.get("/readyz");
                if answer.body.contains("stopping") {
                    break answer;
                }
                let early = ["ready\n", "not ready: a required task has ended\n"];
                assert!(early.contains(&answer.body.as_str()), "{}", answer.body);
                std::thread::yield_now();
            };
            drop(release);
            answer
        },
    );
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "not ready: stopping: required task listener failed\n"
    );
}

#[test]
fn a_service_whose_required_task_has_stalled_says_so() {
    let answer = with_admin(
        |builder| builder,
        |client: &Client| {
            let group = client.tasks.clone();
            let silent = client.tasks.task("listener").required();
            let silent = silent.heartbeat(Duration::from_millis(20));
            drop(silent.spawn(async move { group.draining().await }));
            let begun = Instant::now();
            loop {
                assert!(begun.elapsed() < LONG, "it stays ready");
                let answer = client.get("/readyz");
                if answer.status != 200 {
                    break answer;
                }
                std::thread::yield_now();
            }
        },
    );
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "not ready: a required task has missed its heartbeat\n"
    );
}

#[test]
fn an_attached_runtime_is_served_with_its_untracked_tasks() {
    let runtime = tokio::runtime::Runtime::new().expect("threads are available");
    let mut attached = headcount::attach(runtime.handle()).expect("threads are available");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = attached.serve_admin(any).expect("ports are available");
    let client = Client::new(address, attached.tasks().clone());
    attached
        .tasks()
        .spawn("idler", std::future::pending::<()>());
    let untracked = runtime.spawn(std::future::pending::<()>());
    let idler = "headcount_task_started_total{group=\"/\",task=\"idler\"} 1\n";
    // Each was polled once when nothing can wake it.
    let metrics = loop {
        let metrics = client.get("/metrics").body;
        assert!(metrics.contains(idler), "{metrics}");
        if metrics.contains("headcount_task_unwakeable 2\n") {
            break metrics;
        }
    };
    assert!(
        metrics.contains("headcount_task_untracked_live 1\n"),
        "{metrics}"
    );
    for absent in [
        "headcount_task_untracked_site",
        "headcount_runtime_blocking_threads",
    ] {
        assert!(!metrics.contains(absent), "{absent}");
    }
    let seen = client.json("/api/untracked");
    assert_eq!((&seen["live"], &seen["unwakeable"]), (&1.into(), &2.into()));
    assert_eq!(seen["not_observed"], serde_json::Value::Null);
    let leaks = client.json("/api/leaks");
    assert_eq!(leaks["tasks"][0]["name"], "idler");
    assert_eq!(leaks["untracked"][0]["unwakeable"], 1);
    untracked.abort();
    let report = runtime.block_on(attached.shutdown("done"));
    assert_eq!(report.cancel.cancelled, 1);
}

#[test]
fn a_service_without_a_free_worker_is_not_ready() {
    with_admin(
        |builder| builder,
        |client| {
            assert_eq!(client.get("/readyz").body, "ready\n");
            let (release, held) = std::sync::mpsc::channel::<()>();
            let held = std::sync::Arc::new(std::sync::Mutex::new(held));
            for _ in 0..2 {
                let held = std::sync::Arc::clone(&held);
                client.tasks.spawn("blocks", async move {
                    drop(held.lock().map(|held| held.recv()));
                });
            }
            let begun = Instant::now();
            let refused = loop {
                let answer = client.get("/readyz");
                if answer.status != 200 {
                    break answer;
                }
                assert!(begun.elapsed() < LONG, "it stays ready");
                std::thread::yield_now();
            };
            assert_eq!(refused.status, 503);
            assert_eq!(refused.body, "not ready: no worker has been free for 3s\n");
            assert_eq!(client.get("/livez").status, 200);
            drop(release);
            while client.get("/readyz").status != 200 {
                assert!(begun.elapsed() < LONG, "it never is ready again");
            }
        },
    );
}
