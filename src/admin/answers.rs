//! Constructors of HTTP responses, and the headers that all responses have.
//!
//! Every response is built in memory before it is sent, so an error is never found after the status
//! line is out. [`sealed`] is applied once, around all routes, so no route can forget a header.

use crate::telemetry::Format;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::Response;
use serde::Serialize;

/// The OpenAPI document of all paths. Tests compare it with the routes and the answers.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");
/// JSON is UTF-8 by its definition (RFC 8259, section 8.1), so there is no charset.
const JSON: &str = "application/json";

/// The content security policy: only the script, style and data of this server, and no embedding in
/// frames. The page therefore works without inline scripts, and an injected one would not run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The body of the answer to a connection without a place.
pub(crate) const FULL: &str = "too many connections\n";

/// The body of an error response.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    /// A sentence for people; programs look at the status.
    error: &'a str,
}

/// Returns a response with plain text.
pub(crate) fn text(status: StatusCode, text: &str) -> Response {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

/// Returns the response to a request for which no place is left.
pub(crate) fn full() -> Response {
    in_a_second(text(StatusCode::SERVICE_UNAVAILABLE, FULL))
}

/// Returns the response to a request that may be sent again later, as JSON.
pub(crate) fn later(status: StatusCode, why: &str) -> Response {
    in_a_second(error(status, why))
}

/// Adds the time after which the request may be sent again.
fn in_a_second(mut response: Response) -> Response {
    let seconds = HeaderValue::from_static("1");
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// Returns a response with the value as JSON. Allocates the whole text.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => typed(StatusCode::OK, JSON, text),
        // Serialization fails for maps with keys that are not strings; no answer contains one.
        Err(error) => self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Returns a response with the OpenAPI document.
pub(crate) fn openapi() -> Response {
    typed(StatusCode::OK, JSON, OPENAPI.to_owned())
}

/// Returns an error response, as JSON.
pub(crate) fn error(status: StatusCode, error: &str) -> Response {
    let text = serde_json::to_string(&Problem { error }).unwrap_or_default();
    typed(status, JSON, text)
}

/// Returns a response with metrics, with the content type of the format.
pub(crate) fn metrics(format: Format, text: String) -> Response {
    typed(StatusCode::OK, format.content_type(), text)
}

/// Returns a response with a content type.
///
/// The type is a static string, because a header value made from text could fail.
pub(crate) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Adds the headers that every response has: no caching, the content security policy, no content sniffing, no referrer,
/// and no use by other origins.
///
/// `no-store` also keeps a proxy from answering a health check from its memory.
pub(crate) fn sealed(mut response: Response) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
