//! The forms of answers, and the headers that all of them have.

use crate::telemetry::Format;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::Response;
use serde::Serialize;

/// The document that describes the JSON.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
const JSON: &str = "application/json";

/// The page's own script and style, and what they fetch here; nothing of others, and no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Debug, Serialize)]
struct Problem<'a> {
    error: &'a str,
}

pub(super) fn text(status: StatusCode, text: &str) -> Response {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => typed(StatusCode::OK, JSON, text),
        // For maps whose keys are no text, and nothing here has one.
        Err(error) => self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn openapi() -> Response {
    typed(StatusCode::OK, JSON, OPENAPI.to_owned())
}

pub(super) fn error(status: StatusCode, error: &str) -> Response {
    let text = serde_json::to_string(&Problem { error }).unwrap_or_default();
    typed(status, JSON, text)
}

pub(super) fn metrics(format: Format, text: String) -> Response {
    typed(StatusCode::OK, format.content_type(), text)
}

pub(super) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Puts the headers on that every answer has.
pub(super) fn sealed(mut response: Response) -> Response {
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
