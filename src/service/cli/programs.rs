//! The programs of the declared processes and endpoints, as `headcount check` looks for them: a program that does not
//! exist here is a warning only, because the service may run on another machine.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::service::config::{Config, Kind};
use crate::service::endpoint::Check;
use crate::service::process::ProcessSettings;
use crate::text::plain;

/// The folders that are searched if `PATH` is not set, as execvp(3) does.
const USUAL: &str = "/bin:/usr/bin";

/// Returns a line for each process or endpoint with a program that is not found or cannot be executed.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for task in &config.tasks {
        if let Kind::Endpoint(endpoint) = &task.kind
            && let Check::Command(command) = &endpoint.check
        {
            let command = ProcessSettings {
                command: command.clone(),
                ..ProcessSettings::default()
            };
            if let Err(why) = find(&command) {
                warnings.push(format!(
                    "tasks.{}.check.command: warning: {}",
                    task.name,
                    plain(&why)
                ));
            }
        }
        let Kind::Process(settings) = &task.kind else {
            continue;
        };
        if let Some(folder) = &settings.working_folder
            && !folder.is_dir()
        {
            let folder = folder.display().to_string();
            warnings.push(format!(
                "tasks.{}.working_folder: warning: there is no folder {}",
                task.name,
                plain(&folder)
            ));
        } else if let Err(why) = find(settings) {
            warnings.push(format!(
                "tasks.{}.command: warning: {}",
                task.name,
                plain(&why)
            ));
        }
    }
    warnings
}

/// Looks for the program as the start of the process would.
fn find(settings: &ProcessSettings) -> Result<(), String> {
    let program = settings.command.first().map_or("", String::as_str);
    if program.contains('/') {
        let folder = settings.working_folder.as_deref();
        let path = folder.unwrap_or(Path::new("")).join(program);
        // Without a `.` in the middle.
        let path: PathBuf = path.components().collect();
        return match fs::metadata(&path) {
            Ok(_) if is_program(&path) => Ok(()),
            Ok(_) => Err(format!("{} cannot be executed", path.display())),
            Err(_) => Err(format!("there is no program {}", path.display())),
        };
    }
    let own = settings.env.get("PATH").map(Into::into);
    let folders = own.or_else(|| env::var_os("PATH"));
    let folders = folders.unwrap_or_else(|| USUAL.into());
    let mut found = env::split_paths(&folders).map(|folder: PathBuf| folder.join(program));
    if found.any(|path| is_program(&path)) {
        return Ok(());
    }
    Err(format!("there is no program {program} in PATH"))
}

/// Returns true for a file that some user may execute.
fn is_program(path: &Path) -> bool {
    let data = fs::metadata(path);
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
