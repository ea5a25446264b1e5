//! Connections, each for one request, and the bounds that keep them from doing harm: how many, how long, how large.

use super::OnScrape;
use super::hosts::Hosts;
use super::routes::{Scraped, State, router};
use crate::telemetry::Metrics;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener as Bound};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The most connections at once; what comes on top is told so.
pub(super) const CONNECTIONS: usize = 64;
/// For the head of a request to arrive.
const HEAD: Duration = Duration::from_secs(3);
/// For a request and its answer.
const WHOLE: Duration = Duration::from_secs(10);
/// The size of a head, and of what is read at once.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// When the system has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Between beats of the work runtime.
const BEAT: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\ncontent-length: 21\r\n\r\ntoo many connections\n";

/// Runs until the other side of the channel is gone.
pub(super) async fn until(stopped: oneshot::Receiver<()>, work: impl Future<Output = ()>) {
    let (mut stopped, mut work) = (pin!(stopped), pin!(work));
    poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        work.as_mut().poll(cx)
    })
    .await;
}

/// Answers on the listener, and keeps the heartbeat of the work runtime.
pub(super) async fn serve(listener: Bound, hosts: Hosts, metrics: Metrics, on_scrape: OnScrape) {
    let mut own = JoinSet::new();
    let watched = Arc::clone(metrics.watched());
    own.spawn(async move {
        loop {
            watched.heartbeat.send(&watched.root, &watched.work);
            sleep(BEAT).await;
        }
    });
    // It was made outside of a runtime; this fails only if the system has no more descriptors for the poller.
    if let Ok(listener) = TcpListener::from_std(listener) {
        accept(listener, Arc::new(State { metrics, hosts }), on_scrape).await;
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, on_scrape: OnScrape) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) if connections.len() < CONNECTIONS => {
                let (state, on_scrape) = (Arc::clone(&state), Arc::clone(&on_scrape));
                connections.spawn(answer(stream, from.ip(), state, on_scrape));
            }
            Ok((stream, _)) => refuse(&stream),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// One request: a connection that is not kept has no idle time that would need a bound.
async fn answer(stream: TcpStream, from: IpAddr, state: Arc<State>, on_scrape: OnScrape) {
    let scraped = Scraped::default();
    let service = TowerToHyperService::new(router(state, scraped.clone()));
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
            taken(&stream).await?;
            on_scrape(scrape);
        }
        Some(())
    };
    // How it ended is nobody's business but the client's.
    timeout(WHOLE, exchange).await.ok();
}

/// Waits until the client has closed its side, which it does when it has the whole answer; `None` when it was lost. That
/// the system took the answer does not mean that the client did.
async fn taken(stream: &TcpStream) -> Option<()> {
    let mut more = [0; 256];
    loop {
        stream.readable().await.ok()?;
        match stream.try_read(&mut more) {
            Ok(0) => return Some(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// Says it if it can be said at once.
fn refuse(stream: &TcpStream) {
    stream.try_write(FULL).ok();
}
