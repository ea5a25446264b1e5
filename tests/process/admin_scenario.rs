//! Services with an admin server, for the tests of its answers. The first argument selects one;
//! each prints "ready ADDRESS" when the test may continue.

use headcount::telemetry::{Child, Endpoint};
use headcount::{Report, Runtime, TaskGroup};
use std::future::pending;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// A budget that is not used up even on the slowest machine.
const AMPLE: Duration = Duration::from_secs(60);

fn main() -> Report {
    match std::env::args().nth(1).unwrap_or_default().as_str() {
        "usual" => run(Duration::ZERO, usual),
        "many-names" => run(Duration::ZERO, many_names),
        "page" => run(Duration::ZERO, page),
        "workers-stuck" => run(Duration::ZERO, workers_stuck),
        "drains-for-long" => run(Duration::ZERO, drains_for_long),
        "waits-for-a-scrape" => run(AMPLE, drains_for_long),
        other => panic!("no scenario '{other}'"),
    }
}

fn run(scrape_hold: Duration, main: impl AsyncFnOnce(TaskGroup, SocketAddr)) -> Report {
    let runtime = Runtime::builder()
        .name("test")
        .worker_threads(2)
        .drain_budget(AMPLE)
        .cancel_budget(AMPLE)
        .close_budget(AMPLE)
        .deadline(AMPLE * 5)
        .scrape_hold(scrape_hold)
        .admin(SocketAddr::from(([127, 0, 0, 1], 0)))
        .build()
        .expect("threads and ports are available");
    let address = runtime.admin_address().expect("it was asked for");
    runtime.run(async |tasks| main(tasks, address).await)
}

fn ready(address: SocketAddr) {
    println!("ready {address}");
}

/// Creates one of each item that the metrics and the API show.
async fn usual(tasks: TaskGroup, address: SocketAddr) {
    let http = tasks.group("http");
    let all_run = Arc::new(tokio::sync::Barrier::new(4));
    let runs = || {
        let all_run = Arc::clone(&all_run);
        async move {
            all_run.wait().await;
            pending::<()>().await;
        }
    };
    for _ in 0..2 {
        http.spawn("connection", runs());
    }
    http.task("accept").required().spawn(runs());
    all_run.wait().await;
    let jobs = tasks.group("jobs");
    jobs.spawn("done", async {}).await.ok();
    jobs.try_spawn("import", async { Err::<(), _>("no such file") })
        .await
        .ok();
    jobs.spawn("parse", async { panic!("bad record") })
        .await
        .ok();
    let dropped = jobs.spawn("dropped", pending::<()>());
    dropped.cancel();
    dropped.await.ok();
    untracked();
    let proxy = Child::register(&tasks, "proxy");
    proxy.set_live(true);
    let db = Endpoint::register(&tasks, "db");
    db.checked(Duration::from_millis(3));
    db.turned(true);
    ready(address);
    tasks.draining().await;
}

/// Creates far more names, groups and spawn sites than have series of their own.
async fn many_names(tasks: TaskGroup, address: SocketAddr) {
    // These come first, because the names below use up the registry's table.
    let spawns: [fn(); 30] = [
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
        || untracked(),
    ];
    spawns.iter().for_each(|spawn| spawn());
    let groups: Vec<_> = (0..40).map(|n| tasks.group(&format!("g{n:02}"))).collect();
    for n in 0..10_000 {
        let group = &groups[n % groups.len()];
        group.spawn(&format!("name-{n}"), async {}).await.ok();
    }
    tasks.spawn("last", pending::<()>());
    ready(address);
    tasks.draining().await;
}

/// Spawns at the caller's spawn site.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
fn untracked() {
    drop(tokio::spawn(pending::<()>()));
}

/// Creates what an operator may see on the page: 10,000 tasks, children and endpoints that are well and
/// not, and, from the stop on, a task and a child that are late until standard input is closed.
async fn page(tasks: TaskGroup, address: SocketAddr) {
    let http = tasks.group("http");
    for _ in 0..10_000 {
        let own = http.clone();
        http.spawn("connection", async move { own.draining().await });
    }
    let jobs = tasks.group("jobs");
    jobs.spawn_blocking("flush", || std::io::stdin().read_to_end(&mut Vec::new()));
    jobs.try_spawn("import", async { Err::<(), _>("no such file") })
        .await
        .ok();
    let processes = tasks.group("process");
    let [db, web, mailer] = ["db", "web", "mailer"].map(|name| Child::register(&processes, name));
    db.started(
        std::process::id(),
        "/usr/lib/postgresql/bin/postgres -D /data",
    );
    db.said("database system is ready to accept connections");
    db.set_state("ready");
    web.started(std::process::id(), "orders-web");
    web.said("listening on <b id=\"injected\">8080</b>");
    web.set_state("ready");
    mailer.started(1, "mailer");
    mailer.ended("exited with code 7");
    mailer.restarted();
    mailer.set_state("backoff");
    let [api, cache] = ["api", "cache"].map(|name| Endpoint::register(&tasks, name));
    api.checked(Duration::from_millis(3));
    api.turned(true);
    cache.checked(Duration::from_millis(1));
    cache.failed("connection refused");
    cache.turned(false);
    ready(address);
    tasks.draining().await;
    web.ended("exited with code 0");
    web.set_state("stopped");
    db.told(15);
    db.set_state("stopping");
    // Until the end of the service.
    Box::leak(Box::new((db, web, mailer)));
}

/// Blocks every worker until standard input is closed.
async fn workers_stuck(tasks: TaskGroup, address: SocketAddr) {
    static BOTH: Barrier = Barrier::new(3);
    for _ in 0..2 {
        tasks.spawn("stuck", async {
            BOTH.wait();
            std::io::stdin().read_to_end(&mut Vec::new()).ok();
        });
    }
    BOTH.wait();
    ready(address);
    tasks.draining().await;
}

/// Runs a task that ends only when standard input is closed, regardless of the drain.
async fn drains_for_long(tasks: TaskGroup, address: SocketAddr) {
    let slow = tasks.group("slow");
    slow.spawn_blocking("flush", || std::io::stdin().read_to_end(&mut Vec::new()));
    ready(address);
    tasks.draining().await;
}
