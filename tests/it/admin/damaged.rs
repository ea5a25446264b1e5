//! Requests that are none, for the admin server and the control socket.

use super::client::{LONG, answer};
use crate::alone::alone;
use crate::fuzzing::fuzz;
use headcount::Runtime;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// Panics of the process.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// Larger than what is read of a head.
const LARGE: usize = 20_000;

const PATHS: [&str; 9] = [
    "/",
    "/metrics",
    "/readyz",
    "/api/tasks",
    "/api/untracked",
    "/api/openapi.json",
    "/api/none",
    "*",
    "http://localhost/livez",
];

/// Returns the bytes of requests: some whole, some with changed bytes, some of bytes alone.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        Just("GET".to_owned()),
        Just("HEAD".to_owned()),
        "[A-Z]{0,9}"
    ];
    let path = prop_oneof![
        4 => prop::sample::select(&PATHS[..]).prop_map(str::to_owned),
        1 => "/[ -~]{0,99}",
    ];
    let query = prop::option::of("[?&=%a-z0-9]{0,60}");
    let header = (
        prop_oneof![
            "host",
            "content-length",
            "transfer-encoding",
            "accept",
            "[!-~]{1,20}"
        ],
        prop_oneof![Just("localhost".to_owned()), "[0-9]{1,25}", "[ -~]{0,60}"],
    );
    let headers = prop::collection::vec(header, 0..80);
    let long = prop::option::weighted(0.05, 1..LARGE);
    let parts = (method, path, query, headers, long);
    let whole = parts.prop_map(|(method, path, query, headers, long)| {
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let mut text = format!("{method} {path}{query} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = long {
            text += &format!("x: {}\r\n", "x".repeat(length));
        }
        (text + "\r\n").into_bytes()
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let damaged = (whole, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    let any = prop::collection::vec(any::<u8>(), 0..LARGE);
    prop_oneof![4 => damaged, 1 => any]
}

/// Sends bytes and returns the answer, if there is one: the server closes what it cannot read.
fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> Option<u16> {
    stream.write_all(bytes).ok();
    let answer = answer(&mut stream)?;
    Some(answer.status)
}

#[test]
fn damaged_requests_are_answered_or_closed_and_none_panics() {
    alone(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let path = folder.path().join("test.sock");
        let builder = Runtime::builder().name("test").print(false).signals(false);
        let builder = builder.worker_threads(2).control_socket(&path);
        let builder = builder.admin(SocketAddr::from(([127, 0, 0, 1], 0)));
        let runtime = builder.build().expect("threads and ports are available");
        let address = runtime.admin_address().expect("it was asked for");
        let tcp = |bytes: &[u8]| {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(LONG)).expect("not zero");
            exchange(stream, bytes)
        };
        let unix = |bytes: &[u8]| {
            let stream = UnixStream::connect(&path).expect("it listens");
            stream.set_read_timeout(Some(LONG)).expect("not zero");
            exchange(stream, bytes)
        };
        let mut held = false;
        runtime.run(async |_tasks| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }));
            fuzz(48, &requests(), |mut bytes| {
                // The server would wait for the rest of a head.
                bytes.extend(b"\r\n\r\n");
                for send in [&tcp as &dyn Fn(&[u8]) -> Option<u16>, &unix] {
                    let status = send(&bytes);
                    prop_assert!(status.is_none_or(|status| (200..600).contains(&status)));
                    let alive = send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
                    prop_assert_eq!(alive, Some(200));
                }
                prop_assert_eq!(PANICS.load(Ordering::SeqCst), 0);
                Ok(())
            });
            std::panic::set_hook(before);
            held = true;
        });
        assert!(held, "the property was held");
    });
}
