//! The steps of a request, and the failures of each.
//!
//! A failure keeps the error as it came. The exporter and the checks word it differently: the
//! exporter names it in the report next to the lost records, and a check explains to an operator
//! why an endpoint is down.
//!
//! There is no timeout among the failures. The caller applies the deadline, drops the future of the
//! request, and words the timeout with the [`Step`] that the request had reached.

use std::{fmt, io, net::SocketAddr};

/// The current step of a request, which the message of a timeout can name.
///
/// The request writes it before each step, through a `&mut` that the caller holds. After a timeout
/// it therefore has the step that was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The name lookup; for an IP address this step ends at once.
    Resolving,
    /// The TCP handshake with one of the addresses.
    Connecting,
    /// The TLS handshake. HTTP without TLS skips this step.
    Securing,
    /// The request is being sent, or its answer is awaited.
    Awaiting,
    /// The body of the answer is being read.
    #[cfg_attr(
        not(feature = "service"),
        expect(dead_code, reason = "only checks look at a body")
    )]
    Reading,
}

/// The reason why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The name lookup failed, or returned no address.
    Resolve(io::Error),
    /// No address accepted the connection.
    Connect {
        /// The error of the last address that was not kept from an answer by this side, or else of
        /// the last one.
        error: io::Error,
        /// That address, if the name has several.
        #[cfg_attr(
            not(feature = "service"),
            expect(dead_code, reason = "only the messages of checks name it")
        )]
        address: Option<SocketAddr>,
    },
    /// The machine has no trusted root certificates. The text names the remedy. It is the only
    /// failure that no change of the server can mend.
    NoRoots(String),
    /// The TLS handshake failed.
    ///
    /// It holds the error of rustls, which says whether the certificate, its name or its date was
    /// the reason, or the connection broke during the handshake.
    Tls(io::Error),
    /// There was no valid HTTP response. That is also the failure of a connection that breaks after
    /// it was opened.
    Http(hyper::Error),
}

// === impl Step ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Securing => "in the TLS handshake",
            Self::Awaiting => "waiting for the response",
            Self::Reading => "reading the body",
        })
    }
}

/// Returns the text of an I/O error, without "(os error 111)" for the common kinds. The number of
/// the operating system is of no use to an operator, and differs between systems. Any other kind
/// keeps the text of the standard library.
pub(crate) fn words(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::TimedOut => "connection timed out",
        _ => return error.to_string(),
    };
    words.to_owned()
}
