//! Section `admin`: the address of the admin server, the host names that it accepts, and the control
//! socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::service::config::problem::quoted;
use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::config::{AdminSettings, ControlSocket};

const EXAMPLE: &str = "listen = \"127.0.0.1:9464\"";
/// The maximum number of allowed host names.
const MOST: usize = 100;

/// Reads the section. Host names that could not be read are left out.
pub(in crate::service::config) fn read(mut table: Table<'_>) -> AdminSettings {
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
        let hosts = value.list_up_to(MOST, "names", example)?;
        Some(hosts.iter().filter_map(host).collect())
    });
    let control_socket = table.or("control_socket", ControlSocket::Auto, socket);
    table.finish();
    AdminSettings {
        listen: listen.value,
        allowed_hosts: allowed_hosts.value,
        control_socket: control_socket.value,
    }
}

/// Reads `control_socket`. A path must contain a slash, so that a misspelt word is not taken for one.
fn socket(value: &Value<'_>) -> Option<ControlSocket> {
    match value.text("control_socket = \"auto\"")? {
        "auto" => Some(ControlSocket::Auto),
        "off" => Some(ControlSocket::Off),
        path if path.contains('/') => Some(ControlSocket::At(PathBuf::from(path))),
        other => value.refuse(
            format!("unknown value {}", quoted(other)),
            "allowed: \"auto\", \"off\", or a path that contains a /",
        ),
    }
}

/// The help for an address that was refused.
pub(super) const LISTEN: &str =
    "allowed: \"address:port\" (IPv6: \"[::1]:9464\"; port 0 picks a free port), or \"off\"";

/// Parses an address to listen on; `None` stands for "off".
///
/// # Errors
///
/// Returns a message if this is neither "off" nor an IP address with a port. Host names are refused, since the
/// configuration is checked without resolving names.
pub(crate) fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let address = text.parse().map(Some);
    address.map_err(|_| format!("{} is not an IP address with a port", quoted(text)))
}

/// Reads a host name: without a port, at most 253 characters.
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
    fn an_address_needs_a_port_and_off_is_none() {
        assert_eq!(parse_listen("off"), Ok(None));
        let any = parse_listen("[::]:0")
            .expect("an address")
            .expect("not off");
        assert!(any.ip().is_unspecified());
        for wrong in ["", "localhost:9464", "127.0.0.1", "9464", ":9464", "OFF"] {
            assert_eq!(
                parse_listen(wrong),
                Err(format!(
                    "{} is not an IP address with a port",
                    quoted(wrong)
                ))
            );
        }
    }
}
