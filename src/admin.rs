//! The admin server: a read-only HTTP server for a page, metrics, health checks, JSON and dumps. The
//! control socket: the same over a Unix socket of the process's user, with verbs that stop the service or
//! end the tasks of a group.
//!
//! It runs on its own thread with its own current-thread runtime, so it answers even when every worker of the service
//! is stuck, and during the shutdown. Answers are computed from the counters and slots of the registry and from
//! `/proc`.
//!
//! [`Claimed::new`] binds the address before anything else is started; [`Claimed::serve`] starts the thread. `server`
//! accepts connections and bounds them, `routes` maps paths to answers, `api` builds the JSON, and `answers` the HTTP
//! responses. `dumps` takes dumps, and `events` streams what changes to the page. `hosts` checks the host name of each request.
//!
//! The admin server has no request that changes anything, no authentication and no TLS. That is why only known host
//! names are accepted, and why the service listens on the loopback by default.
//!
//! Each of the two servers has its own thread, so neither can keep the other from answering. `socket` makes the file
//! of the control socket and checks its clients, and `verbs` has its additional routes.
//!
//! The life of the server: the address is claimed before anything is started, so that a port in use
//! fails the start at once. It serves from the last phase of the start until its [`Admin`] is
//! dropped, after the shutdown. A connection that arrives between the two waits in the kernel.

mod answers;
mod api;
mod dumps;
mod events;
mod hosts;
mod page;
mod part;
mod places;
mod routes;
mod server;
mod socket;
#[cfg(test)]
mod tests;
mod verbs;

pub(crate) use part::AdminPart;
pub(crate) use socket::SocketPart;
pub use socket::control_sockets;

use crate::control::part::DumpSource;
use crate::control::scrapes::Scrape;
use crate::telemetry::Metrics;
use crate::threads;
use dumps::Dumps;
use hosts::Hosts;
use routes::State;
use server::Listener;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A bound address, before the server is started.
///
/// Connections that arrive meanwhile wait in the backlog of the listener.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Non-blocking, as tokio requires of a listener that it takes over.
    listener: TcpListener,
    /// The bound address, with the port that the system picked.
    address: SocketAddr,
    /// The allowed host names.
    hosts: Hosts,
}

/// The running server. Dropping it ends its thread, which is not waited for.
#[derive(Debug)]
pub(crate) struct Admin {
    /// The bound address.
    address: SocketAddr,
    /// Nothing is ever sent on it.
    #[expect(dead_code, reason = "its end is what ends the thread")]
    stop: oneshot::Sender<()>,
}

/// A callback for each scrape of `/metrics` after the client has read the whole answer. It is
/// called on the thread of the server. It must not block: all connections share that thread.
pub(crate) type OnScrape = Arc<dyn Fn(Scrape) + Send + Sync>;

// === impl Claimed ===

impl Claimed {
    /// Binds the address. Port 0 picks a free port. `hosts` are allowed host names, in addition to
    /// the address and the names of the loopback.
    ///
    /// # Errors
    ///
    /// Returns an error if the address is in use or does not belong to this machine.
    pub(crate) fn new(address: SocketAddr, hosts: &[String]) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self {
            hosts: Hosts::new(address, hosts),
            listener,
            address,
        })
    }

    /// Starts the server thread, which also sends the heartbeat of the work runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the system refuses the thread or the descriptors of its runtime.
    #[track_caller]
    pub(crate) fn serve(
        self,
        metrics: Metrics,
        dumps: Arc<dyn DumpSource>,
        on_scrape: OnScrape,
    ) -> io::Result<Admin> {
        let state = State {
            metrics,
            hosts: self.hosts,
            dumps: Dumps::public(dumps),
            events: Arc::default(),
            controls: None,
        };
        let (listener, address) = (self.listener, self.address);
        // It was bound outside of a runtime.
        let register = || tokio::net::TcpListener::from_std(listener);
        let stop = start("headcount-admin", register, state, on_scrape)?;
        Ok(Admin { address, stop })
    }
}

/// Starts the thread of a server. It ends when the returned sender is dropped.
///
/// The runtime is built on the calling thread, so that its failure is an error of the start and
/// not a thread that ends by itself. Requests that are being answered when the server ends are
/// cut off.
#[track_caller]
fn start<L: Listener>(
    thread: &str,
    register: impl FnOnce() -> io::Result<L> + Send + 'static,
    state: State,
    on_scrape: OnScrape,
) -> io::Result<oneshot::Sender<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let root = state.metrics.source().root.number;
    let (stop, stopped) = oneshot::channel();
    threads::start_own(root, thread, move || {
        let served = server::serve(register, state, on_scrape);
        runtime.block_on(server::until(stopped, served));
        // Does not wait for open connections.
        runtime.shutdown_background();
    })?;
    Ok(stop)
}

// === impl Admin ===

impl Admin {
    /// Returns the address that is bound, with the port that was picked.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
