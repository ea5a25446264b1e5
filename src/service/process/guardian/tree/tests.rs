//! Tests of the walks through `/proc`, each on a small process tree that it starts.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;

/// Starts this process → `sh` → `sleep`, and returns the child with both processes.
fn parent_and_child() -> (Child, Member, Member) {
    let mut parent = Command::new("sh")
        .args(["-c", "sleep 1000 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut pid = String::new();
    let stdout = parent.stdout.take().expect("it is piped");
    BufReader::new(stdout)
        .read_line(&mut pid)
        .expect("the script prints a pid");
    let upper = parse_pid(&parent.id().to_string()).expect("a pid");
    let lower = parse_pid(pid.trim()).expect("a pid");
    let upper = Member {
        pid: upper,
        parent: getpid(),
    };
    let lower = Member {
        pid: lower,
        parent: upper.pid,
    };
    (parent, upper, lower)
}

#[test]
fn both_walks_find_children_and_grandchildren_below_their_parents() {
    let (mut parent, upper, lower) = parent_and_child();
    let by_parents = by_parents();
    let by_files = by_children_files_of_all_threads();
    lower.signal(Signal::KILL).expect("it is alive");
    parent.wait().expect("it is our child");

    for found in [by_parents, by_files] {
        let at = |wanted| found.iter().position(|member| *member == wanted);
        assert!(at(upper) < at(lower) && at(upper).is_some(), "{found:?}");
    }
}

/// Returns all processes below this one, from the children of all threads. A guardian has one
/// thread, but a test binary has many, and each can have children.
fn by_children_files_of_all_threads() -> Vec<Member> {
    let me = getpid();
    let threads = fs::read_dir("/proc/self/task").expect("every process has threads");
    let names = threads.flatten().map(|thread| thread.file_name());
    let threads = names.filter_map(|name| name.to_str().and_then(parse_pid));
    below(
        threads
            .flat_map(|thread| children_of(me, thread).expect("this kernel has the files"))
            .collect(),
    )
}

#[test]
fn a_process_whose_parent_is_not_the_one_seen_is_not_signalled() {
    let (mut parent, upper, lower) = parent_and_child();
    let stranger = Member {
        pid: lower.pid,
        parent: Pid::INIT,
    };
    assert_eq!(stranger.signal(Signal::KILL), Err(Errno::SRCH));
    assert_eq!(
        parent_of(lower.pid),
        Some(upper.pid),
        "it is alive, under its parent"
    );
    lower.signal(Signal::KILL).expect("it is alive");
    parent.wait().expect("it is our child");
}
