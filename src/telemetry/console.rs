//! tokio-console: tasks by their names, groups and spawn sites, live, from another terminal.
//!
//! It is for looking at a service on the desk: each spawn and each poll is told to it, which costs many times the spawn
//! where tasks are short. Its server has a thread of its own, which ends with the runtime.

use crate::registry::named;
use crate::threads::{self, ThreadClass, ThreadHandle};
use console_subscriber::{ConsoleLayer, Server, ServerParts};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::panic::Location;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tracing::Metadata;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

/// What the console remembers of tasks that have ended: never more, since it is all in memory.
const LONGEST: Duration = Duration::from_secs(60);
/// Where tokio-console looks if nobody says otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6669);

/// The server of tokio-console, with its port claimed.
///
/// Needs a build with `--cfg tokio_unstable`; without, it warns and serves nobody. It knows no users: whoever reaches the
/// address sees every task, so the default is the loopback.
///
/// # Examples
///
/// ```no_run
/// use headcount::telemetry::Console;
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// let mut console = Console::bind(Console::DEFAULT_ADDRESS)?;
/// tracing_subscriber::registry().with(console.layer()).init();
/// let runtime = headcount::Runtime::builder().name("orders").console(console).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Console {
    address: SocketAddr,
    retention: Duration,
    listener: TcpListener,
    server: Option<Server>,
}

/// A server that runs. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Serving {
    #[expect(dead_code, reason = "its end is what ends the thread")]
    stop: oneshot::Sender<()>,
}

// === impl Console ===

impl Console {
    /// Where tokio-console connects to by itself: `127.0.0.1:6669`.
    pub const DEFAULT_ADDRESS: SocketAddr = DEFAULT;

    /// Claims the address; with port 0 any that is free.
    ///
    /// # Errors
    ///
    /// An address that is not to be had.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            address: listener.local_addr()?,
            retention: LONGEST,
            listener,
            server: None,
        })
    }

    /// How long tasks that have ended are remembered. Default, and the most: 60 s.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(LONGEST);
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The layer that hears of tasks, to put beside others. The last one that was asked for is the one that is served.
    pub fn layer<S>(&mut self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        if !cfg!(tokio_unstable) {
            return None;
        }
        let (layer, server) = ConsoleLayer::builder().retention(self.retention).build();
        self.server = Some(server);
        named::set();
        Some(layer.with_filter(filter_fn(is_of_tokio).with_max_level_hint(LevelFilter::TRACE)))
    }

    /// Serves until what it returns is dropped.
    #[track_caller]
    pub(crate) fn serve(self, root: u64) -> io::Result<Option<Serving>> {
        if !cfg!(tokio_unstable) {
            tracing::warn!(
                target: "headcount::telemetry",
                "tokio-console is not served: built without --cfg tokio_unstable"
            );
            return Ok(None);
        }
        let Some(server) = self.server else {
            tracing::warn!(
                target: "headcount::telemetry",
                "tokio-console is not served: no subscriber has its layer"
            );
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = self.listener;
        let work = move || {
            runtime.block_on(async {
                // It fails only if the system has no more descriptors for the poller, and then nobody can connect.
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    tokio::select! {
                        _ = stopped => {}
                        () = answer(server, TcpIncoming::from(listener)) => {}
                    }
                }
            });
            // A console that stays connected is not worth waiting for.
            runtime.shutdown_background();
        };
        let site = Location::caller();
        let _detached: ThreadHandle<()> =
            threads::start(root, "headcount-console", ThreadClass::Control, site, work)?;
        let address = self.address;
        tracing::info!(target: "headcount::telemetry", "tokio-console: http://{address}");
        Ok(Some(Serving { stop }))
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

async fn answer(server: Server, incoming: TcpIncoming) {
    let ServerParts {
        instrument_server,
        aggregator,
        ..
    } = server.into_parts();
    let serve = tonic::transport::Server::builder()
        .add_service(instrument_server)
        .serve_with_incoming(incoming);
    tokio::select! {
        () = aggregator.run() => {}
        // What went wrong, the console at the other side sees.
        _ = serve => {}
    }
}

/// What tokio says of its tasks and resources.
fn is_of_tokio(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if metadata.is_event() {
        target.starts_with("runtime") || target.starts_with("tokio")
    } else {
        metadata.name().starts_with("runtime.") || target.starts_with("tokio")
    }
}
