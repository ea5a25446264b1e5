//! Tests of the black box: processes that are killed, stopped, or refused one.

use crate::program::{Ended, Program, command, until};
use headcount::state::{LastMoments, LastRun};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The kills of a test, unless the environment says otherwise.
fn rounds() -> u32 {
    let rounds = std::env::var("HEADCOUNT_KILLS");
    rounds.map_or(20, |rounds| rounds.parse().expect("a number"))
}

/// A state folder, and a folder for black boxes on a tmpfs.
struct Folders {
    state: TempDir,
    boxes: TempDir,
}

impl Folders {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().expect("a temporary folder can be created"),
            boxes: tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs"),
        }
    }

    /// Starts a scenario, and waits until it is ready.
    #[track_caller]
    fn ready(&self, scenario: &str) -> Program {
        let mut command = command(&[scenario]);
        command.env("SCENARIO_STATE", self.state.path());
        command.env("RUNTIME_DIRECTORY", self.boxes.path());
        let mut program = Program::start(command);
        assert_eq!(program.line(), "ready");
        program
    }

    /// Returns the black boxes that exist.
    fn boxes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.boxes.path()).expect("the folder is ours");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    /// Returns what the box shows of a process, by `headcount`'s own reader.
    #[track_caller]
    fn moments(&self) -> Value {
        let [only] = &*self.boxes() else {
            panic!("{:?}", self.boxes())
        };
        let moments = LastMoments::read(only).expect("it can be read");
        serde_json::to_value(moments).expect("it is data")
    }

    /// Returns what is known of the last run, which was killed.
    #[track_caller]
    fn last(&self) -> Value {
        let last = LastRun::in_folder(self.state.path()).expect("a run has ended");
        assert_eq!(last.json()["shutdown"]["outcome"], "unclean", "{last}");
        last.json()["moments"].clone()
    }
}

/// Returns the number of live tasks with this path.
fn count(moments: &Value, path: &str) -> u64 {
    let (group, name) = path.rsplit_once('/').unwrap_or(("", path));
    let kinds = moments["tasks"].as_array().expect("a list").iter();
    let kinds = kinds.filter(|kind| kind["group"] == *group && kind["name"] == *name);
    kinds
        .map(|kind| kind["count"].as_u64().expect("a number"))
        .sum()
}

/// Returns the numbers of tasks of this name by state.
#[track_caller]
fn states<'a>(moments: &'a Value, name: &str) -> &'a Value {
    let kinds = moments["tasks"].as_array().expect("a list");
    let kind = kinds.iter().find(|kind| kind["name"] == *name);
    &kind.unwrap_or_else(|| panic!("no {name}: {moments:#}"))["states"]
}

/// Asserts that these tasks live, and no others.
#[track_caller]
fn assert_tasks(moments: &Value, expected: &[(&str, u64)]) {
    for (path, number) in expected {
        assert_eq!(count(moments, path), *number, "{path}: {moments:#}");
    }
    let total: u64 = expected.iter().map(|(_, number)| number).sum();
    assert_eq!(moments["live_tasks"], total, "{moments:#}");
    assert_eq!(moments["tasks_not_in_box"], 0);
    assert_eq!(moments["threads_not_in_box"], 0);
}

/// Returns the thread that is in a task.
#[track_caller]
fn holder<'a>(moments: &'a Value, task: &str) -> &'a Value {
    let on = moments["on_threads"].as_array().expect("a list");
    let on = on.iter().find(|on| on["task"] == *task);
    on.unwrap_or_else(|| panic!("{task} is on no thread: {moments:#}"))
}

/// Lets the program run for a random time of up to 30 ms, then kills it.
fn kill_at_random(program: Program) -> Ended {
    let end = Instant::now() + Duration::from_micros(fastrand::u64(0..30_000));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let ended = program.stop(Signal::KILL);
    ended.assert_killed_by(Signal::KILL);
    ended
}

/// Starts, waits for a line, and kills the program, round by round.
fn killed(scenario: &str, told: &[(Signal, &str)], check: impl Fn(&Value, &Ended)) {
    let folders = Folders::new();
    for _ in 0..rounds().div_ceil(4) {
        let mut program = folders.ready(scenario);
        for (signal, line) in told {
            program.signal(*signal);
            while program.line() != *line {}
        }
        let ended = kill_at_random(program);
        assert_eq!(
            folders.boxes().len(),
            1,
            "that of the previous round is gone"
        );
        let moments = folders.last();
        assert_eq!(moments["is_alive"], false);
        check(&moments, &ended);
    }
}

#[test]
fn a_killed_run_is_known_by_its_tasks() {
    killed("boxed-grows", &[], |moments, ended| {
        let items = ended
            .stdout
            .iter()
            .filter(|line| line.starts_with("items "))
            .count() as u64;
        let found = count(moments, "item");
        // The kill may come between the spawn and the line.
        assert!((items..=items + 1).contains(&found), "{items}: {moments:#}");
        let short = count(moments, "churn/short");
        assert!(short <= 4, "{moments:#}");
        assert_tasks(
            moments,
            &[
                ("main", 1),
                ("http/serve", 3),
                ("db", 1),
                ("churn/churner", 1),
                ("churn/short", short),
                ("item", found),
            ],
        );
        assert_eq!(moments["phase"], "running");
        assert_eq!(moments["reason"], Value::Null);
    });
}

#[test]
fn a_killed_run_is_known_by_the_worker_that_a_task_held() {
    killed("boxed-held", &[], |moments, _| {
        let all = [("main", 1), ("http/serve", 3), ("db", 1), ("holder", 1)];
        assert_tasks(moments, &all);
        let on = holder(moments, "holder");
        assert_eq!(on["thread"], "headcount-work", "{on:#}");
        assert_eq!(on["class"], "worker", "{on:#}");
        let held = on["held_seconds"].as_f64().expect("it is known");
        let ran = moments["ran_seconds"].as_f64().expect("a number");
        assert!((0.0..=ran).contains(&held), "{moments:#}");
    });
}

#[test]
fn a_run_killed_in_its_drain_is_known_by_layer_and_reason() {
    killed("boxed-drains", &[(Signal::TERM, "told")], |moments, _| {
        let all = [
            ("main", 1),
            ("http/serve", 3),
            ("db", 1),
            ("http/witness", 1),
        ];
        assert_tasks(moments, &all);
        assert_eq!(moments["phase"], "draining");
        assert_eq!(moments["reason"], "SIGTERM");
        // The root drains after its groups, and these never end.
        assert_eq!(*states(moments, "serve"), json!({ "draining": 3 }));
        assert_eq!(*states(moments, "db"), json!({ "running": 1 }));
        let events = moments["events"].as_array().expect("a list").iter();
        let events: Vec<_> = events
            .map(|event| (&event["what"], &event["text"]))
            .collect();
        let [.., asked, phase] = &*events else {
            panic!("{moments:#}")
        };
        assert_eq!(*asked, (&"stop_asked".into(), &"SIGTERM".into()));
        assert_eq!(*phase, (&"phase_changed".into(), &"draining".into()));
    });
}

#[test]
fn a_run_killed_in_its_cancel_layer_is_known_by_what_held_it() {
    killed("boxed-cancels", &[(Signal::TERM, "told")], |moments, _| {
        assert_eq!(moments["phase"], "cancelling");
        assert_eq!(count(moments, "stubborn"), 1, "{moments:#}");
        assert_eq!(holder(moments, "stubborn")["class"], "worker");
        assert_eq!(*states(moments, "stubborn"), json!({ "cancelling": 1 }));
    });
}

#[test]
fn a_run_killed_in_its_close_layer_is_known_by_the_thread_that_is_left() {
    let folders = Folders::new();
    let mut program = folders.ready("boxed-closes");
    program.signal(Signal::TERM);
    until(|| folders.moments()["phase"] == "closing");
    kill_at_random(program);
    let moments = folders.last();
    assert_tasks(&moments, &[]);
    assert_eq!(moments["phase"], "closing");
    let threads = moments["threads"].as_array().expect("a list");
    let is_watcher = |thread: &Value| thread["name"] == "watcher" && thread["class"] == "tracked";
    assert!(threads.iter().any(is_watcher), "{moments:#}");
}

#[test]
fn the_time_for_which_a_worker_is_held_grows() {
    let folders = Folders::new();
    let program = folders.ready("boxed-held");
    let held = |moments: &Value| {
        let on = moments["on_threads"].as_array().expect("a list").iter();
        let mut on = on.filter(|on| on["task"] == "holder");
        on.next().and_then(|on| on["held_seconds"].as_f64())
    };
    until(|| held(&folders.moments()).is_some_and(|held| held > 1.2));
    // The watch has warned of it by then, which is an event.
    until(|| {
        let moments = folders.moments();
        let events = moments["events"].as_array().expect("a list");
        events
            .iter()
            .any(|event| event["what"] == "worker_blocked" && event["task"] == "holder")
    });
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    assert!(held(&folders.last()).is_some_and(|held| held > 1.2));
}

#[test]
fn a_stopped_process_is_read() {
    let folders = Folders::new();
    let program = folders.ready("boxed-grows");
    program.process().kill(Signal::STOP);
    let pid = program.process().pid();
    until(|| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    let moments = folders.moments();
    assert_eq!(moments["is_alive"], true);
    assert_eq!(moments["pid"], pid);
    assert_eq!(count(&moments, "http/serve"), 3);
    assert_eq!(folders.moments(), moments, "nothing moves");
}

/// Short tasks start and end in the slots that are read.
#[test]
fn a_process_that_runs_is_read_without_mixing_its_tasks() {
    let folders = Folders::new();
    let _program = folders.ready("boxed-grows");
    for _ in 0..50 {
        let moments = folders.moments();
        let (items, short) = (count(&moments, "item"), count(&moments, "churn/short"));
        let all = [
            ("main", 1),
            ("http/serve", 3),
            ("db", 1),
            ("churn/churner", 1),
            ("item", items),
            ("churn/short", short),
        ];
        assert_tasks(&moments, &all);
        let kinds = moments["tasks"].as_array().expect("a list").iter();
        for row in kinds.flat_map(|kind| kind["rows"].as_array().expect("a list")) {
            let age = row["age_seconds"].as_f64().expect("a number");
            assert!(
                age <= moments["ran_seconds"].as_f64().expect("a number"),
                "{moments:#}"
            );
        }
    }
}

#[test]
fn tasks_that_find_no_room_are_counted() {
    let folders = Folders::new();
    let program = folders.ready("boxed-crowd");
    let sum = || {
        let moments = folders.moments();
        let number = |name: &str| moments[name].as_u64().expect("a number");
        (number("live_tasks"), number("tasks_not_in_box"))
    };
    until(|| sum() == (32_768, 40_001 - 32_768));
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    assert_eq!(count(&folders.last(), "one of many"), 32_767);
}

/// The slots and the desks of the first runtime are used again, and are not in the box.
#[test]
fn what_is_older_than_the_box_is_said_to_be_missing() {
    let folders = Folders::new();
    let program = folders.ready("boxed-late");
    let sum = || {
        let moments = folders.moments();
        let number = |name: &str| moments[name].as_u64().expect("a number");
        let threads = number("threads_not_in_box");
        (
            number("live_tasks") + number("tasks_not_in_box"),
            threads > 0,
        )
    };
    until(|| sum() == (5, true));
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    let last = LastRun::in_folder(folders.state.path()).expect("it was killed");
    let text = last.to_string();
    assert!(text.contains("that are not in the black box"), "{text}");
    assert!(text.contains("in a task; not known for "), "{text}");
}

#[test]
fn the_next_run_reads_the_box_says_so_and_removes_it() {
    let folders = Folders::new();
    let program = folders.ready("boxed-drains");
    let pid = program.pid();
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    let ended = folders.ready("waits").stop(Signal::TERM);
    ended.assert_code(0);
    let mut said = ended
        .stderr
        .iter()
        .filter(|line| line.contains("before the previous run ended"));
    let said = said.next().expect("it is logged");
    let words = "it was running, with 6 live tasks: main, http/serve ×3, db, http/witness";
    assert!(said.contains(words), "{said}");
    assert_eq!(folders.boxes(), [""; 0].map(PathBuf::from));
    let kept = LastRun::in_file(&folders.state.path().join("killed.json")).expect("it was kept");
    assert_eq!(kept.json()["pid"], pid);
    assert_tasks(
        &kept.json()["moments"],
        &[
            ("main", 1),
            ("http/serve", 3),
            ("db", 1),
            ("http/witness", 1),
        ],
    );
}

#[test]
fn a_run_that_ended_leaves_no_box() {
    let folders = Folders::new();
    let program = folders.ready("waits");
    assert_eq!(folders.boxes().len(), 1);
    program.stop(Signal::TERM).assert_code(0);
    assert_eq!(folders.boxes(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_run_without_a_box_is_read_as_before() {
    let folders = Folders::new();
    let program = folders.ready("boxed-off");
    assert_eq!(folders.boxes(), [""; 0].map(PathBuf::from));
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    assert_eq!(folders.last(), Value::Null);
}

#[test]
fn the_boxes_of_dead_processes_are_bounded() {
    let folders = Folders::new();
    for _ in 0..6 {
        let program = folders.ready("boxed-drains");
        program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
        // As if each run had a state folder of its own.
        fs::remove_file(folders.state.path().join("run.json")).expect("it was killed");
    }
    // The 6th start found 5.
    assert_eq!(folders.boxes().len(), 5);
    let program = folders.ready("boxed-drains");
    assert_eq!(folders.boxes().len(), 5, "the newest 4, and its own");
    drop(program);
}

#[test]
fn a_run_that_missed_its_deadline_is_known_by_its_last_event() {
    let folders = Folders::new();
    let program = folders.ready("control-wedged");
    program.stop(Signal::TERM).assert_code(70);
    let last = LastRun::in_folder(folders.state.path()).expect("it has ended");
    assert_eq!(last.json()["shutdown"]["outcome"], "forced", "{last}");
    let moments = &last.json()["moments"];
    assert_eq!(count(moments, "main"), 1);
    let events = moments["events"].as_array().expect("a list");
    let event = events.last().expect("it was stopped");
    assert_eq!(event["what"], "deadline_passed", "{moments:#}");
}

/// A memory control group of version 1 or 2, which a test removes.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(bytes: u64) -> Self {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let name = format!("headcount-test-{}", std::process::id());
        let (folder, limit) = match root.join("memory").is_dir() {
            true => (root.join("memory").join(name), "memory.limit_in_bytes"),
            false => (root.join(name), "memory.max"),
        };
        fs::create_dir(&folder).expect("root may make one");
        fs::write(folder.join(limit), bytes.to_string()).expect("it has a limit");
        Self(folder)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
#[ignore = "needs root and a memory control group"]
fn a_run_that_ran_out_of_memory_is_known_by_its_tasks() {
    use std::io::Write as _;

    let folders = Folders::new();
    let group = MemoryGroup::new(128 * 1024 * 1024);
    let mut shell = std::process::Command::new("sh");
    let script = "echo $$ > \"$0\"/cgroup.procs && exec \"$1\" boxed-eats";
    shell.args(["-c", script]).arg(&group.0);
    shell.arg(crate::program::scenario_path());
    shell.env("SCENARIO_STATE", folders.state.path());
    shell.env("RUNTIME_DIRECTORY", folders.boxes.path());
    let mut program = Program::start(shell);
    assert_eq!(program.line(), "ready");
    let mut stdin = program.stdin();
    stdin.write_all(b"eat\n").expect("it reads");
    program.end().assert_killed_by(Signal::KILL);
    let moments = folders.last();
    assert_tasks(&moments, &[("main", 1), ("http/serve", 3), ("db", 1)]);
    assert_eq!(moments["phase"], "running");
}

#[test]
#[ignore = "needs root and unshare"]
fn a_full_tmpfs_means_plain_memory_and_a_warning() {
    let folders = Folders::new();
    let folder = folders.boxes.path().display().to_string();
    let mut unshare = std::process::Command::new("unshare");
    let script =
        "mount -t tmpfs -o size=1m,mode=700 none \"$RUNTIME_DIRECTORY\" && exec \"$0\" waits";
    let scenario = crate::program::scenario_path();
    unshare
        .args(["--mount", "sh", "-c", script])
        .arg(scenario)
        .env("SCENARIO_STATE", folders.state.path())
        .env("RUNTIME_DIRECTORY", &folder);
    let mut program = Program::start(unshare);
    assert_eq!(program.line(), "ready");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let mut said = ended
        .stderr
        .iter()
        .filter(|line| line.contains("black box"));
    let said = said
        .next()
        .expect("it is logged")
        .replace(&folder, "FOLDER");
    let words = "the black box cannot be kept in FOLDER: No space left on device (os error 28); if this run is \
                 killed, the next one cannot tell which tasks lived";
    assert!(said.contains(words), "{said}");
}

#[cfg(feature = "service")]
#[test]
#[ignore = "needs root"]
fn the_box_of_another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    let folders = Folders::new();
    let program = folders.ready("waits");
    let [only] = &*folders.boxes() else {
        panic!("one")
    };
    let open = |path: &std::path::Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    open(folders.boxes.path(), 0o755);
    open(only, 0o644);
    // The program may be in a folder that the other user cannot enter.
    let copy = folders.boxes.path().join("headcount");
    fs::copy(env!("CARGO_BIN_EXE_headcount"), &copy).expect("there is room");
    let mut report = std::process::Command::new(copy);
    let report = report.arg("report").arg(only).uid(65534).gid(65534);
    let output = report.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let words = "it belongs to user 0, and this process runs as user 65534";
    assert!(said.trim_end().ends_with(words), "{said}");
    drop(program);
}

#[cfg(feature = "service")]
#[test]
fn the_command_shows_a_killed_run() {
    let folders = Folders::new();
    let program = folders.ready("boxed-drains");
    let pid = program.pid().to_string();
    until(|| {
        let moments = folders.moments();
        let kinds = moments["tasks"].as_array().expect("a list");
        let is_waiting = |kind: &Value| kind["states"]["running"] == kind["count"];
        kinds.iter().all(is_waiting) && moments["on_threads"] == Value::Array(Vec::new())
    });
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    let report = |arguments: &[&str]| {
        let mut report = std::process::Command::new(env!("CARGO_BIN_EXE_headcount"));
        report.env("RUNTIME_DIRECTORY", folders.boxes.path());
        let output = report.arg("report").args(arguments).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let state = folders.state.path().display().to_string();
    let last = report(&["--last", "--state", &state]);
    let (sentence, tree) = last.split_once('\n').expect("several lines");
    assert!(
        sentence.starts_with(&format!("the run (pid {pid}) ended without a report: ")),
        "{last}"
    );
    assert!(sentence.ends_with(" ago"), "{last}");
    assert_eq!(report(&[&pid]), tree);
    let [only] = &*folders.boxes() else {
        panic!("one")
    };
    assert_eq!(report(&[&only.display().to_string()]), tree);
    let data: Value = serde_json::from_str(&report(&[&pid, "--json"])).expect("it is JSON");
    assert_tasks(
        &data,
        &[
            ("main", 1),
            ("http/serve", 3),
            ("db", 1),
            ("http/witness", 1),
        ],
    );
    let steady: Vec<String> = tree.lines().map(crate::text::steady).collect();
    insta::assert_snapshot!(steady.join("\n").replace(&pid, "N"), @r"
    headcount test: pid N, last seen alive T after its start, running
    ├─ 6 live tasks
    │  ├─ main  running, T, spawned at <main>
    │  ├─ http/serve ×3  running, oldest T, spawned at <boxed serve>
    │  ├─ db  running, T, spawned at <boxed db>
    │  └─ http/witness  running, T, spawned at <boxed witness>
    ├─ no thread in a task
    ├─ 8 registered threads: headcount-control, headcount-print, headcount-signal, headcount-state, headcount-watchdog, headcount-work ×2, main
    └─ no events
    ");
}
