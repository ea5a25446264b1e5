//! The client of one collector: one request at a time, on a connection that the next one reuses.
//!
//! It adds to `http_client` the headers of OTLP, gzip, the reading of `Retry-After`, and the
//! decision of which failures may pass. It makes no retries: `pipe.rs` does.
//!
//! The protocol is `http/protobuf`: <https://opentelemetry.io/docs/specs/otlp/#otlphttp>.

use crate::http_client::{self, Client, Connection, Step, Trust, Unanswered, Url, UrlError, words};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use std::fmt;
use std::io::Write as _;
use std::ops::Deref;
use std::time::Duration;
use tokio::time::Instant;

/// The largest body of an answer that is read, in bytes.
///
/// An OTLP answer is a few bytes: a count and a message. A longer body is a failure of transport,
/// and the request is retried.
const ANSWER: usize = 1024 * 1024;

/// Names and values of headers. The values may be credentials, so `Debug` shows only the names.
#[derive(Clone, Default)]
pub(super) struct Headers(pub(super) Vec<(String, String)>);

/// The destination of a signal: URL, headers, compression and trusted certificates.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The whole URL, with the path of the signal.
    url: Url,
    /// Headers of the settings. They may replace those of a request, even `Content-Type` and
    /// `Host`.
    pub(super) headers: Headers,
    /// True if bodies are compressed with gzip.
    pub(super) is_gzip: bool,
    /// The trusted root certificates; the roots of the system if `None`.
    pub(super) trusted: Option<Trust>,
}

/// A client of the collector at a target.
pub(super) struct Collector {
    target: Target,
    /// It keeps an unfinished name lookup between requests.
    client: Client,
    /// The connection of the last request, which the next request reuses; `None` if there was none or
    /// it failed. Opening a connection costs both sides more than a request.
    kept: Option<Connection>,
}

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection failed: no answer, or only a part of one. The text says why, in the words of
    /// the report.
    Transport(String),
    /// The status code of the answer was no success. The duration is that of its `Retry-After`
    /// header, if it has one in seconds.
    Status(u16, Option<Duration>),
    /// The body of the answer was not OTLP. The status was a success, so the other end is a server,
    /// but probably not a collector.
    NotOtlp,
    /// No answer came within the timeout. `pipe.rs` makes this one; a [`Collector`] has no clock.
    TimedOut,
}

// === impl Headers ===

impl Deref for Headers {
    type Target = Vec<(String, String)>;

    fn deref(&self) -> &Vec<(String, String)> {
        &self.0
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

// === impl Target ===

impl Target {
    /// Parses a URL and appends `append` to its path. The error is the fault of the URL.
    ///
    /// Slashes at the end of the URL's path are removed before `append` is added. A query in the
    /// URL stays in the path, so `append` follows it. Headers, compression and trust are set by the
    /// caller.
    pub(super) fn parse(text: &str, append: Option<&str>) -> Result<Self, &'static str> {
        let mut url: Url = text.parse().map_err(fault)?;
        if let Some(append) = append {
            url.path = format!("{}{append}", url.path.trim_end_matches('/'));
        }
        Ok(Self {
            url,
            headers: Headers::default(),
            is_gzip: false,
            trusted: None,
        })
    }

    /// Creates the request for a body. With gzip it compresses the body, at each attempt anew;
    /// without, it shares the bytes.
    ///
    /// It fails only for a path that hyper refuses. A settings header replaces one with the same
    /// name.
    fn request(&self, body: &Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let body = if self.is_gzip {
            gzip(body)
        } else {
            body.clone()
        };
        let mut request = Request::post(&*self.url.path)
            .header(HOST, &*self.url.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("headcount/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| Failure::Transport(error.to_string()))?;
        if self.is_gzip {
            let gzip = HeaderValue::from_static("gzip");
            request.headers_mut().insert(CONTENT_ENCODING, gzip);
        }
        for (name, value) in self.headers.iter() {
            // A header with an invalid name or value is skipped.
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
        let scheme = if self.url.server.is_some() {
            "https"
        } else {
            "http"
        };
        write!(f, "{scheme}://{}{}", self.url.authority, self.url.path)
    }
}

/// Words the fault of a URL.
fn fault(error: UrlError) -> &'static str {
    match error {
        UrlError::Invalid => "it is not a valid URL",
        UrlError::NoScheme => "the scheme is missing",
        UrlError::Scheme => "the scheme is neither http nor https",
        UrlError::NoHost => "the host is missing",
        UrlError::Credentials => "credentials belong in a header, not in the URL",
        UrlError::Port => "the port is invalid",
        UrlError::Address => "the host or the port is invalid",
        UrlError::NotForTls => "the host is not a valid name for TLS",
    }
}

// === impl Collector ===

impl Collector {
    /// Opens no connection.
    pub(super) fn new(target: Target) -> Self {
        Self {
            client: Client::new(&target.url, target.trusted.clone()),
            target,
            kept: None,
        }
    }

    /// Closes the connection that is kept for the next request. The server sees the end of the
    /// stream. Does nothing if there is none.
    pub(super) fn close(&mut self) {
        self.kept = None;
    }

    /// Sends a body and returns the body of the answer. Keeps the connection if it succeeds.
    ///
    /// A collector may close an idle connection at any time. If the kept one turns out to be closed
    /// before the request was sent, a new one is opened for it. A request that was sent and not
    /// answered is a failure: the collector may have processed it, and sending it again at once would
    /// duplicate its records without counting an attempt.
    ///
    /// `deadline` divides the time among the addresses of the collector. The caller must apply it to
    /// the whole.
    ///
    /// # Cancel safety
    ///
    /// The kept connection is taken out before it is used. If the future is dropped, the connection is
    /// closed with it, and the next call opens another one.
    pub(super) async fn post(&mut self, body: &Bytes, deadline: Instant) -> Result<Bytes, Failure> {
        let mut request = self.target.request(body)?;
        if let Some(mut connection) = self.kept.take() {
            match connection.send(request).await {
                Err(Unanswered {
                    unsent: Some(again),
                    ..
                }) => request = *again,
                answer => return self.finish(connection, answer).await,
            }
        }
        // The timeout of a request has the same text at every step.
        let step = &mut Step::Resolving;
        let mut connection = self.client.open(deadline, step).await?;
        let answer = connection.send(request).await;
        self.finish(connection, answer).await
    }

    /// Reads the answer, and keeps the connection after a success.
    ///
    /// After a failure the connection is dropped. That includes a status that is no success, since
    /// its body was not read.
    ///
    /// `Retry-After` is read as whole seconds. Its other form, a date, is ignored.
    async fn finish(
        &mut self,
        mut connection: Connection,
        answer: Result<Response<Incoming>, Unanswered>,
    ) -> Result<Bytes, Failure> {
        let answer = answer.map_err(|unanswered| unanswered.failure)?;
        let status = answer.status();
        if !status.is_success() {
            let wait = answer.headers().get(RETRY_AFTER);
            let wait = wait.and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
            let wait = wait.map(Duration::from_secs);
            return Err(Failure::Status(status.as_u16(), wait));
        }
        let body = connection.read(answer.into_body(), ANSWER).await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => Failure::Transport(cause(&error)),
            Err(error) => Failure::Transport(error.to_string()),
        })?;
        self.kept = Some(connection);
        Ok(body)
    }
}

// === impl Failure ===

impl Failure {
    /// Returns whether a retry may succeed:
    /// <https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>.
    ///
    /// A request that got no answer is retried too, although the collector may have processed it: the
    /// protocol prefers a duplicate to a loss
    /// (<https://opentelemetry.io/docs/specs/otlp/#duplicate-data>).
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Transport(_) | Self::TimedOut => true,
            Self::Status(code, _) => matches!(code, 429 | 502 | 503 | 504),
            Self::NotOtlp => false,
        }
    }

    /// Returns whether the collector answered that it is overloaded or out of service.
    ///
    /// During a flush only such a collector is asked again.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Status(..)) && self.is_passing()
    }
}

impl From<http_client::Failure> for Failure {
    /// Words the failure for the report. The step is lost: the text of the error names it well
    /// enough.
    fn from(failure: http_client::Failure) -> Self {
        Self::Transport(match failure {
            http_client::Failure::Resolve(error)
            | http_client::Failure::Connect { error, .. }
            | http_client::Failure::Tls(error) => words(&error),
            http_client::Failure::NoRoots(text) => text,
            http_client::Failure::Http(error) => cause(&error),
        })
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

/// Compresses a body at the fastest level: the names in a request repeat so often that it is
/// enough. It runs on the exporting thread and allocates the compressed body.
fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder
        .write_all(body)
        .expect("a write to a vector does not fail");
    encoder
        .finish()
        .expect("a write to a vector does not fail")
        .into()
}

/// Returns the text of the innermost error, which says more than that of hyper. An I/O error is
/// worded by `words`, and a parse error means that the other end speaks another protocol.
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

#[cfg(test)]
mod tests;
