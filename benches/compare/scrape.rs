//! Time to scrape the metrics with a million live tasks, and its effect on tasks that work in the
//! meantime.

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

/// Number of names of the live tasks.
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
        note: "Parked tasks with 64 names on 2 workers. Each request opens its own connection, which is included in \
               the time, because the admin server does not keep connections open. `/livez` reads no tasks: its time \
               is that of the connection and the server alone. No \
               peer offers this, so these are plain times.",
        rows: vec![Row::new((SCRAPE, scrapes)), Row::new((LIVE, lives))],
    };
    let meanwhile = Section {
        title: "The working tasks during scrapes".to_owned(),
        unit: Unit::Nanoseconds,
        note: "Time from one poll of a task to its next: the 99th percentile of each turn of 40 ms. Scrapes follow \
               each other without a pause.",
        rows: vec![
            Row::new(("without a scrape", Samples::new(without))),
            Row::new(("during scrapes", Samples::new(during))),
        ],
    };
    vec![scrapes.limit(SCRAPE, &[Limit::Total(5e6)]), meanwhile]
}

/// Scrapes for `time`, at least once.
fn scrape_for(address: SocketAddr, time: Duration) {
    let began = Instant::now();
    loop {
        get(address, "/metrics");
        if began.elapsed() >= time {
            return;
        }
    }
}

/// Returns the time from opening the connection until the answer has been read.
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
