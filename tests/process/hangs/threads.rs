//! Threads of the standard library that are not registered.

use crate::host::Host;
use crate::workers::{plain_thread, silent_peer};
use crate::{FOR_EVER, begun};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;

pub(crate) fn accepts(_host: &Host<'_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    plain_thread("metrics-http", move || serve_metrics(&listener));
}

fn serve_metrics(listener: &TcpListener) {
    begun();
    listener.accept().ok(); // mark: thread-in-accept
}

pub(crate) fn reads_socket(_host: &Host<'_>) {
    plain_thread("pg-reader", read_rows);
}

fn read_rows() {
    let mut server = silent_peer();
    begun();
    server.read_exact(&mut [0]).ok(); // mark: thread-in-recv
}

pub(crate) fn reads_channel(_host: &Host<'_>) {
    let (sender, jobs) = mpsc::channel();
    Box::leak(Box::new(sender));
    plain_thread("thumbnailer", move || take_jobs(&jobs));
}

fn take_jobs(jobs: &mpsc::Receiver<()>) {
    begun();
    while jobs.recv().is_ok() {} // mark: thread-in-channel
}

pub(crate) fn waits_for_condition(_host: &Host<'_>) {
    plain_thread("flusher", wait_for_flush);
}

fn wait_for_flush() {
    let (dirty, changed) = (Mutex::new(false), Condvar::new());
    begun();
    let mut is_dirty = dirty.lock().expect("no thread panics");
    while !*is_dirty {
        is_dirty = changed.wait(is_dirty).expect("no thread panics"); // mark: thread-in-condvar
    }
}

pub(crate) fn joins(_host: &Host<'_>) {
    plain_thread("pool-owner", || {
        let helper = plain_thread("pool-helper", help);
        join_helper(helper);
    });
}

fn help() {
    begun();
    thread::sleep(FOR_EVER); // mark: joined by thread-in-join
}

fn join_helper(helper: thread::JoinHandle<()>) {
    begun();
    helper.join().expect("no thread panics"); // mark: thread-in-join
}

pub(crate) fn waits_for_child(_host: &Host<'_>) {
    plain_thread("converter", convert);
}

fn convert() {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .spawn()
        .expect("there is a cat");
    // The child ends when this process does, which closes its standard input. `wait` would close it at once.
    Box::leak(Box::new(child.stdin.take()));
    begun();
    child.wait().ok(); // mark: thread-in-child-wait
}

pub(crate) fn locks_in_order(_host: &Host<'_>) {
    let accounts = Arc::new((Mutex::new(()), Mutex::new(())));
    let both = Arc::new(Barrier::new(2));
    let (theirs, met) = (Arc::clone(&accounts), Arc::clone(&both));
    plain_thread("debit", move || debit(&theirs, &met));
    plain_thread("credit", move || credit(&accounts, &both));
}

fn debit(accounts: &(Mutex<()>, Mutex<()>), met: &Barrier) {
    let _from = accounts.0.lock().expect("no thread panics");
    met.wait();
    begun();
    let _to = accounts.1.lock().expect("no thread panics"); // mark: lock-order
}

fn credit(accounts: &(Mutex<()>, Mutex<()>), met: &Barrier) {
    let _to = accounts.1.lock().expect("no thread panics");
    met.wait();
    begun();
    let _from = accounts.0.lock().expect("no thread panics"); // mark: other side of lock-order
}

/// A telemetry exporter with a collector that accepts connections and reads nothing.
pub(crate) fn exports(_host: &Host<'_>) {
    plain_thread("OtlpExporter", export_spans);
}

fn export_spans() {
    let mut collector = silent_peer();
    begun();
    let batch = [0; 64 * 1024];
    while collector.write_all(&batch).is_ok() {} // mark: black-hole-exporter
}

struct FlushedAtEnd;

impl Drop for FlushedAtEnd {
    fn drop(&mut self) {
        begun();
        thread::sleep(FOR_EVER); // mark: thread-local-drop
    }
}

thread_local! {
    static BUFFER: FlushedAtEnd = const { FlushedAtEnd };
}

/// A thread that has finished its work but does not end.
pub(crate) fn blocks_at_its_end(_host: &Host<'_>) {
    plain_thread("logger", || BUFFER.with(|_| ()));
}
