//! The keys of a check by DNS.

use std::net::IpAddr;

use crate::service::config::problem::quoted;
use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::endpoint::DnsCheck;

use super::is_host;

/// The most addresses of `expect_addresses`.
const MOST: usize = 100;

/// Reads the keys of a check. `target` is the name.
pub(super) fn read(target: &Value<'_>, table: &mut Table<'_>) -> Option<DnsCheck> {
    let name = name(target);
    let expect_addresses = table.or("expect_addresses", Vec::new(), addresses).value;
    Some(DnsCheck {
        name: name?,
        expect_addresses,
    })
}

/// Reads `dns`. An address is refused: nothing would be looked up.
fn name(value: &Value<'_>) -> Option<String> {
    let help = "allowed: the name of a host, for example \"db.internal\"";
    let text = value.filled("dns = \"db.internal\"")?;
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        let what = format!("{} is an address, so nothing is looked up", quoted(text));
        return value.refuse(what, help);
    }
    if !is_host(text) {
        return value.refuse(format!("{} is not a host", quoted(text)), help);
    }
    Some(text.to_owned())
}

/// Reads `expect_addresses`.
fn addresses(value: &Value<'_>) -> Option<Vec<IpAddr>> {
    let example = "expect_addresses = [\"10.0.0.5\"]";
    let list = value.list_up_to(MOST, "addresses", example)?;
    let address = |value: &Value<'_>| {
        let text = value.filled("\"10.0.0.5\"")?;
        let Ok(address) = text.parse() else {
            return value.refuse(
                format!("{} is not an address", quoted(text)),
                "allowed: IPv4 and IPv6 addresses, for example \"10.0.0.5\" or \"fd00::5\"",
            );
        };
        Some(address)
    };
    list.iter().map(address).collect()
}
