//! The admin server: a page, metrics, health and JSON, read only, on a thread and a runtime of its own. It answers when
//! every worker of the service is stuck, and while the shutdown runs.
//!
//! It changes nothing: there is no request that does. It does not encrypt and knows no users, so it listens on loopback
//! unless told otherwise, and answers to known names only.

mod answers;
mod api;
mod hosts;
mod page;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use crate::shutdown::hold::Scrape;
use crate::telemetry::Metrics;
use crate::threads::{self, ThreadClass};
use hosts::Hosts;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::Location;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where it listens, and to which names it answers.
#[derive(Debug, Clone)]
pub(crate) struct AdminSettings {
    pub(crate) address: SocketAddr,
    /// Names that clients may call it by, besides those of the loopback and the address.
    pub(crate) hosts: Vec<String>,
}

/// An address that is ours, before anything else runs.
#[derive(Debug)]
pub(crate) struct Claimed {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Hosts,
}

/// The server. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    #[expect(dead_code, reason = "its end is what ends the thread")]
    stop: oneshot::Sender<()>,
}

/// Who hears of each complete scrape of `/metrics`, whose whole answer was taken.
pub(crate) type OnScrape = Arc<dyn Fn(Scrape) + Send + Sync>;

// === impl Claimed ===

impl Claimed {
    pub(crate) fn new(settings: &AdminSettings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self {
            hosts: Hosts::new(address, &settings.hosts),
            listener,
            address,
        })
    }

    /// Begins to answer.
    #[track_caller]
    pub(crate) fn serve(self, metrics: Metrics, on_scrape: OnScrape) -> io::Result<Admin> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let root = metrics.watched().root.number;
        let (stop, stopped) = oneshot::channel();
        let address = self.address;
        threads::start(
            root,
            "headcount-admin",
            ThreadClass::Control,
            Location::caller(),
            move || {
                let served = server::serve(self.listener, self.hosts, metrics, on_scrape);
                runtime.block_on(server::until(stopped, served));
                // A page that somebody reads to its end is not worth waiting for.
                runtime.shutdown_background();
            },
        )?;
        Ok(Admin { address, stop })
    }
}

// === impl Admin ===

impl Admin {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
