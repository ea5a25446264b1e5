//! The services of headcount that run as this user, for `headcount ps` without a process.
//!
//! Each process of the user is asked for its control socket and its black box, where its own
//! environment puts them. Root finds those of all users.

use super::control::Unanswered;
use super::tasks::Form;
use super::ways::{self, Notes, Way, overview};
use crate::runtime::control_sockets;
use crate::text::plain;
use rustix::process::geteuid;
use serde::Serialize;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// A service that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Service {
    pid: u32,
    /// The name of the service; `None` if it does not answer and has no black box.
    service: Option<String>,
    phase: Option<String>,
    /// The number of live tracked tasks.
    tasks: Option<u64>,
    /// The file name of the program.
    program: String,
    /// True if the process is stopped by a signal or a debugger.
    stopped: bool,
    /// The way by which this is known.
    by: &'static str,
}

/// Returns the output of `headcount ps` without a process.
pub(super) fn list(json: bool, form: Form) -> String {
    let services = all();
    if json {
        let text = serde_json::to_string(&services).expect("it has text and numbers only");
        return text + "\n";
    }
    rows(&services, form)
}

/// Returns the services, by process id.
fn all() -> Vec<Service> {
    let own = geteuid().as_raw();
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| {
        let pid = folder.file_name().to_str()?.parse().ok()?;
        let owner = folder.metadata().ok()?.uid();
        (own == 0 || owner == own).then_some(pid)
    });
    let mut services: Vec<Service> = pids.filter_map(service).collect();
    services.sort_by_key(|service| service.pid);
    services
}

/// Returns what is known of a process, if it is a service of headcount.
fn service(pid: u32) -> Option<Service> {
    let stopped = ways::is_stopped(pid);
    let has_socket = control_sockets(pid).iter().any(|path| path.exists());
    let found = |service, phase, tasks, way: Way| Service {
        pid,
        service,
        phase,
        tasks,
        program: ways::program(pid),
        stopped,
        by: way.as_str(),
    };
    if has_socket && !stopped {
        match overview(pid) {
            Ok(seen) => {
                let (service, phase) = (Some(seen.service), Some(seen.phase));
                return Some(found(service, phase, Some(seen.tasks_live), Way::Socket));
            }
            // The file may be another process's.
            Err(Unanswered::NoSocket(_)) => {}
            Err(Unanswered::Failed(_)) => {
                return Some(
                    noted(pid, &found).unwrap_or_else(|| found(None, None, None, Way::Socket)),
                );
            }
        }
    }
    noted(pid, &found)
}

/// Returns what the black box of a process says.
fn noted(
    pid: u32,
    found: &impl Fn(Option<String>, Option<String>, Option<u64>, Way) -> Service,
) -> Option<Service> {
    let moments = Notes::read(pid, 0)?.moments;
    let phase = moments.phase.as_str().to_owned();
    let tasks = moments.live_tasks + moments.tasks_not_in_box;
    Some(found(
        Some(moments.service),
        Some(phase),
        Some(tasks),
        Way::BlackBox,
    ))
}

/// Returns a row for each service.
fn rows(services: &[Service], form: Form) -> String {
    if services.is_empty() {
        let words = "no service of headcount runs as this user; `headcount ps PID` reads any tokio program\n";
        return words.to_owned();
    }
    let unknown = || "?".to_owned();
    let name = |service: &Service| {
        let name = service.service.as_deref();
        name.map_or_else(unknown, |name| plain(name).into_owned())
    };
    let names: Vec<String> = services.iter().map(name).collect();
    let widest = names.iter().map(|name| name.chars().count()).max();
    let width = widest.unwrap_or(0).clamp(4, 40);
    let mut text = form.line(
        &format!(
            "{:>7}  {:<width$}  {:<10}  {:>7}  BY",
            "PID", "NAME", "PHASE", "TASKS"
        ),
        "",
    );
    for (service, name) in services.iter().zip(&names) {
        let phase = match (&service.phase, service.stopped) {
            (_, true) => "stopped",
            (Some(phase), false) => phase,
            (None, false) => "?",
        };
        let tasks = service
            .tasks
            .map_or_else(unknown, |tasks| tasks.to_string());
        let row = format!(
            "{:>7}  {name:<width$}  {phase:<10}  {tasks:>7}  ",
            service.pid
        );
        text += &form.line(&row, &format!("{} ({})", service.by, service.program));
    }
    text
}
