//! A single GET request over a new HTTP/1.1 connection, because a health check must open one.
//!
//! It reads at most [`BODY_LIMIT`] of the body, for at most [`BODY_TIME`]. If the body must contain a
//! text, it reads at most [`SEARCHED`], until the check times out.

use super::certificates;
use crate::http_client::{Client, Connection, Step, Trust, Url, UrlError};
use crate::service::endpoint::{
    failure::{Failure, UP_STATUSES},
    settings::{HttpCheck, InvalidCheck, TlsSettings},
};
use http_body_util::Full;
use hyper::{
    Request,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, timeout};

/// The number of bytes of a body after which reading stops. Short bodies are read to their end, so
/// that an ordinary server does not log a connection reset.
const BODY_LIMIT: usize = 16 * 1024;
/// The number of bytes of a body in which an expected text is searched.
const SEARCHED: usize = 64 * 1024;
/// The longest time for reading a body.
const BODY_TIME: Duration = Duration::from_millis(100);

/// A request that is sent with each check.
pub(in crate::service::endpoint) struct Get {
    client: Client,
    /// The host in messages.
    host: String,
    /// True for HTTPS.
    is_secure: bool,
    tls: TlsSettings,
    request: Request<Full<Bytes>>,
    /// The statuses that count as success. If empty, [`UP_STATUSES`].
    expect_status: Vec<u16>,
    /// A text that the body must contain.
    expect_body: Option<String>,
}

// === impl Get ===

impl Get {
    /// Returns the request of a check. Unless it has files of certificates, it trusts what the
    /// machine does, or else what is given.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn new(check: &HttpCheck, trust: Option<Trust>) -> Result<Self, InvalidCheck> {
        let url: Url = check.url.parse().map_err(invalid)?;
        let mut expected = check.expect_status.iter();
        if let Some(status) = expected.find(|s| !(100..=599).contains(*s)) {
            return Err(InvalidCheck::Status { status: *status });
        }
        Ok(Self {
            request: request(&url, &check.headers)?,
            expect_status: check.expect_status.clone(),
            expect_body: check.expect_body.clone().filter(|text| !text.is_empty()),
            client: Client::new(&url, trust),
            is_secure: url.server.is_some(),
            tls: check.tls.clone(),
            host: url.address.host,
        })
    }

    /// Returns true if the request needs the machine's trusted roots.
    pub(super) fn needs_roots(&self) -> bool {
        self.is_secure && self.tls.ca_file.is_none()
    }

    /// Sends the request, and succeeds if the response has an expected status and body. Keeps `step`
    /// up to date, so that a timeout can name it.
    ///
    /// Only the reading of a body that does not matter is bounded here, by `deadline` and
    /// [`BODY_TIME`]. The caller must apply `deadline` to the rest.
    pub(super) async fn send(&mut self, deadline: Instant, step: &mut Step) -> Result<(), Failure> {
        if self.is_secure
            && let Some(trust) = certificates::read(&self.tls)?
        {
            self.client.trust(trust);
        }
        let host = &self.host;
        let words = |failure| Failure::of(failure, host);
        let mut connection = self.client.open(deadline, step).await.map_err(words)?;
        let answer = connection.send(self.request.clone()).await;
        let answer = answer.map_err(|unanswered| words(unanswered.failure))?;
        let status = answer.status().as_u16();
        let expected = if self.expect_status.is_empty() {
            UP_STATUSES.contains(&status)
        } else {
            self.expect_status.contains(&status)
        };
        if let Some(text) = self.expect_body.as_deref().filter(|_| expected) {
            *step = Step::Reading;
            return search(&mut connection, answer.into_body(), text, host).await;
        }
        // Half of the time that is left, so that a slow body never turns a response into a timeout.
        let left = deadline.saturating_duration_since(Instant::now()) / 2;
        let body = connection.read(answer.into_body(), BODY_LIMIT);
        // The status has decided the outcome.
        timeout(left.min(BODY_TIME), body).await.ok();
        if expected {
            return Ok(());
        }
        Err(Failure::Status {
            status,
            expected: self.expect_status.clone(),
        })
    }
}

/// Reads the body until it has contained `text`.
async fn search(
    connection: &mut Connection,
    body: Incoming,
    text: &str,
    host: &str,
) -> Result<(), Failure> {
    let (mut is_found, mut searched) = (false, 0_usize);
    let read = connection.read_until(body, SEARCHED, |start| {
        // The text may have begun in an earlier frame.
        let rest = &start[searched.saturating_sub(text.len())..];
        searched = start.len();
        is_found |= rest
            .windows(text.len())
            .any(|window| window == text.as_bytes());
        is_found
    });
    let read = read.await.map_err(|failure| Failure::of(failure, host))?;
    if is_found {
        return Ok(());
    }
    Err(Failure::Body {
        text: text.to_owned(),
        cut: read.len() == SEARCHED,
    })
}

/// Words the fault of a URL.
fn invalid(error: UrlError) -> InvalidCheck {
    let problem = match error {
        UrlError::Invalid => "is not valid",
        UrlError::NoScheme | UrlError::Scheme => "must begin with http:// or https://",
        UrlError::NoHost => "has no host",
        UrlError::Credentials => {
            "must not contain a user or password: set the header `authorization` instead"
        }
        UrlError::Port => "has an invalid port",
        UrlError::Address => "has an invalid host or port",
        UrlError::NotForTls => "has a host that cannot be in a TLS certificate",
    };
    refuse(problem)
}

/// Returns the error for a URL. `problem` completes "the URL …".
fn refuse(problem: &'static str) -> InvalidCheck {
    InvalidCheck::Url { problem }
}

/// Builds the request. The configured headers replace the default ones.
fn request(
    url: &Url,
    headers: &BTreeMap<String, String>,
) -> Result<Request<Full<Bytes>>, InvalidCheck> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = url
        .path
        .parse()
        .map_err(|_| refuse("has an invalid path"))?;
    let defaults = [
        (header::HOST, &*url.authority),
        (
            header::USER_AGENT,
            concat!("headcount/", env!("CARGO_PKG_VERSION")),
        ),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ];
    for (name, value) in defaults {
        let value = HeaderValue::from_str(value).map_err(|_| refuse("has an invalid host"))?;
        request.headers_mut().insert(name, value);
    }
    for (name, value) in headers {
        set(request.headers_mut(), name, value)?;
    }
    Ok(request)
}

/// Sets a configured header, except for those that control the connection and the body.
fn set(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), InvalidCheck> {
    let refuse = |problem| InvalidCheck::Header {
        name: name.to_owned(),
        problem,
    };
    let framing = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("has an invalid name"))?;
    if framing.contains(&name) {
        return Err(refuse(
            "cannot be set: a check is a GET without a body, on a new connection",
        ));
    }
    // The value may be a secret, so no message contains it.
    let value = HeaderValue::from_str(value)
        .map_err(|_| refuse("has a value with a line break or another control character"))?;
    headers.insert(name, value);
    Ok(())
}
