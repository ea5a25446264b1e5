//! Tests with clients that are slow, numerous, or send too much.

use super::client::{Client, answer, with_admin};
use std::io::Write;
use std::net::TcpStream;

#[test]
fn a_client_that_never_ends_its_request_is_disconnected_and_delays_no_other() {
    with_admin(
        |builder| builder,
        |client| {
            let mut slow = client.connect();
            slow.write_all(b"GET /livez HTTP/1.1\r\nhost: loc")
                .expect("it reads");
            let mut silent = client.connect();
            assert_eq!(client.get("/livez").status, 200);
            // Each connection ends by itself, without an answer or with a short one.
            let said = [answer(&mut slow), answer(&mut silent)];
            for said in said.into_iter().flatten() {
                assert_eq!(said.status, 408, "{said:?}");
            }
            assert_eq!(client.get("/livez").status, 200);
        },
    );
}

#[test]
fn idle_connections_give_way_to_any_request() {
    with_admin(
        |builder| builder,
        |client| {
            let mut silent: Vec<TcpStream> = (0..100).map(|_| client.connect()).collect();
            for path in ["/livez", "/readyz", "/metrics", "/api/tasks"] {
                assert_eq!(client.get(path).status, 200, "{path}");
            }
            assert!(answer(&mut silent[0]).is_none(), "the oldest is closed");
        },
    );
}

/// Returns a connection on which a request was answered. It occupies its place until it is closed.
fn answered(client: &Client) -> TcpStream {
    let mut stream = client.connect();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("it reads");
    assert_eq!(answer(&mut stream).expect("it is told").status, 200);
    stream
}

#[test]
fn an_address_whose_places_are_all_in_use_is_refused_and_its_probes_are_not() {
    with_admin(
        |builder| builder,
        |client| {
            let mut kept: Vec<TcpStream> = (0..32).map(|_| answered(client)).collect();
            let refused = client.get("/api/tasks");
            assert_eq!(refused.status, 503);
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.body, "too many connections\n");
            for path in ["/livez", "/readyz"] {
                assert_eq!(client.get(path).status, 200, "{path}");
            }
            kept.clear();
            while client.get("/api/tasks").status != 200 {}
        },
    );
}

#[test]
fn a_head_that_is_too_long_or_has_too_many_lines_is_refused() {
    with_admin(
        |builder| builder,
        |client| {
            let long = format!("host: localhost\r\nx: {}\r\n", "x".repeat(20_000));
            let many = format!("host: localhost\r\n{}", "x: y\r\n".repeat(100));
            for headers in [long, many] {
                let answer = client.ask("GET", "/livez", &headers);
                assert_eq!(answer.status, 431, "{answer:?}");
            }
            let path = format!("/{}", "x".repeat(20_000));
            let answer = client.get(&path);
            assert!([414, 431].contains(&answer.status), "{answer:?}");
        },
    );
}

#[test]
fn a_request_with_a_body_is_refused() {
    with_admin(
        |builder| builder,
        |client| {
            for headers in ["content-length: 5\r\n", "transfer-encoding: chunked\r\n"] {
                let headers = format!("host: localhost\r\n{headers}");
                let answer = client.ask("GET", "/livez", &headers);
                assert_eq!(answer.status, 413, "{headers}");
                assert_eq!(
                    answer.body,
                    "{\"error\":\"request bodies are not allowed\"}"
                );
            }
            let none = client.ask("GET", "/livez", "host: localhost\r\ncontent-length: 0\r\n");
            assert_eq!(none.status, 200);
        },
    );
}

#[test]
fn a_request_that_is_not_http_is_refused() {
    with_admin(
        |builder| builder,
        |client| {
            let answer = client.send(b"\x16\x03\x01 hello\r\n\r\n");
            assert_eq!(answer.status, 400);
            assert_eq!(client.get("/livez").status, 200);
        },
    );
}
