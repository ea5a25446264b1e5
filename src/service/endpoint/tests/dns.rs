//! Tests of checks by DNS.

use super::{AMPLE, SHORT, outcome};
use crate::{
    http_client::Dialer,
    service::endpoint::{
        Checker, DnsCheck,
        check::{Dns, Target},
    },
};
use std::{future::pending, io, net::SocketAddr};

/// Makes one check of a name with these addresses, of which `expected` are expected.
async fn resolved(addresses: &[&str], expected: &[&str]) -> String {
    let parsed = |address: &&str| address.parse().expect("an address");
    let found: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| SocketAddr::new(parsed(address), 1))
        .collect();
    let check = DnsCheck {
        name: "db.test".to_owned(),
        expect_addresses: expected.iter().map(parsed).collect(),
    };
    let address = "db.test:1".parse().expect("an address");
    let dialer = Dialer::with_resolver(address, move |_| {
        let found = found.clone();
        Box::pin(async move {
            match found.is_empty() {
                true => Err(io::Error::other(
                    "failed to lookup address information: Name or service not known",
                )),
                false => Ok(found),
            }
        })
    });
    let target = Target::Dns(Box::new(Dns::with(dialer, &check)));
    outcome(&mut Checker::with_target(Ok(target), AMPLE)).await
}

#[tokio::test]
async fn a_name_with_the_expected_addresses_is_up() {
    assert_eq!(resolved(&["10.0.0.2", "fd00::5"], &[]).await, "up");
    assert_eq!(
        resolved(&["10.0.0.2", "fd00::5"], &["fd00::5", "10.0.0.2"]).await,
        "up"
    );
    assert_eq!(
        resolved(
            &["10.0.0.2", "10.0.0.1", "10.0.0.2"],
            &["10.0.0.1", "10.0.0.3"]
        )
        .await,
        "resolves to 10.0.0.1, 10.0.0.2, and not to 10.0.0.3"
    );
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_down() {
    assert_eq!(
        resolved(&[], &["10.0.0.1"]).await,
        "cannot resolve db.test: name or service not known"
    );
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_times_out() {
    let check = DnsCheck {
        name: "db.test".to_owned(),
        ..DnsCheck::default()
    };
    let address = "db.test:1".parse().expect("an address");
    let dialer = Dialer::with_resolver(address, |_| Box::pin(pending()));
    let target = Target::Dns(Box::new(Dns::with(dialer, &check)));
    let mut checker = Checker::with_target(Ok(target), SHORT);
    assert_eq!(
        outcome(&mut checker).await,
        "timed out after 300ms resolving the name"
    );
}
