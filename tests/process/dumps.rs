//! Tests of SIGQUIT: it dumps live tasks and threads, and the service continues.

use crate::program::{Program, command, ready, until};
use crate::text::steady;
use rustix::process::Signal;
use std::io::{self, BufRead, BufReader, Write};

/// Returns the next dump as text, without the threads, which may not have registered yet.
fn dump(program: &mut Program) -> String {
    program.signal(Signal::QUIT);
    let mut text = String::new();
    let mut line = program.error_line("dump (SIGQUIT)");
    loop {
        let steady = steady(&line);
        // `main` may not have returned from its ready message yet, and the workers may not have
        // started.
        let steady = steady.replace(", on thread \"main\" (tid N)", "");
        text += &steady.replace("created, age T", "running, age T, last poll T ago");
        text.push('\n');
        if line.ends_with(" threads") {
            return text;
        }
        line = program.error_line("");
    }
}

/// Returns whether the dump counts only the threads that are always there.
fn is_settled(dump: &str) -> bool {
    dump.contains("─ 7 threads\n")
}

#[test]
fn sigquit_dumps_and_the_service_continues() {
    let mut program = ready(&["waits"]);
    // A thread that was only starting, or that an earlier dump used, may not have ended.
    let mut dumps: Vec<String> = Vec::new();
    let first = loop {
        let next = dump(&mut program);
        let last = dumps.last();
        if is_settled(&next) && last == Some(&next) {
            dumps.push(next.clone());
            break next;
        }
        dumps.push(next);
        assert!(dumps.len() < 100, "{dumps:#?}");
    };
    let made = dumps.len();
    // Without `tokio_unstable`, another line follows.
    let first = first.replace("├─ 7 threads", "└─ 7 threads");
    insta::assert_snapshot!(first, @r"
    headcount test: dump (SIGQUIT), running
    ├─ 2 tracked tasks
    │  ├─ main  running, age T, last poll T ago, spawned <main>
    │  └─ http
    │  └─ accept  running, age T, last poll T ago, spawned <quiet accept>
    └─ 7 threads
    ");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let signal = "├─ \"headcount-signal\" (tid N, control)  ";
    assert_eq!(ended.errors().matches(signal).count(), made, "{ended:#?}");
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[test]
fn sigquit_dumps_with_every_worker_stuck() {
    let mut program = ready(&["all-workers-blocked", "2"]);
    program.signal(Signal::QUIT);
    program.error_line("headcount test: dump (SIGQUIT), running");
    let line = program.error_line("blocker");
    assert!(line.contains("blocker ×2  running, oldest "), "{line}");
    program.stop(Signal::TERM).assert_code(3);
}

#[test]
fn sigquit_says_which_layer_a_shutdown_is_in() {
    let mut program = ready(&["cancel-waits"]);
    program.signal(Signal::TERM);
    assert_eq!([program.line(), program.line()], ["draining", "cancelling"]);
    let said = dump(&mut program);
    let head = "headcount test: dump (SIGQUIT), cancelling\n";
    assert!(said.starts_with(head), "{said}");
    let closer = "closer  cancelling, age T, cancelled T ago, its drop has not returned, on thread \"headcount-work\" (tid N), spawned <closer that waits>\n";
    assert!(said.contains(closer), "{said}");
}

#[test]
fn sigquit_dumps_a_line_of_json_where_the_report_is_one() {
    let mut program = ready(&["waits-as-json"]);
    program.signal(Signal::QUIT);
    let line = program.line();
    let dump: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
    assert_eq!(dump["phase"], "running");
    assert_eq!(dump["tasks"], 2);
    assert_eq!(dump["root"]["groups"][0]["kinds"][0]["name"], "accept");
    let threads = dump["threads"].as_array().expect("threads are observed");
    assert!(threads.iter().any(|thread| thread["class"] == "control"));
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(ended.stderr.is_empty(), "{ended:#?}");
}

/// The first dump waits for a reader of its output, and the second waits for the first.
#[test]
fn a_dump_that_is_asked_for_during_another_is_refused() {
    let (read, mut stderr) = io::pipe().expect("pipes are available");
    let size = rustix::pipe::fcntl_setpipe_size(&stderr, 4096).expect("pipes may be small");
    stderr.write_all(&vec![b'\n'; size]).expect("so much fits");
    let mut program = Program::start_with_stderr(command(&["waits"]), stderr);
    assert_eq!(program.line(), "ready");
    program.signal(Signal::QUIT);
    // The thread is in write(2, …), see proc_pid_syscall(5).
    until(|| {
        program
            .files_of("headcount-print", "syscall")
            .any(|call| call.starts_with("1 0x2 "))
    });
    until(|| program.files_of("headcount-dump", "comm").count() == 0);
    program.signal(Signal::QUIT);
    until(|| program.files_of("headcount-dump", "comm").count() == 1);
    let before = naps(&program);
    program.signal(Signal::QUIT);
    // The signal thread has handled it when it sleeps again.
    until(|| naps(&program) > before);
    let mut lines = BufReader::new(read)
        .lines()
        .map(|line| line.expect("it is text"));
    let mut next = |text: &str| lines.find(|line| line.contains(text)).expect("it is said");
    next("dump (SIGQUIT), running");
    assert_eq!(
        next("dump"),
        "headcount test: a dump is already in progress"
    );
    next("dump (SIGQUIT), running");
    program.stop(Signal::TERM).assert_code(0);
}

/// Returns how often the signal thread has gone to sleep, see proc_pid_status(5).
fn naps(program: &Program) -> u64 {
    let status: String = program.files_of("headcount-signa", "status").collect();
    let naps = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    // The kernel keeps 15 bytes of a name.
    let naps = naps.and_then(|naps| naps.trim().parse().ok());
    naps.expect("there is one such thread, and its status has that line")
}

/// Two threads create the dump and the report, and each is printed as a whole.
#[test]
fn a_dump_does_not_delay_the_shutdown() {
    let mut program = ready(&["hundred-thousand"]);
    program.signal(Signal::QUIT);
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(
        ended
            .report()
            .starts_with("headcount test: stopping (SIGTERM)\n")
    );
}
