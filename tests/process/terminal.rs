//! Tests of terminal output: colours and a live line on a terminal, and neither of them elsewhere.

use crate::program::{Program, command, ready};
use crate::text::steady;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use std::fs::File;
use std::io::Write;
use std::process::Command;

const CLEAR: &str = "\u{1b}[2K";

/// Starts the command with its own terminal as standard error.
fn on_a_terminal(mut command: Command) -> Program {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let ours = openpt(flags).expect("the system has terminals");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it is ours");
    let theirs = ioctl_tiocgptpeer(&ours, flags).expect("it is unlocked");
    command.env("TERM", "xterm");
    Program::start_on_terminal(command, File::from(ours), theirs)
}

/// Stops it once the live line has been drawn, and returns all terminal output.
#[track_caller]
fn drained(mut program: Program) -> Vec<String> {
    assert_eq!(program.line(), "ready");
    program.signal(Signal::TERM);
    let line = program.error_line("waiting for");
    assert_eq!(
        steady(&line),
        format!("{CLEAR}drain T of 20.0s: waiting for writer (T)")
    );
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    ended.stderr
}

#[test]
fn on_a_terminal_a_live_line_says_what_is_awaited_and_the_report_has_colours() {
    let lines = drained(on_a_terminal(command(&["drain-waits"])));
    let begin = lines.iter().position(|line| line.contains("stopping"));
    let report = &lines[begin.expect("a report")..];
    // The live line is erased before the report.
    let tags = |line: &String| line.replace("\u{1b}[0m", "</> ").replace("\u{1b}[", "<");
    let report: String = report
        .iter()
        .map(|line| steady(&tags(line)).trim_end().to_owned() + "\n")
        .collect();
    insta::assert_snapshot!(report, @r"
        <2K<1mheadcount test: stopping (SIGTERM)</>
        <2m├─ </> <1m1 drain  </> T of 20s  all 2 tasks ended
        <2m├─ </> <1m2 cancel  </> T of 20s  nothing to cancel
        <2m├─ </> <1m3 close  </> T of 20s  no thread lingers (3 ended)
        <2m└─ </> <32mclean  </>  total T
        ");
}

#[test]
fn no_color_takes_the_colours_away() {
    let mut command = command(&["drain-waits"]);
    command.env("NO_COLOR", "1");
    let lines = drained(on_a_terminal(command));
    let begin = lines.iter().position(|line| line.contains("stopping"));
    let report = lines[begin.expect("a report")..].concat();
    assert!(report.contains("1 drain"), "{report:?}");
    let codes: Vec<_> = report.match_indices('\u{1b}').map(|(at, _)| at).collect();
    assert_eq!(codes, [0], "only the live line is taken away: {report:?}");
}

#[test]
fn in_a_pipe_separate_lines_say_what_is_awaited() {
    let mut program = ready(&["drain-waits"]);
    program.signal(Signal::TERM);
    let line = program.error_line("waiting for");
    assert_eq!(steady(&line), "drain T of 20.0s: waiting for writer (T)");
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    assert!(!ended.stderr.concat().contains('\u{1b}'), "{ended:#?}");
}

#[cfg(feature = "service")]
#[test]
fn the_service_has_colours_on_a_terminal_only() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = crate::service::config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let service = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["run", &config]);
        command
    };
    let stopped = |mut program: Program| {
        program.error_line("process_memory_bytes");
        let ended = program.stop(Signal::TERM);
        ended.assert_code(0);
        ended.stderr.join("\n")
    };
    let mut no_color = service();
    no_color.env("NO_COLOR", "1");

    let coloured = stopped(on_a_terminal(service()));
    assert!(coloured.contains("\u{1b}[32mclean"), "{coloured:?}");
    assert!(coloured.contains("\u{1b}[32m INFO"), "{coloured:?}");
    for plain in [on_a_terminal(no_color), Program::start(service())] {
        let plain = stopped(plain);
        assert!(
            plain.contains("└─ clean") && !plain.contains('\u{1b}'),
            "{plain:?}"
        );
    }
}
