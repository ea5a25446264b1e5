//! The keys of certificates, of all checks over TLS.

use std::path::PathBuf;

use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::endpoint::{Identity, TlsSettings};

/// Reads `ca_file`, `client_cert` and `client_key`. The files are read by the checks.
///
/// `plain` says which check is without TLS, so that these keys have no effect; `None` if it has TLS.
pub(super) fn read(table: &mut Table<'_>, plain: Option<&str>) -> TlsSettings {
    let ca_file = file(table, "ca_file");
    let cert = file(table, "client_cert");
    let key = file(table, "client_key");
    for (name, path) in [
        ("ca_file", &ca_file),
        ("client_cert", &cert),
        ("client_key", &key),
    ] {
        if let (Some(plain), Some(_)) = (plain, path) {
            table.refuse(
                name,
                format!("has no effect: {plain} is checked without TLS"),
                "remove it, or check by TLS",
            );
        }
    }
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (set, missing) = match cert {
                Some(_) => ("client_cert", "client_key"),
                None => ("client_key", "client_cert"),
            };
            table.refuse(
                set,
                format!("needs `{missing}` as well"),
                format!("write {missing} = \"/etc/tls/{missing}.pem\""),
            );
            None
        }
    };
    TlsSettings { ca_file, client }
}

/// Reads the path of a file.
pub(super) fn file(table: &mut Table<'_>, key: &'static str) -> Option<PathBuf> {
    let path = |value: &Value<'_>| {
        let path = value.filled(&format!("{key} = \"/etc/headcount/{key}\""))?;
        Some(Some(PathBuf::from(path)))
    };
    table.or(key, None, path).value
}
