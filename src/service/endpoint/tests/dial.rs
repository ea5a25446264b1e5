//! Tests of TCP checks and of name lookups.

use super::{AMPLE, check_beside, listen, outcome, tcp};
use crate::{
    http_client::{Address, Dialer, Lookup},
    service::endpoint::{Checker, check::Target},
};
use std::{
    future::{pending, ready},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    time::Instant,
};

/// Returns a TCP check of a made-up name, which `resolve` resolves.
fn checker<R>(timeout: Duration, resolve: R) -> Checker
where
    R: Fn(&Address) -> Lookup + Send + 'static,
{
    let address = "db.internal:5432".parse().expect("host:port");
    let target = Target::Tcp {
        dialer: Dialer::with_resolver(address, resolve),
        host: "db.internal".to_owned(),
    };
    Checker::with_target(Ok(target), timeout)
}

fn answer(addresses: Vec<SocketAddr>) -> Lookup {
    Box::pin(ready(Ok(addresses)))
}

/// Returns the address of a listener that has just been closed.
async fn closed() -> SocketAddr {
    let (listener, address) = listen().await;
    drop(listener);
    address
}

/// Returns an address that drops SYN packets, because the queue of its listener is full. Linux
/// queues one connection more than the backlog.
async fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = "127.0.0.1:0".parse().expect("an address");
    socket.bind(any).expect("loopback");
    let listener = socket.listen(0).expect("a bound socket");
    let address = listener.local_addr().expect("a bound socket");
    let queued = TcpStream::connect(address).await.expect("the first fits");
    (address, listener, vec![queued])
}

#[tokio::test]
async fn a_port_with_a_listener_is_up() {
    let (_listener, address) = listen().await;
    let words = check_beside(&tcp(address), AMPLE, pending::<()>()).await;
    assert_eq!(words, "up");
}

#[tokio::test]
async fn a_port_without_a_listener_refuses_the_connection() {
    let check = tcp(closed().await);
    let words = check_beside(&check, AMPLE, pending::<()>()).await;
    assert_eq!(words, "connection refused");
}

#[tokio::test]
async fn a_name_with_several_addresses_is_up_when_one_of_them_is() {
    let (_listener, live) = listen().await;
    let dead = closed().await;
    let mut checker = checker(AMPLE, move |_| answer(vec![dead, live]));
    assert_eq!(outcome(&mut checker).await, "up");
}

#[tokio::test]
async fn the_last_address_tried_is_named_when_there_are_several() {
    let (first, last) = (closed().await, closed().await);
    let mut checker = checker(AMPLE, move |_| answer(vec![first, last]));
    assert_eq!(
        outcome(&mut checker).await,
        format!("connection refused (last tried {last})")
    );
}

#[tokio::test]
async fn an_error_of_this_side_does_not_hide_the_answer_of_another_address() {
    let refusing = closed().await;
    // A link-local address needs an interface, so connect(2) fails before it sends anything.
    let local = "[fe80::1]:1".parse().expect("an address");
    let mut checker = checker(AMPLE, move |_| answer(vec![refusing, local]));
    assert_eq!(
        outcome(&mut checker).await,
        format!("connection refused (last tried {refusing})")
    );
}

#[tokio::test]
async fn an_address_that_drops_packets_leaves_time_for_the_next() {
    let (hole, _hole_listener, _queued) = black_hole().await;
    let (_listener, live) = listen().await;
    let timeout = Duration::from_millis(600);
    let mut only_hole = checker(Duration::from_millis(100), move |_| answer(vec![hole]));
    assert_eq!(
        outcome(&mut only_hole).await,
        "timed out after 100ms connecting"
    );
    let mut both = checker(timeout, move |_| answer(vec![hole, live]));
    assert_eq!(outcome(&mut both).await, "up");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_reported_with_the_resolvers_message() {
    let mut unknown = checker(AMPLE, |_| {
        let text = "failed to lookup address information: Name or service not known";
        Box::pin(ready(Err(io::Error::other(text))))
    });
    assert_eq!(
        outcome(&mut unknown).await,
        "cannot resolve db.internal: name or service not known"
    );
    let mut empty = checker(AMPLE, |_| answer(Vec::new()));
    assert_eq!(
        outcome(&mut empty).await,
        "cannot resolve db.internal: the name has no address"
    );
}

/// tokio's `lookup_host` holds a blocking thread until the resolver answers, and cannot be
/// cancelled. If each check began a lookup, a hung resolver would fill the blocking pool.
#[tokio::test(start_paused = true)]
async fn a_hung_resolver_is_asked_once_however_many_checks_time_out() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let gates = asked.clone();
    let mut checker = checker(Duration::from_secs(2), move |_| {
        let (open, gate) = oneshot::channel::<Vec<SocketAddr>>();
        gates.lock().expect("no panic").push(open);
        Box::pin(async { gate.await.map_err(io::Error::other) })
    });
    for check in 1..=5 {
        let before = Instant::now();
        assert_eq!(
            outcome(&mut checker).await,
            "timed out after 2s resolving the name"
        );
        let took = before.elapsed();
        assert!(
            took < Duration::from_millis(2010),
            "{took:?}, check {check}"
        );
    }
    assert_eq!(asked.lock().expect("no panic").len(), 1);

    // The answer comes between two checks. It may be out of date, so the next check asks again.
    let open = asked.lock().expect("no panic").remove(0);
    open.send(Vec::new()).expect("the lookup waits");
    assert_eq!(
        outcome(&mut checker).await,
        "timed out after 2s resolving the name"
    );
    assert_eq!(asked.lock().expect("no panic").len(), 1);
}
