//! Section `admin`: where the admin server listens, and to which names it answers.

use std::net::SocketAddr;

use super::AdminSettings;
use super::problem::quoted;
use super::reader::Table;
use super::value::Value;

const EXAMPLE: &str = "listen = \"127.0.0.1:9464\"";
const MOST: usize = 100;

pub(super) fn read(mut table: Table<'_>) -> AdminSettings {
    let default = AdminSettings::default();
    let listen = table.or("listen", default.listen, |value| {
        let text = value.text(EXAMPLE)?;
        match parse_listen(text) {
            Ok(listen) => Some(listen),
            Err(error) => value.refuse(error, LISTEN),
        }
    });
    let allowed_hosts = table.or("allowed_hosts", Vec::new(), |value| {
        let example = "allowed_hosts = [\"orders.example\"]";
        let hosts = value.list(example)?;
        if hosts.len() > MOST {
            return value.refuse(
                format!("holds {} names", hosts.len()),
                format!("allowed: up to {MOST}"),
            );
        }
        Some(hosts.iter().filter_map(host).collect())
    });
    table.finish();
    AdminSettings {
        listen: listen.value,
        allowed_hosts: allowed_hosts.value,
    }
}

pub(super) const LISTEN: &str =
    "allowed: \"address:port\" (IPv6: \"[::1]:9464\"; port 0: any that is free), \"off\"";

/// Where to listen; `None` is "off".
///
/// # Errors
///
/// What is wrong with the text. A name is refused: what it resolves to is not for the configuration to know.
pub(crate) fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let address = text.parse().map(Some);
    address.map_err(|_| format!("{} is not an address with a port", quoted(text)))
}

fn host(value: &Value<'_>) -> Option<String> {
    let host = value.filled("\"orders.example\"")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.len() > 253 || !host.chars().all(fits) {
        return value.refuse(
            format!("{} is not a host name", quoted(host)),
            "allowed: a name without a port, as in \"orders.example\"",
        );
    }
    Some(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_off_is_none() {
        assert_eq!(parse_listen("off"), Ok(None));
        let any = parse_listen("[::]:0")
            .expect("an address")
            .expect("not off");
        assert!(any.ip().is_unspecified());
        for wrong in ["", "localhost:9464", "127.0.0.1", "9464", ":9464", "OFF"] {
            assert_eq!(
                parse_listen(wrong),
                Err(format!("{} is not an address with a port", quoted(wrong)))
            );
        }
    }
}
