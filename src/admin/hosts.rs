//! The host names that the server accepts, as a protection against DNS rebinding.
//!
//! In such an attack, a web page from elsewhere lets its own name resolve to the address of this server, so that the
//! browser allows it to read the answers. Its requests still carry that name in the `Host` header, and are refused.
//! Addresses cannot be abused like that and are accepted if they are the server's.

use std::net::{IpAddr, SocketAddr};

/// The bound address and the allowed names.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    /// The unspecified address if the server listens on all of them.
    bound: IpAddr,
    /// In lower case and without a trailing dot.
    ///
    /// A list, because there are few; it is searched for each request with a name.
    names: Vec<String>,
}

// === impl Hosts ===

impl Hosts {
    /// Allows these names in addition to the bound address and the names of the loopback.
    pub(crate) fn new(bound: SocketAddr, names: &[String]) -> Self {
        Self {
            bound: bound.ip(),
            names: names.iter().map(|name| plain(name)).collect(),
        }
    }

    /// Returns true if requests with this `Host` header are accepted. The port is ignored, since it may be forwarded.
    pub(crate) fn allow(&self, host: &str) -> bool {
        let name = plain(without_port(host));
        let literal = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(&name);
        if let Ok(address) = literal.parse::<IpAddr>() {
            // If the server listens on all addresses, each address may be one of this machine.
            return address.to_canonical().is_loopback()
                || address == self.bound
                || self.bound.is_unspecified();
        }
        name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }
}

/// Normalizes a name: lower case, no trailing dot.
///
/// A trailing dot marks a complete name in DNS, and means the same host.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Removes the port of a `Host` header, if there is one.
///
/// Brackets stay around an IPv6 address (RFC 3986, section 3.2.2). Nothing is validated: a
/// malformed host is simply not in the list.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => {
            // An IPv6 address without brackets cannot have a port.
            if name.contains(':') && !name.starts_with('[') {
                host
            } else {
                name
            }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(bound: &str) -> Hosts {
        let bound = bound.parse().expect("an address");
        Hosts::new(bound, &["Metrics.Example".to_owned()])
    }

    #[test]
    fn the_loopback_the_address_and_configured_names_are_allowed() {
        let hosts = hosts("192.0.2.7:9464");
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "localhost.:1",
            "app.localhost",
            "127.0.0.1",
            "127.9.9.9:9464",
            "[::1]",
            "[::1]:9464",
            "[::ffff:127.0.0.1]:1",
            "192.0.2.7:80",
            "metrics.example:9464",
            "metrics.example.",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn other_names_and_addresses_are_refused() {
        let hosts = hosts("192.0.2.7:9464");
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8",
            "[::2]",
            "metrics.example.evil",
            "xlocalhost",
            ":9464",
            "localhost:1:2",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_accepts_any_address() {
        assert!(hosts("0.0.0.0:9464").allow("10.1.2.3:9464"));
        assert!(!hosts("0.0.0.0:9464").allow("pod.example:9464"));
    }
}
