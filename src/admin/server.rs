//! The accept loop and the connections, with limits on their number, duration and size.
//!
//! Each connection serves one request, and a slow or hostile client can occupy it for at most ten seconds. Connections
//! share one thread. Their handlers compute an answer without waiting, one after the other, except
//! the dump and those of the control socket in `verbs`, which wait for other threads.
//!
//! The life of a connection, and the limit of each step:
//!
//! | step | limit | then |
//! |---|---|---|
//! | accepted | 64 connections at once, 32 of one peer, and 8 for probes | see `places` |
//! | head of the request | 3 s, 16 KiB, 64 headers | an error from hyper, or closed |
//! | answer computed | none: it does not wait, or not long | |
//! | answer sent, client closes | 10 s in all; for a stream of events, 10 s for each | dropped |
//!
//! The limits and the connections that give way are in [`places`](super::places).

use super::OnScrape;
use super::answers::FULL;
use super::places::{Peer, Place, Places};
use super::routes::{Scraped, State, router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

/// The time in which the head of a request must arrive.
///
/// A client on the loopback or in the same network sends it at once.
const HEAD: Duration = Duration::from_secs(3);
/// The maximum size of the read buffer, and so of the head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// The maximum number of headers of a request.
const HEADERS: usize = 64;
/// The wait before the next attempt after `accept` failed, for example because no descriptors are left.
///
/// Without it a failing `accept` would occupy the thread.
const PAUSE: Duration = Duration::from_millis(100);
/// The interval of the heartbeat of the work runtime.
///
/// It bounds the age of what the metrics say about the delay of the work runtime.
const BEAT: Duration = Duration::from_secs(1);

/// A source of connections.
pub(super) trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// Fails as accept(2) does. The next call may succeed.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

/// Runs `work` until it ends or the sender of `stopped` is dropped.
///
/// The stop is polled first, so a server that is always busy ends too. `work` is dropped at the
/// return, and with it the listener and all connections.
pub(crate) async fn until(stopped: oneshot::Receiver<()>, work: impl Future<Output = ()>) {
    first(async { drop(stopped.await) }, work).await;
}

/// Runs both until one of them ends, and drops the other. The limit is polled first.
async fn first(limit: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    let (mut limit, mut work) = (pin!(limit), pin!(work));
    poll_fn(|cx| {
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        work.as_mut().poll(cx)
    })
    .await;
}

/// Serves connections of the listener, sends the heartbeat of the work runtime, and samples it for the
/// charts of the page.
///
/// If the listener cannot be registered with the runtime it returns, and the thread ends. That fails
/// only if the system is out of resources.
pub(super) async fn serve<L: Listener>(
    register: impl FnOnce() -> io::Result<L>,
    state: State,
    on_scrape: OnScrape,
) {
    let mut own = JoinSet::new();
    let state = Arc::new(state);
    let beating = Arc::clone(&state);
    own.spawn(async move {
        let source = beating.metrics.source();
        loop {
            source.heartbeat.send(&source.root, &source.work);
            beating.events.sample(source);
            sleep(BEAT).await;
        }
    });
    if let Ok(listener) = register() {
        accept(listener, state, on_scrape).await;
    }
}

/// Accepts connections forever. Failures are retried: most are temporary, and there is no caller to report them to.
///
/// Connections that have ended are collected after each accept, which keeps the count right without
/// a task for it. Dropping the set ends the connections.
///
/// Each accept is followed by a yield, so that a request that has already arrived is read before
/// its connection may have to give way to the next one.
async fn accept(listener: impl Listener, state: Arc<State>, on_scrape: OnScrape) {
    let mut connections = JoinSet::new();
    let mut places = Places::default();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((mut stream, from)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        match places.find(from) {
            Some(place) => {
                let work = answer(
                    (stream, from),
                    Arc::clone(&place),
                    Arc::clone(&state),
                    Arc::clone(&on_scrape),
                );
                places.take(from, place, connections.spawn(work));
            }
            None => refuse(&mut stream).await,
        }
        yield_now().await;
    }
}

/// Serves one request and closes the connection. Without keep-alive, no idle connection needs a timeout.
///
/// Calls `on_scrape` if the request was a scrape and the client has read the whole answer.
///
/// The write side is shut down before the wait, so that the client sees the end of the answer.
/// hyper alone would drop the socket, and data that is still unread could reset the connection.
async fn answer(
    (stream, from): (impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Peer),
    place: Arc<Place>,
    state: Arc<State>,
    on_scrape: OnScrape,
) {
    let scraped = Scraped::default();
    let router = router(state, Arc::clone(&place), scraped.clone());
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let exchange = async {
        let parts = connection.without_shutdown().await.ok()?;
        let mut stream = parts.io.into_inner();
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx))
            .await
            .ok()?;
        if let Some(scrape) = scraped.by(from) {
            taken(&mut stream).await?;
            on_scrape(scrape);
        }
        Some(())
    };
    // Errors and timeouts concern only this client.
    first(place.overdue(), async {
        exchange.await;
    })
    .await;
}

/// Waits until the client has closed its side, which it does once it has read the whole answer.
///
/// Returns `None` if the connection was lost. A successful write is not enough: it only means that the system has
/// buffered the answer.
///
/// Bytes that the client still sends are read and ignored. There is no limit here: that of the
/// connection applies.
async fn taken(stream: &mut (impl AsyncRead + Unpin)) -> Option<()> {
    let mut more = [0; 256];
    loop {
        let mut read = ReadBuf::new(&mut more);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut read))
            .await
            .ok()?;
        if read.filled().is_empty() {
            return Some(());
        }
    }
}

/// Sends [`FULL`], as a whole answer, if that is possible without waiting; the connection is closed in any case.
///
/// The buffer of a new connection has room for it. No request is read, so a client that is still
/// sending may see a reset instead of the answer.
async fn refuse(stream: &mut (impl AsyncWrite + Unpin)) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         retry-after: 1\r\ncontent-length: {}\r\n\r\n{FULL}",
        FULL.len()
    );
    // One poll, which writes if it can at once.
    poll_fn(|cx| {
        let written = Pin::new(&mut *stream).poll_write(cx, answer.as_bytes());
        Poll::Ready(written.is_ready())
    })
    .await;
}

// === impl Listener ===

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, from) = Self::accept(self).await?;
        Ok((stream, from.ip().into()))
    }
}
