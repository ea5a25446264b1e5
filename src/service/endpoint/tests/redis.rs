//! Tests of Redis checks.

use super::{AMPLE, SHORT, check_beside, listen, serving};
use crate::service::endpoint::{Check, RedisCheck};
use std::{future::pending, net::SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PING: &str = "*1\r\n$4\r\nPING\r\n";

fn redis(address: SocketAddr) -> RedisCheck {
    RedisCheck {
        address: address.to_string(),
        ..RedisCheck::default()
    }
}

/// Makes one check of a server that expects these commands and gives these replies.
async fn against(check: impl FnOnce(SocketAddr) -> RedisCheck, script: &[(&str, &str)]) -> String {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        for (command, reply) in script {
            let mut sent = vec![0; command.len()];
            stream.read_exact(&mut sent).await.expect("a command");
            assert_eq!(String::from_utf8_lossy(&sent), *command);
            stream.write_all(reply.as_bytes()).await.ok();
        }
    });
    check_beside(&Check::Redis(check(address)), AMPLE, server).await
}

#[tokio::test]
async fn a_server_that_answers_pong_is_up() {
    for (reply, words) in [
        ("+PONG\r\n", "up"),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            "LOADING Redis is loading the dataset in memory",
        ),
        (
            "-NOAUTH Authentication required.\r\n",
            "NOAUTH Authentication required.",
        ),
        // Part of an answer, and then the end of the connection.
        ("+PO", "connection closed before the response"),
        ("", "connection closed before the response"),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            "the response is not that of a Redis server",
        ),
        (
            &"x".repeat(5000),
            "the response is not that of a Redis server",
        ),
    ] {
        assert_eq!(against(redis, &[(PING, reply)]).await, words, "{reply}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_does_not_answer_is_down() {
    let (_listener, address) = listen().await;
    assert_eq!(
        check_beside(&Check::Redis(redis(address)), SHORT, pending::<()>()).await,
        "timed out after 300ms waiting for the response"
    );
}

#[tokio::test]
async fn the_password_of_the_file_is_sent_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("password");
    std::fs::write(&path, "s3 cret\n").expect("the folder is ours");
    let with = |address| RedisCheck {
        password_file: Some(path.clone()),
        ..redis(address)
    };
    let auth = "*2\r\n$4\r\nAUTH\r\n$7\r\ns3 cret\r\n";
    let script = [(auth, "+OK\r\n"), (PING, "+PONG\r\n")];
    assert_eq!(against(with, &script).await, "up");
    let named = |address| RedisCheck {
        user: Some("probe".to_owned()),
        ..with(address)
    };
    let auth = "*3\r\n$4\r\nAUTH\r\n$5\r\nprobe\r\n$7\r\ns3 cret\r\n";
    let script = [(auth, "+OK\r\n"), (PING, "+PONG\r\n")];
    assert_eq!(against(named, &script).await, "up");
    let script = [(auth, "-WRONGPASS invalid username-password pair\r\n")];
    assert_eq!(
        against(named, &script).await,
        "WRONGPASS invalid username-password pair"
    );
    // As an old server does.
    let echo = "-ERR unknown command `AUTH`, with args beginning with: `probe`, `s3 cret`\r\n";
    assert_eq!(
        against(named, &[(auth, echo)]).await,
        "the server refuses AUTH"
    );
}

#[tokio::test]
async fn a_password_file_that_cannot_be_used_is_named_without_its_content() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("password");
    let shown = path.display();
    for (content, problem) in [
        (None, "does not exist"),
        (Some(""), "is empty"),
        (Some("\n"), "is empty"),
        (Some("s3cret\nmore\n"), "has more than one line"),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).expect("the folder is ours");
        }
        let with = |address| RedisCheck {
            password_file: Some(path.clone()),
            ..redis(address)
        };
        let words = against(with, &[]).await;
        assert_eq!(words, format!("password_file {shown} {problem}"));
    }
}
