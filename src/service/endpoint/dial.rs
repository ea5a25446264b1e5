//! From `host:port` to an open connection: resolve, then connect.
//!
//! The system's resolver is a blocking call (`getaddrinfo(3)`) that tokio runs on its blocking
//! pool, and that nothing can cancel. A check that times out therefore leaves its lookup behind,
//! and the next check *waits for that one* instead of starting another: however long a resolver
//! hangs, an endpoint holds one blocking thread. What remains is that one thread: it ends when the
//! resolver gives up (`timeout` and `attempts` in `resolv.conf(5)`), and until then it may linger
//! at shutdown. IP addresses are never looked up.

use super::failure::Failure;
use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    str::FromStr,
    task::Poll,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

/// A host and a port, as they are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// A name or an IP address; IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// What a check is doing; a timeout says in which step it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Resolving,
    Connecting,
    Securing,
    Awaiting,
}

/// A lookup under way.
pub(super) type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Opens connections to one address.
pub(super) struct Dialer {
    address: Address,
    resolve: Box<dyn Fn(&Address) -> Lookup + Send>,
    /// The lookup of a check that ended before it did.
    left_behind: Option<Lookup>,
}

// === impl Address ===

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        // Rust's integer parser also takes a leading plus sign.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(())?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            Some(_) => return Err(()),
            None => host,
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/@[]?#".contains(c);
        if host.is_empty() || host.contains(odd) || port == 0 {
            return Err(());
        }
        // Without brackets a colon cannot be told from the one before the port.
        if bare.is_none() && host.contains(':') {
            return Err(());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

// === impl Step ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Securing => "in the TLS handshake",
            Self::Awaiting => "waiting for the response",
        })
    }
}

// === impl Dialer ===

impl Dialer {
    /// Resolves through the system.
    pub(super) fn new(address: Address) -> Self {
        Self::with_resolver(address, |address| {
            let pair = (address.host.clone(), address.port);
            Box::pin(async move { Ok(lookup_host(pair).await?.collect()) })
        })
    }

    pub(super) fn with_resolver<R>(address: Address, resolve: R) -> Self
    where
        R: Fn(&Address) -> Lookup + Send + 'static,
    {
        Self {
            address,
            resolve: Box::new(resolve),
            left_behind: None,
        }
    }

    /// Connects to the first address that answers, in the resolver's order. Each address gets an
    /// equal share of the time until `deadline`, so that one which swallows packets (an IPv6 route
    /// that leads nowhere) leaves time for the others.
    ///
    /// # Cancel safety
    /// A lookup survives in `self`; a connection under way is closed.
    pub(super) async fn connect(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<TcpStream, Failure> {
        *step = Step::Resolving;
        let addresses = match self.resolve().await {
            Ok(addresses) => addresses,
            Err(error) => return Err(Failure::resolve(&self.address, &error)),
        };
        *step = Step::Connecting;
        let several = addresses.len() > 1;
        let mut failure = Failure::Resolve {
            host: self.address.host.clone(),
            reason: "the name has no address".to_owned(),
        };
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let connecting = TcpStream::connect(address);
            // The last one is bounded by the whole check's timeout alone.
            let connected = if left == 1 {
                connecting.await
            } else {
                timeout(share, connecting)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Failure::connect(&error, several.then_some(*address)),
            }
        }
        Err(failure)
    }

    async fn resolve(&mut self) -> io::Result<Vec<SocketAddr>> {
        if let Some(lookup) = &mut self.left_behind {
            // An answer that came between two checks is as old as it may be: ask again.
            let answered = poll_fn(|cx| Poll::Ready(lookup.as_mut().poll(cx).is_ready())).await;
            if answered {
                self.left_behind = None;
            }
        }
        let lookup = self
            .left_behind
            .get_or_insert_with(|| (self.resolve)(&self.address));
        let answer = lookup.await;
        self.left_behind = None;
        answer
    }
}
