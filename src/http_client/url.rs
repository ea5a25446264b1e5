//! Parsing of `http` and `https` URLs.
//!
//! A URL is parsed once, when settings are read. The request then needs no further parsing: it gets
//! the address to dial, the name to verify, the header `Host` and the path as separate fields.
//!
//! There is no relative URL and no joining of paths, and a fragment is not sent. Characters are not
//! normalized or percent-encoded; hyper's parser refuses the ones that no URL may contain.

use super::dial::Address;
use hyper::Uri;
use std::str::FromStr;
use tokio_rustls::rustls::pki_types::ServerName;

/// The parts of an `http` or `https` URL.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    /// The host and port to connect to. The port is 80 or 443 if the URL has none.
    pub(crate) address: Address,
    /// The name or IP address that the server's certificate must be valid for; `None` for `http`.
    ///
    /// This is also the only sign of the scheme: it is set exactly for `https`.
    pub(crate) server: Option<ServerName<'static>>,
    /// Host and port as written, for the header `Host`. It has no port if the URL has none, and an
    /// IPv6 address keeps its brackets, as <https://www.rfc-editor.org/rfc/rfc9110#section-7.2>
    /// requires of that header.
    pub(crate) authority: String,
    /// Path and query; at least `/`.
    pub(crate) path: String,
}

/// The fault of a URL, which the caller words.
///
/// The variants are in the order of the checks: a URL with several faults is reported with the
/// first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// It cannot be parsed.
    Invalid,
    /// It has no `http://` or `https://`, as in `localhost:4318`.
    NoScheme,
    /// The scheme is neither `http` nor `https`.
    Scheme,
    /// It has a scheme and no authority.
    NoHost,
    /// It contains a user name or a password.
    ///
    /// They would be sent in no request, so accepting them would hide a mistake.
    Credentials,
    /// The part behind the host is not a port from 0 to 65535.
    Port,
    /// The host has a character that no host has, or the port is 0.
    Address,
    /// The host cannot be in a TLS certificate. Only `https` URLs are checked for that.
    NotForTls,
}

// === impl Url ===

impl FromStr for Url {
    type Err = UrlError;

    /// Parses an absolute URL.
    ///
    /// The host is parsed by hyper first and then by `Address`, which is stricter: it refuses port
    /// 0 and characters that a lookup could not take.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Invalid)?;
        let (is_secure, usual_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::NoScheme),
        };
        let authority = uri.authority().ok_or(UrlError::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => usual_port,
            _ => authority.port_u16().ok_or(UrlError::Port)?,
        };
        let address = format!("{}:{port}", authority.host()).parse::<Address>();
        let address = address.map_err(|()| UrlError::Address)?;
        let server = is_secure.then(|| ServerName::try_from(address.host.clone()));
        Ok(Self {
            server: server.transpose().map_err(|_| UrlError::NotForTls)?,
            authority: authority.as_str().to_owned(),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            address,
        })
    }
}
