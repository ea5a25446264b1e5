//! `headcount logs`: the last lines that the processes of a service have printed, and those that
//! follow.
//!
//! The lines come over the control socket; see [`control`]. Without a pid, the services of this user
//! are asked for the name.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::control::{self, Unanswered, encoded, refusal};
use super::{tell, write_all};
use crate::runtime::control_sockets;
use crate::service::exports::{colours, prefix::Prefix};
use crate::text::plain;

/// The attempts in a row, and the pause before each, while the lines of a service are followed.
const FAILURES: u32 = 10;
const AGAIN: Duration = Duration::from_millis(200);

/// The options of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Pid of the service; or the name of a process, if one service of this user has it
    #[arg(value_name = "PID|NAME")]
    target: String,
    /// Only the lines of this process
    name: Option<String>,
    /// Show further lines as they are printed, until the service ends
    #[arg(long, short)]
    follow: bool,
    /// Number of lines from the past, 1 to 1000
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    lines: u16,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A reader of the lines of one service.
struct Reader {
    pid: u32,
    name: Option<String>,
    json: bool,
    colours: bool,
}

/// Runs `headcount logs`.
pub(super) fn logs(arguments: &Arguments) -> ExitCode {
    let (pid, name) = match whom(arguments) {
        Ok(found) => found,
        Err(why) => return tell(Err(why)),
    };
    let reader = Reader {
        pid,
        name,
        json: arguments.json,
        colours: colours(&io::stdout()),
    };
    let mut query = format!("lines={}", arguments.lines);
    let mut seen = None;
    let mut failures = 0;
    loop {
        let answer = match reader.ask(&query) {
            Ok(answer) => answer,
            // The service has ended since the last answer.
            Err(Unanswered::NoSocket(_)) if seen.is_some() => return ExitCode::SUCCESS,
            // It may be ending.
            Err(Unanswered::Failed(_)) if seen.is_some() && failures < FAILURES => {
                failures += 1;
                sleep(AGAIN);
                continue;
            }
            Err(Unanswered::NoSocket(why) | Unanswered::Failed(why)) => return tell(Err(why)),
        };
        failures = 0;
        if answer["missed"] == true {
            let note = "headcount: lines were missed, because they came too fast\n";
            write_all(io::stderr(), note).ok();
        }
        if write_all(io::stdout(), &reader.shown(&answer)).is_err() {
            // The reader of a pipe has seen enough.
            return ExitCode::SUCCESS;
        }
        if !arguments.follow {
            return ExitCode::SUCCESS;
        }
        let next = answer["next"].as_u64().or(seen).unwrap_or_default();
        seen = Some(next);
        query = format!("after={next}&wait=true");
    }
}

/// Returns the pid of the service and the name of the process, if there is one.
fn whom(arguments: &Arguments) -> Result<(u32, Option<String>), String> {
    let target = &arguments.target;
    if let Ok(pid) = target.parse() {
        return Ok((pid, arguments.name.clone()));
    }
    if let Some(name) = &arguments.name {
        return Err(format!(
            "'{}' is not a pid: write `headcount logs PID {}`",
            plain(target),
            plain(name)
        ));
    }
    let query = format!("/api/logs?lines=1&process={}", encoded(target));
    let has_it = |pid: &u32| {
        let asked = control::ask(*pid, Method::GET, &query);
        asked.is_ok_and(|(status, _)| status == StatusCode::OK)
    };
    let services = services();
    let found: Vec<u32> = services.iter().copied().filter(has_it).collect();
    match found[..] {
        [pid] => Ok((pid, Some(target.clone()))),
        [] => Err(format!(
            "of {} services of this user, none has a process '{}'",
            services.len(),
            plain(target)
        )),
        _ => {
            let pids: Vec<String> = found.iter().map(u32::to_string).collect();
            Err(format!(
                "several services have a process '{}': give one of the pids {}",
                plain(target),
                pids.join(", ")
            ))
        }
    }
}

/// Returns the pids of the services of this user that have a control socket at its usual place.
fn services() -> BTreeSet<u32> {
    let own = control_sockets(std::process::id());
    let folders = own.iter().filter_map(|path| path.parent());
    let files = folders.filter_map(|folder| folder.read_dir().ok());
    let names = files.flatten().flatten().map(|file| file.file_name());
    let pid = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".sock")?.parse().ok();
    names.filter_map(pid).collect()
}

// === impl Reader ===

impl Reader {
    /// Asks for lines.
    fn ask(&self, query: &str) -> Result<Value, Unanswered> {
        let of = match &self.name {
            Some(name) => format!("&process={}", encoded(name)),
            None => String::new(),
        };
        let path = format!("/api/logs?{query}{of}");
        let (status, body) = control::ask(self.pid, Method::GET, &path)?;
        let text = String::from_utf8_lossy(&body);
        if status != StatusCode::OK {
            return Err(Unanswered::Failed(refusal(self.pid, &text)));
        }
        let pid = self.pid;
        serde_json::from_str(&text)
            .map_err(|error| Unanswered::Failed(format!("process {pid} answers no JSON: {error}")))
    }

    /// Returns the lines of an answer as they are printed.
    fn shown(&self, answer: &Value) -> String {
        let lines = answer["lines"].as_array().map_or(&[][..], Vec::as_slice);
        let name = |line: &Value| {
            let path = line["process"].as_str().unwrap_or_default();
            let name = path.strip_prefix("process/").unwrap_or(path);
            plain(name).into_owned()
        };
        let names: Vec<String> = lines.iter().map(name).collect();
        let prefix = Prefix::of(names.iter().map(String::as_str), self.colours);
        let mut shown = String::new();
        for (line, name) in lines.iter().zip(&names) {
            if self.json {
                shown.push_str(&line.to_string());
            } else {
                if self.name.is_none() {
                    shown.push_str(&prefix.before(name));
                }
                shown.push_str(&plain(line["text"].as_str().unwrap_or_default()));
            }
            shown.push('\n');
        }
        shown
    }
}
