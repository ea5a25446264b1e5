//! Which requests count as a scrape.

use super::{AdminSettings, Claimed};
use crate::Runtime;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// How many scrapes are counted while `requests` are made, which are not to count, and a whole one after them.
fn scrapes(requests: impl FnOnce(SocketAddr)) -> usize {
    let runtime = Runtime::builder().print(false).signals(false).build();
    let runtime = runtime.expect("threads are to be had");
    let settings = AdminSettings {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        hosts: Vec::new(),
    };
    let claimed = Claimed::new(&settings).expect("ports are to be had");
    let (tell, told) = channel();
    let on_scrape = Arc::new(move |_| tell.send(()).expect("somebody counts"));
    let admin = claimed
        .serve(runtime.metrics(), on_scrape)
        .expect("threads are to be had");
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
fn a_scrape_that_was_taken_to_its_end_counts() {
    assert_eq!(scrapes(|_| {}), 1);
}

#[test]
fn health_probes_and_what_is_refused_do_not_count() {
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
        // Closed with an answer that nobody read: the system tells the server so.
        gives_up
            .read_exact(&mut [0; 16])
            .expect("it begins to answer");
        drop(gives_up);
    });
    assert_eq!(counted, 1);
}
