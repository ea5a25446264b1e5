//! The task kind with real guardians and commands: order of start and stop, readiness, restarts, output, and what a cancelled task leaves.

use std::{
    fs, io,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    Backoff, Board, Condition, Exit, ProcessSettings, Ready, Restart,
    board::{State, Status},
    run::{Event, Launcher, Run},
    supervisor,
    wire::Notice,
};
use crate::TaskGroup;

/// Far more than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Some processes under supervision, and what was logged about them.
struct Service {
    board: Board,
    tasks: TaskGroup,
    log: Log,
    _logging: tracing::subscriber::DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

// === impl Log ===

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("no test panics while it writes")
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        let bytes = self
            .0
            .lock()
            .expect("no test panics while it writes")
            .clone();
        String::from_utf8(bytes).expect("the log is text")
    }

    /// The lines of this kind that hold `part`, from there on. The registry says of its own that a task failed.
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
        endpoint: Option<watch::Receiver<bool>>,
    ) -> Self {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let tasks = tasks();
        let processes = processes
            .map(|(name, settings)| (name.to_owned(), settings))
            .into();
        let board = supervisor::start_all(processes, &|_| endpoint.clone(), &tasks, launcher());
        Self {
            board,
            tasks,
            log,
            _logging: logging,
        }
    }

    /// Waits until the process is in that state.
    #[track_caller]
    fn until(&self, name: &str, state: State) -> impl Future<Output = Status> + use<> {
        let mut status = self.board.watch(name).expect("the test declared it");
        let text = self.log.clone();
        let name = name.to_owned();
        async move {
            let reached = status.wait_for(|status| status.state == state);
            match timeout(LONG, reached).await {
                Ok(status) => status.expect("a task leaves a final state").clone(),
                Err(_) => panic!("{name} is not {state}:\n{}", text.text()),
            }
        }
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

/// The binary of this package, built when it is missing or old: the test binary itself is no guardian.
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
        // Build scripts that look at these would run anew, and what they built be compiled anew.
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
        }
    })
}

/// A shell script that is not restarted.
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

    /// Restarted at once, at most `limit` times.
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

/// A fifo on which a script waits (`read -r _ < fifo`) until the test opens it.
struct Gate {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder is to be had");
        let path = folder.path().join("gate");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        Self {
            path,
            _folder: folder,
        }
    }

    /// The command of a script that waits for it.
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
async fn a_process_starts_once_what_it_needs_is_ready() {
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
        .assert_has("waits for database to be ready task=web");

    gate.open().await;

    service.until("web", State::Ready).await;
    assert_eq!(service.state("database"), State::Ready);
}

#[tokio::test]
async fn a_process_may_wait_for_the_success_of_another() {
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
    let seed = service.until("seed", State::Exited).await;
    assert_eq!(seed.last_exit, Some(Exit::Code(4)));
    service.until("migrate", State::Exited).await;
}

#[tokio::test]
async fn a_process_whose_need_can_never_be_met_fails_and_says_so() {
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
            script("exec sleep 1000").needs("nobody", Condition::Started),
        ),
    ]);
    for name in ["migrate", "web", "page", "cron"] {
        let status = service.until(name, State::Failed).await;
        assert_eq!(status.pid, None);
    }
    service.log.assert_has("killed by SIGSEGV");
    let never = service.log.lines_with("can never start");
    for line in [
        "can never start: it waits for migrate to be done, and that has failed task=web",
        "can never start: it waits for web to be ready, and that has failed task=page",
        "can never start: it waits for nobody to be started, and that is not a declared process task=cron",
    ] {
        assert!(never.iter().any(|said| said == line), "{never:#?}");
    }
}

#[tokio::test]
async fn a_drain_stops_those_that_depend_before_what_they_depend_on() {
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
    let status = service.until("web", State::Failed).await;
    assert_eq!(
        (status.restarts, status.last_exit),
        (2, Some(Exit::Code(3)))
    );
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
    let status = service.until("web", State::Failed).await;
    assert_eq!(status.pid, None);
    service.log.assert_has("not ready within 50ms task=web");
}

#[tokio::test]
async fn a_process_is_ready_when_its_endpoint_is_up() {
    let (endpoint, up) = watch::channel(false);
    let settings = script("exec sleep 1000").ready(Ready::Endpoint("web".to_owned()));
    let service = Service::with_endpoint([("web", settings)], Some(up));
    service.until("web", State::Starting).await;
    endpoint.send_replace(true);
    service.until("web", State::Ready).await;
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
async fn a_stop_does_not_wait_for_somebody_else_who_holds_the_output() {
    let service = Service::start([("web", script("exec sleep 1000"))]);
    let web = service.until("web", State::Ready).await;
    let pid = web.pid.expect("it runs");
    let stdout = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"));

    service.tasks.drain().await;

    service.until("web", State::Stopped).await;
    drop(stdout.expect("the pipe is ours to open"));
}

#[tokio::test]
async fn a_flood_of_output_does_not_delay_the_stop() {
    let service = Service::start([("web", script("echo up; exec yes").ready(log("up")))]);
    service.until("web", State::Ready).await;
    service.tasks.drain().await;
    service.until("web", State::Stopped).await;
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

#[tokio::test]
async fn a_process_whose_guardian_was_killed_is_started_again() {
    let service = Service::start([("web", script("exec sleep 1000").restarted(1))]);
    let first = service.until("web", State::Ready).await;
    let pid = first.pid.expect("it runs");
    let keeper = parent(pid);

    kill(parent(keeper));

    let mut status = service.board.watch("web").expect("the test declared it");
    let again = |status: &Status| status.state == State::Ready && status.restarts == 1;
    timeout(LONG, status.wait_for(again))
        .await
        .expect("in time")
        .expect("its task lives");
    service
        .log
        .assert_has("its guardian was killed by SIGKILL, so it was stopped; restart 1 of 1");
    assert!(!fs::exists(format!("/proc/{pid}")).expect("/proc can be read"));
}

/// What was said about the tree and how the guardian ended are there together when somebody looks late.
#[tokio::test]
async fn that_the_guardian_was_killed_is_told_by_who_looks_when_all_is_over() {
    for _ in 0..8 {
        let mut run = Run::launch(launcher(), "web", &script("exec sleep 1000"))
            .await
            .expect("it can be launched");
        let Event::Notice(Notice::Started { pid }) = run.next().await else {
            panic!("that it started comes first");
        };
        let keeper = parent(pid);
        kill(parent(keeper));
        wait_until_gone(keeper);

        let mut lost = Vec::new();
        loop {
            match run.next().await {
                Event::Closed => break,
                Event::GuardianLost(exit) => lost.push(exit.to_string()),
                _ => {}
            }
        }
        assert_eq!(lost, ["killed by SIGKILL"]);
    }
}

fn kill(pid: u32) {
    let killed = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent
        .and_then(|pid| pid.trim().parse().ok())
        .expect("every status names the parent")
}

fn wait_until_gone(pid: u32) {
    let number = Pid::from_raw(pid.cast_signed()).expect("not 0");
    // It may be gone already.
    let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else {
        return;
    };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    let bound = Timespec::try_from(LONG).expect("a few seconds");
    // The end of a child interrupts it.
    let ready = retry_on_intr(|| poll(&mut fds, Some(&bound))).expect("a pidfd can be polled");
    assert_eq!(ready, 1, "process {pid} lives");
}

#[test]
fn a_cancelled_task_takes_its_whole_tree_along() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime is to be had");
    let ignores = "trap '' TERM; setsid sh -c 'echo escaped $$; while :; do sleep 1000; done' & \
                   wait";
    let service = {
        let _context = runtime.enter();
        Service::start([("web", script(ignores).ready(log("escaped")))])
    };
    let web = runtime.block_on(service.until("web", State::Ready));
    let pid = web.pid.expect("it runs");
    let escaped = service.log.lines_with("escaped ");
    let escaped = escaped[0]
        .split(' ')
        .nth(1)
        .expect("it says its pid")
        .to_owned();

    drop(runtime);

    assert_eq!(service.state("web"), State::Stopped);
    for pid in [pid.to_string(), escaped] {
        wait_until_gone(pid.parse().expect("a number"));
    }
}

#[test]
fn an_end_is_named_as_the_shell_would() {
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
