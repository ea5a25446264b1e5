//! A call of `grpc.health.v1.Health/Check`
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
//!
//! It is one HTTP/2 request with a message of one field, sent by h2, which hyper and tonic use. A
//! channel of tonic would spawn tasks that outlive the check.

use super::server::Server;
use crate::http_client::{Step, Stream, Trust};
use crate::service::endpoint::{
    failure::Failure,
    settings::{GrpcCheck, InvalidCheck},
};
use h2::{RecvStream, client};
use hyper::{HeaderMap, Request, Response, Uri, Version, body::Bytes, header};
use prost::Message as _;
use std::{future::Future, pin::pin};
use tokio::{select, time::Instant};

/// The path of the method.
const METHOD: &str = "/grpc.health.v1.Health/Check";
/// The most bytes of an answer, which has one number.
const LONGEST: usize = 4 * 1024;
/// The most bytes of the headers of an answer.
const HEADERS: u32 = 16 * 1024;
/// The names of the codes of gRPC (<https://grpc.io/docs/guides/status-codes/>).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// The serving statuses of `HealthCheckResponse`, by their numbers.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: i32 = 1;

/// A server that is asked with each check.
pub(in crate::service::endpoint) struct Grpc {
    pub(super) server: Server,
    uri: Uri,
    /// The message with its prefix.
    message: Bytes,
}

// === impl Grpc ===

impl Grpc {
    /// Returns the check of a server.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn new(check: &GrpcCheck, trust: Option<Trust>) -> Result<Self, InvalidCheck> {
        let server = Server::new(&check.address, check.tls.as_ref(), &[b"h2"], trust)?;
        let scheme = check.tls.as_ref().map_or("http", |_| "https");
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(&*check.address)
            .path_and_query(METHOD)
            .build()
            .map_err(|_| InvalidCheck::Address)?;
        // A message with one string as field 1, which prost has as that of a `String`.
        let request = check.service.encode_to_vec();
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let message = [&[0][..], &length.to_be_bytes(), &request].concat();
        Ok(Self {
            server,
            uri,
            message: message.into(),
        })
    }

    /// Calls the method. Keeps `step` up to date. The caller must apply `deadline`.
    pub(super) async fn check(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<(), Failure> {
        let stream: Stream = self.server.open(deadline, step).await?;
        let mut builder = client::Builder::new();
        builder.max_header_list_size(HEADERS).enable_push(false);
        let (sender, connection) = builder.handshake(stream).await.map_err(|e| failed(&e))?;
        let mut call = pin!(self.call(sender));
        // The connection is driven by this task, so that nothing of the check outlives it.
        select! {
            biased;
            outcome = &mut call => outcome,
            end = connection => match end {
                Ok(()) => call.await,
                Err(error) => Err(failed(&error)),
            },
        }
    }

    /// Sends the request, and judges the answer.
    fn call(
        &self,
        sender: client::SendRequest<Bytes>,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (uri, message) = (self.uri.clone(), self.message.clone());
        async move {
            let mut sender = sender.ready().await.map_err(|error| failed(&error))?;
            let request = Request::post(uri)
                .version(Version::HTTP_2)
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
                .header(
                    header::USER_AGENT,
                    concat!("headcount/", env!("CARGO_PKG_VERSION")),
                )
                .body(())
                .map_err(|error| Failure::Impossible(error.to_string()))?;
            let sent = sender.send_request(request, false);
            let (answer, mut body) = sent.map_err(|error| failed(&error))?;
            body.send_data(message, true)
                .map_err(|error| failed(&error))?;
            judge(answer.await.map_err(|error| failed(&error))?).await
        }
    }
}

/// Reads an answer, and returns the failure that it reports.
async fn judge(answer: Response<RecvStream>) -> Result<(), Failure> {
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(Failure::Status {
            status,
            expected: vec![200],
        });
    }
    let kind = answer.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Err(strange());
    }
    // An answer without a message has its code in the headers.
    let early = code(answer.headers());
    let mut body = answer.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| failed(&error))?;
        message.extend_from_slice(&data);
        if message.len() > LONGEST {
            return Err(strange());
        }
        body.flow_control()
            .release_capacity(data.len())
            .map_err(|error| failed(&error))?;
    }
    let trailers = body.trailers().await.map_err(|error| failed(&error))?;
    let late = trailers.as_ref().and_then(code);
    match late.or(early) {
        Some((0, _)) => serving(&message),
        Some((code, text)) => {
            let name = usize::try_from(code).ok().and_then(|code| CODES.get(code));
            let name =
                name.map_or_else(|| format!("gRPC status {code}"), |name| (*name).to_owned());
            Err(Failure::answered(&match &*text {
                "" => name,
                text => format!("{name}: {text}"),
            }))
        }
        None => Err(strange()),
    }
}

/// Returns the code and the text of an answer, which are in its trailers or its headers.
fn code(headers: &HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let text = headers.get("grpc-message");
    let text = text.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
    Some((code, text.unwrap_or_default()))
}

/// Returns the failure unless the message says that the service is serving.
fn serving(message: &[u8]) -> Result<(), Failure> {
    // A flag for compression, which was not offered, and the length stand before the message.
    let [0, a, b, c, d, response @ ..] = message else {
        return Err(strange());
    };
    if u32::from_be_bytes([*a, *b, *c, *d]) as usize != response.len() {
        return Err(strange());
    }
    // A message with one number as field 1, which prost has as that of an `i32`.
    let status = i32::decode(response).map_err(|_| strange())?;
    if status == SERVING {
        return Ok(());
    }
    let name = usize::try_from(status).ok().and_then(|at| STATUSES.get(at));
    let name = name.map_or_else(|| status.to_string(), |name| (*name).to_owned());
    Err(Failure::Answer(format!("status {name}, expected SERVING")))
}

fn strange() -> Failure {
    Failure::Answer("the response is not that of a gRPC server".to_owned())
}

/// Words an error of HTTP/2.
fn failed(error: &h2::Error) -> Failure {
    match error.get_io() {
        Some(error) => Failure::exchange(error),
        None => Failure::answered(&format!("invalid HTTP/2 response: {error}")),
    }
}
