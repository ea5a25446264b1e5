//! The additional routes of the control socket: the dump, and the verbs that stop the service or end
//! the tasks of a group.
//!
//! Each handler answers within the time of a connection. A dump is taken on a thread of its own, one
//! at a time. A drain or a cancel runs on the control side; the answer waits for it for at most
//! [`PATIENCE`], and says how many tasks are left.

use super::answers::{error, json, text, typed};
use crate::control::part::DumpSource;
use crate::group::TaskGroup;
use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
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
    dumps: Arc<dyn DumpSource>,
    /// True while a dump for a client is in progress, even if the client is gone.
    dumping: Arc<AtomicBool>,
}

/// A guard that marks a dump as in progress until it is dropped.
struct Dumping(Arc<AtomicBool>);

/// A way to end the tasks of a group.
#[derive(Debug, Clone, Copy)]
enum End {
    Drain,
    Cancel,
}

/// The answer of `/stop`.
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
    let [dumped, stopped, drained, cancelled] = [(); 4].map(|()| controls.clone());
    Router::new()
        .route(
            "/api/dump",
            get(move |RawQuery(query)| async move { dumped.dump(query.as_deref()).await }),
        )
        .route("/stop", post(move || async move { stopped.stop() }))
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
    pub(super) fn new(tasks: TaskGroup, dumps: Arc<dyn DumpSource>) -> Self {
        Self {
            tasks,
            dumps,
            dumping: Arc::default(),
        }
    }

    /// Answers `/api/dump`: JSON, or text with `?format=text`.
    async fn dump(&self, query: Option<&str>) -> Response {
        let is_text = match query {
            None | Some("" | "format=json") => false,
            Some("format=text") => true,
            Some(_) => {
                let allowed = "the only parameter is 'format': json or text";
                return error(StatusCode::BAD_REQUEST, allowed);
            }
        };
        let Some(dumping) = Dumping::begin(&self.dumping) else {
            let mut busy = error(
                StatusCode::SERVICE_UNAVAILABLE,
                "a dump is already being taken",
            );
            let seconds = HeaderValue::from_static("1");
            busy.headers_mut().insert(RETRY_AFTER, seconds);
            return busy;
        };
        let (tell, told) = oneshot::channel();
        let begun = self.dumps.begin(Box::new(move |dump| {
            let words = if is_text {
                dump.to_text()
            } else {
                dump.to_json()
            };
            // Before the answer, because its reader may ask for the next dump at once.
            drop(dumping);
            // It fails if the client is gone.
            tell.send(words).ok();
        }));
        if let Err(refused) = begun {
            let why = format!("the system refuses a thread for the dump: {refused}");
            return error(StatusCode::INTERNAL_SERVER_ERROR, &why);
        }
        match told.await {
            Ok(words) if is_text => text(StatusCode::OK, &words),
            Ok(words) => typed(StatusCode::OK, "application/json", words),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the dump has failed"),
        }
    }

    /// Answers `/stop`: begins the shutdown.
    fn stop(&self) -> Response {
        let begun = !self.tasks.registry_root().is_stopping();
        self.tasks.stop(REASON);
        accepted(&Stopping { begun })
    }

    /// Answers `/drain` and `/cancel`: 200 if no task is left, 202 if some are.
    async fn end(&self, how: End, query: GroupQuery) -> Response {
        let Some(group) = group_of(query) else {
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

/// The parameters of `/drain` and `/cancel`, decoded.
type GroupQuery =
    Result<axum::extract::Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

/// Returns the value of `group`, the only parameter. The path of the root is empty, and no group's.
fn group_of(query: GroupQuery) -> Option<String> {
    match <[_; 1]>::try_from(query.ok()?.0) {
        Ok([(key, value)]) if key == "group" && !value.is_empty() => Some(value),
        _ => None,
    }
}

// === impl Dumping ===

impl Dumping {
    /// Marks a dump as in progress. Returns `None` if one already is.
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        let begun = !flag.swap(true, Ordering::AcqRel);
        begun.then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Dumping {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
