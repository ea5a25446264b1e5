//! The static files of the page. Its script polls the JSON of `/api`.
//!
//! The script inserts all values as text, so a task name cannot inject markup.
//!
//! The files are compiled into the program, so the page needs no files at run time and loads
//! nothing from other hosts. Each request copies no more than a reference to them.

use super::answers::typed;
use axum::http::StatusCode;
use axum::response::Response;

/// Returns the page.
pub(crate) fn html() -> Response {
    let page = include_str!("page.html");
    typed(StatusCode::OK, "text/html; charset=utf-8", page)
}

/// Returns the script.
pub(crate) fn script() -> Response {
    let script = include_str!("page.js");
    typed(StatusCode::OK, "text/javascript; charset=utf-8", script)
}

/// Returns the style sheet.
pub(crate) fn style() -> Response {
    let style = include_str!("page.css");
    typed(StatusCode::OK, "text/css; charset=utf-8", style)
}

/// Returns the icon, as SVG.
pub(crate) fn icon() -> Response {
    let icon = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\">\
        <path fill=\"#3a7\" d=\"M2 13V3h2v4h8V3h2v10h-2V9H4v4z\"/></svg>";
    typed(StatusCode::OK, "image/svg+xml", icon)
}
