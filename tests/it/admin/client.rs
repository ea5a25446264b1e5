//! A client that sends exactly the given bytes.

use headcount::{Builder, Runtime, TaskGroup};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Far longer than anything here takes, even on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(60);

pub(super) struct Client {
    address: SocketAddr,
    pub(super) tasks: TaskGroup,
}

/// An HTTP answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

/// Runs `look` while a service with an admin server is running.
pub(super) fn with_admin<T>(
    settings: impl FnOnce(Builder) -> Builder,
    look: impl FnOnce(&Client) -> T,
) -> T {
    let builder = Runtime::builder()
        .name("test")
        .print(false)
        .signals(false)
        .worker_threads(2);
    let builder = builder.admin(SocketAddr::from(([127, 0, 0, 1], 0)));
    let runtime = settings(builder)
        .build()
        .expect("threads and ports are available");
    let address = runtime.admin_address().expect("it was asked for");
    let mut seen = None;
    runtime.run(async |tasks| {
        let client = Client::new(address, tasks);
        seen = Some(look(&client));
    });
    seen.expect("main ran")
}

// === impl Client ===

impl Client {
    pub(super) fn new(address: SocketAddr, tasks: TaskGroup) -> Self {
        Self { address, tasks }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("not zero");
        stream
    }

    #[track_caller]
    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "host: localhost\r\n")
    }

    /// Sends a request with these headers, each with its line ending.
    #[track_caller]
    pub(super) fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n").as_bytes())
    }

    #[track_caller]
    pub(super) fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).expect("it reads");
        answer(&mut stream).expect("it answers")
    }

    #[track_caller]
    pub(super) fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        serde_json::from_str(&answer.body).expect("it is JSON")
    }
}

/// Reads until the end of the stream; returns `None` if nothing comes.
pub(super) fn answer(stream: &mut impl Read) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A server that closes while more data arrives resets the connection after its answer.
    stream.read_to_end(&mut bytes).ok();
    let text = String::from_utf8(bytes).expect("it answers UTF-8");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

// === impl Answer ===

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }
}
