//! One GET over one connection that nobody else uses.
//!
//! Deliberately less than a client: no pool (a health check must open a connection, or it checks
//! the pool), no redirects (a 3xx is an answer), no proxy from the environment (it would be the
//! proxy that is checked), no cookies, no compression, no HTTP/2, and never more of the body than
//! [`BODY_LIMIT`].

use super::{
    InvalidCheck,
    dial::{Address, Step},
    failure::{Failure, UP_STATUSES},
    tls::Tls,
};
use hyper::{
    Request, Uri,
    body::{Body, Incoming},
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    time::{Instant, timeout},
};
use tokio_rustls::rustls::pki_types::ServerName;

/// How large a status line with its headers may be.
const HEAD_LIMIT: usize = 64 * 1024;
/// How much of a body is read, so that an ordinary server can close without a reset in its log.
const BODY_LIMIT: usize = 16 * 1024;
/// How long a body is read for.
const BODY_TIME: Duration = Duration::from_millis(100);

/// A request, ready to be sent again and again.
pub(super) struct Get {
    request: Request<String>,
    expect_status: Vec<u16>,
    pub(super) tls: Option<Tls>,
}

// === impl Get ===

impl Get {
    /// The request for `url`, and where to send it.
    pub(super) fn new(
        url: &str,
        expect_status: &[u16],
        headers: &BTreeMap<String, String>,
    ) -> Result<(Self, Address), InvalidCheck> {
        let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
        let (secure, address) = destination(&uri)?;
        let tls = secure
            .then(|| ServerName::try_from(address.host.clone()))
            .transpose()
            .map_err(|_| refuse("names a host that no certificate can name"))?
            .map(Tls::new);
        if let Some(status) = expect_status.iter().find(|s| !(100..=599).contains(*s)) {
            return Err(InvalidCheck::Status { status: *status });
        }
        let get = Self {
            request: request(&uri, headers)?,
            expect_status: expect_status.to_vec(),
            tls,
        };
        Ok((get, address))
    }

    /// Succeeds when the server answers with an expected status.
    pub(super) async fn send(
        &self,
        stream: TcpStream,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<(), Failure> {
        let answer = if let Some(tls) = &self.tls {
            *step = Step::Securing;
            let stream = tls.secure(stream).await?;
            *step = Step::Awaiting;
            exchange(stream, self.request.clone(), deadline).await
        } else {
            *step = Step::Awaiting;
            exchange(stream, self.request.clone(), deadline).await
        };
        let status = answer.map_err(|error| Failure::http(&error))?;
        let expected = if self.expect_status.is_empty() {
            UP_STATUSES.contains(&status)
        } else {
            self.expect_status.contains(&status)
        };
        if expected {
            return Ok(());
        }
        Err(Failure::Status {
            status,
            expected: self.expect_status.clone(),
        })
    }
}

fn refuse(problem: &'static str) -> InvalidCheck {
    InvalidCheck::Url { problem }
}

/// Whether to use TLS, and where to connect.
fn destination(uri: &Uri) -> Result<(bool, Address), InvalidCheck> {
    let (secure, usual_port) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(refuse("must begin with http:// or https://")),
    };
    let authority = uri.authority().ok_or(refuse("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refuse(
            "must not hold a password: set the header `authorization`",
        ));
    }
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => usual_port,
        _ => authority.port_u16().ok_or(refuse("has no valid port"))?,
    };
    let address = format!("{}:{port}", authority.host()).parse();
    let address = address.map_err(|()| refuse("names no valid host or port"))?;
    Ok((secure, address))
}

fn request(uri: &Uri, headers: &BTreeMap<String, String>) -> Result<Request<String>, InvalidCheck> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::new(String::new());
    *request.uri_mut() = path.parse().map_err(|_| refuse("has no valid path"))?;
    let defaults = [
        (header::HOST, authority),
        (
            header::USER_AGENT,
            concat!("headcount/", env!("CARGO_PKG_VERSION")),
        ),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ];
    for (name, value) in defaults {
        let value = HeaderValue::from_str(value).map_err(|_| refuse("names no valid host"))?;
        request.headers_mut().insert(name, value);
    }
    for (name, value) in headers {
        set(request.headers_mut(), name, value)?;
    }
    Ok(request)
}

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
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("is not a header name"))?;
    if framing.contains(&name) {
        return Err(refuse(
            "cannot be set: a check is a GET on a connection of its own",
        ));
    }
    // The value may be a secret: no message repeats it.
    let value = HeaderValue::from_str(value)
        .map_err(|_| refuse("has a value with a line break or another control character"))?;
    headers.insert(name, value);
    Ok(())
}

/// Sends the request and returns the status of the answer.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<String>,
    deadline: Instant,
) -> Result<u16, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut connection = pin!(connection);
    let response = {
        let mut answer = pin!(sender.send_request(request));
        select! {
            biased;
            answer = &mut answer => answer?,
            ended = &mut connection => {
                ended?;
                return Ok(answer.await?.status().as_u16());
            }
        }
    };
    let status = response.status().as_u16();
    // Half of what is left, so that the body can never turn an answer into a timeout.
    let left = deadline.saturating_duration_since(Instant::now()) / 2;
    let body = pin!(skim(response.into_body(), connection));
    timeout(left.min(BODY_TIME), body).await.ok();
    Ok(status)
}

/// Reads the body up to [`BODY_LIMIT`], while `connection` drives it. The status has decided
/// already, so errors do not matter.
async fn skim<C: Future>(mut body: Incoming, connection: C) {
    let reading = async {
        let mut read = 0;
        while read < BODY_LIMIT {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len()),
                Some(Err(_)) | None => return,
            }
        }
    };
    select! {
        () = reading => {}
        _ = connection => {}
    }
}
