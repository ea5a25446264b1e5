//! Collectors of OTLP: one that takes everything and keeps nothing, and one that never answers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::OnceLock,
};

/// One that takes everything and keeps nothing.
pub(crate) fn healthy() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        listen(|listener| {
            // Each signal has a connection, which its exporter keeps.
            for stream in listener.incoming().flatten() {
                thread(move || {
                    // Read as a collector on another machine would have it: with as little of this one as can be.
                    let mut reader = BufReader::with_capacity(1 << 20, &stream);
                    while answer(&stream, &mut reader).is_some() {}
                });
            }
        })
    })
}

/// One that accepts and never answers.
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
    #[expect(clippy::disallowed_methods, reason = "no part of what is measured")]
    std::thread::spawn(work);
}

/// One request, which is read to its end; `None` when there is none any more.
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
