//! Tests of `headcount ps` and `headcount tree`, on a service that knows nothing of headcount. Those on
//! services of headcount are in `ways`.
//!
//! The service is a package of its own, in `tests/inspect`: its build has full debug information, and
//! none of the flags of this repository. The first test builds it.

mod refused;

use crate::program::{LONG, Program, until};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const SOURCE: &str = include_str!("../inspect/src/main.rs");
const ZOO: &str = include_str!("../inspect/src/bin/zoo.rs");
/// The tasks of the service: the keeper of the lock, the server, a connection for each of the five
/// handlers, the one that fetches, and the two of the set.
const TASKS: u64 = 10;

/// Builds the service and the zoo, once, and returns their folder.
pub(crate) fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inspect");
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--locked", "--quiet", "--manifest-path"])
            .arg(package.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            // The configuration of this repository sets flags for builds in its folder.
            .current_dir("/")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "the service is built");
        target.join("debug")
    })
}

/// Starts the service and waits until all of its handlers have been entered.
pub(crate) fn wedged() -> Program {
    let mut program = Program::start(Command::new(programs().join("wedged-service")));
    assert_eq!(program.line(), program.pid().to_string());
    program
}

fn headcount(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(arguments).stdin(Stdio::null());
    command.output().expect("it runs")
}

/// Looks at a process and returns the output.
#[track_caller]
fn look(verb: &str, pid: u32, more: &[&str]) -> String {
    let pid = pid.to_string();
    let output = headcount(&[&[verb, &pid], more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).expect("it is UTF-8")
}

#[track_caller]
fn json(verb: &str, pid: u32) -> Value {
    serde_json::from_str(&look(verb, pid, &["--json"])).expect("it is JSON")
}

fn summaries(tree: &Value) -> Vec<String> {
    let groups = tree["groups"].as_array().expect("it has groups");
    let summaries = groups.iter().filter_map(|group| group["summary"].as_str());
    summaries.map(str::to_owned).collect()
}

/// Waits until all handlers hang, and returns the tree.
fn settled(program: &Program) -> Value {
    let pid = program.pid();
    // A handler says that it was entered just before it hangs.
    let hang = [
        "quote", "stock", "either", "slow", "several", "fetch", "keeper",
    ];
    let all = |tree: &Value| {
        let summaries = summaries(tree);
        let hangs = |mark: &&str| summaries.iter().any(|line| line.starts_with(&at(mark)));
        hang.iter().all(hangs)
    };
    until(|| all(&json("tree", pid)));
    json("tree", pid)
}

/// Returns the function and the place of a marked line, as a summary begins with them.
fn at(mark: &str) -> String {
    let ending = format!("// mark: {mark}");
    let lines: Vec<&str> = SOURCE.lines().collect();
    let mut found = (0..)
        .zip(&lines)
        .filter(|(_, line)| line.ends_with(&ending));
    let (line, _) = found.next().expect("there is such a mark");
    assert!(found.next().is_none(), "one line has the mark {mark}");
    let before = lines[..line].iter().rev();
    let function = before.clone().find_map(|line| line.split_once("fn "));
    let (name, _) = function
        .and_then(|(_, rest)| rest.split_once('('))
        .expect("it is in a function");
    format!("wedged_service::{name} (src/main.rs:{})", line + 1)
}

/// Returns the summary of the task that hangs at a mark, without its place.
#[track_caller]
fn waits_at(tree: &Value, mark: &str) -> String {
    let all = summaries(tree);
    let begin = format!("{}, waiting for ", at(mark));
    let found = all.iter().find_map(|summary| summary.strip_prefix(&begin));
    found
        .unwrap_or_else(|| panic!("{begin}: {all:#?}"))
        .to_owned()
}

#[test]
fn a_hanging_handler_of_a_foreign_service_is_named_with_what_it_waits_for() {
    let program = wedged();
    let tree = settled(&program);
    assert_eq!(tree["unchecked"], serde_json::json!([]));
    assert_eq!(tree["notes"], serde_json::json!([]));
    let quote = waits_at(&tree, "quote");
    let channel = "a oneshot channel of u32, perhaps from task ";
    let (id, rest) = quote
        .strip_prefix(channel)
        .and_then(|rest| rest.split_once(' '))
        .expect(&quote);
    assert!(id.parse::<u64>().is_ok(), "{quote}");
    let rest = rest.strip_prefix("(wedged_service::fetch), which waits for tcp 127.0.0.1:");
    assert!(
        rest.is_some_and(|rest| rest.ends_with(" to be readable")),
        "{quote}"
    );
    assert!(waits_at(&tree, "fetch").ends_with(" to be readable"));
    let stock = waits_at(&tree, "stock");
    let holder = "(wedged_service::keep_stock), which waits for nothing (it is pending for ever)";
    assert!(
        stock.starts_with("a Mutex, perhaps held by task "),
        "{stock}"
    );
    assert!(stock.ends_with(holder), "{stock}");
    assert_eq!(
        waits_at(&tree, "keeper"),
        "nothing (it is pending for ever)"
    );
    let either = waits_at(&tree, "either");
    assert!(
        either.contains("a message in a channel of u32, with 1 sender"),
        "{either}"
    );
    assert!(either.contains("a oneshot channel of u32"), "{either}");
    let slow = waits_at(&tree, "slow");
    assert!(
        slow.starts_with("a timer, due in 23h59m or its timeout, due in 1d23h"),
        "{slow}"
    );
    let several = waits_at(&tree, "several");
    assert!(
        several.contains("a task of a JoinSet of task "),
        "{several}"
    );
}

#[test]
fn tasks_are_counted_by_their_types_and_states() {
    let program = wedged();
    settled(&program);
    let kinds = json("ps", program.pid());
    for count in ["tasks", "fewest", "most"] {
        assert_eq!(kinds[count], TASKS, "{count}: {kinds}");
    }
    assert_eq!(
        (&kinds["program"], &kinds["by"]),
        (&"wedged-service".into(), &"attach".into())
    );
    let groups = kinds["groups"].as_array().expect("it has groups");
    let row = |name: &str| {
        let row = groups.iter().find(|group| group["type"] == name);
        row.map(|row| {
            (
                row["count"].as_u64(),
                row["state"].as_str(),
                row["never_wakes"].as_bool(),
            )
        })
    };
    let keeper = row("wedged_service::keep_stock");
    assert_eq!(
        keeper,
        Some((Some(1), Some("waiting"), Some(true))),
        "{kinds}"
    );
    let fetch = row("wedged_service::fetch");
    assert_eq!(
        fetch,
        Some((Some(1), Some("waiting"), Some(false))),
        "{kinds}"
    );
    let text = look("ps", program.pid(), &[]);
    assert!(text.starts_with("wedged-service (pid "), "{text}");
    assert!(text.contains(": 10 tasks, read by attach"), "{text}");
    let tree = look("tree", program.pid(), &[]);
    for line in text.lines().chain(tree.lines()) {
        // A word is not broken.
        assert!(
            line.chars().count() <= 80 || !line.trim().contains(' '),
            "{line}"
        );
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}

#[test]
fn a_look_does_not_run_any_thread_of_the_process() {
    let program = wedged();
    settled(&program);
    let ran = || {
        let folders =
            std::fs::read_dir(format!("/proc/{}/task", program.pid())).expect("it is alive");
        let counts = folders.map(|folder| {
            let path = folder.expect("it is alive").path();
            std::fs::read_to_string(path.join("schedstat")).expect("it is alive")
        });
        let mut counts: Vec<String> = counts.collect();
        counts.sort();
        counts
    };
    let before = ran();
    look("ps", program.pid(), &[]);
    look("tree", program.pid(), &[]);
    assert_eq!(ran(), before);
}

/// Each mark of the zoo is the beginning of what its line waits for.
#[test]
fn each_way_to_wait_is_told_with_its_line() {
    let mut program = Program::start(Command::new(programs().join("zoo")));
    assert_eq!(program.line(), program.pid().to_string());
    let lines = (1..).zip(ZOO.lines());
    let marks = lines.filter_map(|(line, text)| Some((line, text.split_once("// mark: ")?.1)));
    let marks: Vec<(u32, &str)> = marks.collect();
    assert!(marks.len() >= 40, "{}", marks.len());
    let missing = || {
        let tree = json("tree", program.pid());
        let summaries = summaries(&tree);
        let is_told = |(line, waits): &(u32, &str)| {
            let place = format!("(src/bin/zoo.rs:{line}), waiting for {waits}");
            summaries.iter().any(|summary| summary.contains(&place))
        };
        let missing = marks.iter().filter(|mark| !is_told(mark));
        (missing.copied().collect::<Vec<_>>(), summaries)
    };
    let begun = std::time::Instant::now();
    loop {
        let (missing, summaries) = missing();
        if missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < LONG, "{missing:#?}: {summaries:#?}");
    }
    // A task that runs is shown with its thread, if that waits.
    let tree = json("tree", program.pid());
    let running = summaries(&tree);
    let running = running
        .iter()
        .find(|summary| summary.starts_with("running on thread "));
    let running = running.expect("one blocks its worker");
    let line = ZOO
        .lines()
        .position(|line| line.ends_with("// runs: here"))
        .expect("it has a mark");
    let place = format!("zoo::blocks (src/bin/zoo.rs:{})", line + 1);
    assert!(
        running.starts_with("running on thread \"tokio-rt-worker\" (tid "),
        "{running}"
    );
    assert!(running.ends_with(&format!("), in {place}")), "{running}");
    assert!(tree["stacks"].is_null(), "they were not asked for");
    let dump = json("dump", program.pid());
    let stacks = dump["stacks"].as_array().expect("they were asked for");
    let threads = stacks
        .iter()
        .filter_map(|threads| threads["count"].as_u64())
        .sum::<u64>();
    assert_eq!(dump["threads"], threads);
    let calls = |threads: &Value| threads["stack"].to_string();
    let is_blocked = |threads: &&Value| calls(threads).contains(&place);
    assert_eq!(stacks.iter().filter(is_blocked).count(), 1);
    // A walk ends at its bounds, and says so.
    let groups = tree["groups"].as_array().expect("it has groups");
    let chain = |name: &str| {
        let found = groups.iter().find(|group| group["type"] == name);
        let chain = &found.unwrap_or_else(|| panic!("{name}: {tree}"))["chain"];
        chain.as_array().expect("it has a chain").clone()
    };
    for (name, frame, most) in [
        ("zoo::deep", "zoo::deep (", 200),
        ("zoo::crowd", "zoo::one_of_a_crowd (", 64),
    ] {
        let chain = chain(name);
        let frames = chain
            .iter()
            .filter(|link| link["text"].as_str().expect("text").starts_with(frame));
        assert!((10..=most).contains(&frames.count()), "{name}: {chain:#?}");
        let last = chain.last().expect("it is not empty");
        assert_eq!(last["text"], "there is more: a bound was reached");
    }
    // A future that is only kept is not waited for.
    let tree = look("tree", program.pid(), &[]);
    let (_, kept) = tree
        .split_once("zoo::keeps, waiting")
        .expect("it is a task");
    let kept = kept.split_once("\n\n").map_or(kept, |(kept, _)| kept);
    assert!(kept.contains("→ (held) a timer, due in 1d23h"), "{kept}");
    assert_eq!(kept.matches("a timer").count(), 1, "{kept}");
}

/// A worker that changes a list has its address on the stack: it must not be taken for all lists.
#[test]
fn tasks_that_stay_are_counted_exactly_while_others_come_and_go() {
    let mut program = Program::start(Command::new(programs().join("churn")));
    assert_eq!(program.line(), program.pid().to_string());
    for _ in 0..20 {
        let kinds = json("ps", program.pid());
        let groups = kinds["groups"].as_array().expect("it has groups");
        let count = |name: &str| {
            let own = groups.iter().filter(|group| group["type"] == name);
            own.filter_map(|group| group["count"].as_u64()).sum::<u64>()
        };
        let stay = (count("churn::stays"), count("churn::stays_local"));
        assert_eq!(stay, (1000, 20), "{kinds}");
        assert_eq!(kinds["runtimes"], 2);
    }
}

/// Starts `settings` in a setting, and waits until its tasks are spawned.
fn in_setting(setting: &str) -> Program {
    let mut command = Command::new(programs().join("settings"));
    command.arg(setting);
    let mut program = Program::start(command);
    assert_eq!(program.line(), program.pid().to_string());
    program
}

#[test]
fn tasks_are_counted_in_each_setting_of_a_runtime() {
    for (setting, tasks, runtimes) in [
        ("two-runtimes", 30, 2),
        ("current-thread", 10, 1),
        ("not-driven", 10, 1),
        ("local-set", 20, 2),
        ("local-set-alone", 10, 1),
        ("stuck", 12, 1),
        ("spinning", 12, 1),
    ] {
        let program = in_setting(setting);
        // The last task may be about to begin, or to end.
        until(|| json("ps", program.pid())["tasks"] == tasks);
        let kinds = json("ps", program.pid());
        assert_eq!(
            (&kinds["tasks"], &kinds["runtimes"]),
            (&tasks.into(), &runtimes.into()),
            "{setting}: {kinds}"
        );
    }
}

#[test]
fn the_task_that_a_runtime_in_its_drop_waits_for_is_shown() {
    let program = in_setting("dropped");
    until(|| json("ps", program.pid())["tasks"] == 1);
    let tree = json("tree", program.pid());
    let note = "a runtime is being dropped, and waits for a task that runs";
    assert_eq!(tree["notes"], serde_json::json!([note]));
    assert_eq!((&tree["fewest"], &tree["most"]), (&1.into(), &1.into()));
    let place = summaries(&tree);
    assert!(
        place[0].contains("in settings::dropped (src/bin/settings.rs:"),
        "{place:?}"
    );
}

#[test]
fn a_process_that_is_stopped_is_read_as_it_is() {
    let mut program = in_setting("plain");
    program.signal(Signal::STOP);
    let kinds = json("ps", program.pid());
    assert_eq!(
        (&kinds["tasks"], &kinds["unchecked"]),
        (&10.into(), &serde_json::json!([])),
        "{kinds}"
    );
}
