//! The keys of an `endpoint` task.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use crate::service::endpoint::{Check, EndpointSettings};

use super::problem::quoted;
use super::reader::Table;
use super::value::{DAY, Value, shown};

const CHECK: &str =
    "check = { tcp = \"127.0.0.1:5432\" } or check = { http = \"http://127.0.0.1:8080/\" }";
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the table; `None` if there is no check.
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
            format!("allowed: 1ms to {}, the interval", shown(interval.value)),
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
            let headers = table.or("headers", BTreeMap::new(), headers).value;
            url.map(|url| Check::Http {
                url,
                expect_status,
                headers,
            })
        }
        _ => {
            // Known to both, so that the one complaint is not drowned in unknown keys.
            table.get("expect_status");
            table.get("headers");
            value.refuse(
                "needs either `tcp` or `http`",
                format!("for example {CHECK}"),
            )
        }
    };
    // What the check itself cannot work with, beyond what was looked at here.
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

fn tcp_address(value: &Value<'_>) -> Option<String> {
    let help =
        "allowed: \"host:port\", port 1 to 65535, an IPv6 address in brackets: \"[::1]:5432\"";
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

fn url(value: &Value<'_>) -> Option<String> {
    let help = "allowed: \"http://host/path\" or \"https://host/path\", port 1 to 65535";
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
        let help = "put it into the header: headers = { Authorization = \"…\" }";
        return value.refuse("a URL with a user or a password is not sent", help);
    }
    let host = uri.host().unwrap_or_default();
    if !is_host(host) {
        return no("names no host");
    }
    // What is left of the authority is the port, if there is one.
    match authority
        .strip_prefix(host)
        .map(|rest| rest.strip_prefix(':'))
    {
        Some(None) => {}
        Some(Some(port)) if is_port(port) => {}
        _ => return no("has no port that can be used"),
    }
    Some(text.to_owned())
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
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

fn is_port(port: &str) -> bool {
    // Rust's parser would also take "+80".
    port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..))
}

fn statuses(value: &Value<'_>) -> Option<Vec<u16>> {
    let example = "expect_status = [200, 204]";
    let list = value.list(example)?;
    if list.is_empty() {
        return value.refuse(
            "is empty: no answer would do",
            format!("for example {example}"),
        );
    }
    // Below 200 an answer is not the final one.
    list.iter().map(|value| value.whole(200..=599)).collect()
}

fn headers(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    let mut seen: Vec<HeaderName> = Vec::new();
    value.texts("headers = { Accept = \"text/plain\" }", |name, text| {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            let what = format!("{} cannot name a header", quoted(name));
            return Err((what, "allowed: letters, digits and -_.!#$%&'*+^`|~"));
        };
        if HeaderValue::from_str(text).is_err() {
            let what = format!("the value of {} cannot be sent", quoted(name));
            return Err((what, "allowed: visible characters, spaces and tabs"));
        }
        if seen.contains(&parsed) {
            let what = format!(
                "{} is there twice: case does not matter in it",
                quoted(name)
            );
            return Err((what, "write each header once"));
        }
        seen.push(parsed);
        Ok(())
    })
}
