//! Tests of chains of processes that do not fit into the drain, and of secrets in refusals.

use super::{headcount, refusal, text};

/// Returns a chain in which each process depends on the one before, with a line for each.
fn chain(processes: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut before = None;
    for (name, line) in processes {
        text += &format!("[tasks.{name}]\nkind = \"process\"\ncommand = [\"x\"]\n{line}\n");
        if let Some(before) = before.replace(name) {
            text += &format!("depends_on = [\"{before}\"]\n");
        }
    }
    text
}

/// The last process of such a chain was told to stop when nearly all of the drain was over, and was
/// killed with its data.
#[test]
fn a_chain_that_cannot_stop_within_the_drain_is_refused_by_name() {
    insta::assert_snapshot!(refusal(chain(&[("db", ""), ("queue", ""), ("web", "")])), @"
    services.toml:1:8: tasks.db: is the last of a chain that stops one after the other: web, then queue, then db; the stop budgets add up to 9s, but shutdown.drain is 5s
      |
    1 | [tasks.db]
      |        ^^
      = 3s + 3s + 3s; allowed: a sum of at most 5s; shorten stop_budget, or increase shutdown.drain

    services.toml: 1 problem, nothing was started
    ");
}

#[test]
fn a_chain_may_share_the_drain() {
    let fits = |text: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("services.toml"), text).expect("it can be written");
        let output = headcount(folder.path(), &["check", "services.toml"]);
        assert!(output.status.success(), "{}", self::text(&output.stderr));
    };
    // Two defaults share the 5 s.
    fits(&chain(&[("db", ""), ("web", "")]));
    fits(&chain(&[
        ("db", "stop_budget = \"2s\""),
        ("queue", "stop_budget = \"1s\""),
        ("web", "stop_budget = \"2s\""),
    ]));
    // A process that must have exited is not there to be stopped.
    let done = "ready = { exit = 0 }";
    fits(&chain(&[("a", done), ("b", done), ("web", "")]));
    fits(
        &("[shutdown]\ndrain = \"9s\"\ndeadline = \"15s\"\n".to_owned()
            + &chain(&[("db", ""), ("queue", ""), ("web", "")])),
    );
}

#[test]
fn secrets_of_a_configuration_are_not_repeated() {
    let secrets = "[tasks.a]\nkind = \"process\"\ncommand = \"psql postgres://me:s3cret@db/x\"\n\
        env = { PIN = 5337, \"A=B\" = \"s3cret\", T = \"s3cret\" }\n\
        [tasks.b]\nkind = \"process\"\ncommand = [\"true\"]\nenv = \"TOKEN=s3cret\"\n\
        [tasks.c]\nkind = \"endpoint\"\n\
        check = { http = \"http://me:s3cret@h/\", headers = { \"a b\" = \"s3cret\" } }\n\
        [tasks.d]\nkind = \"endpoint\"\ncheck = { tcp = \"me:s3cret@h:5432\" }\n\
        [telemetry]\nendpoint = \"http://me:s3cret@otlp:4318\"\n";
    let refused = refusal(secrets);
    for secret in ["s3cret", "5337"] {
        assert!(!refused.contains(secret), "{refused}");
    }
    insta::assert_snapshot!(refused);
    let broken = format!("{secrets}x = \n[tasks.e]\nenv = {{ A = \"s3cret\" B }}\n");
    let refused = refusal(broken);
    assert!(refused.contains("invalid TOML"), "{refused}");
    assert!(!refused.contains("s3cret"), "{refused}");
}

#[test]
fn a_probe_does_not_repeat_the_password_of_its_url() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let probed = headcount(folder.path(), &["probe", "http://me:s3cret@127.0.0.1:9/"]);
    assert_eq!(probed.status.code(), Some(1));
    assert_eq!(
        text(&probed.stderr),
        "headcount: http://…@127.0.0.1:9/: the URL must not contain a user or password: set the header `authorization` instead\n"
    );
}
