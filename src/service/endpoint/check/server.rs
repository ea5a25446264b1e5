//! A server at `host:port`, reached over TCP or TLS.

use super::certificates;
use crate::http_client::{Address, Client, Step, Stream, Trust};
use crate::service::endpoint::{
    failure::Failure,
    settings::{InvalidCheck, TlsSettings},
};
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::ServerName;

/// An opener of connections to one server.
pub(super) struct Server {
    client: Client,
    /// The host in messages.
    pub(super) host: String,
    /// The certificates; `None` without TLS.
    tls: Option<TlsSettings>,
    /// The protocols that are offered by ALPN.
    protocols: &'static [&'static [u8]],
    /// The trusted certificates if there is no file of them; those of the machine if `None`.
    trust: Option<Trust>,
}

// === impl Server ===

impl Server {
    /// Returns a server. Unless `tls` has files of certificates, it trusts what the machine does, or
    /// else what is given.
    ///
    /// # Errors
    /// The address is not of the form `host:port`, or cannot be in a certificate.
    pub(super) fn new(
        address: &str,
        tls: Option<&TlsSettings>,
        protocols: &'static [&'static [u8]],
        trust: Option<Trust>,
    ) -> Result<Self, InvalidCheck> {
        let address: Address = address.parse().map_err(|()| InvalidCheck::Address)?;
        let host = address.host.clone();
        let name = tls.map(|_| ServerName::try_from(host.clone()));
        let name = name.transpose().map_err(|_| InvalidCheck::NotForTls)?;
        Ok(Self {
            client: Client::at(address, name),
            host,
            tls: tls.cloned(),
            protocols,
            trust,
        })
    }

    /// Returns true if the machine's trusted roots are needed.
    pub(super) fn needs_roots(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.ca_file.is_none())
    }

    /// Opens a connection, and keeps `step` up to date. The caller must apply `deadline`.
    ///
    /// # Errors
    /// The failure of the lookup, the connection, the certificate files or the TLS handshake.
    pub(super) async fn open(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<Stream, Failure> {
        let words = |failure| Failure::of(failure, &self.host);
        if let Some(tls) = &self.tls {
            let trust = match (certificates::read(tls)?, &self.trust) {
                (Some(trust), _) => trust,
                (None, Some(trust)) => trust.clone(),
                (None, None) => Trust::machine().map_err(words)?,
            };
            self.client.trust(trust.offering(self.protocols));
        }
        self.client.connect(deadline, step).await.map_err(words)
    }
}
