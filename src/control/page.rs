//! The page for people: static, and its script fetches the JSON again and again. It puts nothing into the page but as
//! text, so no name of a task can be markup.

use super::answers::typed;
use axum::http::StatusCode;
use axum::response::Response;

pub(super) fn html() -> Response {
    let page = include_str!("page.html");
    typed(StatusCode::OK, "text/html; charset=utf-8", page)
}

pub(super) fn script() -> Response {
    let script = include_str!("page.js");
    typed(StatusCode::OK, "text/javascript; charset=utf-8", script)
}

pub(super) fn style() -> Response {
    let style = include_str!("page.css");
    typed(StatusCode::OK, "text/css; charset=utf-8", style)
}

pub(super) fn icon() -> Response {
    let icon = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\">\
        <path fill=\"#3a7\" d=\"M2 13V3h2v4h8V3h2v10h-2V9H4v4z\"/></svg>";
    typed(StatusCode::OK, "image/svg+xml", icon)
}
