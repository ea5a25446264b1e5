//! TLS: the trusted certificates, and the configuration with them.
//!
//! There is no way to switch verification off: an endpoint with a certificate that clients cannot
//! verify is not healthy, and telemetry goes to a verified collector only.
//!
//! One [`Trust`] is one rustls configuration behind an `Arc`. Cloning it for a handshake costs one
//! reference count; building it costs parsing every root certificate. The cryptography is that of
//! `ring`, chosen here and not by the process-wide default of rustls, so that another library that
//! installs a default provider changes nothing.
//!
//! A client certificate is sent if there is one and the server asks for it. There is no pinning of a
//! server's certificate.

use super::failure::Failure;
use std::{
    path::Path,
    sync::{Arc, LazyLock},
};
use tokio_rustls::rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::{Resumption, WantsClientCert},
    crypto::ring,
};
#[cfg(feature = "service")]
use {
    std::io,
    tokio::io::{AsyncRead, AsyncWrite},
    tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{
            self,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        },
    },
};

/// The machine's trusted roots, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. They are read once
/// per process, so later changes have no effect. Certificates that cannot be read are skipped.
///
/// If there are no usable roots, it is the message with which every handshake fails.
///
/// The first access blocks its thread, and concurrent ones wait for it. A failure is kept as well:
/// a machine that gets its certificates later needs a restart of the process.
static ROOTS: LazyLock<Result<RootCertStore, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    let none = "this machine has no trusted root certificates (install ca-certificates)";
    Err(match found.errors.first() {
        Some(error) => format!("{none}: {error}"),
        None => none.to_owned(),
    })
});

/// The configuration with these roots.
static MACHINE: LazyLock<Result<Trust, String>> = LazyLock::new(|| ROOTS.clone().map(Trust::of));

/// A TLS configuration that trusts certain root certificates.
///
/// There is no way to extend one: the certificates of a file replace those of the machine and are
/// not added to them.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<ClientConfig>);

/// Begins a configuration that trusts these roots.
fn builder(roots: RootCertStore) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring implements the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}

// === impl Trust ===

impl Trust {
    /// Trusts these roots, offers only HTTP/1.1, and never resumes a session.
    ///
    /// A resumed session would skip the certificate, so a check would miss that it has expired.
    ///
    /// ALPN offers `http/1.1` alone, because a server that is free to choose would select HTTP/2,
    /// which this client does not speak. TLS 1.2 and 1.3 are offered.
    ///
    /// An empty store is accepted here; every handshake with it then fails. The other constructors
    /// check that before.
    pub(crate) fn of(roots: RootCertStore) -> Self {
        Self::finish(builder(roots).with_no_client_auth())
    }

    /// Trusts these roots, and shows a certificate to a server that asks for one.
    ///
    /// # Errors
    ///
    /// Returns the error of a key that cannot be used, or is not that of the certificate.
    #[cfg(feature = "service")]
    pub(crate) fn with_identity(
        roots: RootCertStore,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let config = builder(roots).with_client_auth_cert(chain, key)?;
        Ok(Self::finish(config))
    }

    /// Offers these protocols by ALPN, in place of HTTP/1.1.
    #[cfg(feature = "service")]
    pub(crate) fn offering(self, protocols: &[&[u8]]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Makes the TLS handshake with `server` over a stream that is open already.
    ///
    /// # Errors
    ///
    /// Returns the error of rustls, or of the connection.
    #[cfg(feature = "service")]
    pub(crate) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        server: ServerName<'static>,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        TlsConnector::from(self.0).connect(server, stream).await
    }

    fn finish(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// Returns the roots of the machine, to be trusted by a configuration of its own.
    ///
    /// # Errors
    ///
    /// Returns [`Failure::NoRoots`] if there is none that can be used.
    #[cfg(feature = "service")]
    pub(crate) fn machine_roots() -> Result<RootCertStore, Failure> {
        ROOTS.clone().map_err(Failure::NoRoots)
    }

    /// Trusts the roots of the machine.
    ///
    /// The first call reads them, which blocks for some milliseconds of disk and CPU time.
    ///
    /// # Errors
    ///
    /// Returns [`Failure::NoRoots`] if there is none that can be used.
    pub(crate) fn machine() -> Result<Self, Failure> {
        MACHINE.clone().map_err(Failure::NoRoots)
    }

    /// Trusts the certificates of a PEM file. Returns `None` if it has none that can be used.
    /// Certificates in the file that cannot be parsed are skipped. It blocks for the reading of the
    /// file, and is called while settings are read, before anything is sent. Later changes of the
    /// file have no effect.
    pub(crate) fn file(path: &Path) -> Option<Self> {
        let found = rustls_native_certs::load_certs_from_paths(Some(path), None);
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        (usable > 0).then(|| Self::of(roots))
    }

    /// Returns the configuration.
    ///
    /// Takes `self`, as the connector takes the `Arc`: the caller has cloned the trust already.
    pub(super) fn config(self) -> Arc<ClientConfig> {
        self.0
    }
}
