//! The static files of the page. Its script listens to `/api/events`, and polls the lists of `/api`.
//!
//! The script inserts all values as text, so a task name cannot inject markup.
//!
//! The files are compiled into the program, so the page needs no files at run time and loads
//! nothing from other hosts. Each request copies no more than a reference to them.

use super::answers::typed;
use axum::http::StatusCode;
use axum::response::Response;

/// The script: one request brings all of its files, in this order.
const SCRIPT: &str = concat!(
    include_str!("page/format.js"),
    include_str!("page/table.js"),
    include_str!("page/chart.js"),
    include_str!("page/overview.js"),
    include_str!("page/supervised.js"),
    include_str!("page/tasks.js"),
    include_str!("page/shutdown.js"),
    include_str!("page/live.js"),
);

/// Returns the page.
pub(crate) fn html() -> Response {
    let page = include_str!("page/page.html");
    typed(StatusCode::OK, "text/html; charset=utf-8", page)
}

/// Returns the script.
pub(crate) fn script() -> Response {
    typed(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT)
}

/// Returns the style sheet.
pub(crate) fn style() -> Response {
    let style = include_str!("page/page.css");
    typed(StatusCode::OK, "text/css; charset=utf-8", style)
}

/// Returns the icon, as SVG.
pub(crate) fn icon() -> Response {
    let icon = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\">\
        <path fill=\"#3a7\" d=\"M2 13V3h2v4h8V3h2v10h-2V9H4v4z\"/></svg>";
    typed(StatusCode::OK, "image/svg+xml", icon)
}
