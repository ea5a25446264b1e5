use super::{http, tcp};
use crate::service::endpoint::{Check, dial::Address};
use std::collections::BTreeMap;

/// "key: message", or "fine".
fn verdict(check: &Check) -> String {
    match check.validate() {
        Ok(()) => "fine".to_owned(),
        Err(invalid) => format!("{}: {invalid}", invalid.key()),
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
fn a_bad_address_is_refused_by_its_key() {
    assert_eq!(verdict(&tcp("db.internal:5432")), "fine");
    assert_eq!(
        verdict(&tcp("db.internal")),
        "address: the address is not host:port"
    );
}

#[test]
fn a_bad_url_is_refused_with_what_is_wrong() {
    for fine in [
        "http://localhost",
        "http://localhost:8080/health?deep=1",
        "https://[::1]:8443/",
        "HTTPS://example.org",
    ] {
        assert_eq!(verdict(&http(fine)), "fine", "{fine}");
    }
    for (url, problem) in [
        ("", "is not a URL"),
        ("http://a b/", "is not a URL"),
        ("localhost:8080", "must begin with http:// or https://"),
        ("/health", "must begin with http:// or https://"),
        ("ftp://host/", "must begin with http:// or https://"),
        (
            "http://me:secret@host/",
            "must not hold a password: set the header `authorization`",
        ),
        ("http://host:99999/", "has no valid port"),
        ("http://host:/", "has no valid port"),
        ("http://host:0/", "names no valid host or port"),
        ("https://-/", "names a host that no certificate can name"),
    ] {
        assert_eq!(
            verdict(&http(url)),
            format!("url: the URL {problem}"),
            "{url}"
        );
    }
}

#[test]
fn a_bad_header_is_refused_without_its_value() {
    let with = |name: &str, value: &str| Check::Http {
        url: "http://localhost/".to_owned(),
        expect_status: Vec::new(),
        headers: BTreeMap::from([(name.to_owned(), value.to_owned())]),
    };
    assert_eq!(verdict(&with("Authorization", "Bearer x")), "fine");
    assert_eq!(
        verdict(&with("a b", "x")),
        "headers: the header `a b` is not a header name"
    );
    assert_eq!(
        verdict(&with("x-token", "secret\r\nx: y")),
        "headers: the header `x-token` has a value with a line break or another control character"
    );
    assert_eq!(
        verdict(&with("Connection", "keep-alive")),
        "headers: the header `Connection` cannot be set: a check is a GET on a connection of its own"
    );
}

#[test]
fn a_status_that_no_server_sends_is_refused() {
    let expecting = |status| Check::Http {
        url: "http://localhost/".to_owned(),
        expect_status: vec![200, status],
        headers: BTreeMap::new(),
    };
    assert_eq!(verdict(&expecting(599)), "fine");
    assert_eq!(
        verdict(&expecting(2000)),
        "expect_status: 2000 is not an HTTP status (100 to 599)"
    );
}
