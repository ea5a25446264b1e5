//! Tests of HTTPS checks: certificates and handshakes.

use super::{AMPLE, answer, answering, check_beside, http, listen, outcome, serving};
use crate::{
    http_client::Trust,
    service::endpoint::{Check, Checker, HttpCheck, Identity, TlsSettings, check::Target},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::TcpListener,
    select,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        HandshakeKind, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};

/// A self-signed certificate, and the acceptor of a server that presents it.
pub(super) struct SelfSigned {
    certificate: CertificateDer<'static>,
    /// The certificate as PEM.
    pub(super) pem: String,
    /// Its key as PEM.
    key: String,
    pub(super) acceptor: TlsAcceptor,
}

pub(super) fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> SelfSigned {
    asking(name, change, None)
}

/// Returns the acceptor of a server that asks for a client certificate of an authority, if there is
/// one.
fn asking(
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
    authority: Option<&CertificateDer<'static>>,
) -> SelfSigned {
    let mut parameters = CertificateParams::new([name.to_owned()]).expect("a DNS name");
    change(&mut parameters);
    let key = KeyPair::generate().expect("randomness");
    let certificate = parameters.self_signed(&key).expect("a valid request");
    let pem = certificate.pem();
    let certificate = certificate.der().clone();
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring implements TLS");
    let config = match authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.clone()).expect("a certificate");
            let provider = Arc::new(ring::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.expect("there is a root"))
        }
        None => config.with_no_client_auth(),
    };
    let config = config
        .with_single_cert(vec![certificate.clone()], private)
        .expect("a matching key");
    SelfSigned {
        certificate,
        pem,
        key: key.serialize_pem(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

/// Answers each request with 200 over TLS. Ignores failed handshakes.
async fn https(listener: TcpListener, acceptor: TlsAcceptor) {
    serving(listener, async |stream| {
        if let Ok(mut stream) = acceptor.accept(stream).await {
            answer(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
}

/// Returns a checker of `https://localhost` that trusts only `root`.
fn trusting_root(root: CertificateDer<'static>, port: u16) -> Checker {
    let check = http(format!("https://localhost:{port}/"));
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a certificate");
    let target = Target::new(&check, Some(Trust::of(roots)));
    Checker::with_target(target, AMPLE)
}

/// Makes one check of a server with the certificate `signed`, which the client trusts.
async fn check_trusted(signed: SelfSigned) -> String {
    let (listener, address) = listen().await;
    let mut checker = trusting_root(signed.certificate, address.port());
    select! {
        words = outcome(&mut checker) => words,
        () = https(listener, signed.acceptor) => panic!("the server ended before the check"),
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_rejected_with_the_reason() {
    let signed = self_signed("localhost", |_| {});
    let (listener, address) = listen().await;
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, https(listener, signed.acceptor)).await,
        "certificate not signed by a trusted authority"
    );
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_rejected_with_the_reason() {
    let signed = self_signed("localhost", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(
        check_trusted(signed).await,
        "certificate is a CA certificate, not a server certificate (probably self-signed)"
    );
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_up() {
    let signed = self_signed("localhost", |_| {});
    assert_eq!(check_trusted(signed).await, "up");
}

/// A resumed session would skip the verification of the certificate.
#[tokio::test]
async fn every_check_makes_a_full_handshake() {
    let signed = self_signed("localhost", |_| {});
    let (listener, address) = listen().await;
    let mut checker = trusting_root(signed.certificate, address.port());
    let server = async {
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.expect("a listening socket");
            let mut stream = signed.acceptor.accept(stream).await.expect("a handshake");
            answer(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
            let kind = stream.get_ref().1.handshake_kind();
            assert!(
                matches!(
                    kind,
                    Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
                ),
                "{kind:?}"
            );
        }
    };
    let checks = async {
        for _ in 0..3 {
            assert_eq!(outcome(&mut checker).await, "up");
        }
    };
    join!(server, checks);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_rejected() {
    let signed = self_signed("shop.example", |_| {});
    assert_eq!(
        check_trusted(signed).await,
        "certificate not valid for localhost"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_rejected() {
    let signed = self_signed("localhost", |parameters| {
        parameters.not_before = date_time_ymd(2019, 1, 1);
        parameters.not_after = date_time_ymd(2020, 1, 1);
    });
    assert_eq!(check_trusted(signed).await, "certificate expired");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_reported() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let response = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        stream.write_all(response).await.ok();
        std::future::pending::<()>().await;
    });
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "the server does not speak TLS"
    );
}

#[tokio::test]
async fn a_connection_closed_during_the_handshake_is_reported() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let mut hello = [0; 2048];
        let read = stream.read(&mut hello).await;
        assert!(read.is_ok_and(|read| read > 0), "the client says hello");
    });
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "connection closed during the TLS handshake"
    );
}

/// A client that sends HTTP to a TLS port gets a TLS alert, which is not HTTP.
#[tokio::test]
async fn plain_http_to_a_tls_port_is_reported() {
    let signed = self_signed("localhost", |_| {});
    let (listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    assert_eq!(
        check_beside(&check, AMPLE, https(listener, signed.acceptor)).await,
        "invalid HTTP/1 response: invalid HTTP version parsed"
    );
    // A plain server on such an address is up, so the check above fails because of TLS.
    let (listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    let plain = answering(listener, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(check_beside(&check, AMPLE, plain).await, "up");
}

/// Returns a check of `https://localhost` with these certificates.
fn with_files(tls: TlsSettings, port: u16) -> Check {
    Check::Http(HttpCheck {
        url: format!("https://localhost:{port}/"),
        tls,
        ..HttpCheck::default()
    })
}

#[tokio::test]
async fn a_server_with_a_certificate_of_the_ca_file_is_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ca.pem");
    let signed = self_signed("localhost", |_| {});
    let tls = TlsSettings {
        ca_file: Some(path.clone()),
        client: None,
    };
    let (listener, address) = listen().await;
    let mut checker = Checker::new(&with_files(tls, address.port()), AMPLE);
    let checks = async {
        let shown = path.display();
        let missing = format!("ca_file {shown} does not exist");
        assert_eq!(outcome(&mut checker).await, missing);
        std::fs::write(&path, "no certificate").expect("the folder is ours");
        let none = format!("ca_file {shown} has no certificate in the PEM format");
        assert_eq!(outcome(&mut checker).await, none);
        // Another authority, and then the right one: the file is read for each check.
        let other = self_signed("localhost", |parameters| {
            let name = &mut parameters.distinguished_name;
            name.push(DnType::CommonName, "another authority");
        });
        std::fs::write(&path, &other.pem).expect("the folder is ours");
        let unknown = "certificate not signed by a trusted authority";
        assert_eq!(outcome(&mut checker).await, unknown);
        std::fs::write(&path, format!("{}{}", other.pem, signed.pem)).expect("the folder is ours");
        assert_eq!(outcome(&mut checker).await, "up");
    };
    select! {
        () = checks => {}
        () = https(listener, signed.acceptor) => {}
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_gets_the_configured_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    };
    let client = self_signed("client", |_| {});
    let server = asking("localhost", |_| {}, Some(&client.certificate));
    let tls = TlsSettings {
        ca_file: Some(file("ca.pem", &server.pem)),
        client: None,
    };
    let identity = |key: &str| TlsSettings {
        client: Some(Identity {
            cert: file("client.pem", &client.pem),
            key: file("key.pem", key),
        }),
        ..tls.clone()
    };
    let (listener, address) = listen().await;
    let checks = async {
        let mut checker = Checker::new(&with_files(tls.clone(), address.port()), AMPLE);
        let refused = outcome(&mut checker).await;
        assert_eq!(refused, "received fatal alert: CertificateRequired");
        let mut checker = Checker::new(&with_files(identity(&client.key), address.port()), AMPLE);
        assert_eq!(outcome(&mut checker).await, "up");
        let mut checker = Checker::new(&with_files(identity(&server.key), address.port()), AMPLE);
        let mismatch = outcome(&mut checker).await;
        assert!(mismatch.contains("key.pem cannot be used: "), "{mismatch}");
    };
    select! {
        () = checks => {}
        () = https(listener, server.acceptor) => {}
    }
}

/// A pipe without a writer blocks for ever when it is opened or read.
#[tokio::test]
async fn a_file_that_is_a_pipe_fails_the_check_and_does_not_block() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let tls = TlsSettings {
        ca_file: Some(path.clone()),
        client: None,
    };
    let mut checker = Checker::new(&with_files(tls, 9), AMPLE);
    let expected = format!(
        "ca_file {} cannot be read: it is not a regular file",
        path.display()
    );
    assert_eq!(outcome(&mut checker).await, expected);
}
