//! Tests with missing or faulty collectors: the shutdown continues, and the report says what was
//! lost.

use super::sink::{Answer, Sink};
use crate::scenario::{alone, others, wait_until};
use headcount::telemetry::Telemetry;
use headcount::{Report, Runtime};
use std::net::TcpListener;
use std::time::Duration;

/// Runs a shutdown with two task spans, four spans of layers and flush, one of the shutdown itself,
/// and the metrics of the report.
fn stopped(telemetry: &Telemetry) -> Report {
    let runtime = Runtime::builder()
        .name("bad")
        .print(false)
        .signals(false)
        .expect_threads(others())
        .telemetry(telemetry);
    runtime
        .build()
        .expect("threads are available")
        .run(async |tasks| {
            tasks.spawn("short", async {}).await.ok();
        })
}

/// Returns what the report says about telemetry, without times.
fn said(report: &Report) -> String {
    let rows = report.flush.iter().map(|row| {
        let (signal, result) = (&row.signal, row.result.as_str());
        format!("{signal} {result}: {row}\n")
    });
    rows.collect()
}

/// Returns what the report says with a collector that gives this answer.
fn against(answer: Answer) -> String {
    let sink = Sink::start(answer);
    let telemetry = sink.telemetry().build().expect("the address is one");
    said(&stopped(&telemetry))
}

#[test]
fn a_collector_that_takes_all_has_all() {
    insta::assert_snapshot!(against(Answer::Taken), @r"
    traces delivered: 7 spans delivered
    metrics delivered: 7 metrics delivered
    ");
}

#[test]
fn no_collector_listens() {
    alone(|| {
        // Bound and released again: no other process gets that port so soon.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
        let address = address.expect("the loopback has ports");
        let telemetry = Telemetry::builder()
            .endpoint(&format!("http://{address}"))
            .build();
        let report = stopped(&telemetry.expect("the address is one"));
        insta::assert_snapshot!(said(&report), @r"
    traces failed: 7 spans not delivered: connection refused
    metrics failed: 7 metrics not delivered: connection refused
    ");
        assert_eq!(
            report.exit_code(),
            0,
            "what is lost of telemetry is not the service's fault"
        );
    });
}

/// Returns the number of telemetry threads, by their names in the kernel.
fn exporting() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("headcount-tele"))
        .count()
}

/// Waits for this number of threads: a thread gets its name shortly after it starts, and disappears
/// shortly after it ends.
#[track_caller]
fn until_exporting(threads: usize) {
    wait_until(
        || exporting() == threads,
        || format!("{} and not {threads}", exporting()),
    );
}

#[test]
fn whatever_the_collector_does_no_thread_of_telemetry_is_left() {
    alone(|| {
        let busy =
            b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n";
        for answer in [Answer::Taken, Answer::Silence, Answer::Bytes(busy)] {
            let sink = Sink::start(answer);
            let telemetry = sink.telemetry().flush_budget(Duration::from_secs(1));
            let telemetry = telemetry.build().expect("the address is one");
            let runtime = Runtime::builder()
                .print(false)
                .signals(false)
                .telemetry(&telemetry);
            let runtime = runtime.build().expect("threads are available");
            until_exporting(1);
            assert_eq!(runtime.run(async |_| {}).exit_code(), 0);
            until_exporting(0);
        }
    });
}

/// Asserts that no collector answered. The report knows this for each record only if the exporting
/// thread is woken in time, which may take several attempts on a busy machine.
#[track_caller]
fn assert_no_answer(attempt: impl Fn() -> String) {
    let exact = "traces failed: 7 spans not delivered: no answer in time\n\
                 metrics failed: 7 metrics not delivered: no answer in time\n";
    let late = "traces timed_out: traces not delivered: no answer in time\n\
                metrics timed_out: metrics not delivered: no answer in time\n";
    let later = "telemetry timed_out: telemetry not done within 1.0s\n";
    for _ in 0..20 {
        let said = attempt();
        if said == exact {
            return;
        }
        let mixed = said
            .lines()
            .all(|line| exact.contains(line) || late.contains(line) || later.contains(line));
        assert!(mixed, "{said}");
    }
    panic!("it is never known of each record");
}

#[test]
fn it_takes_the_request_and_never_answers() {
    assert_no_answer(|| against(Answer::Silence));
}

#[test]
fn it_accepts_connections_and_reads_nothing() {
    assert_no_answer(|| {
        let hole = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
        let address = hole.local_addr().expect("it is bound");
        let telemetry = Telemetry::builder()
            .endpoint(&format!("http://{address}"))
            .build();
        said(&stopped(&telemetry.expect("the address is one")))
    });
}

#[test]
fn it_begins_to_answer_and_stops() {
    // The connection is closed in the middle of the answer.
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    insta::assert_snapshot!(against(Answer::Bytes(half)), @r"
    traces failed: 7 spans not delivered: end of file before message length reached
    metrics failed: 7 metrics not delivered: end of file before message length reached
    ");
}

#[test]
fn it_is_too_busy_to_take_anything() {
    let busy = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n";
    insta::assert_snapshot!(against(Answer::Bytes(busy)), @r"
    traces failed: 7 spans not delivered: the collector answered 429 Too Many Requests
    metrics failed: 7 metrics not delivered: the collector answered 429 Too Many Requests
    ");
}

#[test]
fn it_is_out_of_service() {
    let down = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    insta::assert_snapshot!(against(Answer::Bytes(down)), @r"
    traces failed: 7 spans not delivered: the collector answered 503 Service Unavailable
    metrics failed: 7 metrics not delivered: the collector answered 503 Service Unavailable
    ");
}

#[test]
fn it_is_busy_once_and_then_takes_all() {
    let down = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    insta::assert_snapshot!(against(Answer::FirstBytes(down)), @r"
    traces delivered: 7 spans delivered
    metrics delivered: 7 metrics delivered
    ");
}

#[test]
fn it_refuses_a_part() {
    insta::assert_snapshot!(against(Answer::Refuses(3)), @r"
    traces partial: 3 of 7 spans not delivered: the collector refused them
    metrics partial: 3 of 7 metrics not delivered: the collector refused them
    ");
}

#[test]
fn it_requires_a_key_that_is_missing() {
    // The body of the refusal is incomplete, which does not matter.
    let no = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\nhalf";
    insta::assert_snapshot!(against(Answer::Bytes(no)), @r"
    traces failed: 7 spans not delivered: the collector answered 401 Unauthorized
    metrics failed: 7 metrics not delivered: the collector answered 401 Unauthorized
    ");
}

#[test]
fn it_speaks_http_and_answers_a_web_page() {
    let page = b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n<html>welcome!</html>";
    insta::assert_snapshot!(against(Answer::Bytes(page)), @r"
    traces failed: 7 spans not delivered: the answer was not OTLP: is that a collector?
    metrics failed: 7 metrics not delivered: the answer was not OTLP: is that a collector?
    ");
}

#[test]
fn it_speaks_another_protocol() {
    insta::assert_snapshot!(against(Answer::Bytes(b"\x16\x03\x01 garbage\r\n\r\n")), @r"
    traces failed: 7 spans not delivered: the answer was not HTTP
    metrics failed: 7 metrics not delivered: the answer was not HTTP
    ");
}

#[test]
fn records_beyond_the_queue_are_counted() {
    let sink = Sink::start(Answer::Silence);
    let telemetry = sink
        .telemetry()
        .queue(3)
        .timeout(Duration::from_secs(60))
        .build();
    let telemetry = telemetry.expect("the address is one");
    let runtime = Runtime::builder()
        .print(false)
        .signals(false)
        .telemetry(&telemetry)
        .build();
    let runtime = runtime.expect("threads are available");
    let metrics = runtime.metrics();
    let report = runtime.run(async |tasks| {
        for _ in 0..100 {
            tasks.spawn("short", async {}).await.ok();
        }
    });
    let text = metrics.read(headcount::telemetry::Format::Text);
    let dropped = |reason| {
        let series =
            format!("headcount_telemetry_dropped_total{{signal=\"traces\",reason=\"{reason}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        let line = line.unwrap_or_else(|| panic!("no {series}in:\n{text}"));
        line.parse::<u64>().expect("it is a number")
    };
    // There are 100 tasks, main, and five spans of the shutdown. At most three wait and three are
    // in flight; those are given up.
    let (queue_full, shutdown) = (dropped("queue_full"), dropped("shutdown"));
    assert_eq!(queue_full + shutdown, 106);
    assert!((3..=6).contains(&shutdown), "{shutdown} were given up");
    // The report counts those that were lost before its flush, too. An exporter that does not get a
    // processor in time counts those of the flush only after the report.
    let lost = &report.lost_records["traces"];
    assert_eq!(lost["queue_full"], queue_full);
    let is_late = report.to_text(false).contains("no answer in time");
    let told = lost["shutdown"];
    assert!(told == shutdown || is_late && told < shutdown, "{report}");
    let line = format!(
        "├─ ! {} spans were lost in this run: the queue was full ({queue_full}), \
         the flush at the end could not send them ({told})\n",
        queue_full + told
    );
    assert!(report.to_text(false).contains(&line), "{report}");
}
