//! Tests of TLS, compression and the reuse of connections.

use super::super::settings::Settings;
use super::*;
use rcgen::{CertificateParams, KeyPair};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Returns a TLS server of `localhost`, and its certificate in PEM form.
fn server() -> (TlsAcceptor, String) {
    let parameters = CertificateParams::new(["localhost".to_owned()]).expect("a DNS name");
    let key = KeyPair::generate().expect("randomness");
    let certificate = parameters.self_signed(&key).expect("a valid request");
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("the key is its own");
    (TlsAcceptor::from(Arc::new(config)), certificate.pem())
}

/// Accepts one connection, answers one request and returns it.
async fn one_request(listener: &TcpListener, acceptor: &TlsAcceptor) -> io::Result<String> {
    let (stream, _) = listener.accept().await?;
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nspans") {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await?;
    stream.shutdown().await?;
    Ok(String::from_utf8_lossy(&request).into_owned())
}

/// Returns a client of the collector of traces according to the variables.
fn collector(address: SocketAddr, certificate: Option<&str>) -> Collector {
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("https://localhost:{}", address.port())),
        "OTEL_EXPORTER_OTLP_CERTIFICATE" => certificate.map(str::to_owned),
        _ => None,
    };
    let settings = Settings::read(&lookup, None).expect("nothing is wrong");
    Collector::new(settings.targets[0].clone().expect("traces go somewhere"))
}

/// Returns a client of the collector at an address.
fn plain(address: SocketAddr) -> Collector {
    let target = Target::parse(&format!("http://{address}"), None);
    Collector::new(target.expect("it is an address"))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn a_compressed_request_declares_it_and_contains_the_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{address}")),
        "OTEL_EXPORTER_OTLP_COMPRESSION" => Some("gzip".to_owned()),
        _ => None,
    };
    let settings = Settings::read(&lookup, None).expect("nothing is wrong");
    let target = settings.targets[0].clone().expect("traces go somewhere");
    let mut collector = Collector::new(target);
    let body = Bytes::from("span ".repeat(1000));
    let taken = async {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        while unpacked(&request).is_none_or(|(_, body)| body.len() < 5000) {
            if stream.read_buf(&mut request).await? == 0 {
                break;
            }
        }
        stream.write_all(answer).await?;
        io::Result::Ok(request)
    };
    let (answer, request) = tokio::join!(collector.post(&body, soon()), taken);
    assert_eq!(answer, Ok(Bytes::from_static(b"ok")));
    let (head, sent) = unpacked(&request.expect("it is taken")).expect("it is compressed");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    assert_eq!(sent, body);
}

/// Returns the head of a request, and as much of its body as can be decompressed.
fn unpacked(request: &[u8]) -> Option<(String, Vec<u8>)> {
    let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let mut body = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&request[head + 4..]);
    // The body may not be complete yet.
    decoder.read_to_end(&mut body).ok();
    Some((
        String::from_utf8_lossy(&request[..head + 2]).into_owned(),
        body,
    ))
}

#[tokio::test]
async fn only_a_collector_with_a_trusted_certificate_gets_a_request() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("ca.pem");
    let (acceptor, pem) = server();
    std::fs::write(&path, pem).expect("the folder is ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let body = Bytes::from_static(b"spans");
    let mut named = collector(address, path.to_str());
    let (answer, request) =
        tokio::join!(named.post(&body, soon()), one_request(&listener, &acceptor));
    assert_eq!(answer, Ok(Bytes::from_static(b"ok")));
    let request = request.expect("it is taken");
    assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
    let mut unnamed = collector(address, None);
    let (answer, refused) = tokio::join!(
        unnamed.post(&body, soon()),
        one_request(&listener, &acceptor)
    );
    let why = answer
        .expect_err("the certificate is not trusted")
        .to_string();
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert!(refused.is_err(), "{refused:?}");
}

/// Answers `each` requests on each of `connections` connections with this header, and returns the
/// bytes of all requests.
async fn answer(listener: &TcpListener, connections: usize, each: usize, header: &str) -> Vec<u8> {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{header}\r\nok");
    let mut all = Vec::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        for _ in 0..each {
            all.extend(take_one(&mut stream).await);
            stream.write_all(answer.as_bytes()).await.expect("it waits");
        }
        // With a header the connection stays open: a client that reuses it in spite of `connection:
        // close` gets no answer.
        if !header.is_empty() {
            open.push(stream);
        }
    }
    all
}

#[tokio::test]
async fn requests_share_a_connection_only_if_the_collector_leaves_it_open() {
    let spans = Bytes::from_static(b"spans");
    for (connections, each, header) in [
        (1, 3, ""),
        (3, 1, "connection: close\r\n"),
        // The collector closes the connection without announcing it.
        (3, 1, ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
        let address = listener.local_addr().expect("it is bound");
        let mut collector = plain(address);
        let posts = async {
            for _ in 0..3 {
                let answer = collector.post(&spans, soon()).await;
                assert_eq!(answer, Ok(Bytes::from_static(b"ok")), "{each} {header}");
            }
        };
        let ((), taken) = tokio::join!(posts, answer(&listener, connections, each, header));
        let requests = String::from_utf8_lossy(&taken).matches("POST /").count();
        assert_eq!(requests, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_reused_after_a_request_on_it_was_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let mut collector = plain(address);
    let body = Bytes::from_static(b"spans");
    let (answer, _) = tokio::join!(
        collector.post(&body, soon()),
        answer(&listener, 1, 1, "x: y\r\n")
    );
    assert!(answer.is_ok() && collector.kept.is_some(), "{answer:?}");
    let limit = Duration::from_secs(1);
    let given_up = tokio::time::timeout(limit, collector.post(&body, soon())).await;
    assert!(given_up.is_err(), "no answer comes");
    assert!(collector.kept.is_none());
}

/// The collector may have processed a request that it did not answer.
#[tokio::test]
async fn a_request_that_was_sent_and_not_answered_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let mut collector = plain(address);
    let body = Bytes::from_static(b"spans");
    let (first, mut stream) = tokio::join!(collector.post(&body, soon()), async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        take_one(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("it waits");
        stream
    });
    assert!(first.is_ok() && collector.kept.is_some(), "{first:?}");
    let server = async {
        take_one(&mut stream).await;
        drop(stream);
        let (mut again, _) = listener.accept().await.expect("a connection");
        take_one(&mut again).await;
    };
    tokio::select! {
        second = collector.post(&body, soon()) => {
            assert!(matches!(second, Err(Failure::Transport(_))), "{second:?}");
        }
        () = server => panic!("it was sent again"),
    }
}

/// Reads one request.
async fn take_one(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nspans") {
        let read = stream.read_buf(&mut request).await;
        assert!(read.expect("a request") > 0, "a whole request");
    }
    request
}
