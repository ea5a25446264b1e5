//! The keys of checks of servers with users and passwords.

use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::endpoint::RedisCheck;

use super::{address, tls};

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
    let is_secure = table.or("tls", false, Value::flag).value;
    let plain = (!is_secure).then_some("a server without tls = true");
    let certificates = tls::read(table, plain);
    Some(RedisCheck {
        address: address?,
        user,
        password_file,
        tls: is_secure.then_some(certificates),
    })
}

/// Reads the name of a user.
fn user(value: &Value<'_>) -> Option<Option<String>> {
    Some(Some(value.filled("user = \"headcount\"")?.to_owned()))
}
