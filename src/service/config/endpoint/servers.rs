//! The keys of checks of servers that are given by their address.

use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::endpoint::{GrpcCheck, PasswordFile, PostgresCheck, RedisCheck, TlsSettings};

use super::{address, tls};

/// The modes of TLS, named as libpq names them.
const SSLMODES: [(&str, bool); 2] = [("disable", false), ("verify-full", true)];

/// Reads the keys of a check of a Postgres database. `target` is its address.
pub(super) fn postgres(target: &Value<'_>, table: &mut Table<'_>) -> Option<PostgresCheck> {
    let address = address(target);
    let named = table.require("user", "user = \"headcount\"");
    let named = named.and_then(|value| user(&value)).flatten();
    let dbname = table
        .or("dbname", None, |value| {
            Some(Some(value.filled("dbname = \"orders\"")?.to_owned()))
        })
        .value;
    let plain = tls::file(table, "password_file").map(PasswordFile::Plain);
    let pgpass = tls::file(table, "passfile").map(PasswordFile::Pgpass);
    if plain.is_some() && pgpass.is_some() {
        table.refuse(
            "passfile",
            "is set in addition to `password_file`",
            "keep one: password_file has only the password, passfile is one of libpq, as ~/.pgpass",
        );
    }
    let is_secure = table.or("sslmode", false, sslmode).value;
    let without = (!is_secure).then_some("a database without sslmode = \"verify-full\"");
    let certificates = tls::read(table, without);
    Some(PostgresCheck {
        address: address?,
        user: named?,
        dbname,
        password: plain.or(pgpass),
        tls: is_secure.then_some(certificates),
    })
}

/// Reads `sslmode`. Those without a verification are refused.
fn sslmode(value: &Value<'_>) -> Option<bool> {
    if let Some(mode @ ("allow" | "prefer" | "require" | "verify-ca")) = value.as_text() {
        return value.refuse(
            format!("\"{mode}\" does not verify the server"),
            "allowed: \"disable\", \"verify-full\"; for a private authority, set ca_file",
        );
    }
    value.choice(&SSLMODES)
}

/// Reads the keys of a check of a Redis server. `target` is its address.
pub(super) fn redis(target: &Value<'_>, table: &mut Table<'_>) -> Option<RedisCheck> {
    let address = address(target);
    let user = table.or("user", None, user).value;
    let password_file = tls::file(table, "password_file");
    if user.is_some() && password_file.is_none() {
        table.refuse(
            "user",
            "has no effect without a password",
            "write password_file = \"/etc/headcount/password_file\"",
        );
    }
    let tls = secure(table);
    Some(RedisCheck {
        address: address?,
        user,
        password_file,
        tls,
    })
}

/// Reads the keys of a check by gRPC. `target` is the address of the server.
pub(super) fn grpc(target: &Value<'_>, table: &mut Table<'_>) -> Option<GrpcCheck> {
    let address = address(target);
    let service = table
        .or("service", String::new(), |value| {
            let text = value.text("service = \"orders.v1.Orders\"")?;
            Some(text.to_owned())
        })
        .value;
    let tls = secure(table);
    Some(GrpcCheck {
        address: address?,
        service,
        tls,
    })
}

/// Reads `tls` and the keys of certificates.
fn secure(table: &mut Table<'_>) -> Option<TlsSettings> {
    let is_secure = table.or("tls", false, Value::flag).value;
    let plain = (!is_secure).then_some("a server without tls = true");
    let certificates = tls::read(table, plain);
    is_secure.then_some(certificates)
}

/// Reads the name of a user.
fn user(value: &Value<'_>) -> Option<Option<String>> {
    Some(Some(value.filled("user = \"headcount\"")?.to_owned()))
}
