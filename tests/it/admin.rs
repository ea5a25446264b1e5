//! The admin server of a runtime in this process: whom it answers, what it answers, and what it does not let itself be
//! held up by.

mod client;
mod contract;
mod limits;
mod schema;

use client::{Client, with_admin};
use headcount::{BuildError, Runtime};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

#[test]
fn an_address_that_is_taken_is_refused_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("ports are to be had");
    let address = taken.local_addr().expect("it is bound");
    let built = Runtime::builder().admin(address).build();
    let error = built.expect_err("somebody has the address");
    let text = error.to_string().replace(&address.to_string(), "ADDRESS");
    insta::assert_snapshot!(text, @"claim ADDRESS for the admin server, where another process listens");
    let BuildError::Admin { address: named, .. } = error else {
        panic!("another error: {error:?}")
    };
    assert_eq!(named, address);
}

#[test]
fn an_address_of_another_machine_is_refused_too() {
    // For documentation, so nobody has it: RFC 5737.
    let built = Runtime::builder()
        .admin("192.0.2.1:0".parse().expect("an address"))
        .build();
    let error = built.expect_err("nobody has the address");
    insta::assert_snapshot!(error, @"claim 192.0.2.1:0 for the admin server, which is no address of this machine");
}

#[test]
fn without_being_asked_for_there_is_no_server() {
    let runtime = Runtime::builder()
        .print(false)
        .build()
        .expect("threads are to be had");
    assert_eq!(runtime.admin_address(), None);
}

#[test]
fn the_address_is_free_again_after_the_end() {
    let address: SocketAddr = with_admin(|builder| builder, |client| client.address());
    // Its thread ends by itself; nobody waits for it.
    while TcpListener::bind(address).is_err() {
        std::thread::yield_now();
    }
}

const REFUSED: &str = r#"{"error":"not served under the name 'evil.example:9464': use the address, or add the name to the allowed hosts of the admin server"}"#;

#[test]
fn a_request_under_another_name_is_refused_whatever_its_path() {
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
                assert_eq!(answer.body, "{\"error\":\"one Host header is needed\"}");
            }
        },
    );
}

#[test]
fn nothing_is_changed_by_any_method() {
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
                "{\"error\":\"no such path; /api/openapi.json lists all\"}"
            );
        },
    );
}

#[test]
fn every_answer_forbids_what_a_browser_might_do_with_it() {
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
fn the_page_takes_nothing_from_elsewhere_and_puts_no_text_in_as_markup() {
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
            // The policy would not let these run.
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
fn a_wrong_query_is_answered_with_what_is_allowed() {
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
            limit=0: 400 {"error":"'limit' is 1 to 1000"}
            limit=1001: 400 {"error":"'limit' is 1 to 1000"}
            limit=many: 400 {"error":"'limit' is 1 to 1000"}
            state=asleep: 400 {"error":"'state' is one of created, running, stalled, draining, cancelling"}
            after=1: 400 {"error":"'after' is what an answer gave as 'next'"}
            after=x-y: 400 {"error":"'after' is what an answer gave as 'next'"}
            page=2: 400 {"error":"unknown parameter; allowed: group, name, state, limit, after"}
            limit=1&limit=2: 400 {"error":"'limit' is given twice"}
            name=%ff: 200 {"live":1,"tasks":[],"next":null}
            "#);
        },
    );
}

#[test]
fn a_service_that_lost_a_required_task_says_so() {
    let answer = with_admin(
        |builder| builder.drain_budget(client::LONG),
        |client: &Client| {
            // Holds the drain, so that the answer comes while the service stops.
            let (release, held) = std::sync::mpsc::channel::<()>();
            client
                .tasks
                .spawn_blocking("holds", move || held.recv().ok());
            let lost = client.tasks.task("listener").required();
            drop(lost.try_spawn(async { Err::<(), _>("address lost") }));
            // The task has ended a moment before the shutdown begins, and that is an answer too.
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
                assert!(begun.elapsed() < client::LONG, "it stays ready");
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
fn a_runtime_of_somebody_else_is_served_too_and_what_is_not_seen_is_not_there() {
    let runtime = tokio::runtime::Runtime::new().expect("threads are to be had");
    let mut attached = headcount::attach(runtime.handle()).expect("threads are to be had");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = attached.serve_admin(any).expect("ports are to be had");
    let client = Client::new(address, attached.tasks().clone());
    attached
        .tasks()
        .spawn("idler", std::future::pending::<()>());
    let metrics = client.get("/metrics").body;
    let idler = "headcount_task_started_total{group=\"/\",task=\"idler\"} 1\n";
    assert!(metrics.contains(idler), "{metrics}");
    for absent in [
        "headcount_task_untracked",
        "headcount_runtime_blocking_threads",
    ] {
        assert!(!metrics.contains(absent), "{absent}");
    }
    let untracked = client.json("/api/untracked");
    assert_eq!(untracked["live"], serde_json::Value::Null);
    assert_eq!(
        untracked["not_observed"],
        "untracked tasks: headcount does not own the runtime"
    );
    let report = runtime.block_on(attached.shutdown("done"));
    assert_eq!(report.cancel.cancelled, 1);
}
