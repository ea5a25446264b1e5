//! A collector for tests: receives requests, decodes them, and answers as the test specifies.

use headcount::telemetry::{Telemetry, TelemetryBuilder};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The answer of a collector.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Taken,
    /// Sends these bytes after the request was read.
    Bytes(&'static [u8]),
    /// Sends a success that refuses this number of records.
    Refuses(u8),
    /// Answers the first request with these bytes, and accepts all others.
    FirstBytes(&'static [u8]),
    /// Sends nothing, and keeps the connection open.
    Silence,
}

/// A collector that runs until it is dropped.
pub(crate) struct Sink {
    address: SocketAddr,
    answer: Answer,
    got: Arc<Mutex<Got>>,
    running: Option<JoinHandle<()>>,
}

/// The received telemetry.
#[derive(Debug, Default, Clone)]
pub(crate) struct Got {
    pub(crate) spans: Vec<Span>,
    pub(crate) logs: Vec<LogRecord>,
    pub(crate) metrics: Vec<Metric>,
    /// The resource of the last request with spans.
    pub(crate) resource: Vec<KeyValue>,
    /// The heads of the requests.
    pub(crate) heads: Vec<String>,
    requests: usize,
}

// === impl Sink ===

impl Sink {
    pub(crate) fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let got = Arc::new(Mutex::new(Got::default()));
        let takes = Arc::clone(&got);
        #[expect(clippy::disallowed_methods, reason = "not part of the test")]
        let running = std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.expect("the loopback works");
                match take(&stream, &takes, answer) {
                    // The connection is kept open.
                    Some(true) => silent.push(stream),
                    Some(false) => {}
                    None => return,
                }
            }
        });
        Self {
            address,
            answer,
            got,
            running: Some(running),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns telemetry to this collector, which ignores the environment.
    ///
    /// Unless the collector never answers, the flush has as much time as a busy machine may need.
    pub(crate) fn telemetry(&self) -> TelemetryBuilder {
        let telemetry = Telemetry::builder().endpoint(&self.endpoint());
        match self.answer {
            Answer::Silence => telemetry,
            _ => telemetry.flush_budget(Duration::from_secs(60)),
        }
    }

    /// Returns the telemetry received so far.
    pub(crate) fn got(&self) -> Got {
        self.got.lock().expect("not poisoned").clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // A connection without a request ends the collector.
        TcpStream::connect(self.address).ok();
        if let Some(running) = self.running.take() {
            running.join().ok();
        }
    }
}

/// Reads a request and answers. Returns whether to keep the connection; `None` without a request.
fn take(stream: &TcpStream, got: &Mutex<Got>, answer: Answer) -> Option<bool> {
    let mut reader = BufReader::new(stream);
    let (head, body) = request(&mut reader)?;
    let mut got = got.lock().expect("not poisoned");
    got.requests += 1;
    let first = got.requests == 1;
    let reply: &[u8] = match answer {
        Answer::Silence => return Some(true),
        Answer::Bytes(bytes) => bytes,
        Answer::FirstBytes(bytes) if first => bytes,
        Answer::Refuses(_) => b"",
        Answer::Taken | Answer::FirstBytes(_) => {
            got.keep(&head, &body);
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        }
    };
    let mut reply = reply.to_vec();
    if let Answer::Refuses(count) = answer {
        // PartialSuccess { rejected: count }, which is encoded alike for each signal.
        reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n".to_vec();
        reply.extend([0x0a, 2, 8, count]);
    }
    drop(got);
    let mut stream = stream;
    stream.write_all(&reply).ok();
    Some(false)
}

fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

// === impl Got ===

impl Got {
    fn keep(&mut self, head: &str, body: &[u8]) {
        self.heads.push(head.to_owned());
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path.rsplit('/').next() {
            Some("traces") => {
                let request = ExportTraceServiceRequest::decode(body).expect("it is OTLP");
                for part in request.resource_spans {
                    self.resource = part.resource.unwrap_or_default().attributes;
                    self.spans
                        .extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
            }
            Some("logs") => {
                let request = ExportLogsServiceRequest::decode(body).expect("it is OTLP");
                let scopes = request
                    .resource_logs
                    .into_iter()
                    .flat_map(|part| part.scope_logs);
                self.logs.extend(scopes.flat_map(|scope| scope.log_records));
            }
            Some("metrics") => {
                let request = ExportMetricsServiceRequest::decode(body).expect("it is OTLP");
                let parts = request.resource_metrics.into_iter();
                let scopes = parts.flat_map(|part| part.scope_metrics);
                self.metrics.extend(scopes.flat_map(|scope| scope.metrics));
            }
            _ => panic!("posted to {path}"),
        }
    }

    /// Returns the only span with this name.
    #[track_caller]
    pub(crate) fn span(&self, name: &str) -> &Span {
        let mut named = self.spans.iter().filter(|span| span.name == name);
        let span = named.next();
        let span = span.unwrap_or_else(|| panic!("no span {name} among {:?}", self.names()));
        assert!(named.next().is_none(), "more than one span {name}");
        span
    }

    /// Returns the names of all spans, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.spans.iter().map(|span| &*span.name).collect();
        names.sort_unstable();
        names
    }

    /// Returns the only log record of this event.
    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> &LogRecord {
        let mut named = self.logs.iter().filter(|log| log.event_name == name);
        let log = named
            .next()
            .unwrap_or_else(|| panic!("no event {name} among {:#?}", self.logs));
        assert!(named.next().is_none(), "more than one event {name}");
        log
    }

    /// Returns every metric of the report, one per line.
    pub(crate) fn samples(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for metric in &self.metrics {
            let Some(Data::Gauge(gauge)) = &metric.data else {
                panic!("{} is no gauge", metric.name);
            };
            for point in &gauge.data_points {
                let Some(number_data_point::Value::AsDouble(value)) = point.value else {
                    panic!("{} has no value", metric.name);
                };
                lines.push(format!(
                    "{}{{{}}} {value}",
                    metric.name,
                    pairs(&point.attributes)
                ));
            }
        }
        lines
    }
}

pub(crate) fn value(pair: &KeyValue) -> String {
    match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => panic!("{} is {other:?}", pair.key),
    }
}

#[track_caller]
pub(crate) fn attribute(pairs: &[KeyValue], key: &str) -> String {
    let pair = pairs.iter().find(|pair| pair.key == key);
    value(pair.unwrap_or_else(|| panic!("no {key} among {pairs:?}")))
}

pub(crate) fn pairs(pairs: &[KeyValue]) -> String {
    let mut text = String::new();
    for pair in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{}={}", pair.key, value(pair)).expect("a String takes every write");
    }
    text
}

/// Formats a span as users see it: name, status, attributes that do not vary, and events.
pub(crate) fn shown(span: &Span) -> String {
    let steady = |pair: &&KeyValue| !matches!(&*pair.key, "code.line.number" | "headcount.task.id");
    let attributes: Vec<KeyValue> = span.attributes.iter().filter(steady).cloned().collect();
    let status = span.status.clone().unwrap_or_default();
    let mut text = format!("{} [{}]\n", span.name, pairs(&attributes));
    if status.code != 0 {
        writeln!(text, "  status {} {:?}", status.code, status.message).expect("a String");
    }
    for event in &span.events {
        writeln!(
            text,
            "  event {} [{}]",
            event.name,
            pairs(&event.attributes)
        )
        .expect("a String");
    }
    without_lines(&text)
}

/// Replaces `file.rs:12:34` with `file.rs:LINE`.
fn without_lines(text: &str) -> String {
    let mut parts = text.split(".rs:");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        all += ".rs:LINE";
        all += part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    }
    all
}
