//! The keys of a check by HTTP.

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use crate::service::config::problem::quoted;
use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::endpoint::HttpCheck;
use crate::service::secrets::Secrets;

use super::{is_host, is_port, tls};

/// The longest text of `expect_body`, in bytes.
const LONGEST_TEXT: usize = 1024;

/// Reads the keys of a check. `target` is its URL.
pub(super) fn read(target: &Value<'_>, table: &mut Table<'_>) -> Option<HttpCheck> {
    let url = url(target);
    let expect_status = table
        .or("expect_status", (200..=399).collect(), statuses)
        .value;
    let expect_body = table.or("expect_body", None, body).value;
    let headers = table.or("headers", Secrets::default(), headers).value;
    let is_plain = |url: &String| !url.to_ascii_lowercase().starts_with("https:");
    let why = url.as_ref().is_some_and(is_plain).then_some("an http URL");
    let tls = tls::read(table, why);
    Some(HttpCheck {
        url: url?,
        expect_status,
        expect_body,
        headers,
        tls,
    })
}

/// Reads `expect_body`, which is not empty.
fn body(value: &Value<'_>) -> Option<Option<String>> {
    let example = "expect_body = \"ok\"";
    let text = value.text(example)?;
    if text.is_empty() || text.len() > LONGEST_TEXT {
        return value.refuse(
            format!("has {} bytes", text.len()),
            format!("allowed: 1 to {LONGEST_TEXT} bytes, for example {example}"),
        );
    }
    Some(Some(text.to_owned()))
}

/// Reads `http`: an absolute URL without credentials.
fn url(value: &Value<'_>) -> Option<String> {
    let help = "allowed: \"http://host/path\" or \"https://host/path\", optionally with a port from 1 to 65535";
    let text = value.filled("\"http://127.0.0.1:8080/health\"")?;
    let no = |what: &str| value.refuse(format!("{} {what}", quoted(text)), help);
    let Ok(uri) = text.parse::<Uri>() else {
        return no("is not a URL");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return no("is not an HTTP URL");
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        let help = "use a header instead: headers = { Authorization = \"…\" }";
        return value.refuse("must not contain a user name or a password", help);
    }
    let host = uri.host().unwrap_or_default();
    if !is_host(host) {
        return no("has no valid host");
    }
    // The rest of the authority is the port, if there is one.
    match authority
        .strip_prefix(host)
        .map(|rest| rest.strip_prefix(':'))
    {
        Some(None) => {}
        Some(Some(port)) if is_port(port) => {}
        _ => return no("has an invalid port"),
    }
    Some(text.to_owned())
}

/// Reads `expect_status`; an empty list is refused.
fn statuses(value: &Value<'_>) -> Option<Vec<u16>> {
    let example = "expect_status = [200, 204]";
    let list = value.list(example)?;
    if list.is_empty() {
        return value.refuse(
            "is empty: no status would count as success",
            format!("for example {example}"),
        );
    }
    // A status below 200 is informational: the final response follows it.
    list.iter().map(|value| value.whole(200..=599)).collect()
}

/// Reads `headers`. Names are compared without regard to case, as HTTP does.
fn headers(value: &Value<'_>) -> Option<Secrets> {
    let mut seen: Vec<HeaderName> = Vec::new();
    let texts = value.texts("headers = { Accept = \"text/plain\" }", |name, text| {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            let what = format!("{} is not a valid header name", quoted(name));
            return Err((what, "allowed: letters, digits and -_.!#$%&'*+^`|~"));
        };
        if HeaderValue::from_str(text).is_err() {
            let what = format!("the value of {} is not a valid header value", quoted(name));
            return Err((what, "allowed: visible characters, spaces and tabs"));
        }
        if seen.contains(&parsed) {
            let what = format!(
                "{} is set twice: header names are case-insensitive",
                quoted(name)
            );
            return Err((what, "set each header once"));
        }
        seen.push(parsed);
        Ok(())
    });
    texts.map(Secrets::from)
}
