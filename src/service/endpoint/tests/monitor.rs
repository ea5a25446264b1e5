//! Tests of the monitoring task: its pace, its log, and its end.

use super::{http, listen, settings, tcp};
use crate::{
    TaskGroup,
    service::{
        endpoint::{EndpointSettings, Health, Probe, Run, failure::Failure, monitor, start, wait},
        tests::Log,
    },
};
use proptest::{prop_assert, proptest};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    join,
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tracing::Level;

/// A probe that plays outcomes and reports when each check began. After the last outcome it hangs.
struct Script {
    /// The duration and the outcome of each check.
    outcomes: VecDeque<(Duration, Result<(), &'static str>)>,
    began: mpsc::UnboundedSender<Instant>,
}

/// The reason of a check that could not be made.
const FULL: &str = "too many open files";

impl Probe for Script {
    async fn check(&mut self) -> Result<(), Failure> {
        self.began.send(Instant::now()).ok();
        // The test sees the state before this check ends, even if the check takes no time.
        yield_now().await;
        let Some((takes, outcome)) = self.outcomes.pop_front() else {
            return std::future::pending().await;
        };
        sleep(takes).await;
        outcome.map_err(|reason| match reason {
            FULL => Failure::OwnLimit(reason.to_owned()),
            _ => Failure::Impossible(reason.to_owned()),
        })
    }
}

struct Playing {
    up: watch::Receiver<Health>,
    began: mpsc::UnboundedReceiver<Instant>,
    /// The number of checks that [`Playing::checked`] has seen begin.
    seen: u64,
    tasks: TaskGroup,
}

/// Monitors a script of checks that take no time: '+' succeeds, '-' fails, '0' cannot be made.
fn play(settings: &EndpointSettings, outcomes: &str) -> Playing {
    let outcome = |sign| match sign {
        '+' => Ok(()),
        '0' => Err(FULL),
        _ => Err("no answer"),
    };
    let outcomes = outcomes.chars().map(|sign| (Duration::ZERO, outcome(sign)));
    play_timed(settings, outcomes.collect())
}

fn play_timed(
    settings: &EndpointSettings,
    outcomes: VecDeque<(Duration, Result<(), &'static str>)>,
) -> Playing {
    let (sender, began) = mpsc::unbounded_channel();
    let script = Script {
        outcomes,
        began: sender,
    };
    let tasks = tasks();
    let up = monitor("db".to_owned(), settings, script, &tasks);
    Playing {
        up,
        began,
        seen: 0,
        tasks,
    }
}

fn tasks() -> TaskGroup {
    crate::attach(&tokio::runtime::Handle::current())
        .expect("the system has threads")
        .tasks()
        .clone()
}

fn any_check() -> EndpointSettings {
    settings(tcp("db.internal:5432"))
}

impl Playing {
    /// Waits until `count` checks have completed and the next one begins.
    async fn checked(&mut self, count: u64) {
        while self.seen <= count {
            self.began.recv().await.expect("a live task");
            self.seen += 1;
        }
    }
}

/// Returns the lines of the log, without their target.
fn lines(log: &Log) -> Vec<String> {
    let text = log.text().replace("headcount::service::endpoint: ", "");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_unknown_until_its_first_checks_agree() {
    let (log, _guard) = Log::capture(Level::INFO);
    let mut playing = play(&any_check(), "--+");
    playing.checked(2).await;
    assert!(!playing.up.borrow().is_up);
    assert_eq!(lines(&log), [""; 0]);
    playing.checked(3).await;
    assert!(playing.up.borrow().is_up);
    assert_eq!(
        lines(&log),
        [r#"INFO endpoint up endpoint="db" previous=unknown lasted=20s last_failure="no answer""#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_a_limit_on_this_side_prevents_is_no_verdict() {
    let (log, _guard) = Log::capture(Level::INFO);
    let mut playing = play(&any_check(), "+0000--0-+");
    playing.checked(7).await;
    assert!(
        playing.up.borrow().is_up,
        "two failures are below the threshold"
    );
    playing.checked(9).await;
    assert!(
        !playing.up.borrow().is_up,
        "the third counts with the others"
    );
    playing.checked(10).await;
    let full = r#"WARN endpoint not checked: a limit of this process or machine is reached endpoint="db" status=up reason="too many open files""#;
    assert_eq!(
        lines(&log),
        [
            r#"INFO endpoint up endpoint="db" previous=unknown lasted=0ns"#,
            full,
            full,
            r#"WARN endpoint down endpoint="db" previous=up lasted=80s reason="no answer""#,
            r#"INFO endpoint up endpoint="db" previous=down lasted=10s last_failure="no answer""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_transition_is_logged_once_with_duration_and_reason() {
    let (log, _guard) = Log::capture(Level::INFO);
    let mut playing = play(&any_check(), "++----++");
    playing.checked(8).await;
    assert_eq!(
        lines(&log),
        [
            r#"INFO endpoint up endpoint="db" previous=unknown lasted=0ns"#,
            r#"WARN endpoint down endpoint="db" previous=up lasted=40s reason="no answer""#,
            r#"INFO endpoint up endpoint="db" previous=down lasted=20s last_failure="no answer""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn dependents_are_woken_only_by_transitions_and_successes() {
    let mut playing = play(&any_check(), "-+-+++---");
    let mut up = playing.up.clone();
    let mut woken = Vec::new();
    let watching = async {
        while up.changed().await.is_ok() {
            woken.push(up.borrow_and_update().is_up);
        }
    };
    let driving = async {
        playing.checked(9).await;
        playing.tasks.drain().await;
    };
    join!(watching, driving);
    assert_eq!(woken, [true, true, true, true, false]);
}

/// A server that was replaced must pass as many checks as one that comes up.
#[tokio::test(start_paused = true)]
async fn an_endpoint_is_up_since_the_checks_that_prove_it() {
    let mut settings = any_check();
    settings.up_after = 2;
    let mut playing = play(&settings, "++-++");
    playing.checked(3).await;
    let later = Instant::now();
    let is_up_since = |playing: &Playing| playing.up.borrow().is_up_since(later);
    playing.checked(4).await;
    assert!(playing.up.borrow().is_up, "it never was down");
    assert!(!is_up_since(&playing));
    playing.checked(5).await;
    assert!(is_up_since(&playing));
}

#[tokio::test(start_paused = true)]
async fn the_first_check_begins_at_once_and_the_others_at_the_interval() {
    let start = Instant::now();
    let secs = Duration::from_secs;
    // Three checks fit into the interval, the fourth takes longer, one follows it. Missed checks
    // are not made up for.
    let takes = [0, 7, 0, 25, 0].map(|takes| (secs(takes), Ok(())));
    let mut playing = play_timed(&any_check(), takes.into());
    let mut began = Vec::new();
    for _ in 0..6 {
        let at = playing.began.recv().await.expect("a live task");
        began.push((at - start).as_secs());
    }
    assert_eq!(began, [0, 10, 20, 30, 55, 65]);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_the_task_during_a_check() {
    let mut playing = play(&any_check(), "+");
    // The second check hangs for ever and holds its channel.
    playing.checked(1).await;
    // A separate thread starts the drain, and a paused clock does not wait for it.
    tokio::time::resume();
    let before = Instant::now();
    playing.up.mark_unchanged();
    let ending = async {
        join!(
            playing.tasks.drain(),
            playing.up.changed(),
            playing.began.recv()
        )
    };
    let ended = timeout(Duration::from_secs(60), ending).await;
    let (_, ended, check) = ended.expect("draining does not wait for the current check");
    assert!(ended.is_err(), "the task still holds its sender");
    assert!(check.is_none(), "the current check was not dropped");
    assert!(
        before.elapsed() < any_check().interval,
        "it waited for a check"
    );
    // The last value can still be read.
    assert!(playing.up.borrow().is_up);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_the_task_between_two_checks() {
    let mut playing = play(&any_check(), "++");
    playing
        .up
        .wait_for(|up| up.is_up)
        .await
        .expect("a live task");
    // A separate thread starts the drain, and a paused clock does not wait for it.
    tokio::time::resume();
    let before = Instant::now();
    playing.up.mark_unchanged();
    let (_, ended) = join!(playing.tasks.drain(), playing.up.changed());
    assert!(ended.is_err(), "the task still holds its sender");
    assert!(
        before.elapsed() < any_check().interval,
        "it waited for a check"
    );
    playing.began.recv().await.expect("the first check began");
    assert_eq!(playing.began.recv().await, None, "no second check began");
}

/// Returns a way to run commands that no check here uses.
fn no_commands() -> Run {
    Arc::new(|_, _| Box::pin(async { panic!("no check is a command") }))
}

#[tokio::test]
async fn an_endpoint_follows_a_real_server_down_and_up() {
    let (listener, address) = listen().await;
    let settings = EndpointSettings {
        interval: Duration::from_millis(10),
        down_after: 2,
        ..settings(tcp(address))
    };
    let tasks = tasks();
    let (log, _guard) = Log::capture(Level::INFO);
    let mut up = start("db".to_owned(), settings, no_commands(), &tasks);
    up.wait_for(|up| up.is_up).await.expect("a live task");
    drop(listener);
    up.wait_for(|up| !up.is_up).await.expect("a live task");
    let down = lines(&log).pop().expect("it is logged");
    assert!(down.ends_with(r#"reason="connection refused""#), "{down}");
    let _listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("the same port");
    up.wait_for(|up| up.is_up).await.expect("a live task");
    tasks.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_check_is_down_and_reports_the_reason() {
    let mut settings = settings(http("localhost"));
    settings.down_after = 1;
    let tasks = tasks();
    let (log, _guard) = Log::capture(Level::INFO);
    let mut up = start("web".to_owned(), settings, no_commands(), &tasks);
    up.changed().await.expect("a live task");
    let down = lines(&log).pop().expect("it is logged");
    let reason = r#"reason="the URL must begin with http:// or https://""#;
    assert!(down.ends_with(reason), "{down}");
}

proptest! {
    #[test]
    fn a_wait_stays_within_the_jitter(
        millis in 1_u64..100_000,
        jitter in 0.0..2.0_f64,
        roll in 0.0..1.0_f64,
    ) {
        let interval = Duration::from_millis(millis);
        let held = jitter.min(0.5);
        let waited = wait(interval, jitter, roll).as_secs_f64() / interval.as_secs_f64();
        prop_assert!((1.0 - held - 1e-6..=1.0 + held + 1e-6).contains(&waited), "{waited}");
    }
}

#[test]
fn the_jitter_goes_both_ways() {
    let interval = Duration::from_secs(10);
    assert_eq!(wait(interval, 0.1, 0.0), Duration::from_secs(9));
    assert_eq!(wait(interval, 0.1, 0.5), interval);
    assert_eq!(wait(interval, 0.1, 1.0), Duration::from_secs(11));
}
