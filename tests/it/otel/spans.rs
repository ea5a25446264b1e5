//! Tests of spans as a collector receives them.

use super::sink::{Answer, Got, Sink, attribute, shown};
use crate::scenario::{GUARD, alone, others};
use headcount::telemetry::Telemetry;
use headcount::{Builder, Runtime, TaskGroup};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::future::pending;
use std::time::Duration;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// Returns the telemetry of a service that runs `main` to its end.
fn exported(main: impl AsyncFnOnce(TaskGroup)) -> Got {
    exported_with(|builder| builder, |telemetry| telemetry, main)
}

fn exported_with(
    with: impl FnOnce(Builder) -> Builder,
    telemetry: impl FnOnce(
        headcount::telemetry::TelemetryBuilder,
    ) -> headcount::telemetry::TelemetryBuilder,
    main: impl AsyncFnOnce(TaskGroup),
) -> Got {
    let sink = Sink::start(Answer::Taken);
    let telemetry = telemetry(sink.telemetry())
        .build()
        .expect("the address is one");
    let builder = with(service(&telemetry));
    let report = builder.build().expect("threads are available").run(main);
    assert!(
        report.lost_records.is_empty(),
        "{report}\n{:?}",
        report.flush
    );
    sink.got()
}

fn service(telemetry: &Telemetry) -> Builder {
    Runtime::builder()
        .name("orders")
        .print(false)
        .signals(false)
        .expect_threads(others())
        .telemetry(telemetry)
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.trace_id == parent.trace_id && child.parent_span_id == parent.span_id
}

fn is_linked(span: &Span, to: &Span) -> bool {
    let is_root = span.parent_span_id.is_empty() && span.trace_id != to.trace_id;
    let [link] = &*span.links else { return false };
    is_root && link.trace_id == to.trace_id && link.span_id == to.span_id
}

#[test]
fn each_outcome_of_a_task_is_in_its_span() {
    let got = exported(async |tasks| {
        let http = tasks.group("http");
        http.spawn("completes", async {}).await.ok();
        http.try_spawn("fails", async { Err::<(), _>("no such order") })
            .await
            .ok();
        http.spawn("panics", async { panic!("out of cheese") })
            .await
            .ok();
        let doomed = http.group("doomed");
        doomed.spawn("waits", pending::<()>());
        doomed.cancel().await;
        http.spawn_blocking("blocks", || {}).await.ok();
    });
    let names = ["completes", "fails", "panics", "doomed/waits", "blocks"];
    let all: String = names
        .map(|name| shown(got.span(&format!("task http/{name}"))))
        .concat();
    insta::assert_snapshot!(all, @r#"
    task http/completes [headcount.task.name=completes,headcount.task.group=http,headcount.task.kind=async,headcount.task.outcome=completed,code.file.path=tests/it/otel/spans.rs,thread.name=headcount-work]
      event headcount.task.started []
      event headcount.task.finished []
    task http/fails [headcount.task.name=fails,headcount.task.group=http,headcount.task.kind=async,headcount.task.outcome=failed,code.file.path=tests/it/otel/spans.rs,error.type=error,thread.name=headcount-work]
      status 2 "no such order"
      event headcount.task.started []
      event headcount.task.finished [exception.message=no such order]
    task http/panics [headcount.task.name=panics,headcount.task.group=http,headcount.task.kind=async,headcount.task.outcome=panicked,code.file.path=tests/it/otel/spans.rs,error.type=panic,thread.name=headcount-work]
      status 2 "'out of cheese' at tests/it/otel/spans.rs:LINE"
      event headcount.task.started []
      event headcount.task.panicked [exception.message='out of cheese' at tests/it/otel/spans.rs:LINE]
    task http/doomed/waits [headcount.task.name=waits,headcount.task.group=http/doomed,headcount.task.kind=async,headcount.task.outcome=cancelled,code.file.path=tests/it/otel/spans.rs,thread.name=headcount-work]
      event headcount.task.started []
      event headcount.task.cancelled []
    task http/blocks [headcount.task.name=blocks,headcount.task.group=http,headcount.task.kind=blocking,headcount.task.outcome=completed,code.file.path=tests/it/otel/spans.rs,thread.name=headcount-work]
      event headcount.task.started []
      event headcount.task.finished []
    "#);
    for span in &got.spans {
        assert!(
            span.start_time_unix_nano <= span.end_time_unix_nano,
            "{}",
            span.name
        );
        assert!(
            span.start_time_unix_nano > 1_600_000_000_000_000_000,
            "{}",
            span.name
        );
        for event in &span.events {
            let within = span.start_time_unix_nano..=span.end_time_unix_nano;
            assert!(
                within.contains(&event.time_unix_nano),
                "{} {}",
                span.name,
                event.name
            );
        }
    }
}

#[test]
fn a_short_task_is_a_child_of_its_spawner_and_a_long_one_begins_a_trace() {
    let got = exported(async |tasks| {
        let inner = tasks.clone();
        let request = tasks.spawn("request", async move {
            inner.spawn("query", async {}).await.ok();
            inner
                .task("watcher")
                .long_lived()
                .spawn(async {})
                .await
                .ok();
        });
        request.await.ok();
    });
    let (main, request) = (got.span("task main"), got.span("task request"));
    assert!(is_child(got.span("task query"), request));
    assert!(is_linked(got.span("task watcher"), request));
    // `main` lives as long as the service, so tasks that it spawns are not part of its trace.
    assert!(is_linked(request, main));
    assert!(main.links.is_empty() && main.parent_span_id.is_empty());
}

#[test]
fn spans_and_events_of_tracing_nest_under_the_task_on_whatever_thread_it_is() {
    let sink = Sink::start(Answer::Taken);
    let telemetry = sink.telemetry().build().expect("the address is one");
    let subscriber = tracing_subscriber::registry().with(telemetry.layer());
    let dispatch = tracing::Dispatch::new(subscriber);
    let runtime = service(&telemetry)
        .worker_threads(2)
        .build()
        .expect("threads are available");
    runtime.run(async |tasks| {
        let inner = tasks.clone();
        let work = async move {
            tracing::info!(order = 7, "before");
            let query = async {
                tokio::task::yield_now().await;
                tracing::warn!("slow");
                inner.spawn("row", async {}).await.ok();
            };
            query
                .instrument(tracing::info_span!("query", table = "orders"))
                .await;
            tokio::task::yield_now().await;
            tracing::info!("after");
        };
        tasks
            .spawn("request", work.with_subscriber(dispatch.clone()))
            .await
            .ok();
        let iterates = async {
            for _ in 0..2 {
                async {}.instrument(tracing::info_span!("tick")).await;
            }
        };
        let ticker = tasks.task("ticker").long_lived();
        ticker.spawn(iterates.with_subscriber(dispatch)).await.ok();
    });
    let got = sink.got();
    let (request, query) = (got.span("task request"), got.span("query"));
    assert!(is_child(query, request));
    assert!(
        is_child(got.span("task row"), query),
        "a task that is started in a span"
    );
    assert_eq!(attribute(&query.attributes, "table"), "orders");
    let events: Vec<&str> = request.events.iter().map(|event| &*event.name).collect();
    assert_eq!(
        events,
        [
            "headcount.task.started",
            "before",
            "after",
            "headcount.task.finished"
        ]
    );
    assert_eq!(attribute(&request.events[1].attributes, "order"), "7");
    assert_eq!(query.events.len(), 1);
    let ticker = got.span("task ticker");
    let ticks: Vec<&Span> = got
        .spans
        .iter()
        .filter(|span| span.name == "tick")
        .collect();
    assert_eq!(ticks.len(), 2);
    assert!(
        ticks.iter().all(|tick| is_linked(tick, ticker)),
        "each iteration is a trace"
    );
    assert_ne!(ticks[0].trace_id, ticks[1].trace_id);
}

#[test]
fn a_share_of_ordinary_ends_and_all_bad_ones_are_exported() {
    let got = exported_with(
        |builder| builder,
        |telemetry| telemetry.sample_ratio(0.0),
        async |tasks| {
            let inner = tasks.clone();
            let parent = async move { inner.spawn("child", async {}).await.ok() };
            tasks.spawn("parent", parent).await.ok();
            tasks
                .try_spawn("fails", async { Err::<(), _>("no") })
                .await
                .ok();
            tasks.spawn("panics", async { panic!("no") }).await.ok();
            tasks.task("lives").long_lived().spawn(async {}).await.ok();
            tasks.spawn("cancelled", pending::<()>());
        },
    );
    let tasks: Vec<&str> = got
        .names()
        .into_iter()
        .filter(|name| name.starts_with("task"))
        .collect();
    assert_eq!(
        tasks,
        [
            "task cancelled",
            "task fails",
            "task lives",
            "task main",
            "task panics"
        ]
    );
    let half = exported_with(
        |builder| builder,
        |telemetry| telemetry.sample_ratio(0.5),
        async |tasks| {
            for _ in 0..1000 {
                let inner = tasks.clone();
                let parent = async move { inner.spawn("child", async {}).await.ok() };
                tasks.spawn("parent", parent).await.ok();
            }
        },
    );
    let count = |name: &str| half.spans.iter().filter(|span| span.name == name).count();
    // Ten standard deviations.
    assert!(
        (340..660).contains(&count("task parent")),
        "{}",
        count("task parent")
    );
    assert_eq!(
        count("task parent"),
        count("task child"),
        "a trace is whole or not there"
    );
}

#[test]
fn a_user_span_in_a_task_that_is_not_sampled_is_not_made() {
    let sink = Sink::start(Answer::Taken);
    let telemetry = sink
        .telemetry()
        .sample_ratio(0.0)
        .build()
        .expect("the address is one");
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(telemetry.layer()));
    let runtime = service(&telemetry).build().expect("threads are available");
    runtime.run(async |tasks| {
        let work = async {}.instrument(tracing::info_span!("query"));
        tasks
            .spawn("request", work.with_subscriber(dispatch))
            .await
            .ok();
    });
    assert!(!sink.got().names().contains(&"query"));
}

#[test]
fn a_traceparent_makes_a_task_part_of_a_remote_trace() {
    let got = exported_with(
        |builder| builder,
        |telemetry| telemetry.sample_ratio(0.0),
        async |tasks| {
            let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let task = tasks
                .task("answer")
                .traceparent(sampled.parse().expect("it is one"));
            task.spawn(async {}).await.ok();
            let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
            let task = tasks
                .task("quiet")
                .traceparent(unsampled.parse().expect("it is one"));
            task.spawn(async {}).await.ok();
        },
    );
    let span = got.span("task answer");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    // Sampled, and the parent is known to be remote.
    assert_eq!(span.flags, 0x301);
    assert!(!got.names().contains(&"task quiet"));
}

#[test]
fn the_shutdown_is_a_trace_of_its_layers() {
    alone(|| {
        let got = exported(async |tasks| {
            tasks.spawn("cancelled", pending::<()>());
        });
        let whole = got.span("headcount.shutdown");
        insta::assert_snapshot!(shown(whole), @"headcount.shutdown [headcount.shutdown.outcome=cancelled,headcount.shutdown.reason=main ended]");
        for name in ["drain", "cancel", "close", "flush"] {
            let layer = got.span(name);
            assert!(is_child(layer, whole), "{name}");
            assert!(
                whole.start_time_unix_nano <= layer.start_time_unix_nano,
                "{name}"
            );
        }
    });
}

#[test]
fn a_task_that_never_ends_is_exported_when_the_process_does() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let got = exported_with(
        |builder| {
            let short = Duration::from_millis(50);
            builder
                .drain_budget(short)
                .cancel_budget(short)
                .close_budget(short)
                .deadline(GUARD)
        },
        |telemetry| telemetry,
        async move |tasks| {
            let (started, begun) = tokio::sync::oneshot::channel();
            tasks.spawn_blocking("stuck", move || {
                started.send(()).ok();
                held.recv().ok();
            });
            begun.await.ok();
        },
    );
    drop(release);
    insta::assert_snapshot!(shown(got.span("task stuck")), @r#"
    task stuck [headcount.task.name=stuck,headcount.task.group=/,headcount.task.kind=blocking,headcount.task.outcome=lingering,code.file.path=tests/it/otel/spans.rs,error.type=lingering]
      status 2 "alive at the end of the process"
      event headcount.task.lingering []
    "#);
    assert!(is_linked(got.span("task stuck"), got.span("task main")));
}

#[test]
fn the_resource_identifies_the_service() {
    let got = exported_with(
        |builder| builder,
        |telemetry| {
            telemetry
                .version("1.2.3")
                .attribute("deployment.environment.name", "test")
                .attribute("host.name", "box")
                .header("x-team", "a")
        },
        async |_| {},
    );
    let of = |key| attribute(&got.resource, key);
    assert_eq!(of("service.name"), "orders");
    assert_eq!(of("service.version"), "1.2.3");
    assert_eq!(of("deployment.environment.name"), "test");
    assert_eq!(of("host.name"), "box");
    assert_eq!(of("process.pid"), std::process::id().to_string());
    assert_eq!(of("os.type"), std::env::consts::OS);
    assert_eq!(of("service.instance.id").len(), 36);
    let head = got.heads[0].to_lowercase();
    assert!(head.contains("\r\nx-team: a\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: application/x-protobuf\r\n"),
        "{head}"
    );
}

#[test]
fn the_metrics_of_the_report_are_pushed() {
    alone(|| {
        let got = exported(async |_| {});
        let steady = |line: &String| {
            let times = ["_seconds{", "timestamp"];
            !times.iter().any(|time| line.contains(time))
        };
        let lines: Vec<String> = got.samples().into_iter().filter(steady).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
    headcount_last_shutdown_info{outcome=clean,reason=main_ended,version=} 1
    headcount_last_shutdown_task_lingering{layer=cancel} 0
    headcount_last_shutdown_task_lingering{layer=drain} 0
    headcount_last_shutdown_thread_lingering{class=main} 0
    headcount_last_shutdown_thread_lingering{class=worker} 0
    headcount_last_shutdown_thread_lingering{class=blocking} 0
    headcount_last_shutdown_thread_lingering{class=control} 0
    headcount_last_shutdown_thread_lingering{class=telemetry} 0
    headcount_last_shutdown_thread_lingering{class=daemon} 0
    headcount_last_shutdown_thread_lingering{class=tracked} 0
    headcount_last_shutdown_thread_lingering{class=unknown} 0
    ");
    });
}
