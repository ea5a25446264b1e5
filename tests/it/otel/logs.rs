//! Tests of log records as a collector receives them.

use super::sink::{Answer, Sink, attribute, pairs, value};
use headcount::Runtime;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tracing_subscriber::layer::SubscriberExt as _;

fn body(log: &LogRecord) -> &str {
    match log.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("the body is {other:?}"),
    }
}

#[test]
fn events_are_log_records_with_the_trace_of_their_task() {
    let sink = Sink::start(Answer::Taken);
    let telemetry = sink.telemetry().build().expect("the address is one");
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(telemetry.layer()));
    // On this thread, so that headcount's own log about the tasks is captured too.
    let builder = Runtime::builder()
        .current_thread()
        .print(false)
        .signals(false);
    let runtime = builder
        .telemetry(&telemetry)
        .build()
        .expect("threads are available");
    tracing::dispatcher::with_default(&dispatch, || {
        runtime.run(async move |tasks| {
            let work = async {
                tracing::warn!(order = 7, late = true, "order is late");
                tracing::debug!("a detail");
            };
            tasks.spawn("request", work).await.ok();
            tasks
                .spawn("panics", async { panic!("out of cheese") })
                .await
                .ok();
            tasks.task("lives").long_lived().spawn(async {}).await.ok();
            // A child of a short task: its trace id does not follow from its own number.
            let doomed = tasks.group("doomed");
            let group = doomed.clone();
            let spawns = async move {
                group.spawn("waits", std::future::pending::<()>());
            };
            tasks.spawn("spawns", spawns).await.ok();
            doomed.cancel().await;
        })
    });
    let got = sink.got();
    let request = got.span("task request");
    let late = got
        .logs
        .iter()
        .find(|log| body(log) == "order is late")
        .expect("it was logged");
    assert_eq!(
        (&late.trace_id, &late.span_id),
        (&request.trace_id, &request.span_id)
    );
    assert_eq!(late.severity_text, "WARN");
    assert_eq!(
        pairs(&late.attributes),
        "order=7,late=true,code.namespace=it::otel::logs"
    );
    assert!(got.logs.iter().all(|log| body(log) != "a detail"));

    // The record is exported while the task is alive; its span is not.
    let lives = got.span("task lives");
    let started = got.logs.iter().find(|log| {
        let task = log.attributes.iter().find(|pair| pair.key == "task");
        log.event_name == "headcount.task.started" && task.map(value).as_deref() == Some("lives")
    });
    let started = started.expect("its start was logged");
    assert_eq!(
        (&started.trace_id, &started.span_id),
        (&lives.trace_id, &lives.span_id)
    );
    // The same names as in its span and in the metrics.
    assert_eq!(attribute(&started.attributes, "group"), "/");

    // The ends of tasks also have the ids of their spans.
    for (event, span) in [
        ("headcount.task.panicked", "task panics"),
        ("headcount.task.cancelled", "task doomed/waits"),
    ] {
        let (log, span) = (got.event(event), got.span(span));
        assert_eq!(
            (&log.trace_id, &log.span_id),
            (&span.trace_id, &span.span_id)
        );
    }
    assert_eq!(
        body(got.event("headcount.task.panicked"))
            .split(" at ")
            .next(),
        Some("task panicked: 'out of cheese'")
    );
}
