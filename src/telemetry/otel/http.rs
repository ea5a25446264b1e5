//! Requests to a collector: one after the other, on a connection that is driven by hand on the thread that asks.
//!
//! No pool, no proxy, no redirects, no retry. Dropping the future gives it up at any point; a name that the resolver does
//! not answer leaves a thread of the runtime's pool in it, which nobody can end.

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// No answer of a collector is longer than this.
const ANSWER: usize = 1024 * 1024;

/// Where a signal goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    is_https: bool,
    /// For the `Host` header.
    authority: String,
    host: String,
    port: u16,
    path: String,
    pub(super) headers: Vec<(String, String)>,
    /// Whether bodies are compressed.
    pub(super) is_gzip: bool,
    /// Who may vouch for the server; without, whoever the machine trusts.
    pub(super) trusted: Option<Trusted>,
}

/// Those that a file names.
#[derive(Debug, Clone)]
pub(super) struct Trusted(Arc<ClientConfig>);

/// What the next request to the same target may use. A connection costs both sides more than a request does.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Ends with the connection. Driven while an answer is waited for.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Why a request was not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer came.
    Transport(String),
    /// The answer was no success; after so long the sender may try again.
    Status(u16, Option<Duration>),
    /// The answer was no OTLP.
    NotOtlp,
    /// It took too long.
    TimedOut,
}

// === impl Target ===

impl Target {
    /// Reads an address; `append` is put behind its path. The error says what is wrong with it.
    pub(super) fn parse(text: &str, append: Option<&str>) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err("its scheme is neither http nor https"),
            None => return Err("it has no scheme"),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("user and password belong into a header");
        }
        let host = authority.host();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            is_https,
            authority: authority.as_str().to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_https { 443 } else { 80 }),
            path: match append {
                Some(append) => format!("{}{append}", path.trim_end_matches('/')),
                None => path.to_owned(),
            },
            headers: Vec::new(),
            is_gzip: false,
            trusted: None,
        })
    }

    /// Sends a body and gives that of the answer; `kept` is the connection of the last request, and of the next one.
    pub(super) async fn post(
        &self,
        body: Bytes,
        kept: &mut Option<Connection>,
    ) -> Result<Bytes, Failure> {
        let body = if self.is_gzip { gzip(&body) } else { body };
        if let Some(connection) = kept.take() {
            match self.send(connection, body.clone(), kept).await {
                // The collector may have closed it meanwhile, which says nothing of a new one.
                Err(Failure::Transport(_)) => {}
                answered => return answered,
            }
        }
        let connection = self.open().await?;
        self.send(connection, body, kept).await
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let stream = self.connect().await?;
        // A request is one write, and nothing follows it.
        stream.set_nodelay(true).ok();
        if !self.is_https {
            return Connection::shake(stream).await;
        }
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|_| Failure::Transport("no name for TLS".to_owned()))?;
        let stream = self.tls().connect(name, stream).await;
        Connection::shake(stream?).await
    }

    fn tls(&self) -> TlsConnector {
        static NATIVE: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        TlsConnector::from(match &self.trusted {
            Some(Trusted(config)) => Arc::clone(config),
            // Those that cannot be read verify nothing.
            None => Arc::clone(NATIVE.get_or_init(|| {
                let mut roots = RootCertStore::empty();
                let found = rustls_native_certs::load_native_certs().certs;
                roots.add_parsable_certificates(found);
                Arc::new(trusting(roots))
            })),
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return TcpStream::connect((address, self.port)).await;
        }
        let host = (self.host.clone(), self.port);
        #[expect(
            clippy::disallowed_methods,
            reason = "on the exporting thread's runtime"
        )]
        let addresses = tokio::task::spawn_blocking(move || lookup(host)).await;
        let addresses = addresses.map_err(io::Error::other)??;
        TcpStream::connect(&*addresses).await
    }

    async fn send(
        &self,
        mut connection: Connection,
        body: Bytes,
        kept: &mut Option<Connection>,
    ) -> Result<Bytes, Failure> {
        let request = self.request(body)?;
        let (head, body) = connection.exchange(request).await?;
        if head.status.is_success() {
            *kept = Some(connection);
            return Ok(body);
        }
        let wait = head.headers.get(RETRY_AFTER);
        let wait = wait.and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
        Err(Failure::Status(
            head.status.as_u16(),
            wait.map(Duration::from_secs),
        ))
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::post(&*self.path)
            .header(HOST, &*self.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("headcount/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| Failure::Transport(error.to_string()))?;
        if self.is_gzip {
            let gzip = HeaderValue::from_static("gzip");
            request.headers_mut().insert(CONTENT_ENCODING, gzip);
        }
        for (name, value) in &self.headers {
            // One that cannot be sent is not.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                request.headers_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

// === impl Connection ===

impl Connection {
    async fn shake(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = async {
            connection.await.ok();
        };
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }

    /// The head of the answer, and its body if it is a success: afterwards the connection may be used again.
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(Parts, Bytes), Failure> {
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        let exchange = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            if !head.status.is_success() {
                return Ok((head, Bytes::new()));
            }
            let body = Limited::new(body, ANSWER).collect().await;
            let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => Failure::from(*error),
                Err(error) => Failure::Transport(error.to_string()),
            })?;
            Ok((head, body.to_bytes()))
        };
        // The connection ends after the exchange, or before it, by an error that the exchange tells.
        let driven = async {
            if let Some(open) = driver {
                open.await;
                *driver = None;
            }
            std::future::pending::<()>().await;
        };
        first(exchange, driven).await
    }
}

// === impl Failure ===

impl Failure {
    /// Whether the same may succeed later: <https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Transport(_) | Self::TimedOut => true,
            Self::Status(code, _) => matches!(code, 429 | 502 | 503 | 504),
            Self::NotOtlp => false,
        }
    }

    /// Whether the collector answered, and was too busy.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Status(..)) && self.is_passing()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Transport(words(&error))
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Transport(cause(&error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(text) => f.write_str(text),
            Self::Status(code, _) => {
                write!(f, "the collector answered {code}")?;
                let status = StatusCode::from_u16(*code).ok();
                match status.and_then(|status| status.canonical_reason()) {
                    Some(reason) => write!(f, " {reason}"),
                    None => Ok(()),
                }
            }
            Self::NotOtlp => f.write_str("the answer was not OTLP: is that a collector?"),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

/// Quickly rather than small: the names in a request are many times the same.
fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("a vector takes all");
    encoder.finish().expect("a vector takes all").into()
}

/// Asks the system's resolver, which may take as long as it likes.
fn lookup(host: (String, u16)) -> io::Result<Vec<SocketAddr>> {
    #[cfg(test)]
    if host.0 == super::tests::HANGS {
        loop {
            std::thread::park();
        }
    }
    Ok(host.to_socket_addrs()?.collect())
}

/// What `work` gives, while `beside` runs as long.
async fn first<T>(work: impl Future<Output = T>, beside: impl Future<Output = ()>) -> T {
    let (mut work, mut beside) = (std::pin::pin!(work), std::pin::pin!(beside));
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(done);
        }
        // It never gives anything.
        let _pending = beside.as_mut().poll(cx);
        work.as_mut().poll(cx)
    })
    .await
}

/// An error of the system, without its number.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// The innermost error: hyper's own says less.
fn cause(error: &hyper::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref() {
        Some(error) => words(error),
        None if error.is_parse() => "the answer was not HTTP".to_owned(),
        None => innermost.to_string(),
    }
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

// === impl Trusted ===

impl Trusted {
    /// The certificates of a file in PEM form; `None` when there is none that can be used.
    pub(super) fn read(path: &str) -> Option<Self> {
        let found = rustls_native_certs::load_certs_from_paths(Some(path.as_ref()), None);
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        (added > 0).then(|| Self(Arc::new(trusting(roots))))
    }
}

impl PartialEq for Trusted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests;
