//! Tests of the admin server in a separate process: its output, and that it answers when nothing
//! else does.

use crate::program::{Program, example};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// A service with an admin server.
struct Served {
    program: Program,
    address: SocketAddr,
}

/// An HTTP answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// The header that Prometheus sends with each scrape.
const SCRAPER: &str = "x-prometheus-scrape-timeout-seconds: 10\r\n";

#[track_caller]
fn serve(scenario: &str) -> Served {
    let command = example("admin_scenario", &[scenario]);
    let mut program = Program::start(command);
    let line = program.line();
    let address = line.strip_prefix("ready ").expect("it says where");
    Served {
        address: address.parse().expect("an address"),
        program,
    }
}

impl Served {
    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        self.ask(path, "")
    }

    /// Sends a GET request with additional headers, each with its line ending.
    #[track_caller]
    fn ask(&self, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
        let status = head.split(' ').nth(1).expect("it has a status");
        Answer {
            status: status.parse().expect("a number"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("it is JSON")
    }

    /// Polls until the shutdown reaches the phase.
    #[track_caller]
    fn wait_for_phase(&self, phase: &str) {
        while self.json("/api/report")["phase"] != phase {
            std::thread::yield_now();
        }
    }
}

/// Replaces values that differ between runs with `V`.
#[cfg(tokio_unstable)]
fn steady(metrics: &str) -> String {
    let varies = |line: &str| {
        ["_seconds", "_bytes", "process_", "_live{class", "runtime_", "_unwakeable "]
            .iter()
            .any(|part| line.contains(part))
            && !line.contains("_layer_budget_")
            && !line.contains("le=\"+Inf\"")
            && !line.contains("seconds_count")
            // A sample, which depends on chance and timing.
            || line.contains("_poll_duration_")
    };
    let mut lines = Vec::new();
    for line in metrics.lines() {
        let line = match line.rsplit_once(' ') {
            Some((series, _)) if !line.starts_with('#') && varies(line) => format!("{series} V"),
            _ => line.to_owned(),
        };
        let rustc = line.split_once("rustc=\"");
        let line = match rustc.and_then(|(head, rest)| Some((head, rest.split_once('"')?.1))) {
            Some((head, rest)) => format!("{head}rustc=\"V\"{rest}"),
            None => site(&line),
        };
        lines.push(line);
    }
    lines.join("\n")
}

/// Removes the line and column of spawn sites, which are the scenario's own.
#[cfg(tokio_unstable)]
fn site(line: &str) -> String {
    match line.split_once("admin_scenario.rs:") {
        Some((head, rest)) => format!(
            "{head}admin_scenario.rs:N{}",
            &rest[rest.find('"').unwrap_or(0)..]
        ),
        None => line.to_owned(),
    }
}

#[cfg(tokio_unstable)]
#[test]
fn the_metrics_of_a_service_match_the_snapshot() {
    let served = serve("usual");
    // The control side warns with a delay.
    let answer = loop {
        let answer = served.get("/metrics");
        if answer.body.contains("{kind=\"untracked\"} 1\n") {
            break answer;
        }
    };
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    insta::assert_snapshot!("metrics", steady(&answer.body));
}

#[test]
fn a_scraper_that_asks_for_open_metrics_gets_them() {
    let served = serve("usual");
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let answer = served.ask("/metrics", accept);
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        answer.head
    );
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let started = "headcount_task_started_total{group=\"http\",task=\"connection\"} 2\n";
    assert!(answer.body.contains(started), "{}", answer.body);
    assert!(
        answer
            .body
            .contains("# TYPE headcount_task_started counter\n")
    );
}

#[test]
#[ignore = "needs promtool, of Debian's package prometheus"]
fn promtool_accepts_the_metrics() {
    use std::process::Stdio;
    let served = serve("usual");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    let metrics = served.get("/metrics").body;
    stdin.write_all(metrics.as_bytes()).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success(), "{:?}", output.status);
}

#[test]
fn ten_thousand_names_make_a_bounded_number_of_series() {
    let served = serve("many-names");
    let metrics = served.get("/metrics").body;
    let series: Vec<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(series.len() < 1300, "{} series", series.len());
    let values = |label: &str| -> std::collections::BTreeSet<&str> {
        let start = format!("{label}=\"");
        let found = series.iter().filter_map(|line| line.split_once(&start));
        found
            .filter_map(|(_, rest)| Some(rest.split_once('"')?.0))
            .collect()
    };
    let groups = values("{group");
    assert_eq!(groups.len(), 9, "{groups:?}");
    assert!(
        groups.contains("/") && groups.contains("_other"),
        "{groups:?}"
    );
    let tasks = values("task");
    assert_eq!(tasks.len(), 65, "{tasks:?}");
    assert!(tasks.contains("_other"), "{tasks:?}");
    if cfg!(tokio_unstable) {
        let sites = values("site");
        assert_eq!(sites.len(), 21, "{sites:?}");
        assert!(
            series.contains(&"headcount_task_untracked_live 30"),
            "{metrics}"
        );
        assert!(series.contains(&"headcount_task_untracked_site_live{site=\"_other\"} 10"));
    }
    // The other names are complete: `_other` contains all started tasks, among them `main` and the
    // last one.
    let started = series
        .iter()
        .filter(|line| line.starts_with("headcount_task_started_total"));
    let sum: u64 = started
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    assert_eq!(sum, 10_002);
    let task_names = served.json("/api/groups");
    let listed: usize = task_names["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|group| group["names"].as_array().expect("a list").len())
        .sum();
    assert_eq!(listed, 1000);
}

#[test]
fn it_answers_when_every_worker_is_stuck() {
    let served = serve("workers-stuck");
    assert_eq!(served.get("/livez").body, "ok\n");
    assert_eq!(served.get("/readyz").body, "ready\n");
    let tasks = served.json("/api/tasks?name=stuck");
    let tasks = tasks["tasks"].as_array().expect("a list");
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        assert!(task["on_thread"].is_u64(), "{task}");
    }
    let metrics = served.get("/metrics").body;
    let stuck = "headcount_task_live{group=\"/\",task=\"stuck\",state=\"running\"} 2\n";
    assert!(metrics.contains(stuck), "{metrics}");
    let beat = |metrics: &str| -> Option<f64> {
        let line = metrics
            .lines()
            .find(|line| line.starts_with("headcount_runtime_heartbeat_age_seconds "))?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    // Either it was never answered, or it only grows older.
    let (first, second) = (beat(&metrics), beat(&served.get("/metrics").body));
    assert!(first <= second, "{first:?} {second:?}");
}

#[test]
fn readiness_fails_when_the_shutdown_begins_and_liveness_stays_until_the_end() {
    let mut served = serve("drains-for-long");
    assert_eq!(served.get("/readyz").status, 200);
    served.program.signal(Signal::TERM);
    served.wait_for_phase("draining");
    let ready = served.get("/readyz");
    assert_eq!(
        (ready.status, &*ready.body),
        (503, "not ready: stopping: SIGTERM\n")
    );
    assert_eq!(served.get("/livez").status, 200);
    let metrics = served.get("/metrics").body;
    for line in [
        "headcount_shutdown_phase{phase=\"draining\"} 1",
        "headcount_shutdown_phase{phase=\"running\"} 0",
        "headcount_shutdown_requested_total{reason=\"SIGTERM\"} 1",
        "headcount_shutdown_layer_budget_seconds{layer=\"drain\"} 60",
        "headcount_task_live{group=\"slow\",task=\"flush\",state=\"draining\"} 1",
    ] {
        assert!(
            metrics.lines().any(|known| known == line),
            "{line} is not in {metrics}"
        );
    }
    let runtime = served.json("/api/runtime");
    assert_eq!(
        runtime["not_ready"],
        serde_json::json!(["stopping: SIGTERM"])
    );
    drop(served.program.stdin());
    let ended = served.program.end();
    ended.assert_code(0);
}

#[test]
fn a_second_signal_is_counted_as_forced() {
    let mut served = serve("drains-for-long");
    served.program.signal(Signal::TERM);
    served.wait_for_phase("draining");
    served.program.signal(Signal::INT);
    served.wait_for_phase("cancelling");
    let metrics = served.get("/metrics").body;
    for line in [
        "headcount_shutdown_forced_total{action=\"cancel\"} 1",
        "headcount_shutdown_requested_total{reason=\"SIGINT\"} 1",
        "headcount_shutdown_requested_total{reason=\"SIGTERM\"} 1",
    ] {
        assert!(
            metrics.lines().any(|known| known == line),
            "{line} is not in {metrics}"
        );
    }
    drop(served.program.stdin());
    served.program.end();
}

#[test]
fn the_process_waits_for_a_last_scrape_that_has_its_end() {
    let mut served = serve("waits-for-a-scrape");
    served.ask("/metrics", SCRAPER);
    served.program.signal(Signal::TERM);
    drop(served.program.stdin());
    served
        .program
        .error_line("for a final scrape of /metrics; a signal ends the wait");
    // Health probes do not end the wait.
    assert_eq!(served.get("/livez").status, 200);
    assert_eq!(served.get("/readyz").status, 503);
    // Neither does a browser.
    served.get("/metrics");
    let metrics = served.ask("/metrics", SCRAPER).body;
    for line in [
        "headcount_last_shutdown_info{outcome=\"clean\",reason=\"SIGTERM\",version=\"\"} 1",
        "headcount_shutdown_phase{phase=\"done\"} 1",
        "headcount_shutdown_requested_total{reason=\"SIGTERM\"} 1",
        "headcount_shutdown_requested_total{reason=\"main_ended\"} 0",
        "headcount_last_shutdown_task_lingering{layer=\"cancel\"} 0",
    ] {
        assert!(
            metrics.lines().any(|known| known == line),
            "{line} is not in {metrics}"
        );
    }
    served.program.end().assert_code(0);
}

#[test]
fn one_look_at_the_metrics_does_not_delay_the_exit() {
    let mut served = serve("waits-for-a-scrape");
    served.get("/metrics");
    served.program.signal(Signal::TERM);
    drop(served.program.stdin());
    let ended = served.program.end();
    ended.assert_code(0);
    let held = |line: &&String| line.contains("for a final scrape of /metrics");
    assert_eq!(ended.stderr.iter().find(held), None);
}

#[cfg(feature = "service")]
#[test]
fn an_address_in_use_is_reported_with_a_remedy_before_anything_runs() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("ports are available");
    let address = taken.local_addr().expect("it is bound");
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let mark = folder.path().join("started");
    let config = format!(
        "[admin]\nlisten = \"{address}\"\n\
         [tasks.a]\nkind = \"process\"\ncommand = [\"touch\", \"{}\"]\n",
        mark.display()
    );
    let path = folder.path().join("headcount.toml");
    std::fs::write(&path, config).expect("the folder is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.arg("run").arg(&path);
    let ended = Program::start(command).end();
    ended.assert_code(71);
    assert!(!mark.exists());
    let said = ended
        .stderr
        .join("\n")
        .replace(&address.port().to_string(), "PORT");
    // It does not say that anything runs.
    insta::assert_snapshot!(said, @r#"
    headcount: failed to bind the admin server to 127.0.0.1:PORT, where another server is already listening: Address already in use (os error 98)
      find the process that uses the port with `ss -ltnp 'sport = :PORT'`, or choose another address with [admin] listen
      or `run --admin`: "127.0.0.1:0" for any free port, or "off" for no admin server
    "#);
}

#[cfg(feature = "service")]
#[test]
fn the_exit_code_of_probe_says_whether_a_service_is_ready() {
    let probe = |url: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["probe", &url, "--timeout", "30s"]);
        Program::start(command).end()
    };
    let mut served = serve("drains-for-long");
    let url = format!("http://{}/readyz", served.address);
    let ended = probe(url.clone());
    ended.assert_code(0);
    assert_eq!(ended.stderr, [""; 0]);
    served.program.signal(Signal::TERM);
    served.wait_for_phase("draining");
    let ended = probe(url.clone());
    ended.assert_code(1);
    assert_eq!(
        ended.stderr,
        [format!("headcount: {url}: status 503, expected 200..=399")]
    );
    let ended = probe("localhost".to_owned());
    ended.assert_code(1);
    insta::assert_snapshot!(ended.stderr.join("\n"), @"headcount: localhost: the URL must begin with http:// or https://");
    drop(served.program.stdin());
    served.program.end();
}
