//! The reasons for failed checks, as messages for the operator.
//!
//! Each message is one line. It contains no secret, that is, no header value and no query, and it
//! is never a metric label.

use crate::http_client::{self, Step, words};
use crate::service::own_limit;
use crate::text::{plain, without_user_info};
use std::{error::Error, fmt, io, net::SocketAddr, ops::RangeInclusive, time::Duration};
use tokio_rustls::rustls::{CertificateError, Error as TlsError};

/// The statuses that count as success when the configuration lists none.
pub(super) const UP_STATUSES: RangeInclusive<u16> = 200..=399;

/// The most characters of an answer that a message repeats.
const LONGEST: usize = 200;

/// The reason of a failed check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The check did not complete within its timeout.
    #[error("timed out after {after:?} {step}")]
    Timeout { after: Duration, step: Step },
    /// The name lookup failed, or returned no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve { host: String, reason: String },
    /// No address accepted the connection.
    #[error("{reason}{}", Among(.address))]
    Connect {
        reason: String,
        /// The last address tried, if the name has several.
        address: Option<SocketAddr>,
    },
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(String),
    /// There was no valid HTTP response.
    #[error("{0}")]
    Http(String),
    /// The response has an unexpected status. An empty list stands for [`UP_STATUSES`].
    #[error("status {status}, expected {}", Expected(.expected))]
    Status { status: u16, expected: Vec<u16> },
    /// The body lacks the expected text. `cut` is true if there was more of it than was read.
    #[error("the {}body does not contain {text:?}", if *.cut { "start of the " } else { "" })]
    Body { text: String, cut: bool },
    /// The answer of the server reports a failure, or is none of its protocol.
    #[error("{0}")]
    Answer(String),
    /// A limit of this process or machine kept the check from being made. That is no verdict on the
    /// endpoint.
    #[error("{0}")]
    OwnLimit(String),
    /// The machine or the settings do not allow this check at all, so every check fails.
    #[error("{0}")]
    Impossible(String),
}

/// Displays the last address tried, if there is one.
struct Among<'a>(&'a Option<SocketAddr>);

/// Displays the expected statuses.
struct Expected<'a>(&'a [u16]);

// === impl Failure ===

impl Failure {
    /// Words the failure of a request to `host`.
    pub(super) fn of(failure: http_client::Failure, host: &str) -> Self {
        if let Some(limit) = Self::own_limit(&failure) {
            return limit;
        }
        match failure {
            http_client::Failure::Resolve(error) => Self::resolve(host, &error),
            http_client::Failure::Connect { error, address } => Self::Connect {
                reason: words(&error),
                address,
            },
            http_client::Failure::NoRoots(reason) => Self::Impossible(reason),
            http_client::Failure::Tls(error) => Self::tls(&error, host),
            http_client::Failure::Http(error) => Self::http(&error),
        }
    }

    /// Words the answer of a server that reports a failure in a text of its own.
    pub(super) fn answered(text: &str) -> Self {
        let text = without_user_info(text);
        let clipped: String = plain(&text).chars().take(LONGEST).collect();
        Self::Answer(clipped)
    }

    /// Returns the failure of a connection that the server closes instead of an answer.
    pub(super) fn closed() -> Self {
        Self::Answer("connection closed before the response".to_owned())
    }

    /// Words the error of an exchange over an open connection.
    pub(super) fn exchange(error: &io::Error) -> Self {
        match error.kind() {
            _ if own_limit::is_cause(error) => Self::OwnLimit(words(error)),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::closed(),
            _ => Self::Answer(words(error)),
        }
    }

    /// Words an error of a connection that may have been one of its TLS handshake.
    pub(super) fn secured(error: &io::Error, host: &str) -> Self {
        match error.get_ref().is_some_and(|cause| cause.is::<TlsError>()) {
            true => Self::tls(error, host),
            false => Self::exchange(error),
        }
    }

    /// Returns the failure if it is due to a limit on this side.
    fn own_limit(failure: &http_client::Failure) -> Option<Self> {
        let reached = |error: &io::Error| own_limit::is_cause(error).then(|| words(error));
        let reached = match failure {
            http_client::Failure::Resolve(error) => {
                reached(error).or_else(|| own_limit::of_sockets().as_ref().map(words))
            }
            http_client::Failure::Connect { error, .. } | http_client::Failure::Tls(error) => {
                reached(error)
            }
            http_client::Failure::Http(error) => cause_of::<io::Error>(error).and_then(reached),
            // Certificates cannot be read without descriptors.
            http_client::Failure::NoRoots(_) => own_limit::of_sockets().as_ref().map(words),
        };
        reached.map(Self::OwnLimit)
    }

    /// Describes the error of the lookup of `host`.
    fn resolve(host: &str, error: &io::Error) -> Self {
        let text = error.to_string();
        // The standard library puts this prefix before every error of getaddrinfo(3).
        let reason = text
            .strip_prefix("failed to lookup address information: ")
            .unwrap_or(&text);
        Self::Resolve {
            host: host.to_owned(),
            reason: reason.to_lowercase(),
        }
    }

    /// Describes the error of a TLS handshake with `host`.
    fn tls(error: &io::Error, host: &str) -> Self {
        let cause = error
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<TlsError>());
        Self::Tls(match cause {
            Some(TlsError::InvalidCertificate(cause)) => certificate(cause, host),
            Some(TlsError::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
            Some(TlsError::AlertReceived(alert)) => {
                format!("the server refused the TLS handshake: {alert:?}")
            }
            Some(cause) => format!("TLS handshake failed: {cause}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "connection closed during the TLS handshake".to_owned()
            }
            None => words(error),
        })
    }

    /// Describes the error of an HTTP exchange.
    fn http(error: &hyper::Error) -> Self {
        // If the server sent data before the request was sent, hyper reports the request as
        // cancelled, and the reason is its source.
        let error = cause_of::<hyper::Error>(error).unwrap_or(error);
        Self::Http(match cause_of::<io::Error>(error) {
            Some(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                "connection closed".to_owned()
            }
            Some(cause) => words(cause),
            None if error.is_incomplete_message() || error.is_canceled() => {
                "connection closed before the response".to_owned()
            }
            // "invalid HTTP version parsed", "message head is too large", …
            None => format!("invalid HTTP/1 response: {error}"),
        })
    }
}

/// Returns the direct cause of `error` if it is an `E`.
fn cause_of<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    error.source()?.downcast_ref()
}

/// Returns the message for a rejected certificate.
fn certificate(cause: &CertificateError, host: &str) -> String {
    let why = match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "not signed by a trusted authority".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("not valid for {host}")
        }
        CertificateError::Revoked => "revoked".to_owned(),
        // The certificate of an authority. `openssl req -x509` makes one by default.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "is a CA certificate, not a server certificate (probably self-signed)".to_owned()
        }
        other => format!("rejected: {other}"),
    };
    format!("certificate {why}")
}

// === impl Among ===

impl fmt::Display for Among<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, " (last tried {address})"),
            None => Ok(()),
        }
    }
}

// === impl Expected ===

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration names each status of the default.
        if self.0.is_empty() || self.0.iter().copied().eq(UP_STATUSES) {
            return write!(f, "{}..={}", UP_STATUSES.start(), UP_STATUSES.end());
        }
        let statuses: Vec<String> = self.0.iter().map(u16::to_string).collect();
        f.write_str(&statuses.join(" or "))
    }
}
