//! The keys of an `endpoint` task.
//!
//! Addresses and URLs are checked here, so that a message can point at the part that is wrong.
//! `Check::validate` then refuses what the check itself cannot work with.

mod dns;
mod http;
mod servers;
mod tls;

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::service::endpoint::{Check, EndpointSettings};

use super::problem::quoted;
use super::process::words;
use super::table::Table;
use super::value::{DAY, Value, shown};

/// The example in messages about `check`.
const CHECK: &str =
    "check = { tcp = \"127.0.0.1:5432\" } or check = { http = \"http://127.0.0.1:8080/\" }";
/// The example in messages about `command`.
const COMMAND: &str = "command = [\"./healthy\", \"--quick\"]";
/// The keys of `check` of which exactly one says what is checked.
const KINDS: [&str; 7] = ["tcp", "http", "grpc", "postgres", "redis", "dns", "command"];
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

/// The characters of user info and of libpq's form of a connection.
const NOT_IN_ADDRESSES: [char; 2] = ['@', '='];

/// Reads `check`: exactly one of [`KINDS`] must be set.
fn check(value: &Value<'_>) -> Option<Check> {
    let mut table = value.table_like(CHECK)?;
    let kinds = KINDS.iter();
    let set: Vec<_> = kinds
        .filter_map(|kind| Some((*kind, table.get(kind)?)))
        .collect();
    let [(kind, target)] = &*set else {
        let all = KINDS.map(|kind| format!("`{kind}`")).join(", ");
        return value.refuse(
            format!("needs exactly one of {all}"),
            format!("for example {CHECK}"),
        );
    };
    let is_address = !matches!(*kind, "http" | "command" | "dns");
    let text = target.as_text().filter(|_| is_address);
    if text.is_some_and(|text| text.contains(NOT_IN_ADDRESSES)) {
        // It may contain a password, and any problem of this table shows it.
        value.problems.hide_at(target.at.clone());
    }
    let check = match *kind {
        "http" => http::read(target, &mut table).map(Check::Http),
        "grpc" => servers::grpc(target, &mut table).map(Check::Grpc),
        "postgres" => servers::postgres(target, &mut table).map(Check::Postgres),
        "redis" => servers::redis(target, &mut table).map(Check::Redis),
        "command" => Some(words(target, COMMAND))
            .filter(|words| !words.is_empty())
            .map(Check::Command),
        "dns" => dns::read(target, &mut table).map(Check::Dns),
        _ => address(target).map(|address| Check::Tcp { address }),
    };
    // The check itself may refuse more than the readers above.
    if let Some(Err(invalid)) = check.as_ref().map(Check::validate) {
        let key = invalid.key().unwrap_or(kind);
        table.refuse(key, invalid.to_string(), format!("for example {CHECK}"));
    }
    table.finish();
    check
}

/// Reads the address of a server: host and port, both required. The host is not resolved.
fn address(value: &Value<'_>) -> Option<String> {
    let help =
        "allowed: \"host:port\" with a port from 1 to 65535; IPv6 in brackets: \"[::1]:5432\"";
    let text = value.filled("\"127.0.0.1:5432\"")?;
    if text.contains(NOT_IN_ADDRESSES) {
        return value.refuse("is not a host and a port alone", help);
    }
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
