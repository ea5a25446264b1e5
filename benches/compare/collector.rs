//! OTLP collectors for the benchmarks: one that accepts and discards everything, and one that never
//! answers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::OnceLock,
};

/// Starts a collector that accepts and discards everything.
pub(crate) fn healthy() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        listen(|listener| {
            // Each signal has its own connection, which the exporter keeps open.
            for stream in listener.incoming().flatten() {
                thread(move || {
                    // A large buffer keeps the work of this process small, as if the collector ran
                    // on another machine.
                    let mut reader = BufReader::with_capacity(1 << 20, &stream);
                    while answer(&stream, &mut reader).is_some() {}
                });
            }
        })
    })
}

/// Starts a collector that accepts connections and never answers.
pub(crate) fn black_hole() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        listen(|listener| {
            let kept: Vec<TcpStream> = listener.incoming().flatten().collect();
            drop(kept);
        })
    })
}

fn listen(serve: impl FnOnce(TcpListener) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    thread(move || serve(listener));
    address
}

fn thread(work: impl FnOnce() + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "not part of the measurement")]
    std::thread::spawn(work);
}

/// Reads one request to its end and answers it; returns `None` at the end of the connection.
fn answer(mut stream: &TcpStream, reader: &mut BufReader<&TcpStream>) -> Option<()> {
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        let header = line.to_lowercase();
        let value = header.strip_prefix("content-length:");
        length = value
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(length);
        line.clear();
    }
    if line.is_empty() {
        return None;
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer).ok()
}
