//! Programs with a known number of tasks, for the tests of the black box, which kill them.

use super::{SHORT, endless, patient, run, wait_for_ever};
use headcount::{TaskGroup, ThreadKind};
use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

/// Runs the scenario with this name, if it is one of these.
pub(super) fn scenario(name: &str) -> Option<ExitCode> {
    let code = match name {
        "boxed-grows" => run(patient(), grows),
        "boxed-held" => run(patient(), held),
        "boxed-drains" => run(endless(), drains),
        "boxed-cancels" => run(endless().drain_budget(SHORT), cancels),
        "boxed-closes" => run(endless(), closes),
        "boxed-crowd" => run(patient(), crowd),
        "boxed-eats" => run(patient(), eats),
        "boxed-late" => late(),
        "boxed-off" => run(patient().black_box(false), super::waits),
        _ => return None,
    };
    Some(code)
}

/// Spawns three tasks of a group, and one of the root, that do not end. Returns the group.
fn steady(tasks: &TaskGroup) -> TaskGroup {
    let http = tasks.group("http");
    for _ in 0..3 {
        http.spawn("serve", pending::<()>()); // mark: boxed serve
    }
    tasks.spawn("db", pending::<()>()); // mark: boxed db
    http
}

/// Spawns a task that starts four short ones and waits for them, again and again.
fn churn(tasks: &TaskGroup) {
    let group = tasks.group("churn");
    let short = group.clone();
    group.spawn("churner", async move {
        loop {
            let four = [(); 4].map(|()| short.spawn("short", tokio::task::yield_now()));
            for one in four {
                one.await.expect("it cannot fail");
            }
        }
    });
}

/// Runs a service without a black box, and then one with it.
fn late() -> ExitCode {
    let first = headcount::Runtime::builder().print(false).build();
    let first = first.expect("the system has threads");
    first.run(async |tasks| {
        let early = tasks.spawn("early", async {});
        early.await.expect("it cannot fail");
    });
    run(patient(), async |tasks| {
        let _http = steady(&tasks);
        println!("ready");
        pending::<()>().await;
    })
}

/// Spawns one more task at each step, and prints how many there are.
async fn grows(tasks: TaskGroup) {
    let _http = steady(&tasks);
    churn(&tasks);
    println!("ready");
    for items in 1_u32.. {
        tasks.spawn("item", pending::<()>());
        println!("items {items}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Holds one of two workers.
async fn held(tasks: TaskGroup) {
    let _http = steady(&tasks);
    tasks.spawn("holder", async {
        println!("ready");
        wait_for_ever();
    });
    pending::<()>().await;
}

/// Ignores the drain.
async fn drains(tasks: TaskGroup) {
    let http = steady(&tasks);
    let group = http.clone();
    let work = async move {
        group.draining().await;
        println!("told");
        pending::<()>().await;
    };
    http.spawn("witness", work); // mark: boxed witness
    println!("ready");
    pending::<()>().await;
}

/// Prints "told" when it is dropped.
struct Tells;

impl Drop for Tells {
    fn drop(&mut self) {
        println!("told");
    }
}

/// Holds a worker when it is cancelled, while others are dropped.
async fn cancels(tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    tasks.spawn("stubborn", async move {
        begun.send(()).expect("main waits");
        wait_for_ever();
    });
    begins.await.expect("it begins");
    let tells = Tells;
    tasks.spawn("witness", async move {
        let _tells = tells;
        pending::<()>().await;
    });
    println!("ready");
    pending::<()>().await;
}

/// Leaves a thread behind.
async fn closes(tasks: TaskGroup) {
    tasks.spawn_thread("watcher", ThreadKind::Tracked, wait_for_ever);
    println!("ready");
    tasks.draining().await;
}

/// Uses up the memory of its control group, once a line arrives on standard input.
async fn eats(tasks: TaskGroup) {
    let _http = steady(&tasks);
    tasks.spawn_thread("eater", ThreadKind::Daemon, || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("it is a pipe");
        let mut all = Vec::new();
        loop {
            all.push(std::hint::black_box(vec![1_u8; 1024 * 1024]));
        }
    });
    println!("ready");
    pending::<()>().await;
}

/// Spawns more tasks than the black box has room for.
async fn crowd(tasks: TaskGroup) {
    for _ in 0..40_000 {
        tasks.spawn("one of many", pending::<()>());
    }
    println!("ready");
    pending::<()>().await;
}
