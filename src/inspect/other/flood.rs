//! A test with a process of its own that spawns 50,000 tasks a second.

use super::Process;
use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};

const NAME: &str = "no_task_is_listed_twice_or_after_its_end_while_others_come_and_go";
/// Set for the process that spawns.
const SPAWNS: &str = "HEADCOUNT_FLOOD_SPAWNS";
/// The seconds for which it is looked at.
const SECONDS: &str = "HEADCOUNT_FLOOD";
const STAY: usize = 1000;
const BATCH: u32 = 50;
/// The batches that are not waited for yet.
const BATCHES: usize = 10;
/// The time of a batch, for 50,000 tasks a second.
const PACE: Duration = Duration::from_millis(1);

/// The id up to which all tasks have ended, apart from those that stay, and the number of tasks that were spawned.
static ENDED: AtomicU64 = AtomicU64::new(0);
static SPAWNED: AtomicU64 = AtomicU64::new(0);

fn id(handle: &JoinHandle<()>) -> u64 {
    handle.id().to_string().parse().expect("an id is a number")
}

async fn ends(size: u32) {
    match size % 3 {
        0 => yield_now().await,
        1 => Box::pin(large([7; 40])).await,
        _ => {
            let boxed: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(yield_now());
            boxed.await;
        }
    }
}

async fn large(kept: [u64; 40]) {
    tokio::time::sleep(2 * PACE).await;
    std::hint::black_box(kept);
}

/// Spawns tasks until it is killed. Prints the addresses of the counters once those that stay are spawned.
fn spawn() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let mut last = 0;
    for _ in 0..STAY {
        last = id(&runtime.spawn(std::future::pending::<()>()));
    }
    let [ended, spawned] = [&ENDED, &SPAWNED].map(|counter| (&raw const *counter).addr());
    println!("\nflood {ended} {spawned} {last}");
    runtime.block_on(async {
        let mut batches: VecDeque<Vec<JoinHandle<()>>> = VecDeque::new();
        // A task is in its list for a moment after its handle is told, so a batch counts when the next one has ended.
        let (mut before, mut due) = (0, Instant::now());
        loop {
            let batch = (0..BATCH).map(|size| match size % 10 {
                0 => runtime.spawn(large([7; 40])),
                _ => runtime.spawn(ends(size)),
            });
            batches.push_back(batch.collect());
            SPAWNED.fetch_add(BATCH.into(), Ordering::SeqCst);
            if batches.len() > BATCHES {
                let oldest = batches.pop_front().expect("there are some");
                let newest = oldest.last().map_or(0, id);
                for handle in oldest {
                    handle.await.expect("it does not panic");
                }
                ENDED.store(before, Ordering::SeqCst);
                before = newest;
            }
            due += PACE;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    });
}

#[test]
fn no_task_is_listed_twice_or_after_its_end_while_others_come_and_go() {
    if std::env::var_os(SPAWNS).is_some() {
        spawn();
    }
    let seconds = std::env::var(SECONDS).ok();
    let seconds = seconds.map_or(2, |text| text.parse().expect("a number of seconds"));
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    // The name of a test has no crate before it.
    let (_, module) = module_path!().split_once("::").expect("it is in a crate");
    command.arg(format!("{module}::{NAME}"));
    command.args(["--exact", "--nocapture"]).env(SPAWNS, "1");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut lines = lines.map(|line| line.expect("it is text"));
    let told = lines.find_map(|line| Some(line.strip_prefix("flood ")?.to_owned()));
    let told = told.expect("it says where its counters are");
    let told: Vec<u64> = told
        .split(' ')
        .map(|word| word.parse().expect("a number"))
        .collect();
    let [ended, spawned, last] = told[..] else {
        panic!("{told:?}")
    };
    let mut process = Process::open(child.id()).expect("it is this program");
    let begun = Instant::now();
    let (mut looks, mut busy, mut most) = (0, 0, 0);
    let counter = |process: &Process, at| process.memory.word(at).expect("it is alive");
    let before = counter(&process, spawned);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let ended = counter(&process, ended);
        match process.look() {
            Ok(()) => {}
            // Each of its threads may be on a processor whenever it is looked at.
            Err(error) if error.ends_with("try again") => {
                busy += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let mut ids = HashSet::new();
        for task in process.tasks() {
            assert!(ids.insert(task.id), "task {} is listed twice", task.id);
            assert!(
                task.id <= last || task.id > ended || task.state.is_complete(),
                "task {} had ended before the look, as all up to {ended}: {task:?}",
                task.id
            );
        }
        let stay = ids.iter().filter(|id| **id <= last).count();
        assert_eq!(stay, STAY, "of {} tasks", ids.len());
        (looks, most) = (looks + 1, most.max(ids.len()));
    }
    let spawned = counter(&process, spawned) - before;
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    let rate = spawned / seconds;
    let seen = format!(
        "{looks} looks, {busy} more at busy threads, {rate} spawns a second, at most {most} tasks"
    );
    assert!(looks > 0 && rate > 0 && most > STAY, "{seen}");
    println!("{seen}");
}
