//! Tests of the task kind with real guardians and commands: the order of start and stop, readiness,
//! restarts, output, and the cancellation of a supervising task.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock, time::Duration};

use tokio::{sync::watch, time::timeout};
use tracing::{Level, subscriber::DefaultGuard};

use super::{
    Backoff, Condition, Exit, ProcessSettings, Ready, Restart,
    board::{Board, State, Status},
    run::Launcher,
    supervisor,
};
use crate::{
    TaskGroup,
    service::{endpoint::Health, tests::Log},
};

mod guardian;

/// A timeout far above what any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A set of supervised processes, and the log of the test's thread.
struct Service {
    board: Board,
    tasks: TaskGroup,
    log: Log,
    _logging: DefaultGuard,
}

// === impl Log ===

impl Log {
    /// Returns the lines that contain `part`, from there on. Leaves out the registry's own event
    /// about a failed task, which repeats the message.
    fn lines_with(&self, part: &str) -> Vec<String> {
        let text = self.text();
        let from = |line: &str| line.find(part).map(|start| line[start..].to_owned());
        let ours = |line: &&str| !line.contains("task failed");
        text.lines().filter(ours).filter_map(from).collect()
    }

    #[track_caller]
    fn assert_has(&self, part: &str) {
        let text = self.text();
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

// === impl Service ===

impl Service {
    fn start<const N: usize>(processes: [(&str, ProcessSettings); N]) -> Self {
        Self::with_endpoint(processes, None)
    }

    fn with_endpoint<const N: usize>(
        processes: [(&str, ProcessSettings); N],
        endpoint: Option<watch::Receiver<Health>>,
    ) -> Self {
        Self::with_launcher(processes, endpoint, launcher())
    }

    fn with_launcher<const N: usize>(
        processes: [(&str, ProcessSettings); N],
        endpoint: Option<watch::Receiver<Health>>,
        launcher: &Launcher,
    ) -> Self {
        let (log, logging) = Log::capture(Level::INFO);
        let tasks = tasks();
        let processes = processes
            .map(|(name, settings)| (name.to_owned(), settings))
            .into();
        let board = supervisor::start_all(processes, &|_| endpoint.clone(), &tasks, launcher);
        Self {
            board,
            tasks,
            log,
            _logging: logging,
        }
    }

    /// Waits until the process is in `state`.
    #[track_caller]
    fn until(&self, name: &str, state: State) -> impl Future<Output = ()> + use<> {
        self.until_status(name, move |status| status.state == state)
    }

    /// Waits until the status of the process is as `reached` says.
    fn until_status<F: FnMut(&Status) -> bool>(
        &self,
        name: &str,
        reached: F,
    ) -> impl Future<Output = ()> + use<F> {
        let mut status = self.board.watch(name).expect("the test declared it");
        let text = self.log.clone();
        let name = name.to_owned();
        async move {
            match timeout(LONG, status.wait_for(reached)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => panic!("{name} ended before it came to that:\n{}", text.text()),
                Err(_) => panic!("{name} is not there yet:\n{}", text.text()),
            }
        }
    }

    /// Returns the pid of the last command that was started for the process.
    fn pid(&self, name: &str) -> u32 {
        let started = self.log.lines_with(&format!("started task={name} pid="));
        let last = started.last().expect("it was started");
        let (_, pid) = last.rsplit_once('=').expect("the line ends with the pid");
        pid.parse().expect("a number")
    }

    fn state(&self, name: &str) -> State {
        self.board
            .watch(name)
            .expect("the test declared it")
            .borrow()
            .state
    }
}

fn tasks() -> TaskGroup {
    crate::attach(&tokio::runtime::Handle::current())
        .expect("the system has threads")
        .tasks()
        .clone()
}

/// Returns a launcher of this package's binary, which is built if it is missing or out of date. The
/// test binary itself cannot be a guardian.
fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let tests = std::env::current_exe().expect("this is a running program");
        let folder = tests
            .parent()
            .and_then(|deps| deps.parent())
            .expect("target/PROFILE/deps");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--bin", "headcount"]);
        // Build scripts that read these variables would run again, and their packages would be
        // compiled again.
        let package = [&b"CARGO_PKG_"[..], b"CARGO_MANIFEST_", b"OUT_DIR"];
        for (name, _) in std::env::vars_os() {
            if package
                .iter()
                .any(|of| name.as_encoded_bytes().starts_with(of))
            {
                build.env_remove(name);
            }
        }
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.expect("cargo runs").success());
        Launcher {
            program: folder.join("headcount"),
            ..Launcher::default()
        }
    })
}

/// Returns the settings of a shell script that is not restarted.
fn script(script: &str) -> ProcessSettings {
    ProcessSettings {
        command: ["sh", "-c", script].map(str::to_owned).into(),
        restart: Restart::No,
        ..ProcessSettings::default()
    }
}

impl ProcessSettings {
    fn needs(mut self, name: &str, condition: Condition) -> Self {
        self.depends_on.insert(name.to_owned(), condition);
        self
    }

    fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// Sets a restart on failure after 1 ms, at most `limit` times.
    fn restarted(mut self, limit: u32) -> Self {
        self.restart = Restart::OnFailure;
        self.max_restarts = Some(limit);
        self.backoff.initial = Duration::from_millis(1);
        self
    }
}

fn log(line: &str) -> Ready {
    Ready::Log(line.to_owned())
}

/// A named pipe on which a script waits (`read -r _ < fifo`) until the test opens it.
struct Gate {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let path = folder.path().join("gate");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        Self {
            path,
            _folder: folder,
        }
    }

    /// Returns the shell command that waits for the gate.
    fn pass(&self) -> String {
        format!("read -r _ < {}", self.path.display())
    }

    async fn open(&self) {
        let path = self.path.clone();
        // Opening blocks until the script reads.
        let opened = tasks().spawn_blocking("open gate", move || fs::write(path, "\n"));
        let opened = timeout(LONG, opened).await.expect("the script waits");
        opened.expect("no panic").expect("it is a fifo");
    }
}

#[tokio::test]
async fn a_process_starts_once_its_dependencies_are_met() {
    let gate = Gate::new();
    let database = format!("{}; echo serving now; exec sleep 1000", gate.pass());
    let service = Service::start([
        ("database", script(&database).ready(log("serving"))),
        (
            "web",
            script("exec sleep 1000").needs("database", Condition::Ready),
        ),
        (
            "job",
            script("exec sleep 1000").needs("database", Condition::Started),
        ),
    ]);
    service.until("job", State::Ready).await;
    assert_eq!(service.state("database"), State::Starting);
    assert_eq!(service.state("web"), State::Waiting);
    service
        .log
        .assert_has("waiting for database to become ready task=web");

    gate.open().await;

    service.until("web", State::Ready).await;
    assert_eq!(service.state("database"), State::Ready);
}

#[tokio::test]
async fn a_process_can_wait_for_the_success_of_another() {
    let service = Service::start([
        ("migrate", script("exit 0")),
        ("seed", script("exit 4").ready(Ready::Exit(4))),
        (
            "web",
            script("exec sleep 1000")
                .needs("migrate", Condition::Exited)
                .needs("seed", Condition::Ready),
        ),
    ]);
    service.until("web", State::Ready).await;
    service.until("seed", State::Exited).await;
    service.log.assert_has("exited with code 4 task=seed");
    service.until("migrate", State::Exited).await;
}

#[tokio::test]
async fn a_process_with_a_dependency_that_can_never_be_met_fails_with_the_reason() {
    let service = Service::start([
        ("migrate", script("kill -SEGV $$")),
        (
            "web",
            script("exec sleep 1000").needs("migrate", Condition::Exited),
        ),
        (
            "page",
            script("exec sleep 1000").needs("web", Condition::Ready),
        ),
        (
            "cron",
            script("exec sleep 1000").needs("undeclared", Condition::Started),
        ),
    ]);
    for name in ["migrate", "web", "page", "cron"] {
        service.until(name, State::Failed).await;
    }
    service.log.assert_has("killed by SIGSEGV");
    let never = service.log.lines_with("can never start");
    for line in [
        "can never start: waiting for migrate to exit successfully, but it has failed task=web",
        "can never start: waiting for web to become ready, but it has failed task=page",
        "can never start: waiting for undeclared to start, but it is not a declared process task=cron",
    ] {
        assert!(never.iter().any(|said| said == line), "{never:#?}");
    }
}

#[tokio::test]
async fn a_drain_stops_dependents_before_their_dependencies() {
    let stops = |name: &str| {
        format!("trap 'echo {name} stops; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    };
    let process = |name: &str| script(&stops(name)).ready(log("up"));
    let service = Service::start([
        ("a", process("a")),
        ("b", process("b").needs("a", Condition::Ready)),
        ("c", process("c").needs("b", Condition::Ready)),
        ("d", process("d").needs("b", Condition::Ready)),
    ]);
    service.until("c", State::Ready).await;
    service.until("d", State::Ready).await;

    service.tasks.drain().await;

    service.until("a", State::Stopped).await;
    let order = service.log.lines_with("stopped: ");
    assert_eq!(order.len(), 4, "{order:#?}");
    assert_eq!(
        order[2..],
        [
            "stopped: exited with code 0 task=b",
            "stopped: exited with code 0 task=a"
        ]
    );
    let said = service.log.lines_with("stops task=");
    assert_eq!(said.len(), 4, "{said:#?}");
}

#[tokio::test]
async fn a_failing_process_is_restarted_up_to_the_limit() {
    let service = Service::start([("web", script("exit 3").restarted(2))]);
    service.until("web", State::Failed).await;
    assert_eq!(
        service.log.lines_with("exited with code 3"),
        [
            "exited with code 3; restart 1 of 2 in 0.0s task=web",
            "exited with code 3; restart 2 of 2 in 0.0s task=web",
            "exited with code 3; given up after 2 restarts task=web",
        ]
    );
}

#[tokio::test]
async fn a_command_that_cannot_start_counts_as_a_failure() {
    let mut settings = script("").restarted(1);
    settings.command = vec!["/no/such/program".to_owned()];
    let service = Service::start([("web", settings)]);
    service.until("web", State::Failed).await;
    service.log.assert_has(
        "cannot start /no/such/program: No such file or directory (os error 2); given up after 1 restart task=web",
    );
}

#[tokio::test]
async fn a_process_that_is_not_ready_in_time_is_stopped_and_fails() {
    let mut settings = script("exec sleep 1000").ready(log("never"));
    settings.ready_timeout = Duration::from_millis(50);
    let service = Service::start([("web", settings)]);
    service.until("web", State::Failed).await;
    service.log.assert_has("not ready within 50ms task=web");
}

#[tokio::test]
async fn a_process_is_ready_when_its_endpoint_is_up() {
    let (endpoint, up) = watch::channel(Health::default());
    let settings = script("exec sleep 1000").ready(Ready::Endpoint("web".to_owned()));
    let service = Service::with_endpoint([("web", settings)], Some(up));
    let started = |status: &Status| status.meets(Condition::Started);
    service.until_status("web", started).await;
    assert_eq!(service.state("web"), State::Starting);
    endpoint.send_replace(Health::found(true));
    service.until("web", State::Ready).await;
}

/// The status may be that of the run before: its last checks had succeeded when it crashed.
#[tokio::test]
async fn a_check_from_before_the_run_does_not_make_it_ready() {
    let (_endpoint, up) = watch::channel(Health::found(true));
    let mut settings = script("exec sleep 1000").ready(Ready::Endpoint("web".to_owned()));
    settings.ready_timeout = Duration::from_millis(50);
    let service = Service::with_endpoint([("web", settings)], Some(up));
    service.until("web", State::Failed).await;
    service.log.assert_has("not ready within 50ms task=web");
}

#[tokio::test]
async fn output_is_logged_by_line_with_name_and_stream() {
    let service = Service::start([(
        "web",
        script("echo one; echo two >&2; printf 'bad \\377\\r\\n\\nlast without end'"),
    )]);
    service.until("web", State::Exited).await;
    let lines = service.log.lines_with("headcount::output");
    let stdout: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("stdout"))
        .collect();
    assert_eq!(
        stdout,
        [
            "headcount::output: one task=web stream=stdout",
            "headcount::output: bad \u{fffd} task=web stream=stdout",
            "headcount::output:  task=web stream=stdout",
            "headcount::output: last without end task=web stream=stdout",
        ]
    );
    service
        .log
        .assert_has("headcount::output: two task=web stream=stderr");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_another_process_that_holds_the_output_open() {
    let service = Service::start([("web", script("exec sleep 1000"))]);
    service.until("web", State::Ready).await;
    let pid = service.pid("web");
    let stdout = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"));

    service.tasks.drain().await;

    service.until("web", State::Stopped).await;
    drop(stdout.expect("the pipe can be opened"));
}

#[tokio::test]
async fn a_flood_of_output_does_not_delay_the_stop() {
    let service = Service::start([("web", script("echo up; exec yes").ready(log("up")))]);
    service.until("web", State::Ready).await;
    service.tasks.drain().await;
    service.until("web", State::Stopped).await;
}

#[tokio::test]
async fn only_a_process_that_headcount_killed_did_not_stop_in_time() {
    let process = |on_stop: &str, stop_budget| {
        let wait = format!("trap '{on_stop}' TERM; echo up; while :; do sleep 0.01; done");
        ProcessSettings {
            stop_budget,
            ..script(&wait).ready(log("up"))
        }
    };
    let service = Service::start([
        ("late", process("", Duration::from_millis(10))),
        // As the OOM killer does.
        ("killed", process("kill -KILL $$", LONG)),
    ]);
    service.until("late", State::Ready).await;
    service.until("killed", State::Ready).await;

    service.tasks.drain().await;

    service
        .log
        .assert_has("did not stop within 10ms: killed by SIGKILL task=late");
    service
        .log
        .assert_has("stopped: killed by SIGKILL, which headcount did not send task=killed");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_backoff() {
    let mut settings = script("exit 1").restarted(1);
    settings.backoff = Backoff {
        initial: LONG * 10,
        max: LONG * 10,
        ..Backoff::default()
    };
    let service = Service::start([("web", settings)]);
    service.until("web", State::Backoff).await;
    service.tasks.drain().await;
    service.until("web", State::Stopped).await;
}

#[test]
fn an_exit_is_displayed_with_its_code_or_signal_name() {
    let signal = |number, core_dumped| Exit::Signal {
        number,
        core_dumped,
    };
    assert_eq!(Exit::Code(3).to_string(), "exited with code 3");
    assert_eq!(signal(15, false).to_string(), "killed by SIGTERM");
    assert_eq!(
        signal(11, true).to_string(),
        "killed by SIGSEGV (core dumped)"
    );
    assert_eq!(signal(34, false).to_string(), "killed by signal 34");
}
