//! Clients that are slow, many, or say too much.

use super::client::{answer, with_admin};
use std::io::Write;
use std::net::TcpStream;

#[test]
fn a_client_that_never_ends_its_request_is_shown_the_door_and_holds_nobody_up() {
    with_admin(
        |builder| builder,
        |client| {
            let mut slow = client.connect();
            slow.write_all(b"GET /livez HTTP/1.1\r\nhost: loc")
                .expect("it reads");
            let mut silent = client.connect();
            assert_eq!(client.get("/livez").status, 200);
            // Each ends by itself, without an answer or with a short one.
            let said = [answer(&mut slow), answer(&mut silent)];
            for said in said.into_iter().flatten() {
                assert_eq!(said.status, 408, "{said:?}");
            }
            assert_eq!(client.get("/livez").status, 200);
        },
    );
}

#[test]
fn connections_beyond_the_bound_are_told_so_and_the_next_is_served_when_some_have_gone() {
    with_admin(
        |builder| builder,
        |client| {
            let silent: Vec<TcpStream> = (0..64).map(|_| client.connect()).collect();
            let mut one_more = client.connect();
            let refused = answer(&mut one_more).expect("it is told");
            assert_eq!(refused.status, 503);
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.body, "too many connections\n");
            drop(silent);
            loop {
                let mut stream = client.connect();
                // It may be refused, and closed, before this is written.
                stream
                    .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .ok();
                if answer(&mut stream).is_some_and(|answer| answer.status == 200) {
                    break;
                }
            }
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
                assert_eq!(answer.body, "{\"error\":\"a request has no body here\"}");
            }
            let none = client.ask("GET", "/livez", "host: localhost\r\ncontent-length: 0\r\n");
            assert_eq!(none.status, 200);
        },
    );
}

#[test]
fn what_is_not_http_is_refused() {
    with_admin(
        |builder| builder,
        |client| {
            let answer = client.send(b"\x16\x03\x01 hello\r\n\r\n");
            assert_eq!(answer.status, 400);
            assert_eq!(client.get("/livez").status, 200);
        },
    );
}
