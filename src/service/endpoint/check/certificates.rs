//! The certificate files of a check over TLS.
//!
//! They are read for each check, so a renewed certificate is used from the next check on. Without
//! files, the machine's trusted roots are used, which are read once.

use super::files;
use crate::http_client::Trust;
use crate::service::endpoint::{
    failure::Failure,
    settings::{Identity, TlsSettings},
};
use std::path::Path;
use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Reads the files. Returns `None` if there are none: what the machine trusts is used then.
///
/// # Errors
/// [`Failure::Impossible`] names the file that cannot be used.
pub(super) fn read(settings: &TlsSettings) -> Result<Option<Trust>, Failure> {
    let roots = match (&settings.ca_file, &settings.client) {
        (None, None) => return Ok(None),
        (Some(path), _) => roots(path)?,
        (None, Some(_)) => Trust::machine_roots().map_err(|failure| Failure::of(failure, ""))?,
    };
    let Some(Identity { cert, key }) = &settings.client else {
        return Ok(Some(Trust::of(roots)));
    };
    let chain = certificates(cert)?;
    let pem = files::read("client_key", key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| unusable("client_key", key, "has no private key in the PEM format"))?;
    let trust = Trust::with_identity(roots, chain, private)
        .map_err(|error| unusable("client_key", key, &format!("cannot be used: {error}")))?;
    Ok(Some(trust))
}

/// Reads the trusted roots. Certificates that cannot be roots are skipped, unless all are.
fn roots(path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let pem = files::read("ca_file", path)?;
    let found = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    match roots.add_parsable_certificates(found) {
        (0, _) => Err(unusable("ca_file", path, NO_CERTIFICATE)),
        _ => Ok(roots),
    }
}

/// Reads a certificate and its chain.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = files::read("client_cert", path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.unwrap_or_default();
    if found.is_empty() {
        return Err(unusable("client_cert", path, NO_CERTIFICATE));
    }
    Ok(found)
}

const NO_CERTIFICATE: &str = "has no certificate in the PEM format";

/// Returns the failure of a file that was read, but is of no use.
fn unusable(key: &str, path: &Path, why: &str) -> Failure {
    Failure::Impossible(format!("{key} {} {why}", path.display()))
}
