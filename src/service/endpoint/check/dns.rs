//! The lookup of a name by the system's resolver, as each connection of the other checks makes it.

use crate::http_client::{self, Address, Dialer, Step};
use crate::service::endpoint::{
    failure::Failure,
    settings::{DnsCheck, InvalidCheck},
};
use std::net::IpAddr;

/// A name that is looked up with each check.
pub(in crate::service::endpoint) struct Dns {
    /// It looks up and never connects, so its port has no meaning.
    dialer: Dialer,
    name: String,
    /// The addresses that the answer must contain.
    expected: Vec<IpAddr>,
}

// === impl Dns ===

impl Dns {
    /// Returns the check of a name.
    ///
    /// # Errors
    /// The name cannot be one of a host.
    pub(super) fn new(check: &DnsCheck) -> Result<Self, InvalidCheck> {
        let address: Address = format!("{}:1", check.name)
            .parse()
            .map_err(|()| InvalidCheck::Name)?;
        Ok(Self::with(Dialer::new(address), check))
    }

    /// Returns the check of a name with a resolver of its own.
    pub(in crate::service::endpoint) fn with(dialer: Dialer, check: &DnsCheck) -> Self {
        Self {
            dialer,
            name: check.name.clone(),
            expected: check.expect_addresses.clone(),
        }
    }

    /// Looks the name up. The caller must bound it. An unfinished lookup is continued by the next
    /// call.
    pub(super) async fn look_up(&mut self, step: &mut Step) -> Result<(), Failure> {
        *step = Step::Resolving;
        let failed = |error| Failure::of(http_client::Failure::Resolve(error), &self.name);
        let found = self.dialer.resolve().await.map_err(failed)?;
        let mut found: Vec<IpAddr> = found.iter().map(|address| address.ip()).collect();
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return Err(Failure::Answer("the name has no address".to_owned()));
        }
        let missing = self.expected.iter().filter(|ip| !found.contains(ip));
        let missing: Vec<IpAddr> = missing.copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::Answer(format!(
            "resolves to {}, and not to {}",
            list(&found),
            list(&missing)
        )))
    }
}

/// Lists addresses, at most eight of them.
fn list(addresses: &[IpAddr]) -> String {
    let shown = addresses.iter().take(8).map(IpAddr::to_string);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match addresses.len() {
        0..=8 => shown,
        count => format!("{shown} and {} more", count - 8),
    }
}
