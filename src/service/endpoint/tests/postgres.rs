//! Tests of Postgres checks, against a server that speaks as much of the protocol as they need
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).

use super::{AMPLE, SHORT, check_beside, listen, outcome, serving, tls::self_signed};
use crate::service::endpoint::{Check, Checker, PasswordFile, PostgresCheck, TlsSettings};
use std::{future::pending, net::SocketAddr, path::Path};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    select,
};

fn postgres(address: SocketAddr) -> PostgresCheck {
    PostgresCheck {
        address: address.to_string(),
        user: "probe".to_owned(),
        dbname: Some("orders".to_owned()),
        ..PostgresCheck::default()
    }
}

/// Returns a message of the server.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// Reads what follows the length of a message; `None` if the client has closed the connection.
async fn body<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// Reads a message of the client.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(char, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    Some((char::from(kind), body(stream).await?))
}

/// The message that the session may begin, and the one that a query may follow.
fn ready() -> Vec<u8> {
    let authenticated = message(b'R', &0_u32.to_be_bytes());
    [authenticated, message(b'Z', b"I")].concat()
}

/// The answer to `SELECT 1`.
fn one_row() -> Vec<u8> {
    let column = [
        &b"?column?\0"[..],
        &[0; 6],
        &[0, 0, 0, 23, 0, 4],
        &[0xff; 4],
        &[0; 2],
    ]
    .concat();
    let described = message(b'T', &[&[0, 1][..], &column].concat());
    let row = message(b'D', &[0, 1, 0, 0, 0, 1, b'1']);
    let done = message(b'C', b"SELECT 1\0");
    [described, row, done, message(b'Z', b"I")].concat()
}

/// Returns an error of the server.
fn error(text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C57P03\0M{text}\0\0");
    message(b'E', fields.as_bytes())
}

/// Makes one check of a server that answers the start of a session and the query.
async fn against(start: Vec<u8>, query: Option<Vec<u8>>) -> String {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let startup = body(&mut stream).await.expect("the client begins");
        let startup = String::from_utf8_lossy(&startup).into_owned();
        assert!(
            startup.contains("user\0probe\0database\0orders\0"),
            "{startup}"
        );
        stream.write_all(&start).await.ok();
        let Some(answer) = &query else {
            return;
        };
        let asked = read(&mut stream).await.expect("a query");
        assert_eq!(asked, ('Q', b"SELECT 1\0".to_vec()));
        stream.write_all(answer).await.ok();
        if answer.is_empty() {
            pending::<()>().await;
        }
        let goodbye = read(&mut stream).await.map(|(kind, _)| kind);
        assert!(matches!(goodbye, Some('X') | None), "{goodbye:?}");
    });
    let timeout = if query.as_ref().is_some_and(Vec::is_empty) {
        SHORT
    } else {
        AMPLE
    };
    check_beside(&Check::Postgres(postgres(address)), timeout, server).await
}

#[tokio::test]
async fn a_database_that_answers_the_query_is_up() {
    assert_eq!(against(ready(), Some(one_row())).await, "up");
}

/// A proxy whose database is gone accepts connections, and may even begin sessions.
#[tokio::test]
async fn a_proxy_without_its_database_is_down() {
    // It closes what it has accepted.
    assert_eq!(
        against(Vec::new(), None).await,
        "connection closed before the response"
    );
    // It answers the start of the session, and the query never.
    assert_eq!(
        against(ready(), Some(Vec::new())).await,
        "timed out after 300ms waiting for the response"
    );
    // It says so.
    assert_eq!(
        against(ready(), Some(error("server conn crashed?"))).await,
        "FATAL: server conn crashed?"
    );
    // It accepts only.
    let (_listener, address) = listen().await;
    assert_eq!(
        check_beside(&Check::Postgres(postgres(address)), SHORT, pending::<()>()).await,
        "timed out after 300ms waiting for the response"
    );
}

#[tokio::test]
async fn a_server_that_refuses_the_session_is_down_with_its_reason() {
    let starting = "the database system is starting up";
    assert_eq!(
        against(error(starting), None).await,
        format!("FATAL: {starting}")
    );
    let asks = message(b'R', &3_u32.to_be_bytes());
    assert_eq!(
        against(asks, None).await,
        "invalid configuration: password missing"
    );
}

#[tokio::test]
async fn a_server_without_tls_is_down_if_tls_is_asked_for() {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        let asked = body(&mut stream).await.expect("the client asks for TLS");
        assert_eq!(asked, 80_877_103_u32.to_be_bytes());
        stream.write_all(b"N").await.ok();
    });
    let check = Check::Postgres(PostgresCheck {
        tls: Some(TlsSettings::default()),
        ..postgres(address)
    });
    let words = check_beside(&check, AMPLE, server).await;
    assert_eq!(
        words,
        "error performing TLS handshake: server does not support TLS"
    );
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_asked_over_tls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ca.pem");
    let signed = self_signed("localhost", |_| {});
    std::fs::write(&path, &signed.pem).expect("the folder is ours");
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        body(&mut stream).await.expect("the client asks for TLS");
        stream.write_all(b"S").await.ok();
        let Ok(mut stream) = signed.acceptor.accept(stream).await else {
            return;
        };
        let startup = body(&mut stream).await.expect("the client begins");
        assert!(String::from_utf8_lossy(&startup).contains("user\0probe\0"));
        stream.write_all(&ready()).await.ok();
        read(&mut stream).await.expect("a query");
        stream.write_all(&one_row()).await.ok();
        read(&mut stream).await;
    });
    let trusting = |host: &str| {
        Check::Postgres(PostgresCheck {
            address: format!("{host}:{}", address.port()),
            tls: Some(TlsSettings {
                ca_file: Some(path.clone()),
                client: None,
            }),
            ..postgres(address)
        })
    };
    let checks = async {
        let mut checker = Checker::new(&trusting("localhost"), AMPLE);
        assert_eq!(outcome(&mut checker).await, "up");
        let mut checker = Checker::new(&trusting("127.0.0.1"), AMPLE);
        assert_eq!(
            outcome(&mut checker).await,
            "certificate not valid for 127.0.0.1"
        );
    };
    select! {
        () = checks => {}
        () = server => {}
    }
}

/// Makes one check with a password file against a server that takes this password.
async fn with_password(file: PasswordFile, password: &str) -> String {
    let (listener, address) = listen().await;
    let server = serving(listener, async |mut stream| {
        body(&mut stream).await.expect("the client begins");
        stream
            .write_all(&message(b'R', &3_u32.to_be_bytes()))
            .await
            .ok();
        let (kind, sent) = read(&mut stream).await.expect("a password");
        assert_eq!(kind, 'p');
        if sent != format!("{password}\0").as_bytes() {
            let refused = error("password authentication failed for user \"probe\"");
            stream.write_all(&refused).await.ok();
            return;
        }
        stream.write_all(&ready()).await.ok();
        read(&mut stream).await.expect("a query");
        stream.write_all(&one_row()).await.ok();
        read(&mut stream).await;
    });
    let check = Check::Postgres(PostgresCheck {
        password: Some(file),
        ..postgres(address)
    });
    check_beside(&check, AMPLE, server).await
}

#[tokio::test]
async fn the_password_comes_from_a_file_of_either_format() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    };
    let plain = PasswordFile::Plain(write("plain", "s3cret\n"));
    assert_eq!(with_password(plain.clone(), "s3cret").await, "up");
    assert_eq!(
        with_password(plain, "other").await,
        "FATAL: password authentication failed for user \"probe\""
    );
    let lines = "# for tests\nother:*:*:*:no\n127.0.0.1:*:billing:probe:no\n\
        127.0.0.1:*:orders:probe:s3\\:cr\\\\et\n*:*:*:*:later\n";
    let pgpass = PasswordFile::Pgpass(write("pgpass", lines));
    assert_eq!(with_password(pgpass, "s3:cr\\et").await, "up");
    let path = write("none", "127.0.0.1:1:orders:probe:s3cret\n");
    let words = with_password(PasswordFile::Pgpass(path.clone()), "s3cret").await;
    assert!(words.starts_with(&missing(&path)), "{words}");
    assert!(!words.contains("s3cret"), "{words}");
}

/// Returns the start of the message about a password file without a line that fits.
fn missing(path: &Path) -> String {
    format!("passfile {} has no line for 127.0.0.1:", path.display())
}
