//! Tests of the command line: its answers to wrong and valid configurations, and to `--help`.
//!
//! Each case runs the binary in its own folder, so that no path of the machine appears in the
//! output.

mod chains;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn headcount(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    // The width of `--help` follows the terminal; without one it is fixed.
    command.env_remove("COLUMNS").env("NO_COLOR", "1");
    command.env("STATE_DIRECTORY", folder.join("state"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Returns a folder that contains `services.toml`.
fn folder_with(text: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("services.toml"), text).expect("it can be written");
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it writes UTF-8")
}

/// Returns the answer to a configuration that both `check` and `run` must refuse.
fn refusal(config: impl AsRef<[u8]>) -> String {
    let folder = folder_with(config);
    let checked = headcount(folder.path(), &["check", "services.toml"]);
    let run = headcount(folder.path(), &["run", "services.toml"]);
    for output in [&checked, &run] {
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert_eq!(text(&output.stdout), "");
    }
    assert_eq!(text(&checked.stderr), text(&run.stderr));
    text(&checked.stderr)
}

/// Returns a process task `a` with these lines, and a process task `b`.
fn process(lines: &str) -> String {
    format!(
        "[tasks.a]\nkind = \"process\"\ncommand = [\"true\"]\n{lines}\n\n\
         [tasks.b]\nkind = \"process\"\ncommand = [\"true\"]\nrestart = \"always\"\n"
    )
}

/// Returns an endpoint task with these lines.
fn endpoint(lines: &str) -> String {
    format!("[tasks.db]\nkind = \"endpoint\"\n{lines}\n")
}

#[test]
fn all_problems_of_a_file_are_reported_in_its_order() {
    insta::assert_snapshot!(refusal(
        "nmae = 1\n\
         [service]\nname = \"my service\"\n\
         [log]\nfilter = \"inof\"\nformat = \"xml\"\n\
         [shutdown]\ndrain = 5\ncancel = \"2 parsecs\"\nclose = \"0s\"\n\
         [runtime]\nworker_threads = 0\nhold_limit = \"on\"\n\
         [tasks.db]\nkind = \"endpoint\"\ninterval = \"0s\"\njitter = 0.6\nup_after = 0\n\
         [tasks.r]\nkind = \"resources\"\nwarn_memory = 90\nwarn_cpu = \"90%\"\n\
         [tasks.x]\nkind = \"mesh\"\n\
         [tasks.y]\nkind = \"proces\"\n\
         [tasks.z]\n"
    ));
}

#[test]
fn a_wrong_process_is_answered_with_the_allowed_values() {
    insta::assert_snapshot!(refusal(
        "[tasks.a]\nkind = \"process\"\ncommand = \"./server --port 80\"\n\
         env = { PORT = 80, \"A=B\" = \"x\" }\nworking_folder = \"\"\n\
         depends_on = { b = \"up\", c = 1 }\nready = { log = \"x\", exit = 0 }\n\
         ready_timeout = \"0s\"\nrestart = \"onfailure\"\n\
         backoff = { initial = \"10s\", max = \"5s\", factor = 0.5, jitter = 1 }\n\
         max_restarts = 0\nrequired = \"yes\"\nstop_signal = \"SIGTERM\"\nstop_budget = \"6s\"\n\
         [tasks.b]\nkind = \"process\"\ncommand = []\nready = { exit = 256 }\n\
         [tasks.c]\nkind = \"process\"\ncommand = [\"\", 1, \"a\\u0000b\"]\nready = \"log\"\n\
         [tasks.d]\nkind = \"process\"\nmax_restarts = \"forever\"\ndepends_on = [\"b\", \"b\", 1]\n"
    ));
}

#[test]
fn a_wrong_endpoint_is_answered_with_the_allowed_values() {
    let checks = [
        "check = \"127.0.0.1:80\"",
        "check = {}",
        "check = { tcp = \"h:1\", http = \"http://h\" }",
        "check = { tcp = \"localhost\" }",
        "check = { tcp = \"localhost:65536\" }",
        "check = { tcp = \"localhost:+80\" }",
        "check = { tcp = \"::1:80\" }",
        "check = { tcp = \"h:1\", expect_status = [200] }",
        "check = { http = \"localhost:8080\" }",
        "check = { http = \"ftp://h/\" }",
        "check = { http = \"http://h:99999/\" }",
        "check = { http = \"http://user:secret@h/\" }",
        "check = { http = \"http:///path\" }",
        "check = { http = \"http://h\", expect_status = [], headers = { \"a b\" = \"x\" } }",
        "check = { http = \"http://h\", expect_status = [99], headers = { Accept = \"x\", accept = \"y\" } }",
        "check = { http = \"http://h\", expect_body = \"\", ca_file = \"ca.pem\" }",
        "check = { http = \"https://h\", client_cert = \"c.pem\", insecure = true }",
        "check = { postgres = \"h:5432\", sslmode = \"require\" }",
        "check = { postgres = \"postgres://me:s3cret@h/x\", user = \"me\", password_file = \"a\", passfile = \"b\", sslmode = \"on\" }",
        "check = { redis = \"redis://me:s3cret@h/\", user = \"me\", password = \"s3cret\" }",
        "check = { redis = \"h:6379\", ca_file = \"ca.pem\" }",
        "check = { command = \"curl -f http://h/\", headers = { a = \"s3cret\" } }",
        "check = { command = [] }",
        "check = { dns = \"10.0.0.1\", expect_addresses = [\"db\"] }",
        "check = { tcp = \"h:1\" }\ninterval = \"1s\"\ntimeout = \"2s\"",
    ];
    let tasks: Vec<String> = checks
        .iter()
        .enumerate()
        .map(|(number, lines)| format!("[tasks.e{number}]\nkind = \"endpoint\"\n{lines}\n"))
        .collect();
    insta::assert_snapshot!(refusal(tasks.concat()));
}

#[test]
fn a_wrong_admin_server_is_answered_with_the_allowed_values() {
    insta::assert_snapshot!(refusal(
        "[admin]\nlisten = \"localhost:9464\"\n\
         allowed_hosts = [\"orders.example:80\", \"\", 1, \"a b\"]\ncontrol_socket = \"on\"\nport = 1\n\
         [tasks.r]\nkind = \"resources\"\n"
    ));
}

#[test]
fn a_wrong_thread_rule_is_answered_with_the_allowed_values() {
    let rules = [
        "",
        "name = \"a\"",
        "reason = \"b\"",
        "name = \"a\"\nfunction = \"b\"\nreason = \"c\"",
        "name = \"**\"\nreason = \"b\"",
        "name = \"\"\nreason = \"\"",
        "nmae = \"a\"\nreason = \"b\"",
        "function = 1\nreason = \"a\\nb\"",
    ];
    let rules = rules.map(|rule| format!("[[threads.expected]]\n{rule}\n"));
    let tasks = "[tasks.r]\nkind = \"resources\"\n";
    insta::assert_snapshot!(refusal(rules.concat() + tasks));
    let many = "[[threads.expected]]\nname = \"a\"\nreason = \"b\"\n".repeat(101);
    let answer = refusal(many + tasks);
    assert!(
        answer.contains("threads.expected: contains 101 rules"),
        "{answer}"
    );
    let answer = refusal(format!("[threads]\nexpected = \"pool\"\n{tasks}"));
    let first =
        "services.toml:2:12: threads.expected: expected an array, found the string \"pool\"";
    assert!(answer.starts_with(first), "{answer}");
}

#[test]
fn a_state_folder_is_a_path_and_not_a_misspelt_word() {
    let answer = refusal(
        "[state]\nfolder = \"atuo\"\ntextfile = \"/x/orders.txt\"\n[tasks.a]\nkind = \"resources\"\n",
    );
    insta::assert_snapshot!(answer, @r#"
    services.toml:2:10: state.folder: unknown value "atuo"
      |
    2 | folder = "atuo"
      |          ^^^^^^
      = allowed: "auto", "off", or a path that contains a /

    services.toml:3:12: state.textfile: "/x/orders.txt" does not end in .prom
      |
    3 | textfile = "/x/orders.txt"
      |            ^^^^^^^^^^^^^^^
      = allowed: a path that ends in .prom, because node_exporter ignores other files

    services.toml: 2 problems, nothing was started
    "#);
}

#[test]
fn budgets_that_exceed_the_deadline_are_refused_where_they_are_written() {
    let tasks = "[tasks.r]\nkind = \"resources\"\n";
    insta::assert_snapshot!(refusal(format!("[shutdown]\ndrain = \"20s\"\n{tasks}")), @r#"
    services.toml:2:9: shutdown.drain: the budgets add up to 23s, but the deadline is 9s500ms
      |
    2 | drain = "20s"
      |         ^^^^^
      = pre_drain_delay 0s + drain 20s + cancel 2s + close 1s; allowed: a deadline of at least their sum

    services.toml: 1 problem, nothing was started
    "#);
    let text = format!("[shutdown]\ndrain = \"20s\"\ndeadline = \"22s\"\n{tasks}");
    assert!(
        refusal(text)
            .starts_with("services.toml:3:12: shutdown.deadline: the budgets add up to 23s")
    );
}

#[test]
fn tasks_that_wait_for_each_other_are_all_named() {
    insta::assert_snapshot!(refusal(
        "[tasks]\n\
         a = { kind = \"process\", command = [\"x\"], depends_on = [\"b\"] }\n\
         b = { kind = \"process\", command = [\"x\"], depends_on = { c = \"started\" } }\n\
         c = { kind = \"process\", command = [\"x\"], depends_on = [\"a\"] }\n\
         self = { kind = \"process\", command = [\"x\"], depends_on = [\"self\"] }\n"
    ), @r#"
    services.toml:4:56: tasks.c.depends_on[0]: dependency cycle: a -> b -> c -> a
      |
    4 | c = { kind = "process", command = ["x"], depends_on = ["a"] }
      |                                                        ^^^
      = remove one of these dependencies

    services.toml:5:59: tasks.self.depends_on[0]: the task depends on itself
      |
    5 | self = { kind = "process", command = ["x"], depends_on = ["self"] }
      |                                                           ^^^^^^
      = remove this dependency

    services.toml: 2 problems, nothing was started
    "#);
}

#[test]
fn impossible_dependencies_are_refused() {
    insta::assert_snapshot!(refusal(
        process(
            "depends_on = { bb = \"ready\", b = \"exited\", db = \"started\", r = \"started\" }\n\
             ready = { endpoint = \"b\" }"
        ) + &endpoint("check = { tcp = \"h:1\" }")
            + "[tasks.r]\nkind = \"resources\"\n"
    ));
}

#[test]
fn a_consequence_without_an_endpoint_is_refused() {
    let tasks = |depends_on: &str, when_down: &str| {
        process(&format!(
            "depends_on = [\"{depends_on}\"]\nwhen_down = \"{when_down}\""
        )) + &endpoint("check = { tcp = \"h:1\" }")
            + "[tasks.c]\nkind = \"process\"\ncommand = [\"x\"]\n"
    };
    let refused = refusal(tasks("c", "restart"));
    assert!(
        refused.contains("when_down: has no effect: `depends_on` names no endpoint"),
        "{refused}"
    );
    assert!(refused.contains("can name: db"), "{refused}");
    let refused = refusal(tasks("db", "stop"));
    let allowed = "allowed: \"ignore\", \"unready\", \"restart\"";
    assert!(refused.contains(allowed), "{refused}");
    assert!(!refused.contains("has no effect"), "{refused}");
}

#[test]
fn names_must_be_plain_and_stay_different() {
    insta::assert_snapshot!(refusal(
        "[tasks]\n\
         \"my db\" = { kind = \"resources\" }\n\
         my-db = { kind = \"resources\" }\n\
         My_DB = { kind = \"resources\" }\n\
         \"\" = { kind = \"resources\" }\n\
         _other = { kind = \"resources\" }\n"
    ));
}

#[test]
fn a_duplicate_name_is_refused_and_the_rest_is_still_read() {
    insta::assert_snapshot!(refusal(
        "[tasks.a]\nkind = \"resources\"\n[tasks.b]\nkind = \"resources\"\nintervall = \"1s\"\n\
         [tasks.a]\nkind = \"resources\"\ninterval = \"1s\"\ninterval = \"2s\"\n"
    ));
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_the_place() {
    // The text comes from the TOML parser.
    let answer = refusal("[tasks.a]\nkind = resources\n\n[tasks.b\nkind = \"resources\"\n");
    assert!(
        answer.starts_with("services.toml:2:8: invalid TOML: "),
        "{answer}"
    );
    assert!(
        answer.contains("\n2 | kind = resources\n  |        ^"),
        "{answer}"
    );
    assert!(
        answer.contains("services.toml:4:9: invalid TOML: "),
        "{answer}"
    );
    assert!(
        answer.ends_with(" problems, nothing was started\n"),
        "{answer}"
    );
}

#[test]
fn a_file_without_tasks_is_refused() {
    let answer = refusal("");
    assert!(
        answer.starts_with("services.toml: `tasks` is missing\n"),
        "{answer}"
    );
    let answer = refusal("[tasks]\n");
    assert!(
        answer.starts_with("services.toml:1:1: tasks: declares no task\n"),
        "{answer}"
    );
    let answer = refusal("tasks = 1\n");
    assert!(
        answer.starts_with("services.toml:1:9: tasks: expected a table, found the integer 1\n"),
        "{answer}"
    );
}

#[test]
fn a_file_that_is_not_readable_text_is_refused() {
    insta::assert_snapshot!(refusal(b"[service]\nname = \"a\xffb\"\n"), @r#"
    services.toml:2:10: byte 0xff is not UTF-8
      |
    2 | name = "a�b"
      |          ^
      = allowed: UTF-8 text

    services.toml: 1 problem, nothing was started
    "#);
    insta::assert_snapshot!(refusal("#".repeat(1024 * 1024 + 1)), @"
    services.toml: is longer than 1 MiB
     = allowed: up to 1048576 bytes

    services.toml: 1 problem, nothing was started
    ");
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("folder")).expect("it can be made");
    let answer = |name| text(&headcount(folder.path(), &["check", name]).stderr);
    insta::assert_snapshot!(answer("folder"), @"
    folder: is a folder
     = allowed: a TOML file

    folder: 1 problem, nothing was started
    ");
    insta::assert_snapshot!(answer("missing.toml"), @"
    missing.toml: cannot be read: no such file or directory
     = `headcount config --default` prints a file to start from

    missing.toml: 1 problem, nothing was started
    ");
}

#[test]
fn a_file_just_within_the_bound_is_read() {
    let mut config = "[tasks.r]\nkind = \"resources\"\n#".to_owned();
    config.push_str(&"x".repeat(1024 * 1024 - config.len()));
    let folder = folder_with(config);
    let output = headcount(folder.path(), &["check", "services.toml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_valid_file_is_answered_with_a_summary() {
    let folder = folder_with(
        "[service]\nname = \"orders\"\n[shutdown]\ndrain = \"4s\"\n\
         [tasks.proxy]\nkind = \"process\"\ncommand = [\"true\"]\nready = { endpoint = \"db\" }\n\
         [tasks.db]\nkind = \"endpoint\"\ncheck = { tcp = \"127.0.0.1:5432\" }\n\
         [tasks.watch]\nkind = \"resources\"\n",
    );
    let output = headcount(folder.path(), &["check", "services.toml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    insta::assert_snapshot!(text(&output.stdout), @"
    services.toml: ok: 3 tasks: proxy (process), db (endpoint), watch (resources)
    service orders, shutdown: drain 4s, cancel 2s, close 1s, deadline 9s 500ms
    ");
}

#[test]
fn the_default_is_printed_and_is_valid() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = headcount(folder.path(), &["config", "--default"]);
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(folder.path().join("default.toml"), &output.stdout).expect("it can be written");
    let output = headcount(folder.path(), &["check", "default.toml"]);
    assert_eq!(
        text(&output.stdout).lines().next(),
        Some("default.toml: ok: 1 task: resources (resources)")
    );
}

#[test]
fn the_help_says_signals_and_exit_codes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let help = |arguments: &[&str]| {
        let output = headcount(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0));
        text(&output.stdout)
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_run", help(&["run", "--help"]));
    insta::assert_snapshot!("help_probe", help(&["probe", "--help"]));
    insta::assert_snapshot!("help_stop", help(&["stop", "--help"]));
    insta::assert_snapshot!("help_drain", help(&["drain", "--help"]));
    insta::assert_snapshot!("help_cancel", help(&["cancel", "--help"]));
    insta::assert_snapshot!("help_check", help(&["check", "--help"]));
    insta::assert_snapshot!("help_report", help(&["report", "--help"]));
    insta::assert_snapshot!("help_config", help(&["config", "--help"]));
    insta::assert_snapshot!("help_ps", help(&["ps", "--help"]));
    insta::assert_snapshot!("help_tree", help(&["tree", "--help"]));
    insta::assert_snapshot!("help_dump", help(&["dump", "--help"]));
}

#[test]
fn wrong_usage_exits_2_before_anything_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wrong: [&[&str]; 8] = [
        &["probe"],
        &["run", "--admin", "localhost:9464"],
        &["walk"],
        &["check"],
        &["config"],
        &["run", "--report", "xml"],
        &["run", "--log-filter", "inof"],
        &["run", "missing.toml", "more.toml"],
    ];
    for arguments in wrong {
        let output = headcount(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
    let output = headcount(folder.path(), &["run", "--log-filter", "inof"]);
    assert!(
        text(&output.stderr).contains("unknown level \"inof\"; did you mean info?"),
        "{output:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_closed_output_causes_no_panic() {
    let folder = folder_with("nmae = 1\n");
    for (arguments, code) in [
        (&["config", "--default"][..], 0),
        (&["check", "services.toml"], 78),
        (&["--help"], 0),
    ] {
        let (reader, stdout) = std::io::pipe().expect("a pipe");
        let (error_reader, stderr) = std::io::pipe().expect("a pipe");
        drop((reader, error_reader));
        let status = Command::new(env!("CARGO_BIN_EXE_headcount"))
            .args(arguments)
            .current_dir(folder.path())
            .stdout(stdout)
            .stderr(stderr)
            .status()
            .expect("the binary runs");
        assert_eq!(status.code(), Some(code), "{arguments:?}: {status:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_default_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_headcount"))
        .args(["config", "--default"])
        .stdout(full.expect("Linux has it"))
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(74));
    let message = text(&output.stderr);
    assert!(
        message.starts_with("headcount: failed to write to stdout: "),
        "{message}"
    );
}

/// A running headcount that is killed when the test ends.
#[cfg(unix)]
struct Running(std::process::Child);

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// Returns the lines that a run with these arguments writes to stderr, up to the point where
/// `enough` is true.
#[cfg(unix)]
fn lines_of_a_run(
    folder: &Path,
    arguments: &[&str],
    enough: impl Fn(&[String]) -> bool,
) -> Vec<String> {
    use std::io::{BufRead as _, BufReader};

    let state = tempfile::tempdir().expect("a temporary folder");
    let child = Command::new("sh")
        .env("STATE_DIRECTORY", state.path())
        // The low limit of open files makes their share large and predictable; the port is
        // arbitrary.
        .args([
            "-c",
            "ulimit -n 64; exec \"$0\" run --admin 127.0.0.1:0 \"$@\"",
        ])
        .arg(env!("CARGO_BIN_EXE_headcount"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut running = Running(child);
    let stderr = BufReader::new(running.0.stderr.take().expect("it is piped"));
    let mut lines = Vec::new();
    for line in stderr.lines() {
        lines.push(line.expect("it writes text"));
        if enough(&lines) {
            break;
        }
    }
    lines
}

#[cfg(unix)]
#[test]
fn a_run_first_says_what_runs_and_how_to_stop_it() {
    let folder = folder_with(
        "[service]\nname = \"orders\"\n\
         [tasks.watch]\nkind = \"resources\"\n\
         [tasks.web]\nkind = \"endpoint\"\ncheck = { http = \"http://127.0.0.1:9/?token=secret\" }\n\
         interval = \"1h\"\n",
    );
    let lines = lines_of_a_run(folder.path(), &["services.toml"], |lines| lines.len() == 4);
    let (first, rest) = lines.split_first().expect("it says something");
    assert!(
        first.starts_with(concat!("headcount ", env!("CARGO_PKG_VERSION"))),
        "{first}"
    );
    assert!(
        first.contains(": running 2 tasks as \"orders\", pid "),
        "{first}"
    );
    assert!(first.ends_with(", from services.toml"), "{first}");
    insta::assert_snapshot!(rest.join("\n"), @"
      watch  resources  every 15s
      web    endpoint   http://127.0.0.1:9/ every 1h
    to stop: Ctrl-C or SIGTERM drains, a second signal cancels, a third exits at once
    ");
    let lines = lines_of_a_run(folder.path(), &[], |lines| !lines.is_empty());
    assert!(lines[0].ends_with(", from embedded default"), "{lines:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_resources_task_logs_samples_and_warns_of_a_limit() {
    let is_sample = |line: &&serde_json::Value| line["message"] == "resources";
    let folder = folder_with(
        "[log]\nfilter = \"debug\"\n[tasks.r]\nkind = \"resources\"\ninterval = \"100ms\"\n\
         warn_memory = \"off\"\nwarn_threads = \"off\"\nwarn_files = 0.05\n",
    );
    let arguments = ["services.toml", "--log-format", "json"];
    let three = |lines: &[String]| {
        lines
            .iter()
            .filter(|line| line.contains("\"resources\",\"process_"))
            .count()
            == 3
    };
    let lines: Vec<serde_json::Value> = lines_of_a_run(folder.path(), &arguments, three)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let samples: Vec<_> = lines.iter().filter(is_sample).collect();
    let levels: Vec<_> = samples.iter().map(|line| &line["level"]).collect();
    assert_eq!(levels, ["INFO", "DEBUG", "DEBUG"]);
    for sample in samples {
        assert_eq!(sample["files_limit"], 64);
        for field in [
            "process_memory_bytes",
            "threads",
            "files",
            "host_memory_bytes",
            "host_cpus",
        ] {
            assert!(
                sample[field].as_u64().is_some_and(|value| value > 0),
                "{field}: {sample}"
            );
        }
    }
    let warnings: Vec<_> = lines
        .iter()
        .filter(|line| line["level"] == "WARN")
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["resource"], "files");
    let declared = lines.iter().find(|line| line["message"] == "declared");
    assert_eq!(declared.expect("it is said first")["task"], "r");
}

#[test]
fn environment_variables_are_replaced_in_strings() {
    let config = "[service]\nname = \"${UNIT:-orders}\"\n[tasks.db]\nkind = \"endpoint\"\n\
                  check = { tcp = \"${DB_HOST}:${DB_PORT:-5432}\" }\n";
    let folder = folder_with(config);
    let check = |host: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command
            .args(["check", "services.toml"])
            .current_dir(&folder);
        command
            .env_remove("UNIT")
            .env_remove("DB_HOST")
            .env_remove("DB_PORT");
        host.map(|host| command.env("DB_HOST", host));
        command.output().expect("the binary runs")
    };
    let good = check(Some("db"));
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(
        text(&good.stdout).contains("\nservice orders, "),
        "{good:?}"
    );
    let bad = check(Some("d b"));
    assert!(
        text(&bad.stderr).contains("\"d b\" is not a host"),
        "{bad:?}"
    );
    // A longer value may be a secret.
    let secret = check(Some("s3cret value"));
    assert!(
        text(&secret.stderr).contains("\"…\" is not a host"),
        "{secret:?}"
    );
    let unset = check(None);
    assert_eq!(unset.status.code(), Some(78));
    insta::assert_snapshot!(text(&unset.stderr), @r#"
    services.toml:5:17: tasks.db.check.tcp: the environment variable DB_HOST is not set
      |
    5 | check = { tcp = "${DB_HOST}:${DB_PORT:-5432}" }
      |                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = set it, or write ${DB_HOST:-default}; for the text itself, write $${DB_HOST}

    services.toml: 1 problem, nothing was started
    "#);
}

#[test]
fn check_warns_of_programs_and_folders_that_do_not_exist() {
    let task = |name: &str, rest: &str| format!("[tasks.{name}]\nkind = \"process\"\n{rest}\n");
    let config = task("a", "command = [\"no-such-program\"]")
        + &task("b", "command = [\"./services.toml\"]")
        + &task("c", "command = [\"./missing\"]\nworking_folder = \"/\"")
        + &task("d", "command = [\"true\"]\nworking_folder = \"no/such\"")
        + &task("e", "command = [\"true\"]")
        + &task("f", "command = [\"true\"]\nenv = { PATH = \"/no/such\" }")
        + "[tasks.g]\nkind = \"endpoint\"\ncheck = { command = [\"./no-check\"] }\n";
    let folder = folder_with(config);
    let checked = headcount(folder.path(), &["check", "services.toml"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    insta::assert_snapshot!(text(&checked.stderr), @"
    services.toml: tasks.a.command: warning: there is no program no-such-program in PATH
    services.toml: tasks.b.command: warning: ./services.toml cannot be executed
    services.toml: tasks.c.command: warning: there is no program /missing
    services.toml: tasks.d.working_folder: warning: there is no folder no/such
    services.toml: tasks.f.command: warning: there is no program true in PATH
    services.toml: tasks.g.check.command: warning: there is no program ./no-check
    ");
}
