//! Tests of which requests count as a scrape.

use super::Claimed;
use crate::Runtime;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Returns the number of scrapes that are counted for `requests` and a complete scrape after them.
fn scrapes(requests: impl FnOnce(SocketAddr)) -> usize {
    let runtime = Runtime::builder().print(false).signals(false).build();
    let runtime = runtime.expect("threads are available");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let claimed = Claimed::new(address, &[]).expect("ports are available");
    let (tell, told) = channel();
    let on_scrape = Arc::new(move |_| tell.send(()).expect("the test counts"));
    let admin = claimed
        .serve(runtime.metrics(), Arc::new(runtime.dumper()), on_scrape)
        .expect("threads are available");
    requests(admin.address());
    let answer = ask(admin.address(), "GET /metrics", "localhost");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    told.recv().expect("it is counted");
    drop(admin);
    told.iter().count() + 1
}

fn ask(address: SocketAddr, request: &str, host: &str) -> String {
    let mut stream = send(address, request, host);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn send(address: SocketAddr, request: &str, host: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("{request} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    stream
}

#[test]
fn a_complete_scrape_counts() {
    assert_eq!(scrapes(|_| {}), 1);
}

#[test]
fn health_checks_and_refused_requests_do_not_count() {
    let counted = scrapes(|address| {
        for request in [
            "HEAD /metrics",
            "POST /metrics",
            "GET /livez",
            "GET /readyz",
            "GET /",
        ] {
            ask(address, request, "localhost");
        }
        let refused = ask(address, "GET /metrics", "evil.example");
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    });
    assert_eq!(counted, 1);
}

#[test]
fn a_scraper_that_gives_up_does_not_count() {
    let counted = scrapes(|address| {
        let mut gives_up = send(address, "GET /metrics", "localhost");
        // Closing a connection with unread data resets it, which the server sees.
        gives_up
            .read_exact(&mut [0; 16])
            .expect("it begins to answer");
        drop(gives_up);
    });
    assert_eq!(counted, 1);
}
