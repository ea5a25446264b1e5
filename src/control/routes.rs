//! What is answered to which path.

use super::answers::{self, error, json, text};
use super::api::{self, Asked};
use super::hosts::Hosts;
use super::page;
use crate::shutdown::hold::Scrape;
use crate::telemetry::{Format, Metrics, Watched};
use axum::Router;
use axum::extract::{Query, Request, State as Extract};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What all requests share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) metrics: Metrics,
    pub(super) hosts: Hosts,
}

/// When this connection was asked for `/metrics`, if it was, and whether by a scraper that says that it is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Scraped(Arc<OnceLock<(Instant, bool)>>);

/// Sent with each scrape by Prometheus and what has its scraper, such as OpenTelemetry's collector and vmagent
/// (`scrape/scrape.go` of prometheus/prometheus).
const SCRAPER: &str = "x-prometheus-scrape-timeout-seconds";

type Shared = Arc<State>;

/// Every path, as `openapi.json` lists them.
pub(super) fn router(state: Shared, scraped: Scraped) -> Router {
    let metrics = move |state, method, headers| {
        let text = metrics(&scraped, state, &method, &headers);
        async { text }
    };
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
        .route("/api/threads", data(api::threads))
        .route("/api/report", data(api::report))
        .route("/api/runtime", data(api::runtime))
        .route("/api/openapi.json", get(|| async { answers::openapi() }))
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "no such path; /api/openapi.json lists all",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

fn data<T: serde::Serialize + 'static>(read: fn(&Watched) -> T) -> MethodRouter<Shared> {
    get(move |Extract(state): Extract<Shared>| async move { json(&read(state.metrics.watched())) })
}

/// What no request may have, whatever its path; and what every answer has.
async fn guard(Extract(state): Extract<Shared>, request: Request, next: Next) -> Response {
    let refused = refusal(&state.hosts, &request);
    answers::sealed(match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    })
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let mut given = headers.get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    let host = first.and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| second.is_none()) else {
        return Some(error(StatusCode::BAD_REQUEST, "one Host header is needed"));
    };
    // A proxy's form of a request names a host too.
    let target = request.uri().host();
    if let Some(wrong) = [Some(host), target]
        .into_iter()
        .flatten()
        .find(|host| !hosts.allow(host))
    {
        let text = format!(
            "not served under the name '{wrong}': use the address, or add the name to the allowed hosts of the admin server"
        );
        return Some(error(StatusCode::FORBIDDEN, &text));
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .is_some_and(|length| length != "0");
    if length || headers.contains_key(TRANSFER_ENCODING) {
        return Some(error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a request has no body here",
        ));
    }
    None
}

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

async fn ready(Extract(state): Extract<Shared>) -> Response {
    let reasons = state.metrics.watched().reasons_not_ready();
    if reasons.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let reasons = format!("not ready: {}\n", reasons.join("; "));
    text(StatusCode::SERVICE_UNAVAILABLE, &reasons)
}

async fn tasks(
    Extract(state): Extract<Shared>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return error(StatusCode::BAD_REQUEST, "the query cannot be read");
    };
    match Asked::parse(&query) {
        Ok(asked) => json(&api::tasks(state.metrics.watched(), &asked)),
        Err(why) => error(StatusCode::BAD_REQUEST, &why),
    }
}

// === impl Scraped ===

impl Scraped {
    pub(super) fn by(&self, from: IpAddr) -> Option<Scrape> {
        let (begun, declared) = self.0.get().copied()?;
        Some(Scrape {
            from,
            begun,
            declared,
        })
    }
}
