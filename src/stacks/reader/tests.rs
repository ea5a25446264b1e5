mod alone;
mod figures;
mod stress;
mod threads;

use crate::stacks::{Means, Stack, folded, frames, read};
use crate::threads::own_tid;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// Starts a thread that sends its id and then runs `work`.
#[track_caller]
fn thread(work: impl FnOnce() + Send + 'static) -> (u32, JoinHandle<()>) {
    let (tell, told) = channel();
    let started = std::thread::Builder::new().spawn(move || {
        tell.send(own_tid()).expect("it is waited for");
        work();
    });
    let thread = started.expect("a thread");
    (told.recv().expect("it tells"), thread)
}

fn read_one(tid: u32, means: Means) -> Result<Stack, String> {
    let mut stacks = read(&[tid], means);
    assert_eq!(stacks.len(), 1);
    stacks.remove(0)
}

/// Waits until the thread waits in the given system call.
fn await_call(tid: u32, call: i64) {
    let call = format!("{call} ");
    loop {
        let line = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall"));
        if line.is_ok_and(|line| line.starts_with(&call)) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Returns the functions of a stack as reports show them.
fn functions(stack: &Stack) -> Vec<String> {
    let frames = folded(frames(stack));
    frames.into_iter().map(|frame| frame.function).collect()
}

/// Runs the test in a separate process, as user `uid` if this one may. Returns whether this is that
/// process.
fn is_alone(test: &str, uid: Option<u32>) -> bool {
    use std::os::unix::process::CommandExt;
    const ALONE: &str = "HEADCOUNT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("a process knows its program");
    let mut run = std::process::Command::new(this);
    // The test harness leaves out the name of the crate.
    let (_, here) = module_path!().split_once("::").expect("it is in a crate");
    let test = format!("{here}::{test}");
    run.args([&test, "--exact", "--include-ignored", "--nocapture"]);
    if let Some(uid) = uid.filter(|_| rustix::process::getuid().is_root()) {
        run.uid(uid).gid(uid);
    }
    // A backtrace locks the loader.
    run.env(ALONE, "1").env("RUST_BACKTRACE", "0");
    let output = run.output().expect("the test program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{}: {said}{errors}", output.status);
    assert!(said.contains("1 passed"), "{said}{errors}");
    false
}
