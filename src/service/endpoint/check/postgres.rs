//! `SELECT 1` in a Postgres database.
//!
//! A proxy, such as PgBouncer or one of a cloud, accepts connections while its database is gone, and
//! may even answer the start of a session itself. So the check ends with the answer to a query.
//!
//! The query is sent in the simple protocol, which all poolers pass on. Each check has a session of its
//! own, which it ends with a Terminate message.

use super::{certificates, passwords};
use crate::http_client::{Address, Dialer, Step, Trust};
use crate::service::endpoint::{
    failure::Failure,
    settings::{InvalidCheck, PasswordFile, PostgresCheck, TlsSettings},
};
use std::{
    error::Error as _,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_postgres::{
    Config, Error, NoTls, SimpleQueryMessage,
    config::SslMode,
    tls::{self, ChannelBinding, TlsConnect},
};
use tokio_rustls::{client::TlsStream, rustls::pki_types::ServerName};

/// The most bytes that are read of a server.
const MOST: usize = 256 * 1024;
/// The longest time for the end of the session, which does not matter.
const GOODBYE: Duration = Duration::from_millis(100);

/// A database in which each check runs a query.
pub(in crate::service::endpoint) struct Postgres {
    /// Opens TCP connections: TLS is begun by a message of the protocol.
    dialer: Dialer,
    address: Address,
    user: String,
    dbname: String,
    password: Option<PasswordFile>,
    /// The certificates, and the name that the server's must be valid for.
    tls: Option<(TlsSettings, ServerName<'static>)>,
    /// The trusted certificates if there is no file of them; those of the machine if `None`.
    trust: Option<Trust>,
}

/// The TLS handshake of one connection, in the form that the client of Postgres calls.
struct Secure {
    trust: Trust,
    server: ServerName<'static>,
}

/// A stream of which no more than [`MOST`] bytes are read: the client keeps whole messages.
struct Bounded<S> {
    stream: S,
    left: usize,
}

// === impl Postgres ===

impl Postgres {
    /// Returns the check of a database. Unless there are files of certificates, it trusts what the
    /// machine does, or else what is given.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn new(check: &PostgresCheck, trust: Option<Trust>) -> Result<Self, InvalidCheck> {
        let address: Address = check.address.parse().map_err(|()| InvalidCheck::Address)?;
        let tls = match &check.tls {
            Some(tls) => {
                let server = ServerName::try_from(address.host.clone());
                let server = server.map_err(|_| InvalidCheck::NotForTls)?;
                Some((tls.clone(), server))
            }
            None => None,
        };
        Ok(Self {
            dialer: Dialer::new(address.clone()),
            address,
            user: check.user.clone(),
            dbname: check.dbname.clone().unwrap_or_else(|| check.user.clone()),
            password: check.password.clone(),
            tls,
            trust,
        })
    }

    /// Returns true if the machine's trusted roots are needed.
    pub(super) fn needs_roots(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|(tls, _)| tls.ca_file.is_none())
    }

    /// Begins a session, runs the query and ends the session. Keeps `step` up to date. The caller
    /// must apply `deadline`.
    pub(super) async fn select(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<(), Failure> {
        let mut config = Config::new();
        config.user(&self.user).dbname(&self.dbname);
        config.application_name("headcount");
        if let Some(password) = self.password()? {
            config.password(password);
        }
        let words = |failure| Failure::of(failure, &self.address.host);
        let secure = match &self.tls {
            Some((tls, server)) => {
                let trust = match (certificates::read(tls)?, &self.trust) {
                    (Some(trust), _) => trust,
                    (None, Some(trust)) => trust.clone(),
                    (None, None) => Trust::machine().map_err(words)?,
                };
                let server = server.clone();
                // The name of the protocol: https://www.postgresql.org/docs/current/protocol-flow.html
                let trust = trust.offering(&[b"postgresql"]);
                Some(Secure { trust, server })
            }
            None => None,
        };
        let stream = self.dialer.connect(deadline, step).await.map_err(words)?;
        *step = Step::Awaiting;
        let session = match secure {
            Some(secure) => {
                config.ssl_mode(SslMode::Require);
                session(&config, Bounded::of(stream), secure).await
            }
            None => {
                config.ssl_mode(SslMode::Disable);
                session(&config, Bounded::of(stream), NoTls).await
            }
        };
        match session {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Answer("SELECT 1 returned no row".to_owned())),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Reads the password, if there is one.
    fn password(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(match &self.password {
            Some(PasswordFile::Plain(path)) => Some(passwords::read(path)?),
            Some(PasswordFile::Pgpass(path)) => {
                let port = self.address.port.to_string();
                let connection = [&*self.address.host, &port, &self.dbname, &self.user];
                Some(passwords::of_pgpass(path, connection)?)
            }
            None => None,
        })
    }

    /// Words an error of the client.
    fn failure(&self, error: &Error) -> Failure {
        if let Some(answer) = error.as_db_error() {
            let text = format!("{}: {}", answer.severity(), answer.message());
            return Failure::answered(&text);
        }
        if error.is_closed() {
            return Failure::closed();
        }
        match error.source() {
            Some(cause) => match cause.downcast_ref::<io::Error>() {
                Some(cause) => Failure::secured(cause, &self.address.host),
                None => Failure::answered(&format!("{error}: {cause}")),
            },
            None => Failure::answered(&error.to_string()),
        }
    }
}

/// Begins a session over an open connection, runs the query and ends the session. Returns whether the
/// answer has a row.
async fn session<T>(config: &Config, stream: Bounded<TcpStream>, tls: T) -> Result<bool, Error>
where
    T: TlsConnect<Bounded<TcpStream>>,
{
    let (client, connection) = config.connect_raw(stream, tls).await?;
    let mut connection = pin!(connection);
    let mut is_over = false;
    // The connection is driven by this task, so that nothing of the check outlives it.
    let answer = {
        let mut query = pin!(client.simple_query("SELECT 1"));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = query.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            let mut lost = None;
            if !is_over && let Poll::Ready(end) = connection.as_mut().poll(cx) {
                is_over = true;
                lost = end.err();
            }
            // The error of the connection says more than that of the query.
            match (query.as_mut().poll(cx), lost) {
                (Poll::Ready(Ok(answer)), _) => Poll::Ready(Ok(answer)),
                (_, Some(error)) | (Poll::Ready(Err(error)), None) => Poll::Ready(Err(error)),
                (Poll::Pending, None) => Poll::Pending,
            }
        })
        .await?
    };
    // Then the connection sends Terminate, and ends.
    drop(client);
    if !is_over {
        timeout(GOODBYE, connection).await.ok();
    }
    let is_row = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(_));
    Ok(answer.iter().any(is_row))
}

// === impl Secure ===

impl TlsConnect<Bounded<TcpStream>> for Secure {
    type Stream = Bounded<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: Bounded<TcpStream>) -> Self::Future {
        Box::pin(async move {
            let stream = self.trust.secure(self.server, stream.stream).await?;
            Ok(Bounded::of(stream))
        })
    }
}

// === impl Bounded ===

impl<S> Bounded<S> {
    fn of(stream: S) -> Self {
        Self { stream, left: MOST }
    }
}

impl tls::TlsStream for Bounded<TlsStream<TcpStream>> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the response is too long")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let length = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(length);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
