//! Helpers of the endpoint tests: checks, and servers that run concurrently in the same task.

mod command;
mod dial;
mod dns;
mod grpc;
mod http;
mod monitor;
mod postgres;
mod redis;
mod tls;
mod validate;

use super::{Check, Checker, EndpointSettings, HttpCheck, Probe};
use std::{collections::BTreeMap, future::Future, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
};

/// A timeout far above what any check here takes.
const AMPLE: Duration = Duration::from_secs(20);

/// A timeout that is long enough for loopback on a busy machine, and short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

fn tcp(address: impl ToString) -> Check {
    Check::Tcp {
        address: address.to_string(),
    }
}

fn http(url: impl ToString) -> Check {
    Check::Http(HttpCheck {
        url: url.to_string(),
        expect_status: Vec::new(),
        headers: BTreeMap::new().into(),
        ..HttpCheck::default()
    })
}

fn settings(check: Check) -> EndpointSettings {
    EndpointSettings {
        check,
        interval: Duration::from_secs(10),
        jitter: 0.0,
        timeout: Duration::from_secs(2),
        up_after: 1,
        down_after: 3,
        required: false,
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("a bound socket");
    (listener, address)
}

/// Makes one check, and returns "up" or the message of the failure.
async fn outcome(probe: &mut Checker) -> String {
    match probe.check().await {
        Ok(()) => "up".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

/// Makes one check while `server` runs.
async fn check_beside(check: &Check, timeout: Duration, server: impl Future) -> String {
    let mut checker = Checker::new(check, timeout);
    select! {
        words = outcome(&mut checker) => words,
        _ = server => panic!("the server ended before the check"),
    }
}

/// Reads the head of a request; `None` if the client has closed the connection.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).expect("headers in ASCII"))
}

/// Answers one request on `stream`, closes it, and returns the head of the request.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, response: &[u8]) -> String {
    let head = read_head(stream).await.expect("a request");
    stream.write_all(response).await.expect("the client reads");
    stream.shutdown().await.ok();
    head
}

/// Answers every request with `response`. Never returns.
async fn answering(listener: TcpListener, response: &[u8]) {
    serving(listener, async |mut stream| {
        answer(&mut stream, response).await;
    })
    .await;
}

/// Serves one connection after another. Never returns.
async fn serving(listener: TcpListener, mut serve: impl AsyncFnMut(TcpStream)) {
    loop {
        let (stream, _) = listener.accept().await.expect("a listening socket");
        serve(stream).await;
    }
}
