//! The settings of an endpoint: its check, pace and thresholds, and the problems of a check.

use crate::service::secrets::Secrets;
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// The settings of one endpoint: the check, its pace, and the thresholds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndpointSettings {
    pub(crate) check: Check,
    /// The time from the start of one check to the start of the next, before jitter.
    pub(crate) interval: Duration,
    /// The largest share of `interval` by which each wait is shorter or longer, so that many
    /// instances do not check in step. Clamped to `0.0..=0.5`.
    pub(crate) jitter: f64,
    /// The longest duration of a whole check: name lookup, connection, TLS and answer.
    pub(crate) timeout: Duration,
    /// The number of successes in a row after which the endpoint is up.
    pub(crate) up_after: u32,
    /// The number of failures in a row after which the endpoint is down.
    pub(crate) down_after: u32,
    /// True if the end of the monitoring task stops the service. Before a drain, only a panic or a
    /// cancellation ends that task.
    pub(crate) required: bool,
}

/// One kind of check.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Check {
    /// Opens a connection and closes it.
    Tcp {
        /// The address as `host:port`, with an IPv6 address in brackets.
        address: String,
    },
    /// Makes a GET request.
    Http(HttpCheck),
    /// Calls the health service of gRPC.
    Grpc(GrpcCheck),
    /// Runs `SELECT 1` in a Postgres database.
    Postgres(PostgresCheck),
    /// Sends a PING to a Redis server.
    Redis(RedisCheck),
    /// Looks up a name.
    Dns(DnsCheck),
    /// Runs a program with its arguments; exit code 0 is a success.
    Command(Vec<String>),
}

/// A GET request, and the answer that counts as success.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct HttpCheck {
    /// The URL, which begins with `http://` or `https://`.
    pub(crate) url: String,
    /// The statuses that count as success. If empty, 200 to 399.
    pub(crate) expect_status: Vec<u16>,
    /// A text that the start of the body must contain. If `None`, the body does not matter.
    pub(crate) expect_body: Option<String>,
    /// Headers to send in addition to `host`, `user-agent` and `accept`, or in their place.
    pub(crate) headers: Secrets,
    pub(crate) tls: TlsSettings,
}

/// A call of the health service of gRPC.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct GrpcCheck {
    /// The address as `host:port`, with an IPv6 address in brackets.
    pub(crate) address: String,
    /// The service that is asked for; the server as a whole if empty.
    pub(crate) service: String,
    /// The certificates; `None` without TLS.
    pub(crate) tls: Option<TlsSettings>,
}

/// `SELECT 1` in a Postgres database.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PostgresCheck {
    /// The address as `host:port`, with an IPv6 address in brackets.
    pub(crate) address: String,
    pub(crate) user: String,
    /// The database; the name of the user if `None`, as the server does.
    pub(crate) dbname: Option<String>,
    pub(crate) password: Option<PasswordFile>,
    /// The certificates; `None` without TLS.
    pub(crate) tls: Option<TlsSettings>,
}

/// A file with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PasswordFile {
    /// A file with one line, the password.
    Plain(PathBuf),
    /// A password file of libpq: lines of host, port, database, user and password.
    Pgpass(PathBuf),
}

/// A PING of a Redis server.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct RedisCheck {
    /// The address as `host:port`, with an IPv6 address in brackets.
    pub(crate) address: String,
    /// The user of AUTH; that of the server if `None`.
    pub(crate) user: Option<String>,
    /// The file with the password of AUTH. It is not sent without one.
    pub(crate) password_file: Option<PathBuf>,
    /// The certificates; `None` without TLS.
    pub(crate) tls: Option<TlsSettings>,
}

/// A lookup of a name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DnsCheck {
    pub(crate) name: String,
    /// The addresses that the answer must contain. If empty, it must contain any.
    pub(crate) expect_addresses: Vec<IpAddr>,
}

/// The files of certificates, in the PEM format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TlsSettings {
    /// The trusted roots, in place of those of the machine.
    pub(crate) ca_file: Option<PathBuf>,
    /// The certificate that a server gets if it asks for one.
    pub(crate) client: Option<Identity>,
}

/// A client certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The problem of a [`Check`] that can never succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCheck {
    /// The address of a check cannot be parsed.
    #[error("the address is not of the form host:port")]
    Address,
    /// The host cannot be in a certificate.
    #[error("the host cannot be in a TLS certificate")]
    NotForTls,
    /// A name cannot be one of a host.
    #[error("the name is not that of a host")]
    Name,
    /// The URL cannot be used. `problem` completes the sentence.
    #[error("the URL {problem}")]
    Url { problem: &'static str },
    /// A header cannot be sent. The message never contains its value.
    #[error("the header `{name}` {problem}")]
    Header { name: String, problem: &'static str },
    /// An expected status is outside of the range of HTTP.
    #[error("{status} is not an HTTP status (100 to 599)")]
    Status { status: u16 },
}

// === impl Check ===

impl Check {
    /// Returns a GET request for `url` that succeeds with a status from 200 to 399.
    pub(crate) fn get(url: impl Into<String>) -> Self {
        Self::Http(HttpCheck {
            url: url.into(),
            ..HttpCheck::default()
        })
    }
}

// === impl InvalidCheck ===

impl InvalidCheck {
    /// Returns the name of the invalid setting; `None` if it is the target of the check.
    pub(crate) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Address | Self::NotForTls | Self::Name | Self::Url { .. } => None,
            Self::Header { .. } => Some("headers"),
            Self::Status { .. } => Some("expect_status"),
        }
    }
}
