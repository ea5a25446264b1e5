//! TLS for HTTPS checks: which authorities count, and under which name a server must prove itself.
//!
//! There is no way to switch verification off: an endpoint whose certificate nobody can verify is
//! not healthy.

use super::failure::Failure;
use std::sync::{Arc, LazyLock};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, client::Resumption, crypto::ring, pki_types::ServerName,
    },
};

/// The machine's trusted roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`), read once in the
/// life of the process. A machine that has none can check no HTTPS endpoint; the text says so.
static MACHINE: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(trusting(roots));
    }
    let none = "this machine has no trusted root certificates (package ca-certificates)";
    Err(match found.errors.first() {
        Some(error) => format!("{none}: {error}"),
        None => none.to_owned(),
    })
});

/// Secures connections to one server.
pub(super) struct Tls {
    server: ServerName<'static>,
    /// Instead of the machine's roots.
    trust: Option<Arc<ClientConfig>>,
}

/// A client that trusts `roots`, offers HTTP/1.1 alone, and never resumes a session: that would
/// skip the certificate, and one that expired meanwhile would stay unseen.
pub(super) fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring implements the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Reads the machine's roots if nobody has: some milliseconds of disk and CPU, better spent before
/// the first check.
pub(super) fn read_roots() {
    LazyLock::force(&MACHINE);
}

// === impl Tls ===

impl Tls {
    /// Trusts the machine's roots.
    pub(super) fn new(server: ServerName<'static>) -> Self {
        Self {
            server,
            trust: None,
        }
    }

    #[cfg(test)]
    pub(super) fn trust(&mut self, config: Arc<ClientConfig>) {
        self.trust = Some(config);
    }

    pub(super) async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let config = match &self.trust {
            Some(config) => config,
            None => MACHINE
                .as_ref()
                .map_err(|reason| Failure::Impossible(reason.clone()))?,
        };
        TlsConnector::from(config.clone())
            .connect(self.server.clone(), stream)
            .await
            .map_err(|error| Failure::tls(&error, &self.server.to_str()))
    }
}
