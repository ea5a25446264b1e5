//! Tests of the validation of checks.

use super::{http, tcp};
use crate::{
    http_client::Address,
    service::endpoint::{Check, HttpCheck},
};
use std::collections::BTreeMap;

/// Validates a check, and returns "key: message" or "fine".
fn verdict(check: &Check) -> String {
    match check.validate() {
        Ok(()) => "fine".to_owned(),
        Err(invalid) => format!("{}: {invalid}", invalid.key().unwrap_or("target")),
    }
}

fn parsed(text: &str) -> Option<(String, u16)> {
    let address: Address = text.parse().ok()?;
    Some((address.host, address.port))
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let split = |host: &str, port| Some((host.to_owned(), port));
    assert_eq!(parsed("db.internal:5432"), split("db.internal", 5432));
    assert_eq!(parsed("127.0.0.1:80"), split("127.0.0.1", 80));
    assert_eq!(parsed("[::1]:80"), split("::1", 80));
    for odd in [
        "",
        "db",
        "db:",
        ":80",
        "db:0",
        "db:+80",
        "db:65536",
        "db:http",
        "::1:80",
        "::1",
        "[::1]",
        "[db]:80",
        "a b:80",
        "http://db:80",
        "user@db:80",
    ] {
        assert_eq!(parsed(odd), None, "{odd:?}");
    }
}

#[test]
fn an_invalid_address_is_rejected_with_its_key() {
    assert_eq!(verdict(&tcp("db.internal:5432")), "fine");
    assert_eq!(
        verdict(&tcp("db.internal")),
        "target: the address is not of the form host:port"
    );
}

#[test]
fn an_invalid_url_is_rejected_with_the_problem() {
    for fine in [
        "http://localhost",
        "http://localhost:8080/health?deep=1",
        "https://[::1]:8443/",
        "HTTPS://example.org",
    ] {
        assert_eq!(verdict(&http(fine)), "fine", "{fine}");
    }
    for (url, problem) in [
        ("", "is not valid"),
        ("http://a b/", "is not valid"),
        ("localhost:8080", "must begin with http:// or https://"),
        ("/health", "must begin with http:// or https://"),
        ("ftp://host/", "must begin with http:// or https://"),
        (
            "http://me:secret@host/",
            "must not contain a user or password: set the header `authorization` instead",
        ),
        ("http://host:99999/", "has an invalid port"),
        ("http://host:/", "has an invalid port"),
        ("http://host:0/", "has an invalid host or port"),
        (
            "https://-/",
            "has a host that cannot be in a TLS certificate",
        ),
    ] {
        assert_eq!(
            verdict(&http(url)),
            format!("target: the URL {problem}"),
            "{url}"
        );
    }
}

#[test]
fn an_invalid_header_is_rejected_without_its_value() {
    let with = |name: &str, value: &str| {
        Check::Http(HttpCheck {
            url: "http://localhost/".to_owned(),
            expect_status: Vec::new(),
            headers: BTreeMap::from([(name.to_owned(), value.to_owned())]).into(),
            ..HttpCheck::default()
        })
    };
    assert_eq!(verdict(&with("Authorization", "Bearer x")), "fine");
    assert_eq!(
        verdict(&with("a b", "x")),
        "headers: the header `a b` has an invalid name"
    );
    assert_eq!(
        verdict(&with("x-token", "secret\r\nx: y")),
        "headers: the header `x-token` has a value with a line break or another control character"
    );
    assert_eq!(
        verdict(&with("Connection", "keep-alive")),
        "headers: the header `Connection` cannot be set: a check is a GET without a body, on a new connection"
    );
}

#[test]
fn a_status_outside_the_range_of_http_is_rejected() {
    let expecting = |status| {
        Check::Http(HttpCheck {
            url: "http://localhost/".to_owned(),
            expect_status: vec![200, status],
            headers: BTreeMap::new().into(),
            ..HttpCheck::default()
        })
    };
    assert_eq!(verdict(&expecting(599)), "fine");
    assert_eq!(
        verdict(&expecting(2000)),
        "expect_status: 2000 is not an HTTP status (100 to 599)"
    );
}
