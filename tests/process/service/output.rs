//! Tests of the output of processes, as `headcount run` shows it and writes it to files.

use super::{process, run, to_run};
use crate::program::{Program, until};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;

/// A named pipe on which a script waits.
struct Gate {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let path = folder.path().join("gate");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        Self {
            path,
            _folder: folder,
        }
    }

    /// Returns a process that asks for a name and is ready while it waits for it.
    fn asks(&self) -> String {
        let path = self.path.display();
        let script = format!("printf 'Name: '; read -r _ < {path}; echo Ada; exec sleep 1000");
        process("web", &script, "ready = { log = \"Name\" }")
    }

    fn open(&self) {
        fs::write(&self.path, "\n").expect("it is read");
    }
}

#[test]
fn a_prompt_is_shown_before_its_line_ends() {
    let gate = Gate::new();
    let other = process("database", "echo up; exec sleep 1000", "");
    let (mut program, _folder) = run(&(gate.asks() + &other), &[]);
    program.has_said("web      │ Name: ");
    program.has_said("database │ up");
    program.has_said("ready after");
    gate.open();
    program.has_said("web      │ Ada");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let again = ended.stderr.iter().any(|line| line.contains("Name: Ada"));
    assert!(!again, "{ended:#?}");
}

#[test]
fn the_log_for_programs_has_whole_lines_only() {
    let gate = Gate::new();
    let (command, _folder) = to_run(&gate.asks(), &["--log-format", "json"]);
    let mut program = Program::start(command);
    program.has_said("ready after");
    gate.open();
    let line = program.error_line("Ada");
    let line: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
    assert_eq!(line["message"], "Name: Ada");
    assert_eq!(line["task"], "web");
    assert_eq!(line["stream"], "stdout");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let pieces = ended.stderr.iter().filter(|line| line.contains("partial"));
    assert_eq!(pieces.count(), 0, "{ended:#?}");
}

#[test]
fn the_output_is_also_written_to_a_file_that_is_rotated() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let file = folder.path().join("logs/web.log");
    let more = format!(
        "log_file = \"{}\"\nlog_file_size = \"1KiB\"\nlog_files_kept = 1",
        file.display()
    );
    let script = "for n in 1 2 3 4 5 6 7 8 9; do printf '%0300d\\n' $n; done; \
                  printf '\\033[1mend\\033[0m\\n'; exec sleep 1000";
    let (mut program, _folder) = run(&process("web", script, &more), &[]);
    program.has_said("end");
    until(|| fs::read_to_string(&file).is_ok_and(|text| text.ends_with("\u{1b}[1mend\u{1b}[0m\n")));
    let older = fs::read_to_string(folder.path().join("logs/web.log.1"));
    let older: Vec<String> = older
        .expect("it was rotated")
        .lines()
        .map(|line| line.trim_start_matches('0').to_owned())
        .collect();
    assert_eq!(older, ["4", "5", "6"]);
    assert_eq!(
        fs::read_dir(folder.path().join("logs"))
            .expect("it is there")
            .count(),
        2
    );
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}
