use super::{http, listen, settings, tcp};
use crate::{
    TaskGroup,
    service::endpoint::{
        Endpoint, EndpointSettings, Probe, Status, failure::Failure, monitor, start, wait,
    },
};
use proptest::{prop_assert, proptest};
use std::{
    collections::VecDeque,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    join,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// Plays outcomes, and says when each check began. After the last one it hangs.
struct Script {
    /// How long a check takes, and what it finds.
    outcomes: VecDeque<(Duration, Result<(), &'static str>)>,
    began: mpsc::UnboundedSender<Instant>,
}

impl Probe for Script {
    async fn check(&mut self) -> Result<(), Failure> {
        self.began.send(Instant::now()).ok();
        let Some((takes, outcome)) = self.outcomes.pop_front() else {
            return std::future::pending().await;
        };
        sleep(takes).await;
        outcome.map_err(|reason| Failure::Impossible(reason.to_owned()))
    }
}

struct Playing {
    endpoint: Endpoint,
    began: mpsc::UnboundedReceiver<Instant>,
    tasks: TaskGroup,
}

/// Plays `outcomes` as checks that take no time: '+' succeeds, '-' fails.
fn play(settings: &EndpointSettings, outcomes: &str) -> Playing {
    let outcome = |sign| {
        if sign == '+' {
            Ok(())
        } else {
            Err("no answer")
        }
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
    let tasks = crate::attach(&tokio::runtime::Handle::current())
        .expect("the system has threads")
        .tasks()
        .clone();
    let endpoint = monitor("db".to_owned(), settings, script, &tasks);
    Playing {
        endpoint,
        began,
        tasks,
    }
}

fn any_check() -> EndpointSettings {
    settings(tcp("db.internal:5432"))
}

impl Playing {
    /// Waits until `count` checks are over.
    async fn checked(&mut self, count: u64) {
        let state = self.endpoint.state.wait_for(|state| state.checks >= count);
        drop(state.await.expect("a live task"));
    }
}

/// What the test's thread logs from here on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_unknown_until_its_first_checks_agree() {
    let mut playing = play(&any_check(), "--+");
    let before = playing.endpoint.state.borrow().clone();
    assert_eq!(before.status, Status::Unknown);
    assert_eq!((before.checks, before.last_check), (0, None));
    playing.checked(2).await;
    assert_eq!(playing.endpoint.state.borrow().status, Status::Unknown);
    assert!(!*playing.endpoint.up.borrow());
    playing.checked(3).await;
    assert_eq!(playing.endpoint.state.borrow().status, Status::Up);
    assert!(*playing.endpoint.up.borrow());
}

#[tokio::test(start_paused = true)]
async fn the_state_tells_checks_failures_transitions_and_since_when() {
    let began = Instant::now();
    let mut playing = play(&any_check(), "+---");
    playing.checked(4).await;
    let state = playing.endpoint.state.borrow().clone();
    assert_eq!(state.status, Status::Down);
    assert_eq!(state.since - began, Duration::from_secs(30));
    assert_eq!(
        (state.transitions, state.checks, state.failed_checks),
        (2, 4, 3)
    );
    assert_eq!(state.last_failure.as_deref(), Some("no answer"));
    assert_eq!(state.last_check, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_transition_is_logged_once_with_duration_and_reason() {
    let (log, _guard) = Log::capture();
    let mut playing = play(&any_check(), "++----++");
    playing.checked(8).await;
    assert_eq!(
        log.lines(),
        [
            r#"INFO endpoint up endpoint="db" previous=unknown lasted=0ns"#,
            r#"WARN endpoint down endpoint="db" previous=up lasted=40s reason="no answer""#,
            r#"INFO endpoint up endpoint="db" previous=down lasted=20s last_failure="no answer""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn dependants_are_woken_by_transitions_alone() {
    let mut playing = play(&any_check(), "-+-+++---");
    let mut up = playing.endpoint.up.clone();
    let mut woken = Vec::new();
    let watching = async {
        while up.changed().await.is_ok() {
            woken.push(*up.borrow_and_update());
        }
    };
    let driving = async {
        playing.checked(9).await;
        playing.tasks.drain().await;
    };
    join!(watching, driving);
    assert_eq!(woken, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_first_check_begins_at_once_and_the_others_at_the_interval() {
    let start = Instant::now();
    let secs = Duration::from_secs;
    // Three that fit, one that takes longer than the interval, one after it: nothing is made up
    // for.
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
async fn draining_ends_the_task_in_the_middle_of_a_check() {
    let mut playing = play(&any_check(), "+");
    playing.checked(1).await;
    // The second check hangs for ever, holding its channel.
    for _ in 0..2 {
        playing.began.recv().await.expect("a live task");
    }
    // A drain is told from a thread of its own, which a paused clock does not wait for.
    tokio::time::resume();
    let before = Instant::now();
    playing.endpoint.state.mark_unchanged();
    let ending = async {
        join!(
            playing.tasks.drain(),
            playing.endpoint.state.changed(),
            playing.began.recv()
        )
    };
    let ended = timeout(Duration::from_secs(60), ending).await;
    let (_, ended, check) = ended.expect("draining waits for the check under way");
    assert!(ended.is_err(), "the task still holds its sender");
    assert!(check.is_none(), "the check under way was not dropped");
    assert!(
        before.elapsed() < any_check().interval,
        "it waited for a check"
    );
    // The last value stays readable.
    assert_eq!(playing.endpoint.state.borrow().status, Status::Up);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_the_task_between_two_checks() {
    let mut playing = play(&any_check(), "++");
    playing.checked(1).await;
    // A drain is told from a thread of its own, which a paused clock does not wait for.
    tokio::time::resume();
    let before = Instant::now();
    playing.endpoint.state.mark_unchanged();
    let (_, ended) = join!(playing.tasks.drain(), playing.endpoint.state.changed());
    assert!(ended.is_err(), "the task still holds its sender");
    assert!(
        before.elapsed() < any_check().interval,
        "it waited for a check"
    );
    assert_eq!(playing.endpoint.state.borrow().checks, 1);
}

#[tokio::test]
async fn an_endpoint_follows_a_real_server_down_and_up() {
    let (listener, address) = listen().await;
    let settings = EndpointSettings {
        interval: Duration::from_millis(10),
        down_after: 2,
        ..settings(tcp(address))
    };
    let tasks = crate::attach(&tokio::runtime::Handle::current())
        .expect("the system has threads")
        .tasks()
        .clone();
    let mut endpoint = start("db".to_owned(), settings, &tasks);
    endpoint.up.wait_for(|up| *up).await.expect("a live task");
    drop(listener);
    endpoint.up.wait_for(|up| !*up).await.expect("a live task");
    let state = endpoint.state.borrow().clone();
    assert_eq!(state.last_failure.as_deref(), Some("connection refused"));
    let _listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("the same port");
    endpoint.up.wait_for(|up| *up).await.expect("a live task");
    tasks.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_work_is_down_and_says_why() {
    let mut settings = settings(http("localhost"));
    settings.down_after = 1;
    let tasks = crate::attach(&tokio::runtime::Handle::current())
        .expect("the system has threads")
        .tasks()
        .clone();
    let mut endpoint = start("web".to_owned(), settings, &tasks);
    let down = endpoint
        .state
        .wait_for(|state| state.status == Status::Down);
    let reason = down.await.expect("a live task").last_failure.clone();
    assert_eq!(
        reason.as_deref(),
        Some("the URL must begin with http:// or https://")
    );
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
