//! Tests of HTTP checks: the request, the statuses, and servers that misbehave.

use super::{
    AMPLE, SHORT, answer, answering, check_beside, http, listen, outcome, read_head, serving,
};
use crate::{
    http_client::Connection,
    service::endpoint::{Check, Checker, HttpCheck, failure::Failure},
};
use http_body_util::Full;
use hyper::Request;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::pending,
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, duplex},
    select,
    time::{Instant, sleep},
};

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Makes one check of a server that answers with `response`.
async fn against(response: &[u8]) -> String {
    let (listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    check_beside(&check, AMPLE, answering(listener, response)).await
}

#[tokio::test]
async fn the_request_is_a_get_with_the_configured_headers() {
    let (listener, address) = listen().await;
    let check = Check::Http(HttpCheck {
        url: format!("http://{address}/health?deep=1#part"),
        expect_status: Vec::new(),
        headers: BTreeMap::from([
            ("X-Token".to_owned(), "abc".to_owned()),
            ("host".to_owned(), "shop.example".to_owned()),
        ])
        .into(),
        ..HttpCheck::default()
    });
    let request = RefCell::new(String::new());
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a listening socket");
        *request.borrow_mut() = answer(&mut stream, NO_CONTENT).await;
        pending::<()>().await;
    };
    assert_eq!(check_beside(&check, AMPLE, server).await, "up");
    let expected = format!(
        "GET /health?deep=1 HTTP/1.1\r\nhost: shop.example\r\nuser-agent: headcount/{}\r\n\
         accept: */*\r\nconnection: close\r\nx-token: abc\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(request.into_inner(), expected);
}

#[tokio::test]
async fn a_status_from_200_to_399_is_up_when_none_is_listed() {
    for (status, words) in [
        ("200 OK", "up"),
        ("399 Odd", "up"),
        ("400 Bad Request", "status 400, expected 200..=399"),
        ("503 Service Unavailable", "status 503, expected 200..=399"),
    ] {
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(against(response.as_bytes()).await, words, "{status}");
    }
}

#[tokio::test]
async fn only_the_listed_statuses_are_up() {
    for (status, words) in [
        ("401 Unauthorized", "up"),
        ("200 OK", "status 200, expected 204 or 401"),
    ] {
        let (listener, address) = listen().await;
        let check = Check::Http(HttpCheck {
            url: format!("http://{address}/"),
            expect_status: vec![204, 401],
            headers: BTreeMap::new().into(),
            ..HttpCheck::default()
        });
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let server = answering(listener, response.as_bytes());
        assert_eq!(check_beside(&check, AMPLE, server).await, words);
    }
}

/// Returns a check that expects `text` in the body.
fn expecting(text: &str, address: impl std::fmt::Display) -> Check {
    Check::Http(HttpCheck {
        url: format!("http://{address}/"),
        expect_body: Some(text.to_owned()),
        ..HttpCheck::default()
    })
}

#[tokio::test]
async fn a_body_must_contain_the_expected_text() {
    for (response, words) in [
        ("200 OK\r\n\r\n{\"status\":\"ok\"}", "up"),
        ("200 OK\r\n\r\nok", "up"),
        ("200 OK\r\n\r\nfailing", "the body does not contain \"ok\""),
        (
            "200 OK\r\ncontent-length: 0\r\n\r\n",
            "the body does not contain \"ok\"",
        ),
        // The status is the better reason.
        (
            "503 Service Unavailable\r\n\r\nok",
            "status 503, expected 200..=399",
        ),
        (
            "200 OK\r\ncontent-length: 9\r\n\r\nfail",
            "connection closed",
        ),
    ] {
        let (listener, address) = listen().await;
        let response = format!("HTTP/1.1 {response}");
        let server = answering(listener, response.as_bytes());
        let check = expecting("ok", address);
        assert_eq!(
            check_beside(&check, AMPLE, server).await,
            words,
            "{response}"
        );
    }
}

#[tokio::test]
async fn an_expected_text_may_arrive_in_pieces() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        read_head(&mut stream).await.expect("a request");
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.expect("the client reads");
        for piece in ["he", "al", "thy"] {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            stream.write_all(chunk.as_bytes()).await.ok();
        }
        // The check does not wait for the end of the body.
        pending::<()>().await;
    });
    let check = expecting("health", address);
    assert_eq!(check_beside(&check, AMPLE, server).await, "up");
}

#[tokio::test]
async fn an_expected_text_is_searched_in_the_start_of_an_endless_body() {
    let (listener, address) = listen().await;
    let sent = Cell::new(0);
    let server = serving(listener, async |mut stream| {
        read_head(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {
            sent.set(sent.get() + 4096);
        }
    });
    let check = expecting("ok", address);
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "the start of the body does not contain \"ok\""
    );
    assert!(sent.get() < 16 << 20, "{} bytes", sent.get());
}

#[tokio::test]
async fn a_body_that_does_not_come_to_the_expected_text_times_out() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhea";
        read_head(&mut stream).await.expect("a request");
        stream.write_all(head).await.expect("the client reads");
        pending::<()>().await;
    });
    let check = expecting("health", address);
    assert_eq!(
        check_beside(&check, SHORT, server).await,
        "timed out after 300ms reading the body"
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (listener, address) = listen().await;
    let (elsewhere, target) = listen().await;
    let response = format!("HTTP/1.1 302 Found\r\nlocation: http://{target}/\r\n\r\n");
    let server = async {
        select! {
            () = answering(listener, response.as_bytes()) => {}
            _ = elsewhere.accept() => panic!("the redirect was followed"),
        }
    };
    let check = http(format!("http://{address}/"));
    assert_eq!(check_beside(&check, AMPLE, server).await, "up");
}

#[tokio::test]
async fn every_check_opens_a_connection_even_when_the_server_would_keep_it() {
    let (listener, address) = listen().await;
    let connections = Cell::new(0);
    let mut kept = Vec::new();
    let server = serving(listener, async |mut stream| {
        connections.set(connections.get() + 1);
        read_head(&mut stream).await.expect("a request");
        stream
            .write_all(NO_CONTENT)
            .await
            .expect("the client reads");
        kept.push(stream);
    });
    let mut checker = Checker::new(&http(format!("http://{address}/")), AMPLE);
    let checks = async {
        for _ in 0..3 {
            assert_eq!(outcome(&mut checker).await, "up");
        }
    };
    select! {
        () = checks => {}
        () = server => {}
    }
    assert_eq!(connections.get(), 3);
}

#[tokio::test]
async fn a_server_that_accepts_but_never_responds_times_out() {
    let (_listener, address) = listen().await;
    let check = http(format!("http://{address}/"));
    assert_eq!(
        check_beside(&check, SHORT, pending::<()>()).await,
        "timed out after 300ms waiting for the response"
    );
}

#[tokio::test]
async fn headers_that_arrive_slowly_do_not_extend_the_timeout() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let rest = b"HTTP/1.1 200 OK\r\nx-drip: "
            .iter()
            .chain([b'.'].iter().cycle());
        for byte in rest {
            stream.write_u8(*byte).await.expect("the client reads");
            sleep(Duration::from_millis(5)).await;
        }
    });
    let check = http(format!("http://{address}/"));
    assert_eq!(
        check_beside(&check, SHORT, server).await,
        "timed out after 300ms waiting for the response"
    );
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        read_head(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.ok();
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
    });
    let check = http(format!("http://{address}/"));
    assert_eq!(
        check_beside(&check, AMPLE, server).await,
        "invalid HTTP/1 response: message head is too large"
    );
}

#[tokio::test]
async fn an_endless_body_is_cut_off_and_the_status_counts() {
    let (listener, address) = listen().await;
    let sent = Cell::new(0);
    let server = serving(listener, async |mut stream| {
        read_head(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {
            sent.set(sent.get() + 4096);
        }
    });
    let check = http(format!("http://{address}/"));
    assert_eq!(check_beside(&check, AMPLE, server).await, "up");
    // The buffers of both ends take some megabytes. Without the limit, it would be gigabytes.
    assert!(sent.get() < 16 << 20, "{} bytes", sent.get());
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_delay_the_outcome() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
        stream.write_all(head).await.expect("the client reads");
        pending::<()>().await;
    });
    let check = http(format!("http://{address}/"));
    let began = Instant::now();
    assert_eq!(check_beside(&check, AMPLE, server).await, "up");
    assert!(began.elapsed() < AMPLE / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_response_that_is_not_http_is_reported() {
    assert_eq!(
        against(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await,
        "invalid HTTP/1 response: invalid HTTP version parsed"
    );
}

/// SSH, SMTP and MySQL servers send a greeting. hyper then gives up before the request is sent, and
/// reports the request as cancelled.
#[tokio::test]
async fn a_server_that_speaks_first_is_distinguished_from_one_that_hangs_up() {
    let (client, mut server) = duplex(1024);
    let banner = b"220 mail.example ESMTP\r\n";
    server.write_all(banner).await.expect("room for it");
    let connection = Connection::over(client).await;
    let mut connection = connection.expect("nothing is sent yet");
    let answer = connection.send(Request::new(Full::default())).await;
    let unanswered = answer.expect_err("a greeting is not a response");
    assert_eq!(
        Failure::of(unanswered.failure, "mail.example").to_string(),
        "invalid HTTP/1 response: received unexpected message from connection"
    );
}

#[tokio::test]
async fn a_connection_closed_without_a_response_is_reported() {
    assert_eq!(against(b"").await, "connection closed before the response");
    assert_eq!(
        against(b"HTTP/1.1 200 OK\r\nx-half: ").await,
        "connection closed before the response"
    );
}
