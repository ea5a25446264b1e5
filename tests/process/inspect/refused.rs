//! Processes that cannot be read, and the reasons that are given.

use super::headcount;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn a_process_that_cannot_be_looked_into_is_refused_with_the_reason() {
    let refused = |pid: &str| {
        let output = headcount(&["tree", pid]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).expect("it is UTF-8")
    };
    let mut foreign = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat is installed");
    let pid = foreign.id().to_string();
    let link = format!("/proc/{pid}/exe");
    // Until it answers, it is a copy of this test, or being loaded.
    let mut input = foreign.stdin.take().expect("it is a pipe");
    input.write_all(b"!").expect("it reads");
    let mut answer = [0];
    let output = foreign.stdout.as_mut().expect("it is a pipe");
    output.read_exact(&mut answer).expect("it answers");
    let name = std::fs::read_link(&link).expect("it runs");
    let name = name
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    let expected = format!("headcount: process {pid} ({name}) has no tokio in its program\n");
    assert_eq!(refused(&pid), expected);
    drop((input, foreign.stdout.take()));
    foreign.wait().expect("it ends with its input");
    assert!(refused(&pid).starts_with(&format!("headcount: no process {pid} is here")));
    assert_eq!(headcount(&["ps", "wedged-service"]).status.code(), Some(2));
}
