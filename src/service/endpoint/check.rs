//! One check at a time of one endpoint, under one timeout.
//!
//! Knows nothing of intervals, thresholds or logs.

use super::{
    Check, InvalidCheck,
    dial::{Address, Dialer, Step},
    failure::Failure,
    http::Get,
    tls,
};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Something that can be asked whether it is well.
pub(super) trait Probe: Send {
    /// # Cancel safety
    /// Dropping the future ends the check; the next call begins another.
    fn check(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Checks over the network.
pub(super) struct Checker {
    target: Result<Target, InvalidCheck>,
    timeout: Duration,
}

/// What is connected to, and what is said there.
pub(super) struct Target {
    pub(super) dialer: Dialer,
    pub(super) get: Option<Get>,
}

// === impl Checker ===

impl Checker {
    /// A check that cannot work is one that always fails; [`Check::validate`] is there to refuse it
    /// before.
    pub(super) fn new(check: &Check, timeout: Duration) -> Self {
        let target = Target::new(check);
        if target.as_ref().is_ok_and(Target::is_secure) {
            tls::read_roots();
        }
        Self::with_target(target, timeout)
    }

    pub(super) fn with_target(target: Result<Target, InvalidCheck>, timeout: Duration) -> Self {
        Self { target, timeout }
    }
}

impl Probe for Checker {
    async fn check(&mut self) -> Result<(), Failure> {
        let target = match &mut self.target {
            Ok(target) => target,
            Err(invalid) => return Err(Failure::Impossible(invalid.to_string())),
        };
        let deadline = Instant::now() + self.timeout;
        let mut step = Step::Resolving;
        let outcome = timeout_at(deadline, target.attempt(deadline, &mut step)).await;
        outcome.unwrap_or(Err(Failure::Timeout {
            after: self.timeout,
            step,
        }))
    }
}

// === impl Target ===

impl Target {
    pub(super) fn new(check: &Check) -> Result<Self, InvalidCheck> {
        let (address, get) = match check {
            Check::Tcp { address } => {
                let address: Address = address.parse().map_err(|()| InvalidCheck::Address)?;
                (address, None)
            }
            Check::Http {
                url,
                expect_status,
                headers,
            } => {
                let (get, address) = Get::new(url, expect_status, headers)?;
                (address, Some(get))
            }
        };
        Ok(Self {
            dialer: Dialer::new(address),
            get,
        })
    }

    fn is_secure(&self) -> bool {
        self.get.as_ref().is_some_and(|get| get.tls.is_some())
    }

    async fn attempt(&mut self, deadline: Instant, step: &mut Step) -> Result<(), Failure> {
        let stream = self.dialer.connect(deadline, step).await?;
        match &self.get {
            Some(get) => get.send(stream, deadline, step).await,
            None => Ok(()),
        }
    }
}
