//! The routes of the server, and the checks that every request has to pass.
//!
//! The order of the checks: the `Host` header, the host in the target, the site, the body; then the path,
//! then the method. The routes here are all `GET` and `HEAD`, so they change nothing; the control socket
//! adds those of `verbs`. Each handler here runs to its end without waiting, on the thread of the
//! server, except that of the dump.

use super::answers::{self, error, json, text};
use super::api::{self, Asked};
use super::dumps::Dumps;
use super::events::{self, Events};
use super::hosts::Hosts;
use super::page;
use super::places::{Peer, Place};
use super::verbs::{self, Controls};
use crate::control::scrapes::Scrape;
use crate::telemetry::{Format, Metrics, Source};
use axum::Router;
use axum::extract::{Query, RawQuery, Request, State as Extract};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The data that all requests share. It lives as long as the server.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) metrics: Metrics,
    pub(crate) hosts: Hosts,
    pub(crate) dumps: Dumps,
    pub(crate) events: Arc<Events>,
    /// For the control socket only.
    pub(crate) controls: Option<Controls>,
}

/// The request for `/metrics` on a connection: its time, and whether it has the header of a
/// scraper. Empty if there was none. It is set once; a connection serves one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scraped(Arc<OnceLock<(Instant, bool)>>);

/// A request header that Prometheus sends with each scrape, and so do programs with the same scraper, such as the
/// OpenTelemetry collector and vmagent (`scrape/scrape.go` in prometheus/prometheus).
const SCRAPER: &str = "x-prometheus-scrape-timeout-seconds";

/// Cloned for each connection; only the thread of the server does so.
type Shared = Arc<State>;

/// Returns the router of one connection. A test compares the paths with `openapi.json`.
///
/// Built anew for each connection, because the handler of `/metrics` keeps what it was asked on
/// this connection.
pub(super) fn router(state: Shared, place: Arc<Place>, scraped: Scraped) -> Router {
    let metrics = move |state, method, headers| {
        let text = metrics(&scraped, state, &method, &headers);
        async { text }
    };
    let streams = Arc::clone(&place);
    let events = move |Extract(state): Extract<Shared>| async move {
        events::answer(&state.events, &state.metrics, streams)
    };
    let verbs = state.controls.as_ref().map(verbs::routes);
    Router::new()
        .route("/", get(|| async { page::html() }))
        .route("/page.js", get(|| async { page::script() }))
        .route("/page.css", get(|| async { page::style() }))
        .route("/favicon.ico", get(|| async { page::icon() }))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(ready))
        .route("/api/tasks", get(tasks))
        .route("/api/groups", data(api::groups))
        .route("/api/untracked", data(api::untracked))
        .route("/api/leaks", data(api::leaks))
        .route("/api/threads", data(api::threads))
        .route("/api/children", data(api::children))
        .route("/api/endpoints", data(api::endpoints))
        .route("/api/report", data(api::report))
        .route("/api/runtime", data(api::runtime))
        .route("/api/events", get(events))
        .route("/api/dump", get(dump))
        .route("/api/openapi.json", get(|| async { answers::openapi() }))
        .merge(verbs.unwrap_or_default())
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "no such path; /api/openapi.json lists all paths",
            )
        })
        .layer(from_fn_with_state(place, admit))
        .layer(from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// Returns a route that answers with JSON from `read`.
///
/// The state is read when the request arrives, not when the router is built.
fn data<T: serde::Serialize + 'static>(read: fn(&Source) -> T) -> MethodRouter<Shared> {
    get(move |Extract(state): Extract<Shared>| async move { json(&read(state.metrics.source())) })
}

/// Refuses invalid requests before routing, and adds the common headers to every response.
///
/// It is a layer around the fallback too, so unknown paths are guarded and sealed like others.
async fn guard(Extract(state): Extract<Shared>, request: Request, next: Next) -> Response {
    let refused = refusal(&state.hosts, &request);
    answers::sealed(match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    })
}

/// Refuses a path that the connection's place may not ask for.
async fn admit(Extract(place): Extract<Arc<Place>>, request: Request, next: Next) -> Response {
    if place.admits(request.uri().path()) {
        next.run(request).await
    } else {
        answers::full()
    }
}

/// Returns the error response if the request is refused: for its `Host` header, its target, or its body.
///
/// Two `Host` headers are refused, because a proxy may check one and this server the other (RFC
/// 9112, section 3.2). A body is refused without reading it, which bounds the memory of a request
/// by that of its head.
fn refusal(hosts: &Hosts, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let mut given = headers.get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    let host = first.and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| second.is_none()) else {
        return Some(error(
            StatusCode::BAD_REQUEST,
            "exactly one Host header is required",
        ));
    };
    // The absolute form of a request target, as sent to proxies, contains a host as well.
    let target = request.uri().host();
    if let Some(wrong) = [Some(host), target]
        .into_iter()
        .flatten()
        .find(|host| !hosts.allow(host))
    {
        let text = format!(
            "host '{wrong}' is not allowed: use the address, or add the name to the allowed hosts of the admin server"
        );
        return Some(error(StatusCode::FORBIDDEN, &text));
    }
    if is_foreign(headers) {
        return Some(error(
            StatusCode::FORBIDDEN,
            "requests by pages of other sites are not allowed",
        ));
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .is_some_and(|length| length != "0");
    if length || headers.contains_key(TRANSFER_ENCODING) {
        return Some(error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request bodies are not allowed",
        ));
    }
    None
}

/// Returns whether a browser sends the request for a page of another site, which cannot read the answer
/// but could have dumps taken (<https://www.w3.org/TR/fetch-metadata/>). A link to this server is
/// followed.
fn is_foreign(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
    let from_elsewhere = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    from_elsewhere && !is("sec-fetch-dest", "document")
}

/// Answers `/metrics`, in the format that the client accepts. Records the request in `scraped`; a HEAD request is no
/// scrape.
///
/// The time is noted before the metrics are computed, so a scrape that began before the shutdown is
/// not taken for a later one.
fn metrics(
    scraped: &Scraped,
    Extract(state): Extract<Shared>,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    if *method == Method::GET {
        scraped
            .0
            .get_or_init(|| (Instant::now(), headers.contains_key(SCRAPER)));
    }
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = accept.map_or(Format::Text, Format::accepted);
    answers::metrics(format, state.metrics.read(format))
}

/// Answers `/readyz`: 200, or 503 with the reasons.
async fn ready(Extract(state): Extract<Shared>) -> Response {
    let source = state.metrics.source();
    let reasons = source.reasons_not_ready();
    let status = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &api::readiness(source, &reasons))
}

/// Answers `/api/dump`.
async fn dump(Extract(state): Extract<Shared>, RawQuery(query): RawQuery) -> Response {
    state.dumps.answer(query.as_deref()).await
}

/// Answers `/api/tasks`.
///
/// The parameters are checked by `api`; an unknown one is an error, so that a misspelt filter does
/// not show all tasks.
async fn tasks(
    Extract(state): Extract<Shared>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query string is invalid");
    };
    match Asked::parse(&query) {
        Ok(asked) => json(&api::tasks(state.metrics.source(), &asked)),
        Err(why) => error(StatusCode::BAD_REQUEST, &why),
    }
}

// === impl Scraped ===

impl Scraped {
    /// Returns the scrape of the client at this address, if `/metrics` was requested. A reader of the
    /// control socket is no scraper.
    pub(super) fn by(&self, from: Peer) -> Option<Scrape> {
        let Peer::Address(from) = from else {
            return None;
        };
        let (begun, declared) = self.0.get().copied()?;
        Some(Scrape {
            from,
            begun,
            declared,
        })
    }
}
