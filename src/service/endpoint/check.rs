//! A single check of an endpoint, under one timeout.
//!
//! This module has no intervals, thresholds or logs; the parent module adds them.

mod certificates;
mod command;
mod dns;
mod files;
mod grpc;
mod http;
mod passwords;
mod postgres;
mod redis;
mod server;

pub(crate) use self::command::{CommandFailure, Run};
pub(super) use self::dns::Dns;
use self::{command::Command, grpc::Grpc, http::Get, postgres::Postgres, redis::Redis};
use super::{
    failure::Failure,
    settings::{Check, InvalidCheck},
};
use crate::http_client::{Address, Dialer, Step, Trust};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout_at};

/// A source of check outcomes. Tests replace the network with a script.
pub(super) trait Probe: Send {
    /// Makes one check.
    ///
    /// # Cancel safety
    /// Dropping the future ends the check. The next call begins another one.
    fn check(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns true if a check ends by itself when the group drains. Its future must not be dropped
    /// before.
    fn ends_itself(&self) -> bool {
        false
    }
}

/// A probe that checks over the network.
pub(super) struct Checker {
    /// The target, or the problem with which every check fails.
    target: Result<Target, InvalidCheck>,
    /// The longest duration of a whole check.
    timeout: Duration,
}

/// A way to check an endpoint.
pub(super) enum Target {
    /// Opens a connection and closes it.
    Tcp {
        dialer: Dialer,
        /// The host in messages.
        host: String,
    },
    Http(Box<Get>),
    Grpc(Box<Grpc>),
    Postgres(Box<Postgres>),
    Redis(Box<Redis>),
    Dns(Box<Dns>),
    Command(Box<Command>),
}

// === impl Check ===

impl Check {
    /// Finds a problem that would make every check fail, without using the network or reading a file.
    ///
    /// # Errors
    /// The first problem found. [`InvalidCheck::key`] names the setting.
    pub(crate) fn validate(&self) -> Result<(), InvalidCheck> {
        Target::new(self, None).map(drop)
    }
}

// === impl Checker ===

impl Checker {
    /// Creates a checker. For a check over TLS, reads the machine's trusted roots if necessary.
    ///
    /// An invalid check is not an error here: every check fails. [`Check::validate`] finds the
    /// problem beforehand.
    pub(super) fn new(check: &Check, timeout: Duration) -> Self {
        let target = Target::new(check, None);
        if target.as_ref().is_ok_and(Target::needs_roots) {
            // So that the first check does not take the time. An error fails each check.
            Trust::machine().ok();
        }
        Self::with_target(target, timeout)
    }

    /// Sets the way to run commands.
    pub(super) fn running(mut self, run: Run) -> Self {
        if let Ok(Target::Command(command)) = &mut self.target {
            command.run_by(run);
        }
        self
    }

    /// Creates a checker of a given target.
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
        if let Target::Command(command) = target {
            // Dropping the future would leave the end of the command to others.
            return command.check(self.timeout).await;
        }
        let deadline = Instant::now() + self.timeout;
        let mut step = Step::Resolving;
        let outcome = timeout_at(deadline, target.attempt(deadline, &mut step)).await;
        outcome.unwrap_or(Err(Failure::Timeout {
            after: self.timeout,
            step,
        }))
    }

    fn ends_itself(&self) -> bool {
        matches!(self.target, Ok(Target::Command(_)))
    }
}

// === impl Target ===

impl Target {
    /// Parses the settings of a check. The certificates that an HTTPS check trusts are those of the
    /// machine unless others are given.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn new(check: &Check, trust: Option<Trust>) -> Result<Self, InvalidCheck> {
        match check {
            Check::Tcp { address } => {
                let address: Address = address.parse().map_err(|()| InvalidCheck::Address)?;
                Ok(Self::Tcp {
                    host: address.host.clone(),
                    dialer: Dialer::new(address),
                })
            }
            Check::Http(settings) => {
                let get = Get::new(settings, trust)?;
                Ok(Self::Http(Box::new(get)))
            }
            Check::Grpc(settings) => {
                let grpc = Grpc::new(settings, trust)?;
                Ok(Self::Grpc(Box::new(grpc)))
            }
            Check::Postgres(settings) => {
                let postgres = Postgres::new(settings, trust)?;
                Ok(Self::Postgres(Box::new(postgres)))
            }
            Check::Redis(settings) => {
                let redis = Redis::new(settings, trust)?;
                Ok(Self::Redis(Box::new(redis)))
            }
            Check::Command(words) => Ok(Self::Command(Box::new(Command::new(words.clone())))),
            Check::Dns(settings) => Ok(Self::Dns(Box::new(Dns::new(settings)?))),
        }
    }

    /// Returns true if the check needs the machine's trusted roots.
    fn needs_roots(&self) -> bool {
        match self {
            Self::Http(get) => get.needs_roots(),
            Self::Grpc(grpc) => grpc.server.needs_roots(),
            Self::Postgres(postgres) => postgres.needs_roots(),
            Self::Redis(redis) => redis.server.needs_roots(),
            Self::Tcp { .. } | Self::Dns(_) | Self::Command(_) => false,
        }
    }

    /// Connects and sends the request. Keeps `step` up to date, so that a timeout can name it.
    async fn attempt(&mut self, deadline: Instant, step: &mut Step) -> Result<(), Failure> {
        match self {
            Self::Tcp { dialer, host } => match dialer.connect(deadline, step).await {
                Ok(_connected) => Ok(()),
                Err(failure) => Err(Failure::of(failure, host)),
            },
            Self::Http(get) => get.send(deadline, step).await,
            Self::Grpc(grpc) => grpc.check(deadline, step).await,
            Self::Postgres(postgres) => postgres.select(deadline, step).await,
            Self::Redis(redis) => redis.ping(deadline, step).await,
            Self::Dns(dns) => dns.look_up(step).await,
            Self::Command(command) => {
                let left = deadline.saturating_duration_since(Instant::now());
                command.check(left).await
            }
        }
    }
}
