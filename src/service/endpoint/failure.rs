//! Why a check failed, in words for the person who reads the log.
//!
//! The texts are one line, name no secret (no header value, no query), and are never a metric
//! label.

use super::dial::{Address, Step};
use std::{error::Error, fmt, io, net::SocketAddr, ops::RangeInclusive, time::Duration};
use tokio_rustls::rustls::{CertificateError, Error as TlsError};

/// The statuses that count as up when the configuration lists none.
pub(super) const UP_STATUSES: RangeInclusive<u16> = 200..=399;

/// The reason of a failed check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("timed out after {after:?} {step}")]
    Timeout { after: Duration, step: Step },
    #[error("cannot resolve {host}: {reason}")]
    Resolve { host: String, reason: String },
    #[error("{reason}{}", Among(.address))]
    Connect {
        reason: String,
        /// The last address tried, when the name has several.
        address: Option<SocketAddr>,
    },
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Http(String),
    #[error("status {status}, expected {}", Expected(.expected))]
    Status { status: u16, expected: Vec<u16> },
    /// The machine or the settings do not allow this check at all.
    #[error("{0}")]
    Impossible(String),
}

struct Among<'a>(&'a Option<SocketAddr>);

struct Expected<'a>(&'a [u16]);

// === impl Failure ===

impl Failure {
    pub(super) fn resolve(address: &Address, error: &io::Error) -> Self {
        let text = error.to_string();
        // The standard library's prefix for every error of getaddrinfo(3).
        let reason = text
            .strip_prefix("failed to lookup address information: ")
            .unwrap_or(&text);
        Self::Resolve {
            host: address.host.clone(),
            reason: reason.to_lowercase(),
        }
    }

    pub(super) fn connect(error: &io::Error, address: Option<SocketAddr>) -> Self {
        let reason = plain(error);
        Self::Connect { reason, address }
    }

    /// The error of a TLS handshake with `host`.
    pub(super) fn tls(error: &io::Error, host: &str) -> Self {
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
                "connection closed in the TLS handshake".to_owned()
            }
            None => plain(error),
        })
    }

    pub(super) fn http(error: &hyper::Error) -> Self {
        // A request that was canceled carries the reason, when the server spoke before it was out.
        let error = cause_of::<hyper::Error>(error).unwrap_or(error);
        Self::Http(match cause_of::<io::Error>(error) {
            Some(cause) => plain(cause),
            None if error.is_incomplete_message() || error.is_canceled() => {
                "connection closed before the response".to_owned()
            }
            // "invalid HTTP version parsed", "message head is too large", …
            None => format!("no HTTP/1 response: {error}"),
        })
    }
}

fn cause_of<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    error.source()?.downcast_ref()
}

/// The kinds that operators meet, without the "(os error 111)".
fn plain(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::TimedOut => "connection timed out",
        io::ErrorKind::UnexpectedEof => "connection closed",
        _ => return error.to_string(),
    };
    words.to_owned()
}

fn certificate(cause: &CertificateError, host: &str) -> String {
    let why = match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "not signed by an authority that this machine trusts".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("not made for {host}")
        }
        CertificateError::Revoked => "revoked".to_owned(),
        // An authority's own certificate, which is what `openssl req -x509` makes by default.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "an authority's own, not a server's (self-signed)".to_owned()
        }
        other => format!("refused: {other}"),
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
        let Some((first, rest)) = self.0.split_first() else {
            return write!(f, "{}..={}", UP_STATUSES.start(), UP_STATUSES.end());
        };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|status| write!(f, " or {status}"))
    }
}
