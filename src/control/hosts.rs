//! Which names a client may call the server by: a page of somebody else, whose name is made to resolve to this address
//! (DNS rebinding), must not read what is here.

use std::net::{IpAddr, SocketAddr};

/// The names that are answered to.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    bound: IpAddr,
    names: Vec<String>,
}

// === impl Hosts ===

impl Hosts {
    pub(crate) fn new(bound: SocketAddr, names: &[String]) -> Self {
        Self {
            bound: bound.ip(),
            names: names.iter().map(|name| plain(name)).collect(),
        }
    }

    /// Whether to answer to a `Host` header with this value. The port is not looked at: it may be forwarded.
    pub(crate) fn allow(&self, host: &str) -> bool {
        let name = plain(without_port(host));
        let literal = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(&name);
        if let Ok(address) = literal.parse::<IpAddr>() {
            // A name that was made to resolve here is no address. On all addresses any of them may be ours.
            return address.to_canonical().is_loopback()
                || address == self.bound
                || self.bound.is_unspecified();
        }
        name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => {
            // An address of version 6 without brackets has no port.
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
    fn names_of_the_loopback_the_address_and_those_that_are_configured_are_allowed() {
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
    fn what_may_be_the_name_of_somebody_else_is_not() {
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
    fn on_all_addresses_any_address_may_be_ours() {
        assert!(hosts("0.0.0.0:9464").allow("10.1.2.3:9464"));
        assert!(!hosts("0.0.0.0:9464").allow("pod.example:9464"));
    }
}
