//! The way from `host:port` to an open connection: resolve the name, then connect.
//!
//! The system's resolver is a blocking call (`getaddrinfo(3)`) that tokio runs on its blocking pool
//! and that cannot be cancelled. So a request that times out leaves its lookup behind, and the next
//! one waits for that lookup instead of starting another one. A server thus holds at most one
//! blocking thread, however long the resolver hangs.
//!
//! That one thread is the limit: it ends when the resolver gives up (`timeout` and `attempts` in
//! `resolv.conf(5)`), and until then it may linger at shutdown. IP addresses are not looked up.
//!
//! The states of a lookup across two requests:
//!
//! | the lookup at the end of request 1 | the next request |
//! |---|---|
//! | answered in time | starts a new lookup |
//! | unfinished, and still so | waits for the same lookup |
//! | unfinished, answered in between | discards the answer, and starts a new lookup |
//!
//! There is no cache of addresses: each connection looks the name up anew, so a changed record has
//! an effect as soon as the resolver of the machine returns it.

use super::failure::{Failure, Step};
use std::{
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

/// A host name that the resolver of the tests never answers.
///
/// `lookup` blocks a thread of the blocking pool forever for it, as a resolver without an answer
/// does.
#[cfg(test)]
pub(crate) const HANGS: &str = "hangs.test";

/// A host and a port, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name or an IP address, with an IPv6 address without its brackets. It is not empty and has
    /// no white space, no control character and none of `/@[]?#`. Whether the name exists shows
    /// only in the lookup.
    pub(crate) host: String,
    /// The port, which is not 0.
    pub(crate) port: u16,
}

/// A lookup in progress.
///
/// The future of `getaddrinfo(3)` on the blocking pool. Dropping it does not stop the call, which
/// holds its thread until the resolver answers.
pub(crate) type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// An opener of connections to one address.
pub(crate) struct Dialer {
    /// The server. It never changes, so a lookup that is left behind is always one for this
    /// address.
    address: Address,
    /// The resolver: the system's, or a test's.
    ///
    /// Called for each connection that finds no unfinished lookup.
    resolve: Box<dyn Fn(&Address) -> Lookup + Send>,
    /// The current lookup. It outlives a request that times out, and the next one continues it.
    left_behind: Option<Lookup>,
}

// === impl Address ===

impl FromStr for Address {
    type Err = ();

    /// Parses `host:port` or `[address]:port`.
    ///
    /// The port is required, decimal and not 0. An IPv6 address needs its brackets, and brackets
    /// need an IPv6 address. The error has no detail: the callers name the allowed form.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        // Rust's integer parser also accepts a leading plus sign.
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
        // Without brackets, the colons of an IPv6 address are ambiguous with the one before the
        // port.
        if bare.is_none() && host.contains(':') {
            return Err(());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

// === impl Dialer ===

impl Dialer {
    /// Creates a dialer that uses the system's resolver.
    pub(crate) fn new(address: Address) -> Self {
        Self::with_resolver(address, |address| {
            Box::pin(lookup(address.host.clone(), address.port))
        })
    }

    /// Creates a dialer that resolves names with `resolve`.
    ///
    /// Tests use it to answer, delay or fail lookups.
    pub(crate) fn with_resolver<R>(address: Address, resolve: R) -> Self
    where
        R: Fn(&Address) -> Lookup + Send + 'static,
    {
        Self {
            address,
            resolve: Box::new(resolve),
            left_behind: None,
        }
    }

    /// Connects to the first address that accepts, in the resolver's order.
    ///
    /// Each address gets an equal share of the time that is left until `deadline`, so that one that
    /// drops packets (such as an IPv6 route that leads nowhere) leaves time for the others. The
    /// last address and the lookup have no bound here: the caller must apply `deadline`.
    ///
    /// Addresses are tried one after the other, not side by side as in Happy Eyeballs
    /// (<https://www.rfc-editor.org/rfc/rfc8305>). The first of `n` addresses gets `1/n` of the
    /// time that is left, the second `1/(n-1)` of the rest. An address that refuses at once leaves
    /// its share to the others.
    ///
    /// # Errors
    /// The failure of the lookup, or else of the last address. An error of this side, such as a limit
    /// of open files, does not replace what an earlier address answered.
    ///
    /// # Cancel safety
    /// An unfinished lookup stays in `self`, and the next call continues it. An unfinished
    /// connection is closed.
    pub(crate) async fn connect(
        &mut self,
        deadline: Instant,
        step: &mut Step,
    ) -> Result<TcpStream, Failure> {
        *step = Step::Resolving;
        let addresses = self.resolve().await.map_err(Failure::Resolve)?;
        *step = Step::Connecting;
        let several = addresses.len() > 1;
        let mut failure = Failure::Resolve(io::Error::other("the name has no address"));
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let connecting = TcpStream::connect(address);
            // The last address is bounded only by the timeout of the whole request.
            let connected = if left == 1 {
                connecting.await
            } else {
                timeout(share, connecting)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    let is_answered =
                        matches!(&failure, Failure::Connect { error, .. } if is_verdict(error));
                    if is_answered && !is_verdict(&error) {
                        continue;
                    }
                    let address = several.then_some(*address);
                    failure = Failure::Connect { error, address };
                }
            }
        }
        Err(failure)
    }

    /// Resolves the name. Continues the lookup of an earlier call if it is unfinished.
    ///
    /// The unfinished lookup is polled once, without waiting, to find out whether it was answered
    /// while no request ran. That answer is as old as the pause between the requests.
    ///
    /// The lookup is stored before it is awaited. If this future is dropped while waiting, the
    /// lookup therefore stays in `left_behind`.
    pub(crate) async fn resolve(&mut self) -> io::Result<Vec<SocketAddr>> {
        if let Some(lookup) = &mut self.left_behind {
            // An answer that came between two requests may be out of date, so it is discarded.
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

/// Returns whether an error of connect(2) says something about the server or the way to it, and not
/// about this process or machine.
fn is_verdict(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | TimedOut
    )
}

/// Resolves a name with the system's resolver.
///
/// tokio parses an IP address itself and then needs no thread. For a name it occupies one thread of
/// the blocking pool of the runtime that polls this.
async fn lookup(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    #[cfg(test)]
    if host == HANGS {
        #[expect(clippy::disallowed_methods, reason = "as tokio's own lookup does")]
        let hung = tokio::task::spawn_blocking(|| {
            loop {
                std::thread::park();
            }
        });
        return hung.await?;
    }
    Ok(lookup_host((host, port)).await?.collect())
}
