//! An HTTP/1.1 client of one server, over TCP or TLS: a request waits for its answer on a connection
//! that the caller keeps or drops.
//!
//! It is deliberately less than an HTTP client:
//!
//! - no connection pool, because a health check must open a connection, and an exporter needs one
//! - no redirects, because a 3xx status is an answer
//! - no proxy from the environment, because a check would test the proxy
//! - no retries: [`Unanswered`] says whether a request can safely be sent again
//! - no cookies, no HTTP/2
//!
//! Failures say which step failed, and why; the caller words them. Dropping a future gives its step
//! up at any point, except that a name lookup still blocks a thread of the runtime's blocking pool.
//!
//! The way of a request, with the file of each step:
//!
//! ```text
//! Url (url.rs) ─► Client::open ─► Connection::send ─► Connection::read ─► next send, or drop
//!                  │ resolve, connect  (dial.rs)         (connection.rs)
//!                  │ TLS handshake     (tls.rs)
//!                  └ each step is noted in `Step` (failure.rs)
//! ```
//!
//! There are two users. The exporter of telemetry (`telemetry/otel/http.rs`) keeps its connection
//! between requests. The checks of endpoints (`service/endpoint`) open one for each check; those of
//! other protocols take the stream of [`Client::connect`]. Neither
//! spawns a task for a connection: the future of the request drives it, so it makes no progress
//! between requests.
//!
//! No step has a timeout of its own, except that an address of several gets only its share of the
//! time. The caller wraps the whole request into one deadline and reads the step to word a timeout.

mod connection;
mod dial;
mod failure;
mod tls;
mod url;

pub(crate) use connection::{Connection, Unanswered};
#[cfg(feature = "service")]
pub(crate) use dial::Address;
pub(crate) use dial::Dialer;
#[cfg(test)]
pub(crate) use dial::HANGS;
#[cfg(all(test, feature = "service"))]
pub(crate) use dial::Lookup;
pub(crate) use failure::{Failure, Step, words};
pub(crate) use tls::Trust;
pub(crate) use url::{Url, UrlError};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// An opener of connections to one server.
pub(crate) struct Client {
    /// The opener of TCP connections. It keeps an unfinished name lookup, so a client must be
    /// reused for the next request to the server: a second client would start a second lookup.
    dialer: Dialer,
    /// The name or IP address that the server's certificate must be valid for; `None` for HTTP.
    server: Option<ServerName<'static>>,
    /// The trusted certificates; those of the machine if `None`.
    trust: Option<Trust>,
}

/// An open connection, over TCP or TLS, before any protocol is spoken on it.
pub(crate) type Stream = Box<dyn Duplex>;

/// A stream of bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

// === impl Client ===

impl Client {
    /// Returns a client of the server of `url`, which trusts the machine's certificates unless others
    /// are given.
    ///
    /// It connects to nothing and reads no certificate: those of the machine are read at the first
    /// handshake. Path and query of `url` are not kept; the caller sets them in each request, along
    /// with the header `Host`.
    pub(crate) fn new(url: &Url, trust: Option<Trust>) -> Self {
        Self {
            dialer: Dialer::new(url.address.clone()),
            server: url.server.clone(),
            trust,
        }
    }

    /// Returns a client of a server at an address. It speaks TLS if it is given the name that the
    /// server's certificate must be valid for.
    #[cfg(feature = "service")]
    pub(crate) fn at(address: Address, server: Option<ServerName<'static>>) -> Self {
        Self {
            dialer: Dialer::new(address),
            server,
            trust: None,
        }
    }

    /// Sets the certificates that are trusted from the next connection on.
    #[cfg(feature = "service")]
    pub(crate) fn trust(&mut self, trust: Trust) {
        self.trust = Some(trust);
    }

    /// Opens a connection for HTTP/1, and keeps `step` up to date. For more, see
    /// [`Self::connect`].
    pub(crate) async fn open(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<Connection, Failure> {
        let stream = self.connect(deadline, step).await?;
        Connection::over(stream).await
    }

    /// Opens a connection, and keeps `step` up to date.
    ///
    /// `deadline` only divides the time among the addresses of the server; see [`Dialer::connect`].
    /// The caller must apply it to the whole.
    ///
    /// After an error, and after a future that was dropped, the client can open another connection.
    /// A dropped future closes a connection that is being opened, but leaves an unfinished lookup
    /// for the next call.
    ///
    /// # Errors
    ///
    /// Returns the failure of the lookup, the connection or the TLS handshake.
    pub(crate) async fn connect(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<Stream, Failure> {
        let stream = self.dialer.connect(deadline, step).await?;
        // A request is a single write, so waiting to fill a packet only delays it.
        stream.set_nodelay(true).ok();
        let Some(server) = &self.server else {
            *step = Step::Awaiting;
            return Ok(Box::new(stream));
        };
        *step = Step::Securing;
        let trust = match &self.trust {
            Some(trust) => trust.clone(),
            None => Trust::machine()?,
        };
        let stream = TlsConnector::from(trust.config())
            .connect(server.clone(), stream)
            .await
            .map_err(Failure::Tls)?;
        *step = Step::Awaiting;
        Ok(Box::new(stream))
    }
}
