//! Tests of gRPC checks, against a server of h2.

use super::{AMPLE, SHORT, answering, check_beside, listen, serving};
use crate::service::endpoint::{Check, GrpcCheck};
use hyper::{HeaderMap, Response, body::Bytes};
use std::{future::pending, net::SocketAddr};
use tokio::net::TcpStream;

fn grpc(address: SocketAddr, service: &str) -> Check {
    Check::Grpc(GrpcCheck {
        address: address.to_string(),
        service: service.to_owned(),
        tls: None,
    })
}

/// An answer: the status of HTTP, the message, and the code of gRPC with its text.
type Answer = (
    u16,
    Option<&'static [u8]>,
    Option<(&'static str, &'static str)>,
);

/// Answers one call on a connection, and returns the path and the message.
async fn answer(stream: TcpStream, (status, message, code): Answer) -> (String, Vec<u8>) {
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let call = connection.accept().await.expect("a call");
    let (request, mut respond) = call.expect("a valid call");
    let path = request.uri().path().to_owned();
    let mut sent = Vec::new();
    let mut body = request.into_body();
    let exchange = async {
        while let Some(data) = body.data().await {
            sent.extend_from_slice(&data.expect("the client sends"));
        }
        let mut headers = HeaderMap::new();
        if let Some((code, text)) = code {
            headers.insert("grpc-status", code.parse().expect("a code"));
            headers.insert("grpc-message", text.parse().expect("a text"));
        }
        let mut response = Response::builder()
            .status(status)
            .header("content-type", "application/grpc");
        if message.is_none() {
            response
                .headers_mut()
                .expect("valid")
                .extend(headers.clone());
        }
        let response = response.body(()).expect("valid");
        let is_last = message.is_none();
        let mut stream = respond.send_response(response, is_last).expect("open");
        if let Some(message) = message {
            stream
                .send_data(Bytes::from_static(message), false)
                .expect("open");
            stream.send_trailers(headers).expect("open");
        }
    };
    tokio::select! {
        () = exchange => {}
        _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => panic!("the client is gone"),
    }
    connection.graceful_shutdown();
    std::future::poll_fn(|cx| connection.poll_closed(cx))
        .await
        .ok();
    (path, sent)
}

/// Makes one check of a server that answers so.
async fn against(given: Answer) -> String {
    let (listener, address) = listen().await;
    let server = serving(listener, async |stream| {
        let (path, sent) = answer(stream, given).await;
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        assert_eq!(sent, b"\0\0\0\0\x05\x0a\x03shop");
    });
    check_beside(&grpc(address, "shop"), AMPLE, server).await
}

/// The prefix of a message of two bytes, and the field 1 with a number.
macro_rules! status {
    ($number:literal) => {
        Some(concat!("\0\0\0\0\x02\x08", $number).as_bytes())
    };
}

#[tokio::test]
async fn a_service_that_is_serving_is_up() {
    let ok = Some(("0", ""));
    assert_eq!(against((200, status!("\x01"), ok)).await, "up");
    assert_eq!(
        against((200, status!("\x02"), ok)).await,
        "status NOT_SERVING, expected SERVING"
    );
    // The default of the number is left out of a message.
    assert_eq!(
        against((200, Some(b"\0\0\0\0\0"), ok)).await,
        "status UNKNOWN, expected SERVING"
    );
}

#[tokio::test]
async fn a_server_without_the_service_is_down_with_the_code() {
    assert_eq!(
        against((200, None, Some(("5", "unknown service")))).await,
        "NOT_FOUND: unknown service"
    );
    assert_eq!(
        against((200, None, Some(("12", "")))).await,
        "UNIMPLEMENTED"
    );
    assert_eq!(against((503, None, None)).await, "status 503, expected 200");
    assert_eq!(
        against((200, status!("\x01"), None)).await,
        "the response is not that of a gRPC server"
    );
    for message in [&b"no"[..], b"\0\0\0\0\x09\x08\x01"] {
        assert_eq!(
            against((200, Some(message), Some(("0", "")))).await,
            "the response is not that of a gRPC server"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_of_http_2_is_down() {
    let (listener, address) = listen().await;
    let response = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let server = answering(listener, response);
    let words = check_beside(&grpc(address, ""), SHORT, server).await;
    assert!(
        words.starts_with("invalid HTTP/2 response: ")
            || words == "connection closed before the response",
        "{words}"
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_does_not_answer_times_out() {
    let (_listener, address) = listen().await;
    assert_eq!(
        check_beside(&grpc(address, ""), SHORT, pending::<()>()).await,
        "timed out after 300ms waiting for the response"
    );
}
