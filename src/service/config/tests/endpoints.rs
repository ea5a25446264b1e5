//! Tests of the examples of endpoints in the default.

use std::collections::BTreeMap;

use super::{endpoint_defaults, kind, parsed, refused, uncommented};
use crate::service::config::Kind;
use crate::service::endpoint::{
    Check, DnsCheck, GrpcCheck, HttpCheck, Identity, PasswordFile, PostgresCheck, RedisCheck,
    TlsSettings,
};

#[test]
fn the_commented_endpoints_of_the_default_are_valid() {
    let config = parsed(&uncommented());
    let db = endpoint_defaults(Check::Tcp {
        address: "127.0.0.1:5432".to_owned(),
    });
    assert_eq!(kind(&config, "db"), Kind::Endpoint(db));
    let api = endpoint_defaults(Check::Http(HttpCheck {
        url: "http://127.0.0.1:8080/health".to_owned(),
        expect_status: vec![200, 204],
        expect_body: Some("ok".to_owned()),
        headers: BTreeMap::from([("Accept".to_owned(), "text/plain".to_owned())]).into(),
        ..HttpCheck::default()
    }));
    assert_eq!(kind(&config, "api"), Kind::Endpoint(api));
    let shop = endpoint_defaults(Check::Http(HttpCheck {
        url: "https://shop.internal/".to_owned(),
        expect_status: (200..=399).collect(),
        tls: TlsSettings {
            ca_file: Some("ca.pem".into()),
            client: Some(Identity {
                cert: "client.pem".into(),
                key: "client.key".into(),
            }),
        },
        ..HttpCheck::default()
    }));
    assert_eq!(kind(&config, "shop"), Kind::Endpoint(shop));
    let shipping = endpoint_defaults(Check::Grpc(GrpcCheck {
        address: "127.0.0.1:50051".to_owned(),
        service: "shipping.v1.Shipping".to_owned(),
        tls: None,
    }));
    assert_eq!(kind(&config, "shipping"), Kind::Endpoint(shipping));
    let orders = endpoint_defaults(Check::Postgres(PostgresCheck {
        address: "127.0.0.1:5432".to_owned(),
        user: "probe".to_owned(),
        dbname: Some("orders".to_owned()),
        password: Some(PasswordFile::Pgpass(".pgpass".into())),
        tls: None,
    }));
    assert_eq!(kind(&config, "orders"), Kind::Endpoint(orders));
    let cache = endpoint_defaults(Check::Redis(RedisCheck {
        address: "127.0.0.1:6379".to_owned(),
        user: Some("default".to_owned()),
        password_file: Some("redis-password".into()),
        tls: None,
    }));
    assert_eq!(kind(&config, "cache"), Kind::Endpoint(cache));
    let name = endpoint_defaults(Check::Dns(DnsCheck {
        name: "db.internal".to_owned(),
        expect_addresses: vec!["10.0.0.5".parse().expect("an address")],
    }));
    assert_eq!(kind(&config, "name"), Kind::Endpoint(name));
    let command = ["./check-disk", "--quick"].map(str::to_owned).to_vec();
    let disk = endpoint_defaults(Check::Command(command));
    assert_eq!(kind(&config, "disk"), Kind::Endpoint(disk));
}

/// The form of libpq has the password in the text, which was repeated.
#[test]
fn an_address_that_may_hold_a_password_is_refused_without_repeating_it() {
    for (kind, address, more) in [
        (
            "postgres",
            "host=db user=x password=s3cret-word",
            ", user = \"x\"",
        ),
        ("redis", "me:s3cret-word@cache:6379", ""),
    ] {
        let text =
            format!("[tasks.a]\nkind = \"endpoint\"\ncheck = {{ {kind} = \"{address}\"{more} }}\n");
        let answer = refused(&text);
        assert!(
            answer.contains("is not a host and a port alone"),
            "{answer}"
        );
        assert!(!answer.contains("s3cret"), "{answer}");
    }
    let text = "[tasks.a]\nkind = \"endpoint\"\ncheck = { postgres = \"password=s3cret-word\" }\n";
    let answer = refused(text);
    assert!(answer.contains("`user` is missing"), "{answer}");
    assert!(!answer.contains("s3cret"), "{answer}");
}
