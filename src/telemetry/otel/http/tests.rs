//! Collectors that speak TLS, and what is compressed for them.

use super::super::settings::Settings;
use super::*;
use rcgen::{CertificateParams, KeyPair};
use std::io::Read as _;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server of `localhost`, and its certificate in PEM form.
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

/// Takes one request, and returns it.
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

/// What the variables say of where traces go.
fn target(address: SocketAddr, certificate: Option<&str>) -> Target {
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("https://localhost:{}", address.port())),
        "OTEL_EXPORTER_OTLP_CERTIFICATE" => certificate.map(str::to_owned),
        _ => None,
    };
    let settings = Settings::read(&lookup, None).expect("nothing is wrong");
    settings.targets[0].clone().expect("traces go somewhere")
}

#[tokio::test]
async fn a_compressed_request_says_so_and_is_what_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{address}")),
        "OTEL_EXPORTER_OTLP_COMPRESSION" => Some("gzip".to_owned()),
        _ => None,
    };
    let settings = Settings::read(&lookup, None).expect("nothing is wrong");
    let target = settings.targets[0].clone().expect("traces go somewhere");
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
    let mut kept = None;
    let (answer, request) = tokio::join!(target.post(body.clone(), &mut kept), taken);
    assert_eq!(answer, Ok(Bytes::from_static(b"ok")));
    let (head, sent) = unpacked(&request.expect("it is taken")).expect("it is compressed");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    assert_eq!(sent, body);
}

/// The head of a request, and what of its body can be read.
fn unpacked(request: &[u8]) -> Option<(String, Vec<u8>)> {
    let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let mut body = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&request[head + 4..]);
    // What has come may be a part.
    decoder.read_to_end(&mut body).ok();
    Some((
        String::from_utf8_lossy(&request[..head + 2]).into_owned(),
        body,
    ))
}

#[tokio::test]
async fn a_collector_whose_certificate_is_named_gets_what_is_sent_and_another_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder is to be had");
    let path = folder.path().join("ca.pem");
    let (acceptor, pem) = server();
    std::fs::write(&path, pem).expect("the folder is ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let named = target(address, path.to_str());
    let mut kept = None;
    let (answer, request) = tokio::join!(
        named.post(Bytes::from_static(b"spans"), &mut kept),
        one_request(&listener, &acceptor)
    );
    assert_eq!(answer, Ok(Bytes::from_static(b"ok")));
    let request = request.expect("it is taken");
    assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
    let unnamed = target(address, None);
    let mut kept = None;
    let (answer, refused) = tokio::join!(
        unnamed.post(Bytes::from_static(b"spans"), &mut kept),
        one_request(&listener, &acceptor)
    );
    let why = answer.expect_err("nobody vouches for it").to_string();
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert!(refused.is_err(), "{refused:?}");
}

/// Answers so many requests on each of so many connections; what follows each answer.
async fn answer(listener: &TcpListener, connections: usize, each: usize, header: &str) -> Vec<u8> {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{header}\r\nok");
    let mut all = Vec::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        for _ in 0..each {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\nspans") {
                let read = stream.read_buf(&mut request).await;
                assert!(read.expect("a request") > 0, "a whole request");
            }
            all.extend(request);
            stream.write_all(answer.as_bytes()).await.expect("it waits");
        }
        // Who is told that it will be closed, and uses it all the same, gets no answer.
        if !header.is_empty() {
            open.push(stream);
        }
    }
    all
}

#[tokio::test]
async fn requests_share_a_connection_that_the_collector_leaves_open_and_no_other() {
    let spans = || Bytes::from_static(b"spans");
    for (connections, each, header) in [
        (1, 3, ""),
        (3, 1, "connection: close\r\n"),
        // Closed without a word.
        (3, 1, ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
        let address = listener.local_addr().expect("it is bound");
        let target = Target::parse(&format!("http://{address}"), None).expect("it is an address");
        let posts = async {
            let mut kept = None;
            for _ in 0..3 {
                let answer = target.post(spans(), &mut kept).await;
                assert_eq!(answer, Ok(Bytes::from_static(b"ok")), "{each} {header}");
            }
        };
        let ((), taken) = tokio::join!(posts, answer(&listener, connections, each, header));
        let requests = String::from_utf8_lossy(&taken).matches("POST /").count();
        assert_eq!(requests, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_on_an_answer_does_not_ask_on_that_connection_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("ports");
    let address = listener.local_addr().expect("it is bound");
    let target = Target::parse(&format!("http://{address}"), None).expect("it is an address");
    let mut kept = None;
    let body = || Bytes::from_static(b"spans");
    let (answer, _) = tokio::join!(
        target.post(body(), &mut kept),
        answer(&listener, 1, 1, "x: y\r\n")
    );
    assert!(answer.is_ok() && kept.is_some(), "{answer:?}");
    let limit = Duration::from_secs(1);
    let given_up = tokio::time::timeout(limit, target.post(body(), &mut kept)).await;
    assert!(given_up.is_err(), "nobody answers");
    assert!(kept.is_none());
}
