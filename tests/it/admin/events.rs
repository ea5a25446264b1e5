//! The stream of events for the page.

use super::client::{Answer, Client, answer, with_admin};
use crate::scenario::wait_until;
use headcount::telemetry::{Child, Endpoint};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// An open stream of events.
struct Stream(BufReader<TcpStream>);

impl Stream {
    #[track_caller]
    fn open(client: &Client) -> Self {
        let mut stream = client.connect();
        stream
            .write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .expect("it reads");
        let mut stream = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&stream.line());
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.contains("content-type: text/event-stream\r\n"),
            "{head}"
        );
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it sends");
        assert!(!line.is_empty(), "the stream ends");
        line
    }

    /// Reads up to the next event of this name, and returns its data.
    fn next(&mut self, name: &str) -> Value {
        let head = format!("event: {name}\n");
        while self.line() != head {}
        let data = self.line();
        let data = data.strip_prefix("data: ").expect("one line of data");
        serde_json::from_str(data).expect("it is JSON")
    }
}

fn refused(client: &Client) -> Answer {
    let mut stream = client.connect();
    stream
        .write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("it reads");
    answer(&mut stream).expect("it is told")
}

#[test]
fn a_stream_begins_with_the_history_and_goes_on_with_states() {
    with_admin(
        |builder| builder,
        |client| {
            let mut stream = Stream::open(client);
            let history = stream.next("history");
            let sample = &history[0];
            assert!(sample["timestamp_seconds"].is_f64(), "{history}");
            assert!(sample["alive_tasks"].is_u64(), "{history}");
            let first = stream.next("state");
            assert_eq!(first["runtime"]["service"], "test");
            assert_eq!(first["children"]["children"], serde_json::json!([]));
            let child = Child::register(&client.tasks, "proxy");
            let endpoint = Endpoint::register(&client.tasks, "db");
            let second = loop {
                let state = stream.next("state");
                if state["endpoints"]["endpoints"] != serde_json::json!([]) {
                    break state;
                }
            };
            assert_eq!(second["children"]["children"][0]["name"], "proxy");
            assert_eq!(second["endpoints"]["endpoints"][0]["name"], "db");
            assert!(second["timestamp_seconds"].as_f64() > first["timestamp_seconds"].as_f64());
            drop((child, endpoint));
        },
    );
}

#[test]
fn a_ninth_stream_is_refused_and_keeps_nothing_from_others() {
    with_admin(
        |builder| builder,
        |client| {
            let mut streams: Vec<Stream> = (0..8).map(|_| Stream::open(client)).collect();
            let answer = refused(client);
            assert_eq!(answer.status, 503);
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(
                answer.body,
                "{\"error\":\"too many event streams are open\"}"
            );
            assert_eq!(client.get("/livez").status, 200);
            streams.pop();
            // The server notices with the next event.
            let is_open = || refused_or_open(client) != 503;
            wait_until(is_open, || "its place stays taken".to_owned());
        },
    );
}

/// Returns the status of a request for a stream.
fn refused_or_open(client: &Client) -> u16 {
    let mut stream = client.connect();
    stream
        .write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("it reads");
    let mut head = String::new();
    let mut stream = BufReader::new(stream);
    stream.read_line(&mut head).expect("it answers");
    let status = head.split(' ').nth(1).expect("it has a status");
    status.parse().expect("a number")
}

#[test]
fn streams_give_way_to_requests_of_the_same_address() {
    with_admin(
        |builder| builder,
        |client| {
            let mut stream = Stream::open(client);
            stream.next("state");
            // With the stream, all places of this address are in use.
            let _kept: Vec<TcpStream> = (1..32).map(|_| answered(client)).collect();
            assert_eq!(client.get("/api/runtime").status, 200);
            let mut end = String::new();
            while stream.0.read_line(&mut end).is_ok_and(|length| length > 0) {}
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
fn a_shutdown_is_streamed_to_its_end() {
    let phases = with_admin(
        |builder| builder,
        |client| {
            let mut stream = Stream::open(client);
            let (release, held) = std::sync::mpsc::channel::<()>();
            client
                .tasks
                .spawn_blocking("holds", move || held.recv().ok());
            client.tasks.stop("test");
            let state = loop {
                let state = stream.next("state");
                if state["runtime"]["phase"] == "draining" {
                    break state;
                }
            };
            drop(release);
            state
        },
    );
    let shutdown = &phases["runtime"]["shutdown"];
    assert_eq!(shutdown["reason"], "test");
    assert!(shutdown["begun_timestamp_seconds"].is_f64());
}
