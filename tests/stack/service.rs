//! A service with one fault, for the tests with a real Prometheus: `stack_service FAULT NAME ADMIN
//! STATE`, where ADMIN is the address of the metrics, and STATE a folder. The `OTEL_*` variables
//! set the address and the instance for telemetry.
//!
//! It prints "ready". A fault waits for a line on standard input. SIGTERM stops the service.

use headcount::telemetry::Telemetry;
use headcount::{Report, Runtime, TaskGroup, ThreadKind};
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{interval, sleep};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The budget of the layer that has to wait for the fault, kept short for the tests.
const SHORT: Duration = Duration::from_secs(1);
/// A budget that is not used up even on the slowest machine.
const AMPLE: Duration = Duration::from_secs(30);
/// Long enough for one more scrape at an interval of five seconds.
const HOLD: Duration = Duration::from_secs(20);

fn main() -> Report {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [trouble, name, admin, state] = &arguments[..] else {
        panic!("stack_service TROUBLE NAME ADMIN STATE");
    };
    let admin: SocketAddr = admin.parse().expect("ADMIN is an address");
    let telemetry = Telemetry::builder()
        .service(name)
        .build()
        .expect("the variables are right");
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(telemetry.layer())
        .init();
    let (drain, cancel, close) = match trouble.as_str() {
        "ignores" => (SHORT, AMPLE, AMPLE),
        "blocks" => (SHORT, SHORT, SHORT),
        "thread" => (AMPLE, AMPLE, SHORT),
        _ => (AMPLE, AMPLE, AMPLE),
    };
    let runtime = Runtime::builder()
        .name(name)
        .version("1.2.3")
        .worker_threads(2)
        .drain_budget(drain)
        .cancel_budget(cancel)
        .close_budget(close)
        .deadline(AMPLE * 5)
        .scrape_hold(HOLD)
        .admin(admin)
        .state_folder(state)
        .telemetry(&telemetry)
        .build()
        .expect("threads, ports and the folder are available");
    runtime.run(async |tasks| serve(&tasks, trouble).await)
}

async fn serve(tasks: &TaskGroup, trouble: &str) {
    let http = tasks.group("http");
    http.spawn("ticker", work(http.clone()));
    let (begun, cue) = oneshot::channel();
    tasks.spawn_thread("cue", ThreadKind::Daemon, move || {
        if std::io::stdin()
            .read_line(&mut String::new())
            .is_ok_and(|read| read > 0)
        {
            begun.send(()).ok();
        }
    });
    match trouble {
        "none" => {}
        "ignores" => drop(http.spawn("accept", pending::<()>())),
        "blocks" => drop(http.spawn_blocking("export", park)),
        "thread" => drop(tasks.spawn_thread("pg-reader", ThreadKind::Tracked, park)),
        "leaks" => drop(tasks.spawn("cache", leak(tasks.clone()))),
        "panics" => drop(tasks.group("jobs").spawn("parse", async {
            if cue.await.is_ok() {
                panic!("bad record");
            }
        })),
        "required" => drop(tasks.task("consumer").required().try_spawn(async {
            cue.await.map_err(|_| "no cue")?;
            Err::<(), _>("the broker is gone")
        })),
        other => panic!("no trouble '{other}'"),
    }
    println!("ready");
    tasks.draining().await;
}

fn park() {
    loop {
        std::thread::park();
    }
}

/// Runs the normal work of a service: short tasks that end well.
async fn work(http: TaskGroup) {
    let mut tick = interval(Duration::from_millis(500));
    while http.until_draining(tick.tick()).await.is_some() {
        http.spawn("request", sleep(Duration::from_millis(3)));
    }
}

/// Spawns another untracked task that never ends every half second.
async fn leak(tasks: TaskGroup) {
    let mut tick = interval(Duration::from_millis(500));
    while tasks.until_draining(tick.tick()).await.is_some() {
        forget();
    }
}

#[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
fn forget() {
    drop(tokio::spawn(pending::<()>()));
}
