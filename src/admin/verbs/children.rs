//! `POST /start`, `/stop?process=…` and `/restart`: requests about one child process.
//!
//! The request goes to the task that runs the process, which answers it. The answer to the client
//! waits for that for at most [`PATIENCE`](super::PATIENCE); the task goes on afterwards.

use super::{Controls, PATIENCE, accepted};
use crate::admin::answers::{error, json};
use crate::group::TaskGroup;
use crate::registry::root::Process;
use crate::telemetry::ChildVerb;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use tokio::time::timeout;

/// The most names in an answer.
const NAMES: usize = 100;

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    /// The path of the task that runs the process.
    process: String,
    /// The outcome in words; absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    /// The state of the process.
    state: &'static str,
}

/// The answer for a process that does not exist, or a name that several have.
#[derive(Debug, Serialize)]
pub(super) struct UnknownProcess {
    error: String,
    /// The names of the processes that exist.
    processes: Vec<String>,
    /// The number of names that are left out.
    more: usize,
}

impl Controls {
    /// Answers a request about the process `name`: 200 if it was carried out, 202 if that takes longer,
    /// and 409 if it is refused.
    pub(super) async fn child(&self, verb: ChildVerb, name: &str) -> Response {
        let root = self.tasks.registry_root();
        let found = root.processes.named(name);
        let [process] = &found[..] else {
            return UnknownProcess::of(name, found.len() > 1, &self.tasks);
        };
        if root.is_stopping() {
            return refused(process, "the service is stopping");
        }
        let Some(requests) = process.requests() else {
            return refused(process, "it cannot be started or stopped by request");
        };
        let answer = match requests.send(verb) {
            Ok(answer) => answer,
            Err(why) => return refused(process, why),
        };
        let outcome = match timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(outcome))) => Some(outcome),
            Ok(Ok(Err(why))) => return refused(process, &why),
            Ok(Err(_)) => {
                let why =
                    "it was not carried out: the process is being stopped, or a later request came";
                return refused(process, why);
            }
            Err(_) => None,
        };
        let is_done = outcome.is_some();
        let answer = Answer {
            process: process.path.clone(),
            outcome,
            state: process.state().word,
        };
        if is_done {
            json(&answer)
        } else {
            accepted(&answer)
        }
    }
}

fn refused(process: &Arc<Process>, why: &str) -> Response {
    error(StatusCode::CONFLICT, &format!("{}: {why}", process.path))
}

// === impl UnknownProcess ===

impl UnknownProcess {
    /// Returns the answer, with the names of all processes.
    pub(super) fn of(name: &str, is_several: bool, tasks: &TaskGroup) -> Response {
        let all = tasks.registry_root().processes.all();
        let mut processes: Vec<String> = all.iter().map(|process| process.path.clone()).collect();
        processes.sort();
        let more = processes.len().saturating_sub(NAMES);
        processes.truncate(NAMES);
        let mut response = json(&Self {
            error: match is_several {
                true => format!("several processes are named '{name}': give the whole path"),
                false => format!("there is no process '{name}'"),
            },
            processes,
            more,
        });
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    }
}
