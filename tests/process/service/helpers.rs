//! Tests of the loss of headcount and its helper processes, in every combination.

use super::{ESCAPED, process, run, to_run};
use crate::program::{Process, Program};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rounds of each combination, unless the environment says otherwise: races need many.
fn rounds() -> u32 {
    let rounds = std::env::var("HEADCOUNT_ROUNDS");
    rounds.map_or(2, |rounds| rounds.parse().expect("a number"))
}

/// A running service with one process, which has started one that left its session.
struct Tree {
    program: Program,
    web: Process,
    escaped: Process,
    keeper: Process,
    guardian: Process,
    folder: tempfile::TempDir,
}

impl Tree {
    fn start() -> Self {
        let (program, folder) = run(&tasks(), &[]);
        Self::of(program, folder)
    }

    fn of(mut program: Program, folder: tempfile::TempDir) -> Self {
        let (web, escaped) = both(&mut program);
        let keeper = web.parent();
        Self {
            guardian: keeper.parent(),
            web,
            escaped,
            keeper,
            program,
            folder,
        }
    }
}

/// Returns a process that starts another one, which leaves its session.
fn tasks() -> String {
    let script = format!("{ESCAPED}; echo up $$; exec sleep 1000");
    process(
        "web",
        &script,
        "backoff = { initial = \"1ms\" }\nmax_restarts = 100",
    )
}

/// Returns the process and the one that it has started, in whichever order they are announced.
fn both(program: &mut Program) -> (Process, Process) {
    let (mut web, mut escaped) = (None, None);
    while web.is_none() || escaped.is_none() {
        let line = program.error_line("│ ");
        let (_, said) = line.split_once("│ ").expect("just seen");
        let mut words = said.split(' ');
        match (words.next(), words.next()) {
            (Some("up"), Some(pid)) => web = Some(Process::new(pid)),
            (Some("escaped"), Some(pid)) => escaped = Some(Process::new(pid)),
            _ => panic!("{line}"),
        }
    }
    (web.expect("just seen"), escaped.expect("just seen"))
}

/// Runs rounds in which `lose` takes helpers from a service that goes on: the whole tree must have
/// ended when the next one runs, and the service must stop as usual.
#[track_caller]
fn assert_replaced(lose: impl Fn(&Tree), said: &str) {
    for round in 0..rounds() {
        let mut tree = Tree::start();
        lose(&tree);
        let (web, escaped) = both(&mut tree.program);
        assert!(!tree.web.is_alive(), "round {round}");
        assert!(!tree.escaped.is_alive(), "round {round}");
        tree.program.has_said(said);
        let ended = tree.program.stop(Signal::TERM);
        ended.assert_code(0);
        assert!(ended.report().contains("└─ clean"), "{ended:#?}");
        for process in [web, escaped, tree.keeper, tree.guardian] {
            process.assert_ends();
        }
    }
}

/// A second copy was started beside the living first, and the stop was called clean.
#[test]
fn a_tree_that_lost_both_helpers_is_ended_before_it_is_restarted() {
    let lost = "headcount::process: ";
    assert_replaced(
        |tree| {
            tree.guardian.kill(Signal::KILL);
            tree.keeper.kill(Signal::KILL);
        },
        lost,
    );
    assert_replaced(
        |tree| {
            tree.keeper.kill(Signal::KILL);
            tree.guardian.kill(Signal::KILL);
        },
        lost,
    );
}

/// Starts a service whose program has taken the place of a shell with a child, and returns it with that
/// child.
fn with_child(tasks: &str) -> (Program, tempfile::TempDir, Process) {
    let (headcount, folder) = to_run(tasks, &[]);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        r#"sleep 1000 > /dev/null 2>&1 & echo $!; exec "$0" "$@""#,
    ]);
    shell.arg(headcount.get_program());
    shell.args(headcount.get_args());
    // For its control socket.
    shell.env_remove("RUNTIME_DIRECTORY");
    shell.env("XDG_RUNTIME_DIR", folder.path());
    let mut program = Program::start(shell);
    let child = Process::new(&program.line());
    (program, folder, child)
}

#[test]
fn a_child_from_before_the_start_does_not_prevent_a_restart() {
    let (program, folder, child) = with_child(&tasks());
    let mut tree = Tree::of(program, folder);
    tree.guardian.kill(Signal::KILL);
    tree.keeper.kill(Signal::KILL);
    let (web, escaped) = both(&mut tree.program);
    assert!(!tree.web.is_alive() && !tree.escaped.is_alive());
    assert!(child.is_alive());
    tree.program.stop(Signal::TERM).assert_code(0);
    child.kill(Signal::KILL);
    for process in [web, escaped] {
        process.assert_ends();
    }
}

/// Starts a tree whose second process cleared its environment, so it has no mark and may be anything
/// that headcount has adopted, and kills both helpers of the tree. `child` is such a process.
fn lost(more: &str) -> (Tree, Process) {
    let cleared = r#"setsid env -i sh -c "echo escaped \$\$; exec sleep 1000" &"#;
    let script = format!("{cleared} echo up $$; exec sleep 1000");
    let tasks = process("web", &script, "max_restarts = 100") + more;
    let (program, folder, child) = with_child(&tasks);
    let mut tree = Tree::of(program, folder);
    tree.guardian.kill(Signal::KILL);
    tree.keeper.kill(Signal::KILL);
    tree.program.error_line(
        "its helper processes were lost; some of the process may still be alive task=web",
    );
    assert!(tree.escaped.is_alive());
    (tree, child)
}

/// A second copy was started beside the living first, and the stop was called clean.
#[test]
fn a_tree_that_may_be_alive_is_not_started_by_hand() {
    let sleeps = process("other", "exec sleep 1000", "");
    let (tree, child) = lost(&sleeps);
    for verb in ["start", "restart"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args([verb, &tree.program.pid().to_string(), "web"]);
        command.env_remove("RUNTIME_DIRECTORY");
        command.env("XDG_RUNTIME_DIR", tree.folder.path());
        let said = command.output().expect("it runs");
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        let refusal = "process/web: some of its last run may still be alive, and a new run could \
            conflict with it; end that by hand and restart headcount\n";
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(said.ends_with(refusal), "{said}");
    }
    tree.escaped.kill(Signal::KILL);
    child.kill(Signal::KILL);
    let ended = tree.program.stop(Signal::TERM);
    ended.assert_code(3);
    let report = ended.errors();
    assert!(
        report.contains("of process/web may still be alive"),
        "{report}"
    );
}

/// The report did not count it if its row was removed before the shutdown began.
#[test]
fn a_tree_that_may_be_alive_after_the_loss_of_both_helpers_is_not_restarted() {
    let (tree, child) = lost("");
    tree.escaped.kill(Signal::KILL);
    child.kill(Signal::KILL);
    let ended = tree.program.end();
    ended.assert_code(3);
    let report = ended.errors();
    for line in [
        "process/web (pid ",
        "1 process was given up in this run: process/web",
        "└─ lingering: 1 child process",
        "of process/web may still be alive",
    ] {
        assert!(report.contains(line), "{line}: {ended:#?}");
    }
}

/// A control group below the one of this test, which is removed with its empty groups.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes a group that is marked as systemd marks those that it delegates.
    fn delegated() -> Self {
        let own = headcount::state::ControlGroup::of_this_process("cgroup2");
        let own = own.expect("a cgroup hierarchy of version 2");
        let folder = own.folders()[0].join(unique("headcount.test"));
        std::fs::create_dir(&folder).expect("a group of its own");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&folder, "trusted.delegate", b"1", flags).expect("an attribute");
        Self(folder)
    }

    /// Returns the groups below it.
    fn below(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("it was made");
        let entries = entries.map(|entry| entry.expect("a readable group").path());
        entries.filter(|path| path.is_dir()).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // After a failure, what the service has left must end first.
        std::fs::write(self.0.join("cgroup.kill"), "1").ok();
        for _ in 0..10_000 {
            for group in self.below() {
                std::fs::remove_dir(group).ok();
            }
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// It has no mark, but it cannot leave its control group.
#[test]
#[ignore = "needs root and a control group of version 2"]
fn a_cleared_environment_does_not_matter_in_a_delegated_control_group() {
    let group = ControlGroup::delegated();
    // As left by a run that was killed with all of its processes.
    let abandoned = group.0.join("headcount-1-0-7");
    std::fs::create_dir(&abandoned).expect("a group");
    for takes_keeper_first in [false, true] {
        let cleared = r#"setsid env -i sh -c "echo escaped \$\$; exec sleep 1000" &"#;
        let script = format!("({cleared}) ; echo up $$; exec sleep 1000");
        let more = "backoff = { initial = \"1ms\" }\nmax_restarts = 100";
        let (headcount, folder) = to_run(&process("web", &script, more), &[]);
        let mut shell = Command::new("sh");
        // The child makes it unclear which processes are strays.
        shell.args([
            "-c",
            r#"echo $$ > "$0"; sleep 1000 > /dev/null 2>&1 & echo $!; exec "$@""#,
        ]);
        shell.arg(group.0.join("cgroup.procs"));
        shell
            .arg(headcount.get_program())
            .args(headcount.get_args());
        let mut program = Program::start(shell);
        let child = Process::new(&program.line());
        let mut tree = Tree::of(program, folder);
        assert!(!abandoned.exists());
        assert_eq!(group.below().len(), 1);
        let mut helpers = [&tree.guardian, &tree.keeper];
        if takes_keeper_first {
            helpers.reverse();
        }
        for helper in helpers {
            helper.kill(Signal::KILL);
        }
        let (web, escaped) = both(&mut tree.program);
        assert!(!tree.web.is_alive() && !tree.escaped.is_alive());
        assert!(child.is_alive());
        let ended = tree.program.stop(Signal::TERM);
        ended.assert_code(0);
        assert!(ended.report().contains("└─ clean"), "{ended:#?}");
        child.kill(Signal::KILL);
        [web, escaped].iter().for_each(Process::assert_ends);
        assert_eq!(group.below(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_tree_that_lost_one_helper_is_ended_before_it_is_restarted() {
    assert_replaced(
        |tree| tree.guardian.kill(Signal::KILL),
        "guardian killed by SIGKILL, so the process was stopped; restart 1",
    );
    assert_replaced(
        |tree| tree.keeper.kill(Signal::KILL),
        "keeper killed by SIGKILL, so the process was stopped; restart 1",
    );
}

/// A helper that was stopped was waited for, and given up after the stop budget.
#[test]
fn a_helper_that_is_stopped_is_replaced() {
    assert_replaced(
        |tree| tree.guardian.kill(Signal::STOP),
        "guardian killed by SIGKILL, so the process was stopped; restart 1",
    );
    assert_replaced(
        |tree| tree.keeper.kill(Signal::STOP),
        "keeper killed by SIGKILL, so the process was stopped; restart 1",
    );
}

#[test]
fn nothing_survives_headcount_and_one_of_its_helpers() {
    for _ in 0..rounds() {
        for signal in [Signal::KILL, Signal::STOP] {
            for takes_keeper in [false, true] {
                let tree = Tree::start();
                let helper = if takes_keeper {
                    &tree.keeper
                } else {
                    &tree.guardian
                };
                helper.kill(signal);
                tree.program.process().kill(Signal::KILL);
                for process in [&tree.web, &tree.escaped, &tree.keeper, &tree.guardian] {
                    process.assert_ends();
                }
            }
        }
    }
}

/// The end of a tree that loses its helpers while it stops was called clean.
#[test]
fn a_stop_in_which_both_helpers_are_lost_is_not_clean() {
    for _ in 0..rounds() {
        let deaf = format!("trap '' TERM; {ESCAPED}; echo up $$; while :; do sleep 0.05; done");
        let (program, folder) = run(&process("web", &deaf, "stop_budget = \"10s\""), &[]);
        let mut tree = Tree::of(program, folder);
        tree.program.signal(Signal::TERM);
        tree.program.error_line("waiting for process/web");
        tree.keeper.kill(Signal::KILL);
        tree.guardian.kill(Signal::KILL);
        let ended = tree.program.end();
        ended.assert_code(0);
        let report = ended.report();
        assert!(report.contains("└─ cancelled"), "{report}");
        assert!(
            report.contains("  killed with its helper processes"),
            "{report}"
        );
        assert!(!tree.web.is_alive());
        assert!(!tree.escaped.is_alive());
    }
}

/// Kills headcount and both helpers of a service, and returns what that leaves behind.
fn left_behind(tree: &Tree) {
    tree.program.process().kill(Signal::STOP);
    tree.guardian.kill(Signal::STOP);
    tree.keeper.kill(Signal::KILL);
    tree.guardian.kill(Signal::KILL);
    tree.program.process().kill(Signal::KILL);
    // The kernel kills it with its parent.
    tree.web.assert_ends();
    tree.guardian.assert_ends();
}

#[test]
fn the_next_run_ends_what_a_killed_one_left_behind() {
    for _ in 0..rounds() {
        let name = unique("killed");
        let tree = named(&name);
        left_behind(&tree);
        assert!(tree.escaped.is_alive());

        let other = named(&unique("another"));
        assert!(tree.escaped.is_alive(), "it is of another service");
        drop(other);
        let mut next = named(&name);

        tree.escaped.assert_ends();
        next.program
            .has_said(", which an earlier run left behind when it was killed");
        let ended = next.program.stop(Signal::TERM);
        ended.assert_code(0);
        for process in [next.web, next.escaped] {
            process.assert_ends();
        }
    }
}

/// The processes of a run that is alive are its own.
#[test]
fn the_next_run_leaves_the_processes_of_a_living_one_alone() {
    let name = unique("living");
    let first = named(&name);
    let second = named(&name);
    assert!(first.web.is_alive() && first.escaped.is_alive());
    for tree in [first, second] {
        tree.program.stop(Signal::TERM).assert_code(0);
    }
}

/// Returns a name for a service that no other run of the tests uses.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Starts a service with this name.
fn named(name: &str) -> Tree {
    let (command, folder) = to_run(&tasks(), &[]);
    rename(&folder.path().join("headcount.toml"), name);
    Tree::of(Program::start(command), folder)
}

fn rename(config: &Path, name: &str) {
    let text = std::fs::read_to_string(config).expect("just written");
    let text = text.replacen("name = \"test\"", &format!("name = \"{name}\""), 1);
    std::fs::write(config, text).expect("the folder is ours");
}
