//! Tests of the names of metrics, and of the text that is written under them.

use super::metrics::exports::{Drop, Signal};
use super::metrics::names::{ALL, Kind};
use super::metrics::text::Exemplar;
use super::{Child, Endpoint, Format, Metrics};
use crate::alone::alone;
use crate::threads::ThreadRule;
use crate::{Builder, Runtime, TaskGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Returns a builder that expects the threads of other tests, so that its audit ignores them.
fn quiet() -> Builder {
    let others = ThreadRule::named("*", "threads of other tests");
    let builder = Runtime::builder().print(false).signals(false);
    builder.expect_threads(others)
}

/// Runs `look` in a runtime that has every metric: a previous run, a child, an endpoint, an
/// untracked task and an exported signal.
fn with_everything(look: impl FnOnce(&TaskGroup, &Metrics)) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let build = || {
        let builder = quiet();
        let builder = builder.state_folder(folder.path()).version("1.2.3");
        let builder = builder.textfile(folder.path().join("end.prom"));
        builder.build().expect("threads can be started")
    };
    build().run(async |tasks| {
        tasks.spawn("dropped", std::future::pending::<()>());
        tasks.cancel().await;
    });
    // The results of saving and pushing are added to the report last.
    let saved = || std::fs::read_to_string(folder.path().join("report.json"));
    while !saved().is_ok_and(|report| report.contains("textfile")) {
        std::thread::yield_now();
    }
    let runtime = build();
    let metrics = runtime.metrics();
    metrics.source().exports.enable(Signal::Traces);
    let report = runtime.run(async move |tasks| {
        #[expect(
            clippy::disallowed_methods,
            reason = "an untracked task is what is counted"
        )]
        let untracked = tokio::spawn(async {});
        untracked.await.expect("it does not panic");
        let _child = Child::register(&tasks, "proxy");
        let _endpoint = Endpoint::register(&tasks, "db");
        let source = metrics.source();
        while source.heartbeat.age().is_none() {
            source.heartbeat.send(&source.root, &source.work);
            tokio::task::yield_now().await;
        }
        look(&tasks, &metrics);
    });
    // The runtime catches a panic of `main`, and with it a failed assertion of `look`.
    assert!(!report.required_failed, "{}", report.reason);
}

/// Returns the samples of the families that begin with `family`.
fn samples<'a>(text: &'a str, family: &str) -> Vec<&'a str> {
    let is_of = |line: &&str| line.starts_with(family) && !line.starts_with('#');
    text.lines().filter(is_of).collect()
}

#[test]
fn the_printed_families_are_exactly_those_of_the_names() {
    with_everything(|tasks, metrics| {
        let child = Child::register(tasks, "measured");
        child.started(std::process::id(), "its own parent");
        let text = metrics.read(Format::Text);
        let mut printed = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest
                    .split_once(' ')
                    .expect("a TYPE line has a name and a type");
                printed.insert(name, kind);
            }
        }
        let documented = documented();
        let named: BTreeMap<&str, &str> = ALL
            .iter()
            .zip(&documented)
            .filter(|(_, row)| cfg!(tokio_unstable) || !row.ends_with("tokio_unstable |"))
            .map(|(name, _)| (name.name, name.kind.as_str()))
            .collect();
        assert_eq!(printed, named);
        for name in ALL {
            for line in samples(&text, &format!("{}{{", name.name)) {
                let (labels, _) = line.rsplit_once('}').expect("the sample has labels");
                let (_, labels) = labels.split_once('{').expect("the sample has labels");
                let labels: Vec<&str> = labels
                    .split("\",")
                    .filter_map(|label| Some(label.split_once('=')?.0))
                    .collect();
                assert_eq!(labels, name.labels, "{line}");
            }
        }
    });
}

#[test]
fn names_follow_the_rules_of_prometheus_and_no_label_is_unbounded() {
    let mut seen = BTreeSet::new();
    for name in ALL {
        assert!(seen.insert(name.name), "duplicate name {}", name.name);
        let ours = name.name.starts_with("headcount_") || name.name.starts_with("process_");
        assert!(ours, "{}", name.name);
        assert_eq!(
            name.kind == Kind::Counter,
            name.name.ends_with("_total"),
            "{}",
            name.name
        );
        assert!(
            name.help.ends_with('.') && name.help.len() < 140,
            "{}",
            name.name
        );
        for unit in [
            "_ms", "_micros", "_minutes", "_percent", "_count", "_sum", "_bucket",
        ] {
            assert!(!name.name.ends_with(unit), "{}", name.name);
        }
        for word in name.labels.iter().chain([&name.name]) {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(word.chars().all(is_plain), "{word}");
        }
        for label in name.labels {
            let unbounded = ["pid", "tid", "id", "run", "trace", "thread", "error", "le"];
            assert!(!unbounded.contains(label), "{}: {label}", name.name);
        }
    }
}

/// Returns the rows of the table in `docs/metrics.md`. The last column says when the metric is
/// present.
fn documented() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md can be read");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(str::to_owned).collect()
}

#[test]
fn the_documentation_lists_the_names() {
    let rows = documented();
    assert_eq!(rows.len(), ALL.len());
    for (name, row) in ALL.iter().zip(rows) {
        let labels: Vec<String> = name
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = match labels.join(", ") {
            none if none.is_empty() => "–".to_owned(),
            labels => labels,
        };
        let (kind, help) = (name.kind.as_str(), name.help);
        let expected = format!("| `{}` | {kind} | {labels} | {help} | ", name.name);
        let when = row.strip_prefix(&expected);
        assert!(
            when.is_some_and(|when| when.len() > 2),
            "docs/metrics.md should hold {expected}\n{row}"
        );
    }
}

/// Returns the samples, with `V` for the values of durations and timestamps.
fn without_times(lines: &[&str]) -> String {
    let steady = |line: &&str| match line.rsplit_once(' ') {
        Some((series, _)) if series.contains("_duration_") || series.contains("_timestamp_") => {
            format!("{series} V")
        }
        _ => (*line).to_owned(),
    };
    let lines: Vec<String> = lines.iter().map(steady).collect();
    lines.join("\n")
}

#[test]
fn the_last_shutdown_has_all_its_metrics() {
    alone(|| {
        with_everything(|_, metrics| {
            let text = metrics.read(Format::Text);
            insta::assert_snapshot!(without_times(&samples(&text, "headcount_last_")), @r#"
        headcount_last_shutdown_duration_seconds V
        headcount_last_shutdown_flush_info{signal="state",result="delivered"} 1
        headcount_last_shutdown_flush_info{signal="textfile",result="delivered"} 1
        headcount_last_shutdown_info{outcome="clean",reason="main_ended",version="1.2.3"} 1
        headcount_last_shutdown_layer_budget_seconds{layer="cancel"} 2
        headcount_last_shutdown_layer_budget_seconds{layer="close"} 1
        headcount_last_shutdown_layer_budget_seconds{layer="drain"} 5
        headcount_last_shutdown_layer_duration_seconds{layer="cancel"} V
        headcount_last_shutdown_layer_duration_seconds{layer="close"} V
        headcount_last_shutdown_layer_duration_seconds{layer="drain"} V
        headcount_last_shutdown_task_lingering{layer="cancel"} 0
        headcount_last_shutdown_task_lingering{layer="drain"} 0
        headcount_last_shutdown_thread_lingering{class="blocking"} 0
        headcount_last_shutdown_thread_lingering{class="control"} 0
        headcount_last_shutdown_thread_lingering{class="daemon"} 0
        headcount_last_shutdown_thread_lingering{class="main"} 0
        headcount_last_shutdown_thread_lingering{class="telemetry"} 0
        headcount_last_shutdown_thread_lingering{class="tracked"} 0
        headcount_last_shutdown_thread_lingering{class="unknown"} 0
        headcount_last_shutdown_thread_lingering{class="worker"} 0
        headcount_last_shutdown_timestamp_seconds V
        "#);
        });
    });
}

#[test]
fn exits_are_counted_across_runs() {
    alone(|| {
        with_everything(|_, metrics| {
            let text = metrics.read(Format::Text);
            insta::assert_snapshot!(samples(&text, "headcount_exits_").join("\n"), @r#"
        headcount_exits_total{outcome="cancelled"} 0
        headcount_exits_total{outcome="clean"} 1
        headcount_exits_total{outcome="forced"} 0
        headcount_exits_total{outcome="lingering"} 0
        headcount_exits_total{outcome="unclean"} 0
        "#);
        });
    });
}

#[test]
fn an_exported_signal_has_series_from_the_start() {
    with_everything(|_, metrics| {
        let text = metrics.read(Format::Text);
        insta::assert_snapshot!(samples(&text, "headcount_telemetry_").join("\n"), @r#"
        headcount_telemetry_dropped_total{signal="traces",reason="queue_full"} 0
        headcount_telemetry_dropped_total{signal="traces",reason="refused"} 0
        headcount_telemetry_dropped_total{signal="traces",reason="shutdown"} 0
        headcount_telemetry_exports_total{signal="traces",result="failed"} 0
        headcount_telemetry_exports_total{signal="traces",result="ok"} 0
        headcount_telemetry_last_success_timestamp_seconds{signal="traces"} 0
        headcount_telemetry_queue_length{signal="traces"} 0
        "#);
    });
}

/// Returns the number of timed polls of a group, and their total duration in seconds.
fn polls(metrics: &Metrics, group: &str) -> (f64, f64) {
    let text = metrics.read(Format::Text);
    let value = |what: &str| {
        let series = format!("headcount_task_poll_duration_seconds_{what}{{group=\"{group}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    };
    (value("count"), value("sum"))
}

#[test]
fn short_tasks_have_a_sample_of_their_polls_timed_and_long_ones_the_polls_after_each_look() {
    let runtime = quiet().build().expect("threads can be started");
    let metrics = runtime.metrics();
    let report = runtime.run(async move |tasks| {
        let short = tasks.group("timed-short");
        for _ in 0..6400 {
            short.spawn("short", async {});
        }
        short.wait().await;
        // One poll in 64 is timed, or more if a thread begins a block of ids; also one after each
        // look of the control side.
        let (count, sum) = polls(&metrics, "timed-short");
        assert!(
            (90.0..6400.0).contains(&count) && sum > 0.0,
            "{count}, {sum}"
        );
        let long = tasks.group("timed-long");
        let slow = Duration::from_millis(2);
        long.spawn("long", async move {
            loop {
                // Each poll blocks its worker for this long.
                let begun = std::time::Instant::now();
                while begun.elapsed() < slow {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        });
        let begun = std::time::Instant::now();
        while polls(&metrics, "timed-long").0 < 2.0 {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no poll is timed"
            );
            tokio::task::yield_now().await;
        }
        let (count, sum) = polls(&metrics, "timed-long");
        assert!(sum >= slow.as_secs_f64() * count, "{count}, {sum}");
        long.cancel().await;
    });
    assert!(!report.required_failed, "{}", report.reason);
}

#[test]
fn after_a_shutdown_the_last_shutdown_is_that_of_this_run() {
    alone(|| {
        let runtime = quiet().build().expect("threads can be started");
        let metrics = runtime.metrics();
        assert!(!metrics.read(Format::Text).contains("headcount_last_"));
        runtime.run(async |tasks| tasks.stop("done"));
        let text = metrics.read(Format::Text);
        let info =
            "headcount_last_shutdown_info{outcome=\"clean\",reason=\"requested\",version=\"\"} 1\n";
        assert!(text.contains(info), "{text}");
        let done = "headcount_shutdown_phase{phase=\"done\"} 1\n";
        assert!(text.contains(done), "{text}");
        // Exits are counted in the state folder only.
        assert!(!text.contains("headcount_exits_total"), "{text}");
    });
}

#[test]
fn exports_are_counted_by_signal_result_and_reason() {
    with_everything(|_, metrics| {
        let exports = &metrics.source().exports;
        exports.enable(Signal::Logs);
        exports.delivered(Signal::Logs, 17);
        exports.failed(Signal::Logs);
        exports.dropped(Signal::Logs, Drop::QueueFull, 3);
        exports.dropped(Signal::Logs, Drop::Refused, 4);
        exports.dropped(Signal::Logs, Drop::Shutdown, 5);
        exports.set_queued(Signal::Logs, 6);
        // Metrics are not enabled here, so they have no series.
        exports.failed(Signal::Metrics);
        let text = metrics.read(Format::Text);
        let logs = samples(&text, "headcount_telemetry_");
        let logs: Vec<&str> = logs
            .into_iter()
            .filter(|line| !line.contains("traces"))
            .collect();
        insta::assert_snapshot!(logs.join("\n"), @r#"
        headcount_telemetry_dropped_total{signal="logs",reason="queue_full"} 3
        headcount_telemetry_dropped_total{signal="logs",reason="refused"} 4
        headcount_telemetry_dropped_total{signal="logs",reason="shutdown"} 5
        headcount_telemetry_exports_total{signal="logs",result="failed"} 1
        headcount_telemetry_exports_total{signal="logs",result="ok"} 1
        headcount_telemetry_last_success_timestamp_seconds{signal="logs"} 17
        headcount_telemetry_queue_length{signal="logs"} 6
        "#);
    });
}

#[test]
fn children_and_endpoints_have_series_while_they_are_registered() {
    with_everything(|tasks, metrics| {
        let child = Child::register(tasks, "worker\n");
        child.set_live(true);
        child.restarted();
        let endpoint = Endpoint::register(tasks, "api");
        endpoint.checked(Duration::from_millis(3));
        endpoint.checked(Duration::from_secs(9));
        endpoint.turned(true);
        let text = metrics.read(Format::Text);
        insta::assert_snapshot!(samples(&text, "headcount_child_").join("\n"), @r#"
        headcount_child_live{child="proxy"} 0
        headcount_child_live{child="worker_"} 1
        headcount_child_restarts_total{child="proxy"} 0
        headcount_child_restarts_total{child="worker_"} 1
        "#);
        let api = samples(&text, "headcount_endpoint_")
            .into_iter()
            .filter(|line| line.contains("api"));
        insta::assert_snapshot!(api.collect::<Vec<_>>().join("\n"), @r#"
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.001"} 0
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.0025"} 0
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.005"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.01"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.025"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.05"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.1"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.25"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="0.5"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="1"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="2.5"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="5"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="api",le="+Inf"} 2
        headcount_endpoint_check_duration_seconds_sum{endpoint="api"} 9.003
        headcount_endpoint_check_duration_seconds_count{endpoint="api"} 2
        headcount_endpoint_checks_total{endpoint="api",result="failed"} 0
        headcount_endpoint_checks_total{endpoint="api",result="ok"} 2
        headcount_endpoint_transitions_total{endpoint="api"} 1
        headcount_endpoint_up{endpoint="api"} 1
        "#);
        drop((child, endpoint));
        let text = metrics.read(Format::Text);
        assert!(
            !text.contains("worker_\"") && !text.contains("\"api\""),
            "{text}"
        );
    });
}

#[test]
fn a_child_has_the_use_of_its_tree() {
    with_everything(|tasks, metrics| {
        let mut sleep = std::process::Command::new("sleep");
        let mut sleep = sleep.arg("1000").spawn().expect("sleep runs");
        let child = Child::register(tasks, "sleeps");
        child.started(sleep.id(), "sleep 1000");
        let text = metrics.read(Format::Text);
        let value = |metric: &str| {
            let series = format!("headcount_child_{metric}{{child=\"sleeps\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&*series));
            line.map(|value| value.parse::<f64>().expect("a number"))
        };
        let (cpu, resident) = (value("cpu_seconds_total"), value("resident_bytes"));
        assert!(cpu.is_some_and(|cpu| cpu < 60.0), "{text}");
        assert!(resident.is_some_and(|bytes| bytes > 0.0), "{text}");
        // Nothing is known of one that does not run.
        assert!(!text.contains("headcount_child_resident_bytes{child=\"proxy\"}"));
        sleep.kill().expect("it is alive");
        sleep.wait().expect("it is a child");
        child.ended("killed");
        let text = metrics.read(Format::Text);
        assert!(!text.contains("headcount_child_resident_bytes"), "{text}");
    });
}

#[test]
fn an_endpoint_has_a_transition_when_its_status_changes() {
    with_everything(|tasks, metrics| {
        let endpoint = Endpoint::register(tasks, "api");
        let read = || {
            let text = metrics.read(Format::Text);
            let value = |metric: &str| {
                let series = format!("headcount_endpoint_{metric}{{endpoint=\"api\"}} ");
                let line = text.lines().find_map(|line| line.strip_prefix(&series));
                line.expect("it is registered").to_owned()
            };
            (value("up"), value("transitions_total"))
        };
        assert_eq!(read(), ("0".to_owned(), "0".to_owned()));
        for (up, transitions) in [(false, 1), (false, 1), (true, 2), (true, 2), (false, 3)] {
            endpoint.turned(up);
            let expected = (u8::from(up).to_string(), transitions.to_string());
            assert_eq!(read(), expected);
        }
    });
}

#[test]
fn children_beyond_the_first_64_share_the_series_of_other() {
    with_everything(|tasks, metrics| {
        // `with_everything` has registered one child.
        let register = |n: usize| Child::register(tasks, &format!("c{n:02}"));
        let children: Vec<Child> = (0..70).map(register).collect();
        children.iter().for_each(|child| child.set_live(true));
        children.iter().for_each(Child::restarted);
        let text = metrics.read(Format::Text);
        let live = samples(&text, "headcount_child_live");
        assert_eq!(live.len(), 65);
        assert!(
            live.contains(&"headcount_child_live{child=\"c62\"} 1"),
            "{live:?}"
        );
        assert!(
            live.contains(&"headcount_child_live{child=\"_other\"} 7"),
            "{live:?}"
        );
        let restarts = "headcount_child_restarts_total{child=\"_other\"} 7";
        assert!(text.contains(restarts), "{text}");
    });
}

#[test]
fn open_metrics_has_its_own_syntax_and_exemplars_where_a_trace_is_known() {
    with_everything(|tasks, metrics| {
        let endpoint = Endpoint::register(tasks, "traced");
        endpoint.checked(Duration::from_millis(3));
        let exemplar = |family: &str, first: &str, bound: f64| {
            let here = family == "headcount_endpoint_check_duration_seconds";
            (here && first == "traced" && bound == 0.005).then(|| Exemplar {
                trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
                span_id: "00f067aa0ba902b7".to_owned(),
                value: 0.003,
                seconds: 1.25,
            })
        };
        metrics.set_exemplars(exemplar);
        let text = metrics.read(Format::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));
        assert!(!text.contains("# TYPE headcount_warnings_total"));
        let family: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("headcount_endpoint_") && !line.contains("\"db\""))
            .collect();
        insta::assert_snapshot!(family.join("\n"), @r#"
        # TYPE headcount_endpoint_check_duration_seconds histogram
        # UNIT headcount_endpoint_check_duration_seconds seconds
        # HELP headcount_endpoint_check_duration_seconds Duration of a check of the endpoint, successful or not.
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.001"} 0
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.0025"} 0
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.005"} 1 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736",span_id="00f067aa0ba902b7"} 0.003 1.250
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.01"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.025"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.05"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.1"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.25"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="0.5"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="1.0"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="2.5"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="5.0"} 1
        headcount_endpoint_check_duration_seconds_bucket{endpoint="traced",le="+Inf"} 1
        headcount_endpoint_check_duration_seconds_count{endpoint="traced"} 1
        headcount_endpoint_check_duration_seconds_sum{endpoint="traced"} 0.003
        # TYPE headcount_endpoint_checks counter
        # HELP headcount_endpoint_checks Checks of the endpoint, by result: ok or failed.
        headcount_endpoint_checks_total{endpoint="traced",result="failed"} 0
        headcount_endpoint_checks_total{endpoint="traced",result="ok"} 1
        # TYPE headcount_endpoint_transitions counter
        # HELP headcount_endpoint_transitions Times that the endpoint came up or went down.
        headcount_endpoint_transitions_total{endpoint="traced"} 0
        # TYPE headcount_endpoint_up gauge
        # HELP headcount_endpoint_up 1 if the endpoint is up; 0 if it is down or its state is not known yet.
        headcount_endpoint_up{endpoint="traced"} 0
        "#);
        assert!(!metrics.read(Format::Text).contains("4bf92f35"));
    });
}

#[test]
fn the_format_is_the_one_that_the_scraper_prefers() {
    let open = [
        // As sent by Prometheus 2.43 and 3.
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text",
        "text/plain;q=0.5, application/openmetrics-text; version=1.0.0; q=0.5",
    ];
    for accept in open {
        assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
    }
    for accept in [
        "",
        "*/*",
        "text/plain",
        "text/html,application/xhtml+xml,*/*;q=0.8",
        "text/plain;q=0.9,application/openmetrics-text;q=0.1",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=much",
    ] {
        assert_eq!(Format::accepted(accept), Format::Text, "{accept}");
    }
}
