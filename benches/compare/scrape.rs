//! Scrapes the metrics while a million tasks live, and asks what that does to tasks that work meanwhile.

use crate::{
    harness::{Samples, Scale},
    headcount::Owned,
    latency::{self, WORK, WORKERS},
    table::{Limit, Row, Section, Unit},
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// So many names have the tasks which live.
const NAMES: usize = 64;
const SCRAPE: &str = "headcount, GET /metrics";
const LIVE: &str = "headcount, GET /livez";

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let (runtime, address) = Owned::with_admin(WORKERS);
    runtime.park_named(scale.parked, NAMES);
    let times = |path| {
        get(address, path);
        let times = (0..scale.repetitions).map(|_| get(address, path).as_nanos() as f64);
        Samples::new(times.collect())
    };
    let (scrapes, lives) = (times("/metrics"), times("/livez"));
    let (mut without, mut during) = (Vec::new(), Vec::new());
    for _ in 0..scale.repetitions {
        without.push(latency::percentile(&runtime, || std::thread::sleep(WORK)));
        during.push(latency::percentile(&runtime, || scrape_for(address, WORK)));
    }
    let scrapes = Section {
        title: "Scrape 1,000,000 live tasks".to_owned(),
        unit: Unit::Milliseconds,
        note: "Of 64 names, parked on 2 workers. Each request has a connection of its own, which is part of the time: the admin \
               server keeps none. `/livez` looks at no task: it is what the connection and the server take alone. No peer has such a \
               thing, so these are plain times.",
        rows: vec![Row::new((SCRAPE, scrapes)), Row::new((LIVE, lives))],
    };
    let meanwhile = Section {
        title: "The working tasks meanwhile, scrapes".to_owned(),
        unit: Unit::Nanoseconds,
        note: "From one poll of a task to its next: the 99th percentile of each turn of 40 ms. One scrape follows the other.",
        rows: vec![
            Row::new(("without a scrape", Samples::new(without))),
            Row::new(("during scrapes", Samples::new(during))),
        ],
    };
    vec![scrapes.limit(SCRAPE, &[Limit::Total(5e6)]), meanwhile]
}

/// At least one scrape.
fn scrape_for(address: SocketAddr, time: Duration) {
    let began = Instant::now();
    loop {
        get(address, "/metrics");
        if began.elapsed() >= time {
            return;
        }
    }
}

/// From before the connection is opened until the answer is read to its end.
fn get(address: SocketAddr, path: &str) -> Duration {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut answer = Vec::new();
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_end(&mut answer))
        .expect("the server answers");
    let took = began.elapsed();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{path}");
    took
}
