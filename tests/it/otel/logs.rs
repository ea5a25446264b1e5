//! Log records as a collector gets them.

use super::sink::{Answer, Sink, attribute, pairs, value};
use headcount::Runtime;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tracing::instrument::WithSubscriber as _;
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
    let runtime = Runtime::builder()
        .print(false)
        .signals(false)
        .telemetry(&telemetry)
        .build();
    let runtime = runtime.expect("threads can be had");
    tracing::dispatcher::with_default(&dispatch.clone(), || {
        runtime.run(async move |tasks| {
            let work = async {
                tracing::warn!(order = 7, late = true, "order is late");
                tracing::debug!("nobody wants to know");
            };
            tasks
                .spawn("request", work.with_subscriber(dispatch.clone()))
                .await
                .ok();
            let panics = async { panic!("out of cheese") };
            tasks
                .spawn("panics", panics.with_subscriber(dispatch.clone()))
                .await
                .ok();
            let lives = tasks.task("lives").long_lived();
            lives.spawn(async {}.with_subscriber(dispatch)).await.ok();
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
    assert!(
        got.logs
            .iter()
            .all(|log| body(log) != "nobody wants to know")
    );

    // It is seen while the task lives, whose span is not.
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
    assert_eq!(attribute(&started.attributes, "group"), "");
}
