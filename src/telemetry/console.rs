//! The server of tokio-console, which shows tasks live with their names, groups and spawn sites.
//!
//! It is meant for development. Every spawn and every poll is recorded for the console, which costs
//! many times a spawn where tasks are short. The server runs on a thread of its own with its own
//! runtime, and stops when the runtime that serves it ends.
//!
//! The steps: `bind` claims the port before anything runs, `layer` makes the recording half and
//! keeps the serving half, and the start of the runtime moves that half to the thread
//! `headcount-console`.

use crate::control::builder::Builder;
use crate::control::part::{Earlier, Part, Starting};
use crate::registry::tracked::console_name;
use crate::threads::{self, ThreadHandle};
use console_subscriber::{ConsoleLayer, Server, ServerParts};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tracing::Metadata;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

/// The longest retention of ended tasks; they are kept in memory.
///
/// A task that is spawned in a loop would otherwise fill the memory within minutes.
const LONGEST: Duration = Duration::from_secs(60);
/// The address to which tokio-console connects by default.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6669);

/// The server of tokio-console, bound to its address.
///
/// Needs a build with `--cfg tokio_unstable`; otherwise it logs a warning and serves nothing. It
/// has no authentication and no TLS: every client that reaches the address can see all tasks. Keep
/// it on loopback, which is the default.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use headcount::telemetry::Console;
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// // tokio-console itself connects to `Console::DEFAULT_ADDRESS`.
/// let console = Console::bind(([127, 0, 0, 1], 0).into())?;
/// let mut console = console.retention(Duration::from_secs(10));
/// tracing_subscriber::registry().with(console.layer()).init();
/// let runtime = headcount::Runtime::builder().console(console).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.spawn("hello", async {}).await.ok();
/// });
/// assert!(report.is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Console {
    address: SocketAddr,
    retention: Duration,
    /// Bound and not blocking, as tokio requires.
    listener: TcpListener,
    /// The server half of the layer that [`Console::layer`] made last.
    server: Option<Server>,
}

/// The server of tokio-console as a part of a runtime, if it has one.
#[derive(Debug, Default)]
pub(crate) struct ConsolePart {
    /// The bound server, until it runs.
    console: Option<Console>,
    /// It serves until this is dropped.
    serving: Option<Serving>,
}

/// A running server. Dropping it stops the server and ends its thread.
#[derive(Debug)]
struct Serving {
    /// Nothing is ever sent: the drop of the sender completes the receiver.
    #[expect(dead_code, reason = "its end is what ends the thread")]
    stop: oneshot::Sender<()>,
}

// === impl Builder ===

impl Builder {
    /// Serves tokio-console until the runtime has ended. Default: not served.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::TcpStream;
    /// # use headcount::telemetry::Console;
    /// use tracing_subscriber::layer::SubscriberExt as _;
    ///
    /// let mut console = Console::bind(([127, 0, 0, 1], 0).into())?;
    /// let (address, layer) = (console.address(), console.layer());
    /// // Only a build with `--cfg tokio_unstable` has a layer, and serves.
    /// let is_served = layer.is_some();
    /// let subscriber = tracing_subscriber::registry().with(layer);
    /// let runtime = headcount::Runtime::builder().console(console).print(false).build()?;
    /// assert_eq!(TcpStream::connect(address).is_ok(), is_served);
    /// # drop((runtime, subscriber));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn console(mut self, console: Console) -> Self {
        self.parts.get_mut::<ConsolePart>().console = Some(console);
        self
    }
}

// === impl ConsolePart ===

impl Part for ConsolePart {
    /// Starts the server, if the builder was given one. A missing layer is a warning and no error.
    fn start(&mut self, start: &Starting<'_>, _earlier: Earlier<'_>) -> io::Result<()> {
        let console = self.console.take();
        let serving = console.map(|console| console.serve(start.root.number));
        self.serving = serving.transpose()?.flatten();
        Ok(())
    }
}

// === impl Console ===

impl Console {
    /// The address to which tokio-console connects by default: `127.0.0.1:6669`.
    pub const DEFAULT_ADDRESS: SocketAddr = DEFAULT;

    /// Binds the address. Port 0 picks a free port, which [`address`](Self::address) returns.
    ///
    /// # Errors
    ///
    /// Returns an error if the address is in use or not available.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::telemetry::Console;
    ///
    /// let console = Console::bind(([127, 0, 0, 1], 0).into())?;
    /// assert_ne!(console.address().port(), 0);
    /// assert!(Console::bind(console.address()).is_err(), "it is in use");
    /// # Ok::<(), std::io::Error>(())
    /// ```
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

    /// Sets how long ended tasks are shown: 60 s by default, which is also the most. Call it before
    /// [`layer`](Self::layer).
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(LONGEST);
        self
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the layer that records tasks for the console, to add to the subscriber; `None` in a
    /// build without `--cfg tokio_unstable`.
    ///
    /// If it is called more than once, only the layer of the last call is served.
    pub fn layer<S>(&mut self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        if !cfg!(tokio_unstable) {
            return None;
        }
        let (layer, server) = ConsoleLayer::builder().retention(self.retention).build();
        self.server = Some(server);
        console_name::set();
        Some(layer.with_filter(filter_fn(is_of_tokio).with_max_level_hint(LevelFilter::TRACE)))
    }

    /// Starts the thread that serves the console, until the returned value is dropped.
    ///
    /// Returns `None` and logs a warning if tokio_unstable or the layer is missing. Fails if the
    /// runtime or the thread of the server cannot be created.
    #[track_caller]
    fn serve(self, root: u64) -> io::Result<Option<Serving>> {
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
                "tokio-console is not served: add Console::layer to the subscriber"
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
                // This fails only if no file descriptor is left for the poller. Then no console
                // could connect either.
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    tokio::select! {
                        _ = stopped => {}
                        () = answer(server, TcpIncoming::from(listener)) => {}
                    }
                }
            });
            // A console that stays connected does not delay the shutdown.
            runtime.shutdown_background();
        };
        let _detached: ThreadHandle<()> = threads::start_own(root, "headcount-console", work)?;
        let address = self.address;
        tracing::info!(target: "headcount::telemetry", "serving tokio-console on http://{address}");
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

/// Runs the aggregator and the gRPC server until one of them ends.
///
/// Neither ends by itself. Dropping this future closes all connections.
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
        // The connected console sees the error.
        _ = serve => {}
    }
}

/// Returns whether a span or event comes from the instrumentation of tokio.
///
/// The spans and events of the program are of no use to the console, and recording them would cost
/// time.
fn is_of_tokio(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if metadata.is_event() {
        target.starts_with("runtime") || target.starts_with("tokio")
    } else {
        metadata.name().starts_with("runtime.") || target.starts_with("tokio")
    }
}
