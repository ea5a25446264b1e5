//! Code that blocks a thread of the runtime: a worker, or one of the blocking pool.

use crate::host::Host;
use crate::{FOR_EVER, begun};
use std::future::{Future, poll_fn};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::thread;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

/// Returns a connection to a peer that never sends anything.
pub(crate) fn silent_peer() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("it listens");
    // The system accepts connections for the listener as long as it is open.
    Box::leak(Box::new(listener));
    client
}

/// Starts a plain thread of the standard library.
pub(crate) fn plain_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> thread::JoinHandle<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).expect("the system has threads")
}

pub(crate) fn busy_loop(host: &Host<'_>) {
    host.spawn("index", build_index()); // mark: spawn of busy-loop
}

async fn build_index() {
    begun();
    // All of the loop is on one line, because a thread that computes may be seen at any instruction of
    // it: that of its condition, of its body, or of the jump back. `black_box` keeps the compiler from
    // knowing that it never ends.
    while std::hint::black_box(true) {} // mark: busy-loop
}

pub(crate) fn sleeps_on_worker(host: &Host<'_>) {
    host.spawn("backoff", back_off()); // mark: spawn of sleeps-on-worker
}

async fn back_off() {
    begun();
    thread::sleep(FOR_EVER); // mark: sleeps-on-worker
}

pub(crate) fn reads_on_worker(host: &Host<'_>) {
    host.spawn("session", read_answer(silent_peer())); // mark: spawn of reads-on-worker
}

async fn read_answer(mut peer: TcpStream) {
    begun();
    peer.read_exact(&mut [0]).ok(); // mark: reads-on-worker
}

pub(crate) fn locks_on_worker(host: &Host<'_>) {
    let cache = Arc::new(Mutex::new(()));
    let held = Arc::new(Barrier::new(2));
    let (their_cache, is_held) = (Arc::clone(&cache), Arc::clone(&held));
    plain_thread("cache-sweep", move || {
        let _entry = their_cache.lock().expect("no thread panics");
        is_held.wait();
        begun();
        thread::sleep(FOR_EVER); // mark: holder of locks-on-worker
    });
    held.wait();
    host.spawn("lookup", read_cache(cache)); // mark: spawn of locks-on-worker
}

async fn read_cache(cache: Arc<Mutex<()>>) {
    begun();
    drop(cache.lock()); // mark: locks-on-worker
}

/// The runtime has two workers.
pub(crate) fn all_workers_blocked(host: &Host<'_>) {
    for _ in 0..2 {
        host.spawn("hasher", hash_password()); // mark: spawn of all-workers-blocked
    }
}

async fn hash_password() {
    begun();
    thread::sleep(FOR_EVER); // mark: all-workers-blocked
}

pub(crate) fn blocks_in_place(host: &Host<'_>) {
    host.spawn("bridge", bridge_to_sync()); // mark: spawn of blocks-in-place
}

async fn bridge_to_sync() {
    begun();
    tokio::task::block_in_place(|| Handle::current().block_on(std::future::pending::<()>())); // mark: blocks-in-place
}

pub(crate) fn tracked_blocking(host: &Host<'_>) {
    host.spawn_blocking("reindex", reindex); // mark: spawn of tracked-blocking
}

fn reindex() {
    begun();
    thread::sleep(FOR_EVER); // mark: tracked-blocking
}

/// Files, name lookups and standard input can only use the runtime's blocking pool.
pub(crate) fn file_in_pool(host: &Host<'_>) {
    let (reader, writer) = std::io::pipe().expect("pipes are available");
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    Box::leak(Box::new((reader, writer)));
    host.spawn("settings", read_settings(path)); // mark: spawn of file-in-pool
}

async fn read_settings(path: String) {
    let mut reading = pin!(tokio::fs::read(path));
    begun_when_polled(reading.as_mut()).await;
    reading.await.ok(); // mark: file-in-pool
}

pub(crate) fn stdin_in_pool(host: &Host<'_>) {
    host.spawn("console", read_commands()); // mark: spawn of stdin-in-pool
}

async fn read_commands() {
    let mut stdin = tokio::io::stdin();
    let mut reading = pin!(stdin.read_u8());
    begun_when_polled(reading.as_mut()).await;
    reading.await.ok(); // mark: stdin-in-pool
}

/// Calls `begun` after the first poll, which starts the thread of the pool.
async fn begun_when_polled(mut future: Pin<&mut impl Future>) {
    poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    begun();
}

/// A synchronous client that brings its own runtime.
pub(crate) fn runtime_in_runtime(host: &Host<'_>) {
    host.spawn_blocking("sync-client", request_in_own_runtime); // mark: spawn of runtime-in-runtime
}

fn request_in_own_runtime() {
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("the system has threads");
    begun();
    own.block_on(std::future::pending::<()>()); // mark: runtime-in-runtime
}

pub(crate) fn main_wedged(_host: &Host<'_>) {
    begun();
    thread::sleep(FOR_EVER); // mark: main-wedged
}
