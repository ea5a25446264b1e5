//! The keys of an `endpoint` task.
//!
//! Addresses and URLs are checked here, so that a message can point at the part that is wrong.
//! `Check::validate` then refuses what the check itself cannot work with.

use std::net::Ipv6Addr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use crate::service::endpoint::{Check, EndpointSettings};
use crate::service::secrets::Secrets;

use super::problem::quoted;
use super::table::Table;
use super::value::{DAY, Value, shown};

/// The example in messages about `check`.
const CHECK: &str =
    "check = { tcp = \"127.0.0.1:5432\" } or check = { http = \"http://127.0.0.1:8080/\" }";
/// The default of `timeout`, if the interval is not shorter.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the table. Returns `None` if there is no valid check.
pub(super) fn read(table: &mut Table<'_>) -> Option<EndpointSettings> {
    let check = table
        .require("check", CHECK)
        .and_then(|value| check(&value));
    let interval = table.or("interval", Duration::from_secs(10), |value| {
        value.duration(Duration::from_millis(100)..=DAY)
    });
    let jitter = table
        .or("jitter", 0.1, |value| value.number(0.0..=0.5))
        .value;
    let timeout = table.or("timeout", TIMEOUT.min(interval.value), |value| {
        value.duration(Duration::from_millis(1)..=DAY)
    });
    if interval.sound && timeout.sound && timeout.value > interval.value {
        table.refuse(
            "timeout",
            format!("{} is longer than the interval", shown(timeout.value)),
            format!("allowed: 1ms to {} (the interval)", shown(interval.value)),
        );
    }
    let up_after = table.or("up_after", 1, |value| value.whole(1..=1000)).value;
    let down_after = table
        .or("down_after", 3, |value| value.whole(1..=1000))
        .value;
    let required = table.or("required", false, Value::flag).value;
    Some(EndpointSettings {
        check: check?,
        interval: interval.value,
        jitter,
        timeout: timeout.value,
        up_after,
        down_after,
        required,
    })
}

/// Reads `check`: exactly one of `tcp` and `http` must be set.
fn check(value: &Value<'_>) -> Option<Check> {
    let mut table = value.table_like(CHECK)?;
    let (tcp, http) = (table.get("tcp"), table.get("http"));
    let check = match (tcp, http) {
        (Some(tcp), None) => tcp_address(&tcp).map(|address| Check::Tcp { address }),
        (None, Some(http)) => {
            let url = url(&http);
            let expect_status = table
                .or("expect_status", (200..=399).collect(), statuses)
                .value;
            let headers = table.or("headers", Secrets::default(), headers).value;
            url.map(|url| Check::Http {
                url,
                expect_status,
                headers,
            })
        }
        _ => {
            // Marks these keys as known, so that they are not reported as well.
            table.get("expect_status");
            table.get("headers");
            value.refuse(
                "needs either `tcp` or `http`",
                format!("for example {CHECK}"),
            )
        }
    };
    // The check itself may refuse more than the readers above.
    if let Some(Err(invalid)) = check.as_ref().map(Check::validate) {
        let key = match invalid.key() {
            "address" => "tcp",
            "url" => "http",
            key => key,
        };
        table.refuse(key, invalid.to_string(), format!("for example {CHECK}"));
    }
    table.finish();
    check
}

/// Reads `tcp`: host and port, both required. The host is not resolved.
fn tcp_address(value: &Value<'_>) -> Option<String> {
    let help =
        "allowed: \"host:port\" with a port from 1 to 65535; IPv6 in brackets: \"[::1]:5432\"";
    let text = value.filled("\"127.0.0.1:5432\"")?;
    let Some((host, port)) = text.rsplit_once(':') else {
        return value.refuse(format!("{} has no port", quoted(text)), help);
    };
    if !is_host(host) {
        return value.refuse(format!("{} is not a host", quoted(host)), help);
    }
    if !is_port(port) {
        return value.refuse(format!("{} is not a port", quoted(port)), help);
    }
    Some(text.to_owned())
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

/// Returns whether this looks like a host name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            let odd = |c: char| c.is_whitespace() || c.is_control() || ":/@[]?#".contains(c);
            !host.is_empty() && !host.contains(odd)
        }
    }
}

/// Returns true if this is a port from 1 to 65535.
fn is_port(port: &str) -> bool {
    // Rust's integer parser also accepts "+80".
    port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..))
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
