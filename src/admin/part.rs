//! The admin server as a part of a runtime: its settings, its address, and the running server.
//!
//! Claimed first, started last: the server is the only part that another process can keep from
//! starting, and it shows what all the others have made.

use super::{Admin, Claimed};
use crate::control::build_error::BuildError;
use crate::control::builder::Builder;
use crate::control::part::{DumpSource, Earlier, Part, Starting};
use crate::control::scrapes::Scrapes;
use crate::telemetry::{Metrics, TelemetryPart};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The admin server of a runtime, if it has one.
#[derive(Debug, Default)]
pub(crate) struct AdminPart {
    /// The address to listen on; port 0 picks a free port.
    address: Option<SocketAddr>,
    /// Allowed host names, in addition to the address and the names of the loopback.
    hosts: Vec<String>,
    /// Between `claim` and `start` only.
    claimed: Option<Claimed>,
    /// Known once the runtime has started. It is kept for a server that is started later, by
    /// `Attached::serve_admin`.
    served: Option<Served>,
    /// The running server. Replacing it ends the one before.
    server: Option<Admin>,
}

/// The metrics that the server shows, and the record of its scrapes.
#[derive(Debug)]
struct Served {
    /// A handle; the counters are the registry's.
    metrics: Metrics,
    dumps: Arc<dyn DumpSource>,
    /// The shutdown reads it, to learn for which scrapers to wait.
    scrapes: Arc<Scrapes>,
}

// === impl Builder ===

impl Builder {
    /// Serves a page, metrics, health checks and JSON on this address, read-only. Default: no
    /// server.
    ///
    /// The usual address is `127.0.0.1:9464`. With port 0 the system assigns a port, and
    /// [`Runtime::admin_address`](crate::Runtime::admin_address) returns it. The paths are `/`,
    /// `/metrics`, `/livez`, `/readyz`, and `/api/openapi.json`, which describes the others.
    ///
    /// The address is bound before anything else is started. The server runs on its own thread, so
    /// it answers even when every worker is blocked, and while the shutdown runs.
    ///
    /// It has no authentication and no TLS. Anyone able to reach the address can read it; keep it
    /// on loopback.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().admin(([127, 0, 0, 1], 0).into()).build()?;
    /// let address = runtime.admin_address().expect("there is a server");
    /// assert!(address.ip().is_loopback());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.parts.get_mut::<AdminPart>().address = Some(address);
        self
    }

    /// Adds a host name, without a port, that requests to the admin server may use.
    ///
    /// IP addresses of the server, loopback addresses, `localhost` and its subdomains are always
    /// allowed. Requests with another name in their `Host` header are refused, because a foreign
    /// web page can make its name resolve to this server (DNS rebinding).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::{Read as _, Write as _};
    /// # use std::net::TcpStream;
    /// let runtime = headcount::Runtime::builder()
    ///     .admin(([127, 0, 0, 1], 0).into())
    ///     .admin_host("orders.example")
    ///     .build()?;
    /// let address = runtime.admin_address().expect("there is a server");
    /// for (host, status) in [("orders.example", "200"), ("other.example", "403")] {
    ///     let mut client = TcpStream::connect(address)?;
    ///     write!(client, "GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    ///     let mut answer = String::new();
    ///     client.read_to_string(&mut answer)?;
    ///     assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn admin_host(mut self, name: &str) -> Self {
        self.parts
            .get_mut::<AdminPart>()
            .hosts
            .push(name.to_owned());
        self
    }
}

// === impl AdminPart ===

impl AdminPart {
    /// Returns the address of the running server, with the port that was picked.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Admin::address)
    }

    /// Serves on this address from here on, instead of on an earlier one. The new address is
    /// claimed before the old server ends, so a failure leaves the old one running.
    #[track_caller]
    pub(crate) fn serve_on(&mut self, address: SocketAddr) -> Result<SocketAddr, BuildError> {
        let claimed = claim(address, &self.hosts)?;
        let served = self.served.as_ref();
        let served = served.expect("it is called after the start of the runtime");
        let server = served.serve(claimed).map_err(BuildError::System)?;
        Ok(self.server.insert(server).address())
    }
}

impl Part for AdminPart {
    /// Does nothing without an address.
    fn claim(&mut self) -> Result<(), BuildError> {
        let claimed = self.address.map(|address| claim(address, &self.hosts));
        self.claimed = claimed.transpose()?;
        Ok(())
    }

    /// Fails if the thread or its runtime cannot be made.
    fn start(&mut self, start: &Starting<'_>, earlier: Earlier<'_>) -> io::Result<()> {
        let served = self.served.insert(Served {
            metrics: earlier.get::<TelemetryPart>().metrics().clone(),
            dumps: Arc::clone(start.dumps),
            scrapes: Arc::clone(start.scrapes),
        });
        let server = self.claimed.take().map(|claimed| served.serve(claimed));
        self.server = server.transpose()?;
        Ok(())
    }
}

// === impl Served ===

impl Served {
    /// The callback notes each scrape in the record that the shutdown reads.
    #[track_caller]
    fn serve(&self, claimed: Claimed) -> io::Result<Admin> {
        let scrapes = Arc::clone(&self.scrapes);
        let on_scrape = Arc::new(move |scrape| scrapes.note(scrape));
        claimed.serve(self.metrics.clone(), Arc::clone(&self.dumps), on_scrape)
    }
}

/// Binds the address without serving it yet.
///
/// The error names the address, since the system's does not.
fn claim(address: SocketAddr, hosts: &[String]) -> Result<Claimed, BuildError> {
    Claimed::new(address, hosts).map_err(|source| BuildError::Admin { address, source })
}
