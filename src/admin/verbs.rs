//! The additional routes of the control socket: the output of child processes (`verbs/logs.rs`), and the
//! verbs that stop the service, end the tasks of a group, or start, stop and restart a child process
//! (`verbs/children.rs`).
//!
//! Each handler answers within the time of a connection. A drain or a cancel runs on the control side;
//! the answer waits for it for at most [`PATIENCE`], and says how many tasks are left.

mod children;
mod logs;

use super::answers::{error, json};
use crate::group::TaskGroup;
use crate::telemetry::ChildVerb;
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use children::UnknownProcess;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest wait for the tasks of a group to end. The commands wait 5 s for the answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// The most groups of one path that a request may end. Each costs a walk over the live tasks.
const GROUPS: usize = 100;
/// The most names of groups in an answer.
const NAMES: usize = 100;
/// The reason of a shutdown that the control socket began.
const REASON: &str = "control socket";

/// The means of the verbs.
#[derive(Debug, Clone)]
pub(crate) struct Controls {
    /// The root group.
    tasks: TaskGroup,
}

/// A way to end the tasks of a group.
#[derive(Debug, Clone, Copy)]
enum End {
    Drain,
    Cancel,
}

/// The answer of `/stop` without a process.
#[derive(Debug, Serialize)]
struct Stopping {
    /// False if a shutdown had begun before.
    begun: bool,
}

/// The answer of `/drain` and `/cancel`.
#[derive(Debug, Serialize)]
struct Ended {
    group: String,
    /// The number of groups with this path.
    groups: usize,
    /// The number of their live tasks before, daemons excluded.
    before: u64,
    /// The number of their live tasks now. Those of a drain may still be ending.
    left: u64,
}

/// The answer for a group that does not exist.
#[derive(Debug, Serialize)]
struct Unknown {
    error: String,
    /// The paths of the groups that exist.
    groups: Vec<&'static str>,
    /// The number of paths that are left out.
    more: usize,
}

/// Returns the routes, for a router of any state.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(controls: &Controls) -> Router<S> {
    let [read, drained, cancelled] = [(); 3].map(|()| controls.clone());
    let [started, stopped, restarted] = [(); 3].map(|()| controls.clone());
    Router::new()
        .route(
            "/api/logs",
            get(move |query| async move { read.logs(query).await }),
        )
        .route(
            "/stop",
            post(move |query| async move { stopped.stop(query).await }),
        )
        .route(
            "/start",
            post(move |query| async move { started.start(ChildVerb::Start, query).await }),
        )
        .route(
            "/restart",
            post(move |query| async move { restarted.start(ChildVerb::Restart, query).await }),
        )
        .route(
            "/drain",
            post(move |query| async move { drained.end(End::Drain, query).await }),
        )
        .route(
            "/cancel",
            post(move |query| async move { cancelled.end(End::Cancel, query).await }),
        )
}

// === impl Controls ===

impl Controls {
    pub(super) fn new(tasks: TaskGroup) -> Self {
        Self { tasks }
    }

    /// Answers `/stop`: begins the shutdown, or stops the process of the only parameter.
    async fn stop(&self, query: Query) -> Response {
        if query.as_ref().is_ok_and(|query| !query.0.is_empty()) || query.is_err() {
            return match value_of("process", query) {
                Some(process) => self.child(ChildVerb::Stop, &process).await,
                None => error(
                    StatusCode::BAD_REQUEST,
                    "the only parameter is 'process', the name of a process; without it, the service is stopped",
                ),
            };
        }
        let begun = !self.tasks.registry_root().is_stopping();
        self.tasks.stop(REASON);
        accepted(&Stopping { begun })
    }

    /// Answers `/start` and `/restart`.
    async fn start(&self, verb: ChildVerb, query: Query) -> Response {
        match value_of("process", query) {
            Some(process) => self.child(verb, &process).await,
            None => error(
                StatusCode::BAD_REQUEST,
                "exactly one parameter is required: 'process', the name of a process",
            ),
        }
    }

    /// Answers `/drain` and `/cancel`: 200 if no task is left, 202 if some are.
    async fn end(&self, how: End, query: Query) -> Response {
        let Some(group) = value_of("group", query) else {
            let allowed = "exactly one parameter is required: 'group', the path of a group";
            return error(StatusCode::BAD_REQUEST, allowed);
        };
        let groups = self.tasks.named(&group);
        if groups.is_empty() {
            return self.unknown(&group);
        }
        if groups.len() > GROUPS {
            let why = format!(
                "{} groups are named '{group}', and at most {GROUPS} can be ended at once; name the group that contains \
                 them",
                groups.len()
            );
            return error(StatusCode::CONFLICT, &why);
        }
        let live = || groups.iter().map(|group| group.scope().live()).sum();
        let before = live();
        let mut ending = JoinSet::new();
        for group in groups.clone() {
            ending.spawn(async move {
                match how {
                    End::Drain => group.drain().await,
                    End::Cancel => group.cancel().await,
                }
            });
        }
        // What has begun goes on after the wait.
        timeout(PATIENCE, async {
            while ending.join_next().await.is_some() {}
        })
        .await
        .ok();
        let ended = Ended {
            group,
            groups: groups.len(),
            before,
            left: live(),
        };
        match ended.left {
            0 => json(&ended),
            _ => accepted(&ended),
        }
    }

    /// Returns the answer for a group that does not exist, with the groups that do.
    fn unknown(&self, group: &str) -> Response {
        let scopes = self.tasks.scope().subtree();
        let names: BTreeSet<&'static str> = scopes.iter().map(|scope| scope.name()).collect();
        let mut groups: Vec<&'static str> = names.into_iter().collect();
        groups.retain(|name| !name.is_empty());
        let more = groups.len().saturating_sub(NAMES);
        groups.truncate(NAMES);
        let mut response = json(&Unknown {
            error: format!("there is no group '{group}'"),
            groups,
            more,
        });
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    }
}

/// Returns the answer to a request that takes effect later.
fn accepted(value: &impl Serialize) -> Response {
    let mut response = json(value);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// The parameters of a request, decoded.
type Query =
    Result<axum::extract::Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

/// Returns the value of `key`, the only parameter. An empty one is none.
fn value_of(key: &str, query: Query) -> Option<String> {
    match <[_; 1]>::try_from(query.ok()?.0) {
        Ok([(given, value)]) if given == key && !value.is_empty() => Some(value),
        _ => None,
    }
}
