//! Tests of the default, of its examples, and of the reader with hostile input. Error messages are
//! tested through the binary, in `tests/it/config.rs`.

mod endpoints;
mod files;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fuzzing::fuzz;
use proptest::prelude::*;

use super::{
    AdminSettings, Config, ConsoleSettings, ControlSocket, DEFAULT, Endpoint, Kind, LogFormat,
    ShutdownSettings, StateFolder, StateSettings, TelemetrySettings,
};
use crate::service::endpoint::{Check, EndpointSettings, HttpCheck};
use crate::service::process::{
    Backoff, Condition, LogFileSettings, ProcessSettings, Ready, Restart, StopSignal, StopSignalTo,
    WhenDown,
};
use crate::service::resources::ResourcesSettings;
use crate::threads::ThreadRule;

/// Returns the default with every `#key = …` and `#[table]` uncommented.
fn uncommented() -> String {
    let lines = DEFAULT.lines().map(|line| match line.strip_prefix('#') {
        Some(code) if code.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => code,
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn parsed(text: &str) -> Config {
    Config::parse("test.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> String {
    match Config::parse("test.toml", text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// A misspelt `env` was shown with its values, and a test of settings printed them.
#[test]
fn values_that_may_be_secret_are_shown_neither_of_unknown_keys_nor_of_settings() {
    for wrong in [
        "evn = { PASSWORD = \"hunter2\" }",
        "environment = { PASSWORD = \"hunter2\" }",
        "evn.PASSWORD = \"hunter2\"",
        "Env = \"PASSWORD=hunter2\"",
        "environment = [\"PASSWORD=hunter2\"]",
        "ready = { heders = { Authorization = \"hunter2\" } }",
    ] {
        let text = format!("[tasks.web]\nkind = \"process\"\ncommand = [\"web\"]\n{wrong}\n");
        let error = refused(&text);
        assert!(error.contains("unknown key"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let config = parsed(
        "[tasks.web]\nkind = \"process\"\ncommand = [\"web\"]\nenv = { PASSWORD = \"hunter2\" }\n\
         [tasks.up]\nkind = \"endpoint\"\n\
         check = { http = \"http://127.0.0.1:9/\", headers = { Authorization = \"hunter2\" } }\n",
    );
    let shown = format!("{config:?}");
    assert!(
        shown.contains("PASSWORD") && shown.contains("Authorization"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

fn kind(config: &Config, name: &str) -> Kind {
    let task = config.tasks.iter().find(|task| task.name == name);
    task.unwrap_or_else(|| panic!("no {name}")).kind.clone()
}

fn process_defaults(command: &[&str]) -> ProcessSettings {
    ProcessSettings {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        env: BTreeMap::new().into(),
        working_folder: None,
        depends_on: BTreeMap::new(),
        when_down: WhenDown::Ignore,
        ready: Ready::Started,
        liveness: None,
        ready_timeout: Duration::from_secs(60),
        restart: Restart::OnFailure,
        backoff: Backoff {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            factor: 2.0,
            reset_after: Duration::from_secs(60),
        },
        max_restarts: Some(5),
        required: false,
        stop_signal: StopSignal::Term,
        stop_signal_to: StopSignalTo::Tree,
        stop_budget: Duration::from_secs(3),
        log_file: None,
    }
}

fn endpoint_defaults(check: Check) -> EndpointSettings {
    EndpointSettings {
        check,
        interval: Duration::from_secs(10),
        jitter: 0.1,
        timeout: Duration::from_secs(2),
        up_after: 1,
        down_after: 3,
        required: false,
    }
}

#[test]
fn the_embedded_default_equals_the_defaults_in_the_code() {
    assert_eq!(
        Config::load(None).expect("the default is valid"),
        Config::default()
    );
}

#[test]
fn a_missing_key_has_its_default() {
    let config = parsed("[tasks.resources]\nkind = \"resources\"\n");
    let default = Config {
        origin: "test.toml".to_owned(),
        ..Config::default()
    };
    assert_eq!(config, default);
    let config = parsed(
        "[tasks.a]\nkind = \"process\"\ncommand = [\"x\"]\n\
         [tasks.b]\nkind = \"endpoint\"\ncheck = { tcp = \"h:1\" }\n",
    );
    assert_eq!(kind(&config, "a"), Kind::Process(process_defaults(&["x"])));
    let check = Check::Tcp {
        address: "h:1".to_owned(),
    };
    assert_eq!(kind(&config, "b"), Kind::Endpoint(endpoint_defaults(check)));
}

#[test]
fn the_commented_keys_of_the_default_are_valid_and_are_the_defaults() {
    let config = parsed(&uncommented());
    let names: Vec<&str> = config.tasks.iter().map(|task| &*task.name).collect();
    let declared = [
        "resources",
        "db",
        "api",
        "shop",
        "shipping",
        "orders",
        "cache",
        "name",
        "disk",
        "migrate",
        "proxy",
        "server",
        "worker",
        "warm-up",
        "warm",
        "progress",
    ];
    assert_eq!(names, declared);
    assert_eq!(config.runtime.worker_threads, Some(2));
    // Only keys that the example has to set differ from the defaults.
    let server = ProcessSettings {
        env: BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned())]).into(),
        working_folder: Some("/srv/server".into()),
        depends_on: BTreeMap::from([
            ("proxy".to_owned(), Condition::Ready),
            ("migrate".to_owned(), Condition::Exited),
            ("cache".to_owned(), Condition::Ready),
        ]),
        ready: Ready::Endpoint("api".to_owned()),
        liveness: Some("api".to_owned()),
        log_file: Some(LogFileSettings {
            path: "logs/server.log".into(),
            size: 10 * 1024 * 1024,
            kept: 5,
        }),
        ..process_defaults(&["./server", "--port", "8080"])
    };
    assert_eq!(kind(&config, "server"), Kind::Process(server));
    let worker = ProcessSettings {
        depends_on: BTreeMap::from([("server".to_owned(), Condition::Ready)]),
        ready: Ready::Log("worker is waiting for jobs".to_owned()),
        stop_budget: Duration::from_secs(1),
        ..process_defaults(&["./worker"])
    };
    assert_eq!(kind(&config, "worker"), Kind::Process(worker));
    let warm_up = ProcessSettings {
        ready: Ready::Exit(0),
        ..process_defaults(&["./warm-up"])
    };
    assert_eq!(kind(&config, "warm-up"), Kind::Process(warm_up));
}

#[test]
fn every_key_that_is_read_is_documented_in_the_default() {
    let sections = [
        ("", "zz = 1"),
        ("[service]", "[service]\nzz = 1"),
        ("[log]", "[log]\nzz = 1"),
        ("[shutdown]", "[shutdown]\nzz = 1"),
        ("[runtime]", "[runtime]\nzz = 1"),
        ("[admin]", "[admin]\nzz = 1"),
        ("[telemetry]", "[telemetry]\nzz = 1"),
        ("[console]", "[console]\nzz = 1"),
        ("[threads]", "[threads]\nzz = 1"),
        (
            "expected",
            "[[threads.expected]]\nname = \"a\"\nreason = \"b\"\nzz = 1",
        ),
        ("resources", "[tasks.a]\nkind = \"resources\"\nzz = 1"),
        (
            "endpoint",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { tcp = \"a:1\" }\nzz = 1",
        ),
        (
            "check",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { http = \"http://a\", zz = 1 }",
        ),
        (
            "postgres",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { postgres = \"a:1\", user = \"b\", zz = 1 }",
        ),
        (
            "grpc",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { grpc = \"a:1\", zz = 1 }",
        ),
        (
            "redis",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { redis = \"a:1\", zz = 1 }",
        ),
        (
            "dns",
            "[tasks.a]\nkind = \"endpoint\"\ncheck = { dns = \"a\", zz = 1 }",
        ),
        (
            "process",
            "[tasks.a]\nkind = \"process\"\ncommand = [\"a\"]\nzz = 1",
        ),
        (
            "prewarm",
            "[tasks.a]\nkind = \"prewarm\"\nfiles = [\"a\"]\nzz = 1",
        ),
        ("progress", "[tasks.a]\nkind = \"progress\"\nzz = 1"),
        (
            "ready",
            "[tasks.a]\nkind = \"process\"\ncommand = [\"a\"]\nready = { exit = 0, zz = 1 }",
        ),
        (
            "backoff",
            "[tasks.a]\nkind = \"process\"\ncommand = [\"a\"]\nbackoff = { zz = 1 }",
        ),
    ];
    let reference = uncommented();
    let mut known = 0;
    for (section, text) in sections {
        let answer = refused(text);
        let (_, allowed) = answer.split_once("allowed: ").expect(&answer);
        for key in allowed.lines().next().expect("a line").split(", ") {
            known += 1;
            let written = [
                format!("\n{key} = "),
                format!(" {key} = "),
                format!("\n[{key}]"),
                format!("\n[{key}."),
                format!(".{key}]]\n"),
                format!("\n[[{key}."),
            ];
            assert!(
                written.iter().any(|form| reference.contains(form)),
                "{section}: {key} is not in default.toml"
            );
        }
    }
    assert!(known >= 45, "only {known} keys were found");
}

#[test]
fn every_key_is_read_into_its_field() {
    let config = parsed(
        "[service]\nname = \"orders\"\n[log]\nfilter = \"warn\"\nformat = \"json\"\nlimit = \"off\"\n\
         [shutdown]\npre_drain_delay = \"100ms\"\ndrain = \"1m\"\ncancel = \"3s\"\nclose = \"4s\"\n\
         deadline = \"1m30s\"\nscrape_hold = \"0s\"\nstrict = true\n\
         [state]\nfolder = \"/s\"\ntextfile = \"t.prom\"\n[runtime]\nworker_threads = 3\nhold_limit = \"2s\"\n\
         [admin]\nlisten = \"[::]:80\"\nallowed_hosts = [\"orders.example\"]\ncontrol_socket = \"/s/c\"\n\
         [telemetry]\nendpoint = \"https://otlp.example\"\nsample_ratio = 0.5\n\
         [console]\nlisten = \"[::1]:6669\"\nretention = \"5s\"\n\
         [[threads.expected]]\nname = \"pool-*\"\nreason = \"no end\"\n\
         [[threads.expected]]\nfunction = \"geo::\"\nreason = \"so\"\n\
         [tasks.r]\nkind = \"resources\"\ninterval = \"1s\"\nwarn_memory = \"off\"\nwarn_cpu = 1\n\
         warn_files = 0.5\nwarn_threads = 0.25\n\
         [tasks.e]\nkind = \"endpoint\"\ncheck = { http = \"https://[::1]:8443/x?y\" }\n\
         interval = \"1s\"\njitter = 0\ntimeout = \"1s\"\nup_after = 2\ndown_after = 4\nrequired = true\n\
         [tasks.p]\nkind = \"process\"\ncommand = [\"x\", \"\"]\ndepends_on = { q = \"started\" }\n\
         ready = { exit = 3 }\nready_timeout = \"5s\"\nrestart = \"always\"\n\
         backoff = { initial = \"2s\", max = \"2s\", factor = 1, reset_after = \"5s\" }\n\
         max_restarts = \"unlimited\"\nrequired = true\nstop_signal = \"USR2\"\nstop_signal_to = \"command\"\nstop_budget = \"1m\"\n\
         [tasks.q]\nkind = \"process\"\ncommand = [\"y\"]\nstop_budget = \"0s\"\n",
    );
    assert_eq!(config.name, "orders");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.limit, None);
    let telemetry = TelemetrySettings {
        endpoint: Endpoint::At("https://otlp.example".to_owned()),
        sample_ratio: Some(0.5),
    };
    assert_eq!(config.telemetry, telemetry);
    let console = ConsoleSettings {
        listen: Some("[::1]:6669".parse().expect("an address")),
        retention: Duration::from_secs(5),
    };
    assert_eq!(config.console, console);
    assert!(!config.log.filter.would_enable("x", &tracing::Level::INFO));
    let shutdown = ShutdownSettings {
        pre_drain_delay: Duration::from_millis(100),
        drain: Duration::from_secs(60),
        cancel: Duration::from_secs(3),
        close: Duration::from_secs(4),
        deadline: Duration::from_secs(90),
        scrape_hold: Duration::ZERO,
        strict: true,
    };
    assert_eq!(config.shutdown, shutdown);
    let state = StateSettings {
        folder: StateFolder::At("/s".into()),
        textfile: Some("t.prom".into()),
        black_box: None,
    };
    assert_eq!(config.state, state);
    assert_eq!(config.runtime.worker_threads, Some(3));
    assert_eq!(config.runtime.hold_limit, Some(Duration::from_secs(2)));
    let off = parsed("[runtime]\nhold_limit = \"off\"\n[tasks.r]\nkind = \"resources\"\n");
    assert_eq!(off.runtime.hold_limit, None);
    let admin = AdminSettings {
        listen: Some("[::]:80".parse().expect("an address")),
        allowed_hosts: vec!["orders.example".to_owned()],
        control_socket: ControlSocket::At("/s/c".into()),
    };
    assert_eq!(config.admin, admin);
    let off = parsed("[admin]\nlisten = \"off\"\n[tasks.r]\nkind = \"resources\"\n");
    assert_eq!(off.admin.listen, None);
    assert_eq!(off.admin.control_socket, ControlSocket::Auto);
    let rules = [
        ThreadRule::named("pool-*", "no end"),
        ThreadRule::rooted_in("geo::", "so"),
    ];
    assert_eq!(config.expected_threads, rules);
    let resources = ResourcesSettings {
        interval: Duration::from_secs(1),
        warn_memory: None,
        warn_cpu: Some(1.0),
        warn_files: Some(0.5),
        warn_threads: Some(0.25),
    };
    assert_eq!(kind(&config, "r"), Kind::Resources(resources));
    let endpoint = EndpointSettings {
        check: Check::Http(HttpCheck {
            url: "https://[::1]:8443/x?y".to_owned(),
            expect_status: (200..=399).collect(),
            headers: BTreeMap::new().into(),
            ..HttpCheck::default()
        }),
        interval: Duration::from_secs(1),
        jitter: 0.0,
        timeout: Duration::from_secs(1),
        up_after: 2,
        down_after: 4,
        required: true,
    };
    assert_eq!(kind(&config, "e"), Kind::Endpoint(endpoint));
    let process = ProcessSettings {
        depends_on: BTreeMap::from([("q".to_owned(), Condition::Started)]),
        ready: Ready::Exit(3),
        ready_timeout: Duration::from_secs(5),
        restart: Restart::Always,
        backoff: Backoff {
            initial: Duration::from_secs(2),
            max: Duration::from_secs(2),
            factor: 1.0,
            reset_after: Duration::from_secs(5),
        },
        max_restarts: None,
        required: true,
        stop_signal: StopSignal::Usr2,
        stop_signal_to: StopSignalTo::Command,
        stop_budget: Duration::from_secs(60),
        ..process_defaults(&["x", ""])
    };
    assert_eq!(kind(&config, "p"), Kind::Process(process));
}

#[test]
fn a_default_respects_a_bound_that_the_file_sets() {
    let config = parsed(
        "[shutdown]\ndrain = \"1s\"\n\
         [tasks.p]\nkind = \"process\"\ncommand = [\"x\"]\nbackoff = { initial = \"2m\" }\n\
         [tasks.e]\nkind = \"endpoint\"\ncheck = { tcp = \"h:1\" }\ninterval = \"500ms\"\n",
    );
    let Kind::Process(process) = kind(&config, "p") else {
        panic!("p is a process");
    };
    assert_eq!(process.stop_budget, Duration::from_secs(1));
    assert_eq!(process.backoff.max, Duration::from_secs(120));
    let Kind::Endpoint(endpoint) = kind(&config, "e") else {
        panic!("e is an endpoint");
    };
    assert_eq!(endpoint.timeout, Duration::from_millis(500));
}

#[test]
fn one_problem_does_not_hide_or_cause_another() {
    // The interval and the drain budget that were refused are not compared with other values, and the
    // dependency on a task that was not read is not reported as unknown.
    let answer = refused(
        "[shutdown]\ndrain = 1\n\
         [tasks.e]\nkind = \"endpoint\"\ncheck = { tcp = \"h:1\" }\ninterval = 1\ntimeout = \"1m\"\n\
         [tasks.p]\nkind = \"process\"\ncommand = [\"x\"]\nstop_budget = \"1h\"\ndepends_on = [\"q\"]\n\
         [tasks.q]\nkind = \"procces\"\n",
    );
    assert!(
        answer.contains("test.toml:2:9: shutdown.drain: "),
        "{answer}"
    );
    assert!(
        answer.contains("test.toml:6:12: tasks.e.interval: "),
        "{answer}"
    );
    assert!(
        answer.contains("test.toml:14:8: tasks.q.kind: "),
        "{answer}"
    );
    assert!(
        answer.ends_with("test.toml: 3 problems, nothing was started"),
        "{answer}"
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_endings_are_ignored() {
    let text = format!("\u{feff}{}", DEFAULT.replace('\n', "\r\n"));
    let config = parsed(&text);
    assert_eq!(config.tasks, Config::default().tasks);
    let answer = refused("\u{feff}zz = 1\r\n[tasks.r]\r\nkind = \"resources\"\r\n");
    assert!(
        answer.starts_with("test.toml:1:1: zz: unknown key\n"),
        "{answer}"
    );
}

/// Returns the processor time of this thread. Other programs on the machine do not add to it.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number comes first"))
}

#[test]
fn a_hostile_file_of_the_maximum_size_is_refused_quickly() {
    let mut hostile = vec![
        "[".repeat(1 << 20),
        "a.".repeat(1 << 19),
        "x = ".to_owned() + &"[".repeat(1 << 20),
        "x = ".to_owned() + &"{a=".repeat(1 << 18),
        "\"".repeat(1 << 20),
        format!(
            "[tasks.a]\nkind = \"process\"\ncommand = [{}]",
            "1,".repeat(1 << 19)
        ),
        format!("[tasks.a]\nkind = \"{}\"", "x".repeat(1 << 20)),
    ];
    let mut many = String::new();
    let mut wide = "[tasks.a]\nkind = \"process\"\ncommand = [\"x\"]\ndepends_on = [".to_owned();
    for number in 0..60_000 {
        many.push_str(&format!("[tasks.t{number}]\n"));
        wide.push_str(&format!("\"t{number}\","));
    }
    wide.push(']');
    hostile.extend([many, wide]);
    for text in hostile {
        let before = processor_time();
        let answer = refused(&text);
        let took = processor_time() - before;
        assert!(took < Duration::from_secs(10), "{text:.60}: {took:?}");
        assert!(
            answer.len() < 100_000,
            "{:.60}: {} bytes",
            text,
            answer.len()
        );
    }
}

/// Generates texts that resemble a configuration: the default with random edits.
fn mutated() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "",
        "#",
        "=",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'''",
        ".",
        ",",
        "\0",
        "\t",
        "\r",
        "é",
        "\u{feff}",
        "-1",
        "0",
        "99999999999999999999",
        "0x_",
        "1e999",
        "nan",
        "-inf",
        "true",
        "1979-05-27",
        "\"0s\"",
        "\"999999999999h\"",
        "\"5 s\"",
        "\"\"",
        "[]",
        "{}",
        "[[]]",
        "\\u0000",
        "[tasks]",
        "[[tasks]]",
        "[tasks.db]",
        "depends_on = [\"server\"]",
        "kind = \"process\"",
    ]);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, pieces), 1..8);
    edits.prop_map(|edits| {
        let mut text: Vec<char> = uncommented().chars().collect();
        for (at, length, piece) in edits {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

fn holds_whatever_the_answer(text: &str) -> Result<(), TestCaseError> {
    match Config::parse("test.toml", text) {
        Ok(config) => prop_assert!(!config.tasks.is_empty()),
        Err(error) => {
            let answer = error.to_string();
            prop_assert!(answer.ends_with("nothing was started"));
            prop_assert!(!answer.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        }
    }
    Ok(())
}

#[test]
fn no_text_makes_the_reader_panic() {
    fuzz(512, &any::<String>(), |text| {
        holds_whatever_the_answer(&text)
    });
}

#[test]
fn no_change_of_the_default_makes_the_reader_panic() {
    fuzz(512, &mutated(), |text| holds_whatever_the_answer(&text));
}

#[test]
fn no_string_makes_the_reader_panic_where_a_string_is_expected() {
    fuzz(512, &("\\PC*", any::<f64>()), |(text, number)| {
        let text = text.replace(['\'', '\r', '\n'], "");
        holds_whatever_the_answer(&format!(
            "[service]\nname = '{text}'\n[log]\nfilter = '{text}'\nformat = '{text}'\n\
             [shutdown]\ndrain = '{text}'\n[tasks.a]\nkind = 'endpoint'\ncheck = {{ tcp = '{text}' }}\n\
             [tasks.b]\nkind = 'endpoint'\njitter = {number:?}\ncheck = {{ http = 'http://{text}' }}\n\
             [tasks.c]\nkind = 'process'\ncommand = ['{text}']\ndepends_on = ['{text}']\n\
             stop_signal = '{text}'\nready = {{ endpoint = '{text}' }}\nwhen_down = '{text}'\n\
             [tasks.d]\nkind = 'endpoint'\ncheck = {{ redis = '{text}:1', tls = true, password_file = '{text}' }}\n\
             [tasks.e]\nkind = 'endpoint'\ncheck = {{ grpc = '{text}:1', service = '{text}', tls = true }}\n\
             [tasks.f]\nkind = 'endpoint'\ncheck = {{ dns = '{text}', expect_addresses = ['{text}'] }}\n\
             [tasks.g]\nkind = 'endpoint'\ncheck = {{ postgres = '{text}:1', user = '{text}', sslmode = 'verify-full' }}\n\
             [tasks.h]\nkind = 'endpoint'\ncheck = {{ command = ['{text}'] }}\n"
        ))
    });
}
