//! Programs that shut down cleanly or not, for the tests of whole processes. The first argument
//! selects one.
//!
//! Each prints "ready" when the test may continue. A spawn that a report must name has a mark at
//! the end of its line, from which the test gets the line number.

#[path = "scenario/boxed.rs"]
mod boxed;
#[path = "scenario/stacks.rs"]
mod stacks;
#[path = "scenario/wedged.rs"]
mod wedged;

use headcount::{Builder, Report, Runtime, TaskGroup, ThreadKind};
use std::future::pending;
use std::process::{ExitCode, Termination};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

/// A budget that is used up, because something does not end.
const SHORT: Duration = Duration::from_millis(100);
/// A budget with enough time for everything that does end.
const ENOUGH: Duration = Duration::from_secs(2);
/// A budget that is not used up even on the slowest machine.
const AMPLE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let scenario = arguments.next().unwrap_or_default();
    let workers = arguments.next().map_or(2, |n| n.parse().expect("a number"));
    match scenario.as_str() {
        "waits" => run(patient(), waits),
        "waits-as-json" => run(json(patient()), waits),
        "main-ends" => run(patient(), async |tasks| {
            let group = tasks.clone();
            tasks.spawn("ticker", async move { group.draining().await });
        }),
        "stops-itself" => run(patient(), stops_itself),
        "main-fails" => main_fails(),
        "main-panics" => run(patient(), main_panics),
        "required-fails" => run(patient(), required_fails),
        "required-panics" => run(patient(), required_panics),
        "required-completes" => run(patient(), required_completes),
        "required-fails-beside-a-thread" => run(hangs_in_close(), required_fails_beside_a_thread),
        "thread-lingers" => run(hangs_in_close(), thread_lingers),
        "thread-lingers-as-json" => run(json(hangs_in_close()), thread_lingers),
        "unknown-thread-lingers" => run(hangs_in_close(), async |tasks| {
            unknown_thread_lingers("pg-reader", tasks).await;
        }),
        "thread-named-as-ours-lingers" => run(hangs_in_close(), async |tasks| {
            unknown_thread_lingers("headcount-fake", tasks).await;
        }),
        "daemon-thread" => run(patient(), daemon_thread),
        "thread-asks" => run(patient(), thread_asks),
        "child-lingers" => run(hangs_in_close(), child_lingers),
        "ignores-drain" => run(hangs_in_drain(), ignores_drain),
        "untracked" => run(patient(), untracked),
        "blocking-closure" => run(hangs_with_time_for_names(), blocking_closure),
        "busy-worker" => run(hangs_with_time_for_names(), busy_worker),
        "sleeping-worker" => run(hangs_with_time_for_names(), sleeping_worker),
        "all-workers-blocked" => run(
            hangs_with_time_for_names().worker_threads(workers),
            async move |tasks| all_workers_blocked(&tasks, workers).await,
        ),
        "drop-blocks" => run(hangs_with_time_for_names(), drop_blocks),
        "drop-panics" => run(hangs_in_drain(), drop_panics),
        "hundred-thousand" => run(hangs_in_drain(), hundred_thousand),
        "drain-waits" => run(patient(), drain_waits),
        "hangs-for-long" => run(endless(), hangs_for_long),
        "cancel-takes-long" => run(endless(), cancel_takes_long),
        "cancel-takes-long-on-one-thread" => run(endless().current_thread(), cancel_takes_long),
        "cancel-waits" => run(endless().drain_budget(ENOUGH), cancel_takes_long),
        "cancel-waits-on-one-thread" => run(
            endless().drain_budget(ENOUGH).current_thread(),
            cancel_takes_long,
        ),
        "stuck-for-long" => run(endless().worker_threads(workers), async move |tasks| {
            watch_refusal(&tasks);
            all_workers_blocked(&tasks, workers).await;
        }),
        "main-stuck-for-long" => run(endless(), async |tasks| {
            watch_refusal(&tasks);
            wedge_main(tasks).await;
        }),
        "main-wedged" => run(hangs_with_time_for_names(), wedge_main),
        "main-wedged-holding-stderr" => run(hangs_everywhere(), async |tasks| {
            let _locked = std::io::stderr().lock();
            wedge_main(tasks).await;
        }),
        "aborts" => run(patient(), aborts),
        "exits" => run(patient(), exits),
        "panics-past-the-run" => panics_past_the_run(),
        "hook-aborts" => hook_aborts(),
        "panics-while-unwinding" => run(patient(), async |_| panics_while_unwinding()),
        "outlives-a-panic" => run(patient(), outlives_a_panic),
        "is-never-run" => {
            drop(patient().build().expect("the system has threads"));
            ExitCode::SUCCESS
        }
        "one-thread-drains" => run(patient().current_thread(), one_thread_drains),
        "one-thread-waits" => run(patient().current_thread(), waits),
        "one-thread-stuck" => run(hangs_everywhere().current_thread(), one_thread_stuck),
        "goes-on" => goes_on(),
        "goes-on-for-a-while" => goes_on_for_a_while(),
        "runs-twice" => {
            service(patient(), async |_| {});
            run(patient(), waits)
        }
        other => wedged::scenario(other)
            .or_else(|| stacks::scenario(other))
            .or_else(|| boxed::scenario(other))
            .unwrap_or_else(|| panic!("no scenario '{other}'")),
    }
}

// === budgets ===

fn budgets(drain: Duration, cancel: Duration, close: Duration) -> Builder {
    remembering(Runtime::builder().name("test"))
        .worker_threads(2)
        .drain_budget(drain)
        .cancel_budget(cancel)
        .close_budget(close)
}

/// Returns a builder for scenarios in which everything ends by itself.
fn patient() -> Builder {
    budgets(AMPLE, AMPLE, AMPLE)
}

/// Returns a builder for scenarios in which some tasks must be cancelled.
fn hangs_in_drain() -> Builder {
    budgets(SHORT, AMPLE, AMPLE)
}

/// Returns a builder for scenarios in which a thread or a child process lingers.
fn hangs_in_close() -> Builder {
    budgets(AMPLE, AMPLE, SHORT * 2).deadline(AMPLE * 3)
}

/// Returns a builder for scenarios in which every layer times out.
fn hangs_everywhere() -> Builder {
    budgets(SHORT, SHORT * 2, SHORT * 2).deadline(Duration::from_secs(2))
}

/// Returns a builder with short budgets and enough time to symbolize in a debug build on a busy
/// machine.
fn hangs_with_time_for_names() -> Builder {
    budgets(SHORT, SHORT * 2, SHORT * 2).deadline(AMPLE)
}

/// Returns a builder for scenarios in which no layer ends within the test.
fn endless() -> Builder {
    budgets(AMPLE * 10, AMPLE * 10, AMPLE * 10)
}

/// Sets the state folder that the test passes, and logs to standard error.
fn remembering(builder: Builder) -> Builder {
    let Some(folder) = std::env::var_os("SCENARIO_STATE") else {
        return builder;
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // A program may run twice.
    log.with_ansi(false).without_time().try_init().ok();
    let folder = std::path::PathBuf::from(folder);
    let textfile = folder.join("test.prom");
    let builder = builder.state_folder(folder).version("1.2.3");
    match std::env::var_os("SCENARIO_TEXTFILE") {
        Some(_) => builder.textfile(textfile),
        None => builder,
    }
}

fn json(builder: Builder) -> Builder {
    builder.print_json()
}

fn run<T: headcount::runtime::MainOutput>(
    builder: Builder,
    main: impl AsyncFnOnce(TaskGroup) -> T,
) -> ExitCode {
    service(builder, main).report()
}

fn service<T: headcount::runtime::MainOutput>(
    builder: Builder,
    main: impl AsyncFnOnce(TaskGroup) -> T,
) -> Report {
    let runtime = builder.build().expect("the system has threads");
    runtime.run(main) // mark: main
}

// === how a shutdown begins ===

async fn ready(tasks: TaskGroup) {
    println!("ready");
    tasks.draining().await;
}

async fn waits(tasks: TaskGroup) {
    let http = tasks.group("http");
    let group = http.clone();
    http.spawn("accept", async move { group.draining().await }); // mark: quiet accept
    ready(tasks).await;
}

async fn stops_itself(tasks: TaskGroup) {
    tasks.stop("maintenance");
    tasks.stop("a second reason");
    tasks.draining().await;
}

fn main_fails() -> ExitCode {
    run(patient(), async |_| Err::<(), _>("no database"))
}

async fn main_panics(_tasks: TaskGroup) {
    panic!("no luck"); // mark: panic of main
}

async fn required_fails(tasks: TaskGroup) {
    let feed = tasks.group("feed");
    let read = async { Err::<(), _>("gone") };
    feed.task("reader").required().try_spawn(read);
    tasks.draining().await;
}

async fn required_panics(tasks: TaskGroup) {
    let read = async { panic!("unreadable") };
    tasks.task("reader").required().spawn(read);
    tasks.draining().await;
}

async fn required_completes(tasks: TaskGroup) {
    tasks.task("reader").required().spawn(async {});
    tasks.draining().await;
}

async fn required_fails_beside_a_thread(tasks: TaskGroup) {
    tasks.spawn_thread("watcher", ThreadKind::Tracked, wait_for_ever); // mark: watcher beside
    required_fails(tasks).await;
}

// === how a process ends without a report ===

async fn aborts(_tasks: TaskGroup) {
    std::process::abort();
}

#[expect(clippy::disallowed_methods, reason = "the call is under test")]
async fn exits(_tasks: TaskGroup) {
    std::process::exit(0);
}

fn panics_past_the_run() -> ExitCode {
    let _runtime = patient().build().expect("the system has threads");
    panic!("no luck"); // mark: panic past the run
}

/// Aborts in the panic hook, as services do that must not continue after a panic.
fn hook_aborts() -> ExitCode {
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    run(patient(), async |tasks| {
        tasks.spawn("reader", async { panic!("no luck") }); // mark: panic of a task
        tasks.draining().await;
    })
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("no luck in drop"); // mark: panic in drop
    }
}

fn panics_while_unwinding() {
    let _bomb = Bomb;
    panic!("no luck");
}

/// Prints "ready" when the run marker shows that the process outlived the panic.
async fn outlives_a_panic(tasks: TaskGroup) {
    let reader = tasks.spawn("reader", async { panic!("no luck") });
    assert!(reader.await.is_err());
    ready(tasks).await;
}

// === threads and children ===

async fn thread_lingers(tasks: TaskGroup) {
    tasks.spawn_thread("a-very-long-watcher", ThreadKind::Tracked, wait_for_ever); // mark: watcher
    ready(tasks).await;
}

async fn unknown_thread_lingers(name: &str, tasks: TaskGroup) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(wait_for_ever)
        .expect("the system has threads");
    ready(tasks).await;
}

async fn daemon_thread(tasks: TaskGroup) {
    tasks.spawn_thread("watcher", ThreadKind::Daemon, wait_for_ever);
    ready(tasks).await;
}

async fn thread_asks(tasks: TaskGroup) {
    let group = tasks.clone();
    tasks.spawn_thread("watcher", ThreadKind::Tracked, move || {
        while !group.is_draining() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    ready(tasks).await;
}

async fn child_lingers(tasks: TaskGroup) {
    // The child ends with this process, when its standard input is closed.
    let child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("there is a cat");
    ready(tasks).await;
    // Leaked, because dropping it would close its standard input.
    Box::leak(Box::new(child));
}

// === tasks ===

async fn ignores_drain(tasks: TaskGroup) {
    let http = tasks.group("http");
    http.spawn("accept", pending::<()>()); // mark: accept
    ready(tasks).await;
}

#[expect(clippy::disallowed_methods, reason = "this is what a dependency does")]
async fn untracked(tasks: TaskGroup) {
    for _ in 0..3 {
        tokio::spawn(pending::<()>()); // mark: untracked
    }
    ready(tasks).await;
}

async fn blocking_closure(tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    let work = move || {
        begun.send(()).expect("main waits");
        wait_for_ever();
    };
    tasks.spawn_blocking("reindex", work); // mark: reindex
    begins.await.expect("it begins");
    ready(tasks).await;
}

async fn busy_worker(tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    let work = async move {
        begun.send(()).expect("main waits");
        loop {
            std::hint::spin_loop(); // mark: spins
        }
    };
    tasks.spawn("spinner", work); // mark: spinner
    begins.await.expect("it begins");
    ready(tasks).await;
}

async fn sleeping_worker(tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    let work = async move {
        begun.send(()).expect("main waits");
        wait_for_ever();
    };
    tasks.spawn("sleeper", work); // mark: sleeper
    begins.await.expect("it begins");
    ready(tasks).await;
}

async fn all_workers_blocked(tasks: &TaskGroup, workers: usize) {
    for _ in 0..workers {
        let begun = Arc::new(Barrier::new(2));
        let begins = Arc::clone(&begun);
        let work = async move {
            begins.wait();
            wait_for_ever();
        };
        tasks.spawn("blocker", work); // mark: blocker
        // `main` runs on no worker. A worker that starts may take two tasks at once, and tokio wakes
        // no other one for the second.
        begun.wait();
    }
    tasks.spawn("starved", async {}); // mark: starved
    ready(tasks.clone()).await;
}

struct BlocksInDrop;

impl Drop for BlocksInDrop {
    fn drop(&mut self) {
        wait_for_ever();
    }
}

async fn drop_blocks(tasks: TaskGroup) {
    let work = async {
        let _guard = BlocksInDrop;
        pending::<()>().await;
    };
    let (begun, begins) = tokio::sync::oneshot::channel();
    let work = async move {
        begun.send(()).expect("main waits");
        work.await;
    };
    tasks.spawn("closer", work); // mark: closer
    begins.await.expect("it begins");
    ready(tasks).await;
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("a drop that panics"); // mark: panic of a drop
    }
}

async fn drop_panics(tasks: TaskGroup) {
    let guard = PanicsInDrop;
    let work = async {
        let _guard = guard;
        pending::<()>().await;
    };
    tasks.spawn("closer", work); // mark: closer that panics
    ready(tasks).await;
}

async fn hundred_thousand(tasks: TaskGroup) {
    for _ in 0..100_000 {
        tasks.spawn("connection", pending::<()>()); // mark: connection
    }
    ready(tasks).await;
}

// === signals ===

async fn hangs_for_long(tasks: TaskGroup) {
    let group = tasks.clone();
    let work = async move {
        drained_of_main(&group).await;
        println!("draining");
        pending::<()>().await;
    };
    tasks.spawn("idler", work); // mark: idler
    ready(tasks).await;
}

/// Waits until the group drains and the main task, which is told to drain at the same time, has
/// ended.
async fn drained_of_main(group: &TaskGroup) {
    group.draining().await;
    while group.snapshot().tasks().any(|task| task.name == "main") {
        tokio::task::yield_now().await;
    }
}

async fn drain_waits(tasks: TaskGroup) {
    tasks.spawn_blocking("writer", || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("it is text");
    });
    ready(tasks).await;
}

/// Prints a line when it is dropped, and blocks until the process receives input.
struct DropWaits;

impl Drop for DropWaits {
    fn drop(&mut self) {
        println!("cancelling");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("it is text");
    }
}

async fn cancel_takes_long(tasks: TaskGroup) {
    let guard = DropWaits;
    let group = tasks.clone();
    let work = async move {
        let _guard = guard;
        drained_of_main(&group).await;
        println!("draining");
        pending::<()>().await;
    };
    tasks.spawn("closer", work); // mark: closer that waits
    ready(tasks).await;
}

/// Prints "draining" and "cancelling" without using a worker.
fn watch_refusal(tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn_thread("watcher", ThreadKind::Daemon, move || {
        while !group.is_draining() {
            thread::sleep(Duration::from_millis(1));
        }
        println!("draining");
        // A refused spawn ends at once.
        while !group
            .task("probe")
            .daemon()
            .spawn(pending::<()>())
            .is_finished()
        {
            thread::sleep(Duration::from_millis(1));
        }
        println!("cancelling");
    });
}

// === wedged ===

async fn wedge_main(_tasks: TaskGroup) {
    println!("ready");
    wait_for_ever();
}

async fn one_thread_drains(tasks: TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("writer", async move {
        group.draining().await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("drained");
    });
    println!("ready");
}

async fn one_thread_stuck(tasks: TaskGroup) {
    let work = async {
        println!("ready");
        wait_for_ever();
    };
    tasks.spawn("sleeper", work); // mark: sleeper on one thread
    tasks.draining().await;
}

// === after the report ===

/// Runs the scenario, and keeps a group, and thereby the control side, beyond its end.
fn keeping_a_group(builder: Builder, main: impl AsyncFnOnce(TaskGroup)) -> TaskGroup {
    let runtime = builder.build().expect("the system has threads");
    let tasks = runtime.tasks().clone();
    runtime.run(main);
    println!("over");
    tasks
}

fn goes_on() -> ExitCode {
    let _tasks = keeping_a_group(patient(), waits);
    wait_for_ever();
    ExitCode::SUCCESS
}

fn goes_on_for_a_while() -> ExitCode {
    let deadline = Duration::from_secs(1);
    let builder = budgets(SHORT, SHORT, SHORT).deadline(deadline);
    let _tasks = keeping_a_group(builder, async |_| {});
    // Longer than the deadline plus the last words of the watchdog.
    thread::sleep(deadline * 2);
    println!("still there");
    ExitCode::SUCCESS
}

fn wait_for_ever() {
    loop {
        thread::park();
    }
}
