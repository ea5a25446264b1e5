//! A client of tokio-console's protocol.

use console_api::field::{Name, Value};
use console_api::instrument::InstrumentRequest;
use console_api::instrument::instrument_client::InstrumentClient;
use console_api::tasks::Task;
use headcount::Runtime;
use headcount::telemetry::Console;
use std::net::SocketAddr;
use tracing_subscriber::layer::SubscriberExt as _;

/// Returns the name of a task as the console lists it, and the file of its spawn site.
fn listed(task: &Task) -> Option<(String, String)> {
    let name = task.fields.iter().find(|field| {
        let name = field.name.as_ref();
        matches!(name, Some(Name::StrName(name)) if name == "task.name")
    });
    let name = match name?.value.as_ref()? {
        Value::StrVal(name) | Value::DebugVal(name) => name.clone(),
        other => panic!("a name that is {other:?}"),
    };
    Some((name, task.location.as_ref()?.file.clone()?))
}

/// Polls until a task with this name is listed.
async fn watch(address: SocketAddr, wanted: &str) -> (String, String) {
    let client = InstrumentClient::connect(format!("http://{address}")).await;
    let updates = client
        .expect("it listens")
        .watch_updates(InstrumentRequest {})
        .await;
    let mut updates = updates.expect("it answers").into_inner();
    loop {
        let update = updates.message().await.expect("it goes on");
        let update = update.expect("it does not end before its tasks do");
        let tasks = update.task_update.unwrap_or_default().new_tasks;
        let found = tasks
            .iter()
            .filter_map(listed)
            .find(|(name, _)| name == wanted);
        if let Some(found) = found {
            return found;
        }
    }
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "tokio tells nothing without tokio_unstable"
)]
fn a_console_sees_tasks_by_group_and_name_and_spawn_site() {
    let mut console = Console::bind(([127, 0, 0, 1], 0).into()).expect("the loopback has ports");
    let address = console.address();
    let subscriber = tracing_subscriber::registry().with(console.layer());
    let mut seen = None;
    // As in a service, the subscriber exists before the runtime.
    tracing::subscriber::with_default(subscriber, || {
        let runtime = Runtime::builder()
            .print(false)
            .signals(false)
            .console(console)
            .build();
        runtime.expect("threads are available").run(async |tasks| {
            let http = tasks.group("http");
            let waits = http.clone();
            http.spawn("accept", async move { waits.draining().await });
            seen = Some(watch(address, "http/accept").await);
        });
    });
    assert_eq!(seen, Some(("http/accept".to_owned(), file!().to_owned())));
}

#[test]
fn an_address_is_claimed_before_anything_runs() {
    let first = Console::bind(([127, 0, 0, 1], 0).into()).expect("the loopback has ports");
    let second = Console::bind(first.address()).expect_err("it is taken");
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
}

#[cfg(not(tokio_unstable))]
#[test]
fn without_tokio_unstable_there_is_no_layer_and_the_runtime_runs() {
    crate::scenario::alone(|| {
        let mut console =
            Console::bind(([127, 0, 0, 1], 0).into()).expect("the loopback has ports");
        assert!(console.layer::<tracing_subscriber::Registry>().is_none());
        let runtime = Runtime::builder()
            .print(false)
            .signals(false)
            .console(console)
            .build();
        assert!(runtime.expect("it is built").run(async |_| {}).is_clean());
    });
}
