//! Tasks that do not end and block no thread.

use crate::begun;
use crate::host::{Host, Spawner, Stop};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

pub(crate) fn awaits_for_ever(host: &Host<'_>) {
    host.spawn("feed", read_feed()); // mark: spawn of awaits-for-ever
}

async fn read_feed() {
    next_message().await;
}

async fn next_message() {
    let (sender, message) = oneshot::channel::<()>();
    begun();
    message.await.ok(); // mark: awaits-for-ever
    drop(sender);
}

/// The channel closes when its last sender is dropped, but the reader itself holds one.
pub(crate) fn own_sender(host: &Host<'_>) {
    host.spawn("inbox", read_inbox()); // mark: spawn of own-sender
}

async fn read_inbox() {
    let (sender, mut inbox) = mpsc::channel::<()>(1);
    begun();
    while inbox.recv().await.is_some() {} // mark: own-sender
    drop(sender);
}

pub(crate) fn lock_across_await(host: &Host<'_>) {
    let cache = Arc::new(Mutex::new(()));
    host.spawn("refresh", refresh(Arc::clone(&cache))); // mark: spawn of the holder
    host.spawn("lookup", look_up(cache)); // mark: spawn of lock-across-await
}

async fn refresh(cache: Arc<Mutex<()>>) {
    let _entry = cache.lock().await;
    let (sender, answer) = oneshot::channel::<()>();
    begun();
    answer.await.ok(); // mark: holder of lock-across-await
    drop(sender);
}

async fn look_up(cache: Arc<Mutex<()>>) {
    while cache.try_lock().is_ok() {
        tokio::task::yield_now().await;
    }
    begun();
    drop(cache.lock().await); // mark: lock-across-await
}

/// Continues its loop after the stop notification.
pub(crate) fn swallows_cancellation(host: &Host<'_>) {
    host.spawn("poller", poll_again(host.stop())); // mark: spawn of swallows-cancellation
}

async fn poll_again(stop: Stop) {
    begun();
    loop {
        stop.told().await;
        tokio::time::sleep(Duration::from_millis(10)).await; // mark: swallows-cancellation
    }
}

/// Awaits futures that are all ready at once when the service stops, so it never yields its worker.
pub(crate) fn spins_when_told(host: &Host<'_>) {
    host.spawn("poller", poll_at_once(host.stop())); // mark: spawn of spins-when-told
}

async fn poll_at_once(stop: Stop) {
    begun();
    loop {
        stop.told().await; // mark: spins-when-told
    }
}

/// Starts its task again whenever it ends.
pub(crate) fn restarts_for_ever(host: &Host<'_>) {
    host.spawn("supervisor", supervise(host.spawner())); // mark: spawn of restarts-for-ever
}

async fn supervise(spawner: Spawner) {
    begun();
    loop {
        let run = spawner.run("supervised", next_message()); // mark: spawn of the supervised
        run.await; // mark: restarts-for-ever
    }
}

struct SaysGoodbye(std::net::TcpStream);

impl Drop for SaysGoodbye {
    fn drop(&mut self) {
        use std::io::Read;
        self.0.read_exact(&mut [0]).ok(); // mark: drop-blocks
    }
}

pub(crate) fn drop_blocks(host: &Host<'_>) {
    let client = SaysGoodbye(crate::workers::silent_peer());
    host.spawn("client", keep_until(client, host.stop())); // mark: spawn of drop-blocks
}

async fn keep_until<T>(_client: T, stop: Stop) {
    begun();
    stop.told().await;
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("a drop that panics"); // mark: drop-panics
    }
}

pub(crate) fn drop_panics(host: &Host<'_>) {
    host.spawn("client", keep(PanicsInDrop)); // mark: spawn of drop-panics
}

async fn keep<T>(_client: T) {
    next_message().await;
}
