//! The command `headcount report`: the last run of a service, or what a process is doing.

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{print, write_all};
use crate::state::{self, LastRun, NoLastRun};
use crate::text::plain;

/// The name of a service without one in its configuration.
const SERVICE: &str = "headcount";

/// The arguments of `headcount report`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Report file, black box, or pid of a running process; with --last, the name of the service
    #[arg(value_name = "FILE|PID|SERVICE")]
    what: Option<OsString>,
    /// Show the last run that has ended in a state folder, also if it was killed
    #[arg(long, required_unless_present = "what")]
    last: bool,
    /// State folder [default: that of SERVICE, as `[state] folder = "auto"` chooses it]
    #[arg(
        long,
        value_name = "FOLDER",
        requires = "last",
        conflicts_with = "what"
    )]
    state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  headcount report --last orders                     the last run of the service `orders`
  headcount report --last --state /var/lib/orders    the same, by its state folder
  headcount report 4711                              the process 4711, also while it is stopped
  headcount report report.json                       a file of a state folder

A process is read from its black box, without its help. See [state] black_box in `headcount config --default`.";

/// Runs the command, and returns 1 if there is nothing to show.
pub(super) fn report(arguments: &Arguments) -> ExitCode {
    match find(arguments) {
        Ok(last) if arguments.json => print(&format!("{}\n", last.json())),
        Ok(last) => print(&last.to_string()),
        Err(why) => {
            let text = format!("headcount: {}\n", plain(&why));
            write_all(io::stderr(), &text).ok();
            ExitCode::FAILURE
        }
    }
}

/// Finds what to show.
fn find(arguments: &Arguments) -> Result<LastRun, String> {
    let found = if arguments.last {
        LastRun::in_folder(&folder(arguments)?)
    } else {
        let what = arguments.what.as_deref().unwrap_or_default();
        let pid = what.to_str().and_then(|text| text.parse().ok());
        match pid.filter(|_| !Path::new(what).exists()) {
            Some(pid) => LastRun::of_process(pid),
            None => LastRun::in_file(Path::new(what)),
        }
    };
    found.map_err(|error| said(&error))
}

/// Returns the state folder: the given one, or that of the service.
fn folder(arguments: &Arguments) -> Result<PathBuf, String> {
    if let Some(folder) = &arguments.state {
        return Ok(folder.clone());
    }
    let service = arguments.what.as_ref();
    let service = service.map_or(SERVICE.into(), |name| name.to_string_lossy());
    state::default_folder(&service).ok_or_else(|| {
        "there is no state folder: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is an absolute path; \
         name one with --state"
            .to_owned()
    })
}

/// Returns an error with its cause.
fn said(error: &NoLastRun) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
