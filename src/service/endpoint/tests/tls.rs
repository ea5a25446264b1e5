use super::{AMPLE, answer, answering, check_beside, http, listen, outcome};
use crate::service::endpoint::{Checker, check::Target, tls::trusting};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use std::sync::Arc;
use tokio::{join, net::TcpListener, select};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        HandshakeKind, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// A certificate that signs itself, and the server's side of it.
struct SelfSigned {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> SelfSigned {
    let mut parameters = CertificateParams::new([name.to_owned()]).expect("a DNS name");
    change(&mut parameters);
    let key = KeyPair::generate().expect("randomness");
    let certificate = parameters.self_signed(&key).expect("a valid request");
    let certificate = certificate.der().clone();
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring implements TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .expect("a matching key");
    SelfSigned {
        certificate,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

/// Answers each request with 200 over TLS; a failed handshake is the client's business.
async fn https(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.expect("a listening socket");
        if let Ok(mut stream) = acceptor.accept(stream).await {
            answer(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    }
}

/// A checker of `https://localhost` that trusts `root` and nothing else.
fn trusting_root(root: CertificateDer<'static>, port: u16) -> Checker {
    let check = http(format!("https://localhost:{port}/"));
    let mut target = Target::new(&check).expect("a valid check");
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a certificate");
    let tls = target.get.as_mut().and_then(|get| get.tls.as_mut());
    tls.expect("an https check").trust(trusting(roots));
    Checker::with_target(Ok(target), AMPLE)
}

/// One check of the server with `signed`, which the client trusts.
async fn check_trusted(signed: SelfSigned) -> String {
    let (listener, address) = listen().await;
    let mut checker = trusting_root(signed.certificate, address.port());
    select! {
        words = outcome(&mut checker) => words,
        () = https(listener, signed.acceptor) => panic!("the server ended before the check"),
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_with_the_reason() {
    let signed = self_signed("localhost", |_| {});
    let (listener, address) = listen().await;
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, https(listener, signed.acceptor)).await,
        "certificate not signed by an authority that this machine trusts"
    );
}

#[tokio::test]
async fn an_authoritys_own_certificate_is_refused_with_the_reason() {
    let signed = self_signed("localhost", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(
        check_trusted(signed).await,
        "certificate an authority's own, not a server's (self-signed)"
    );
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_up() {
    let signed = self_signed("localhost", |_| {});
    assert_eq!(check_trusted(signed).await, "up");
}

/// A resumed session would skip the certificate.
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
async fn a_certificate_made_for_another_name_is_refused() {
    let signed = self_signed("shop.example", |_| {});
    assert_eq!(
        check_trusted(signed).await,
        "certificate not made for localhost"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let signed = self_signed("localhost", |parameters| {
        parameters.not_before = date_time_ymd(2019, 1, 1);
        parameters.not_after = date_time_ymd(2020, 1, 1);
    });
    assert_eq!(check_trusted(signed).await, "certificate expired");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_told() {
    let (listener, address) = listen().await;
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a listening socket");
            let response = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, response)
                .await
                .ok();
            std::future::pending::<()>().await;
        }
    };
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "the server does not speak TLS"
    );
}

#[tokio::test]
async fn a_connection_closed_in_the_handshake_is_told() {
    let (listener, address) = listen().await;
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a listening socket");
            let mut hello = [0; 2048];
            tokio::io::AsyncReadExt::read(&mut stream, &mut hello)
                .await
                .ok();
        }
    };
    let check = http(format!("https://localhost:{}/", address.port()));
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "connection closed in the TLS handshake"
    );
}

/// A client that says HTTP to a TLS port gets an alert, which is no HTTP.
#[tokio::test]
async fn plain_http_to_a_tls_port_is_told() {
    let signed = self_signed("localhost", |_| {});
    let (listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    assert_eq!(
        check_beside(&check, AMPLE, https(listener, signed.acceptor)).await,
        "no HTTP/1 response: invalid HTTP version parsed"
    );
    // The helper answers plain requests too, so the test above can fail.
    let (listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    let plain = answering(listener, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(check_beside(&check, AMPLE, plain).await, "up");
}
