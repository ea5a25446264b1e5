//! Tests of the loss of a helper process, and of the end of a whole process tree.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::{LONG, Service, launcher, log, script, tasks};
use crate::service::process::{
    Condition,
    board::{State, Status},
    output::Sink,
    run::{Event, Launcher, Run},
    wire::Notice,
};
use crate::telemetry;

#[tokio::test]
async fn a_process_whose_helper_was_killed_is_restarted() {
    for helper in ["guardian", "keeper"] {
        let service = Service::start([("web", script("exec sleep 1000").restarted(1))]);
        service.until("web", State::Ready).await;
        let pid = service.pid("web");
        let keeper = parent(pid);

        kill(if helper == "keeper" {
            keeper
        } else {
            parent(keeper)
        });

        let log = service.log.clone();
        let again = move |status: &Status| {
            status.state == State::Ready && log.lines_with("started task=web").len() == 2
        };
        service.until_status("web", again).await;
        service.log.assert_has(&format!(
            "{helper} killed by SIGKILL, so the process was stopped; restart 1 of 1"
        ));
        assert!(!fs::exists(format!("/proc/{pid}")).expect("/proc can be read"));
    }
}

/// A keeper was killed, and the readiness timeout elapses while its guardian still kills the tree.
#[tokio::test]
async fn a_readiness_timeout_does_not_hide_the_loss_of_the_keeper() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let guardian = r#"#!/bin/sh
read -r start
printf '{"started":{"pid":1}}\n{"keeper_lost":{"exit":{"signal":{"number":9,"core_dumped":false}}}}\n' >&0
read -r stop
printf '"empty"\n' >&0
"#;
    let launcher = instead(folder.path(), guardian);
    let hour = Duration::from_secs(3600);
    let mut settings = script("").ready(log("never"));
    settings.ready_timeout = hour;
    let service = Service::with_launcher([("web", settings)], None, &launcher);
    let started = |status: &Status| status.meets(Condition::Started);
    service.until_status("web", started).await;

    tokio::time::pause();
    tokio::time::advance(hour).await;
    tokio::time::resume();

    service.until("web", State::Failed).await;
    service
        .log
        .assert_has("keeper killed by SIGKILL, so the process was stopped task=web");
}

/// The tree of such a run may be alive, and a new one could conflict with it.
#[tokio::test]
async fn a_process_whose_guardian_does_not_answer_is_not_restarted() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let guardian = r#"#!/bin/sh
read -r start
printf '{"started":{"pid":1}}\n' >&0
exec cat > /dev/null
"#;
    let launcher = instead(folder.path(), guardian);
    let hour = Duration::from_secs(3600);
    let mut settings = script("").ready(log("never")).restarted(1);
    settings.ready_timeout = hour;
    let service = Service::with_launcher([("web", settings)], None, &launcher);
    let started = |status: &Status| status.meets(Condition::Started);
    service.until_status("web", started).await;

    tokio::time::pause();
    tokio::time::advance(hour).await;

    service.until("web", State::Failed).await;
    service
        .log
        .assert_has("cannot be killed: its guardian is not responding task=web");
}

#[tokio::test]
async fn a_start_that_a_limit_prevents_in_a_helper_process_counts_as_no_failure() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    // The first run is refused because of a limit, the second one is not.
    let refuse = r#"#!/bin/sh
read -r order
if mkdir "${0%/*}/once" 2>/dev/null
then echo '{"refused":{"why":"cannot start a: full","own_limit":true}}' >&0
else echo '{"refused":{"why":"cannot start b: missing","own_limit":false}}' >&0
fi
echo '"empty"' >&0
"#;
    let launcher = instead(folder.path(), refuse);
    let service = Service::with_launcher([("web", script(""))], None, &launcher);
    service.until("web", State::Failed).await;
    service.log.assert_has(
        "cannot start a: full: a limit of this process or machine is reached; next try in ",
    );
    service.log.assert_has("cannot start b: missing task=web");
}

/// Returns a launcher of a script that takes the place of the guardian.
fn instead(folder: &Path, script: &str) -> Launcher {
    let program = folder.join("guardian");
    // A file that another test's fork holds open for writing cannot be executed, so this process
    // never opens it.
    let write = r#"printf %s "$2" > "$1" && chmod +x "$1""#;
    let written = Command::new("sh")
        .args(["-c", write, "sh"])
        .arg(&program)
        .arg(script)
        .status();
    assert!(written.expect("sh runs").success());
    Launcher {
        program,
        ..Launcher::default()
    }
}

/// When `next` is called late, the end of the notices and the guardian's exit status are available
/// at the same time. The exit status must not be lost if the end of the notices is seen first.
#[tokio::test]
async fn a_killed_guardian_is_reported_even_when_the_whole_tree_is_already_gone() {
    for _ in 0..8 {
        assert_eq!(lost(|_| ()).await, ["killed by SIGKILL"]);
    }
}

/// The exit status of a guardian is unknown if something else has reaped it.
#[tokio::test]
async fn a_guardian_with_an_unknown_exit_status_is_lost() {
    let reap = |guardian: u32| {
        let guardian = Pid::from_raw(guardian.cast_signed());
        waitpid(guardian, WaitOptions::empty()).expect("it is a child of this process");
    };
    assert_eq!(lost(reap).await, ["ended with an unknown status"]);
}

/// Kills the guardian of a run, calls `also` with its pid, and waits until the whole tree is gone.
/// Then returns what the run says about the loss.
async fn lost(also: impl FnOnce(u32)) -> Vec<String> {
    let child = Arc::new(telemetry::Child::register(&tasks(), "web"));
    let sink = Arc::new(Sink::new("web", &child, None));
    let settings = script("exec sleep 1000");
    let run = Run::launch(launcher(), "web", &settings, &sink);
    let mut run = run.await.expect("it can be launched");
    let Event::Notice(Notice::Started { pid }) = run.next().await else {
        panic!("the first event says that it started");
    };
    let keeper = parent(pid);
    let guardian = parent(keeper);
    kill(guardian);
    also(guardian);
    wait_until_gone(keeper);
    let mut lost = Vec::new();
    loop {
        match run.next().await {
            Event::Closed => return lost,
            Event::GuardianLost(exit) => lost.push(exit.to_string()),
            _ => {}
        }
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
    // The end of a child interrupts the poll.
    let ready = retry_on_intr(|| poll(&mut fds, Some(&bound))).expect("a pidfd can be polled");
    assert_eq!(ready, 1, "process {pid} is still alive");
}

#[test]
fn a_cancelled_task_kills_its_whole_process_tree() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime can be built");
    let ignores = "trap '' TERM; setsid sh -c 'echo escaped $$; while :; do sleep 1000; done' & \
                   wait";
    let service = {
        let _context = runtime.enter();
        Service::start([("web", script(ignores).ready(log("escaped")))])
    };
    runtime.block_on(service.until("web", State::Ready));
    let pid = service.pid("web");
    let escaped = service.log.lines_with("escaped ");
    let escaped = escaped[0]
        .split(' ')
        .nth(1)
        .expect("it prints its pid")
        .to_owned();

    drop(runtime);

    assert_eq!(service.state("web"), State::Stopped);
    for pid in [pid.to_string(), escaped] {
        wait_until_gone(pid.parse().expect("a number"));
    }
}
