//! Processes that cannot be read, and the reasons that are given.

use super::{headcount, programs};
use crate::program::{Program, until};
use serde_json::Value;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const NOBODY: u32 = 65534;

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
    let expected = format!(
        "headcount: process {pid} ({name}) has no tokio in its program; one in a shared library is not looked for\n"
    );
    assert_eq!(refused(&pid), expected);
    drop((input, foreign.stdout.take()));
    let has_ended = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.expect("it was not waited for").contains("State:\tZ")
    };
    until(has_ended);
    let expected = format!(
        "headcount: process {pid} has ended, and its parent has not asked for its end yet: it has no tasks any more\n"
    );
    assert_eq!(refused(&pid), expected);
    foreign.wait().expect("it ends with its input");
    assert!(refused(&pid).starts_with(&format!("headcount: no process {pid} is here")));
    assert_eq!(headcount(&["ps", "wedged-service"]).status.code(), Some(2));
}

/// Runs a copy of headcount that any user may run, and returns its errors.
fn refused_as(headcount: &Path, user: u32, pid: u32) -> String {
    let mut command = Command::new(headcount);
    let output = command
        .uid(user)
        .gid(user)
        .args(["ps", &pid.to_string()])
        .output();
    let output = output.expect("it runs");
    assert_ne!(output.status.success(), !output.stderr.is_empty());
    String::from_utf8(output.stderr).expect("it is UTF-8")
}

#[test]
#[ignore = "needs root, to become another user"]
fn each_refusal_of_the_kernel_is_explained_by_its_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let mode = Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).expect("it is ours");
    let [headcount, settings] = [
        Path::new(env!("CARGO_BIN_EXE_headcount")),
        &programs().join("settings"),
    ]
    .map(|program| {
        let copy = folder.path().join(program.file_name().expect("a file"));
        std::fs::copy(program, &copy).expect("there is space");
        copy
    });
    let start = |setting: &str, user: u32| {
        let mut command = Command::new(&settings);
        command.arg(setting).uid(user).gid(user);
        let mut program = Program::start(command);
        program.line();
        program
    };
    let begin = |program: &Program| {
        let pid = program.pid();
        format!(
            "headcount: the kernel does not allow to read process {pid} (Permission denied (os error 13)):\n  "
        )
    };
    let undumpable = "it is not dumpable: it changed its user, has file capabilities, or set PR_SET_DUMPABLE: run this as root\n";
    let of_root = start("plain", 0);
    let users = format!(
        "it runs as user 0, and this as user {NOBODY}: run this as that user, or as root\n"
    );
    assert_eq!(
        refused_as(&headcount, NOBODY, of_root.pid()),
        begin(&of_root) + &users
    );
    let hidden = start("not-dumpable", NOBODY);
    assert_eq!(
        refused_as(&headcount, NOBODY, hidden.pid()),
        begin(&hidden) + undumpable
    );
    let users = format!("it runs as user {NOBODY}, and this as user 1: run this as root\n  ");
    assert_eq!(
        refused_as(&headcount, 1, hidden.pid()),
        begin(&hidden) + &users + undumpable
    );
    assert_eq!(
        refused_as(&headcount, 0, hidden.pid()),
        "",
        "root may read it"
    );
    let own = start("plain", NOBODY);
    assert_eq!(
        refused_as(&headcount, NOBODY, own.pid()),
        "",
        "it is its own"
    );
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    let output = without
        .arg(&headcount)
        .args(["ps", &own.pid().to_string()])
        .output();
    let errors =
        String::from_utf8(output.expect("setpriv is installed").stderr).expect("it is UTF-8");
    let capability = "this is root without CAP_SYS_PTRACE, as in most containers: run this with that capability, or outside of \
        the container\n";
    assert_eq!(errors, begin(&own) + capability);
}

/// A tokio in which a reference counts twice as much is another layout: its states mean something else.
#[test]
#[ignore = "builds a changed tokio"]
fn a_program_with_a_tokio_of_another_layout_is_refused_with_the_reason() {
    let inspect = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect");
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--manifest-path",
    ]);
    let metadata = metadata
        .arg(inspect.join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("it is JSON");
    let packages = metadata["packages"].as_array().expect("it has packages");
    let tokio = packages
        .iter()
        .find(|package| package["name"] == "tokio")
        .expect("it uses tokio");
    let tokio = Path::new(tokio["manifest_path"].as_str().expect("a path"))
        .parent()
        .expect("a folder");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inspect-changed");
    let changed = target.join("tokio");
    let mut copy = Command::new("cp");
    copy.args(["-r", "--no-target-directory"])
        .args([tokio, &changed]);
    std::fs::create_dir_all(&target).expect("it is ours");
    assert!(copy.status().expect("cp is installed").success());
    let states = changed.join("src/runtime/task/state.rs");
    let text = std::fs::read_to_string(&states).expect("tokio has it");
    let mask = "const STATE_MASK: usize = ";
    assert!(text.contains(mask), "its states are elsewhere");
    std::fs::write(&states, text.replace(mask, &format!("{mask}0b100_0000 | ")))
        .expect("it is a copy");
    let manifest = std::fs::read_to_string(inspect.join("Cargo.toml")).expect("it is there");
    let bin = inspect.join("src/bin/settings.rs");
    let manifest = format!(
        "{manifest}\n[patch.crates-io]\ntokio = {{ path = {changed:?} }}\n[[bin]]\nname = \"settings\"\npath = {bin:?}\n"
    );
    std::fs::write(target.join("Cargo.toml"), manifest).expect("it is ours");
    std::fs::copy(inspect.join("Cargo.lock"), target.join("Cargo.lock")).expect("it is ours");
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--bin", "settings", "--target-dir"])
        .arg(target.join("target"));
    build
        .current_dir(&target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    assert!(build.status().expect("cargo runs").success());
    let mut command = Command::new(target.join("target/debug/settings"));
    command.arg("plain");
    let mut program = Program::start(command);
    program.line();
    let output = headcount(&["ps", &program.pid().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing is shown");
    let errors = String::from_utf8(output.stderr).expect("it is UTF-8");
    let layout = "whose tasks are laid out in a way that this headcount does not know (a reference counts 128 in the state of a task";
    assert!(
        errors.starts_with("headcount: this program has tokio ") && errors.contains(layout),
        "{errors}"
    );
}
