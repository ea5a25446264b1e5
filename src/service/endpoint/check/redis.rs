//! A PING of a Redis server, or of one that speaks its protocol, such as Valkey.
//!
//! The commands are arrays of bulk strings and the replies single lines
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>). That is all of the protocol that
//! a PING needs, so no client is a dependency.

use super::{passwords, server::Server};
use crate::http_client::{Step, Stream, Trust};
use crate::service::endpoint::{
    failure::Failure,
    settings::{InvalidCheck, RedisCheck},
};
use std::path::PathBuf;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::Instant,
};

/// The longest line of a reply, in bytes.
const LONGEST: u64 = 4096;
/// The reason if a reply is none of the protocol.
const STRANGE: &str = "the response is not that of a Redis server";

/// A server that is sent a PING with each check.
pub(in crate::service::endpoint) struct Redis {
    pub(super) server: Server,
    /// The user of AUTH; that of the server if `None`.
    user: Option<String>,
    /// The file with the password. Without it, AUTH is not sent.
    password_file: Option<PathBuf>,
}

// === impl Redis ===

impl Redis {
    /// Returns the check of a server.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(super) fn new(check: &RedisCheck, trust: Option<Trust>) -> Result<Self, InvalidCheck> {
        Ok(Self {
            server: Server::new(&check.address, check.tls.as_ref(), &[], trust)?,
            user: check.user.clone(),
            password_file: check.password_file.clone(),
        })
    }

    /// Sends AUTH, if there is a password, and PING. Keeps `step` up to date. The caller must apply
    /// `deadline`.
    pub(super) async fn ping(&mut self, deadline: Instant, step: &mut Step) -> Result<(), Failure> {
        let password = self.password_file.as_deref().map(passwords::read);
        let password = password.transpose()?;
        let stream = self.server.open(deadline, step).await?;
        let mut stream = BufReader::new(stream);
        if let Some(password) = &password {
            let user = self.user.as_deref().map(str::as_bytes);
            let words: Vec<&[u8]> = [Some(&b"AUTH"[..]), user, Some(password)]
                .into_iter()
                .flatten()
                .collect();
            let reply = ask(&mut stream, &words).await?;
            if let Err(refused) = expect(&reply, "+OK") {
                // A server that does not know AUTH repeats a part of its arguments.
                let mut parts = password.windows(password.len().min(4));
                let is_safe = !parts.any(|part| contains(&reply, part));
                let refused = is_safe.then(|| refused.to_string());
                let why = refused.unwrap_or_else(|| "the server refuses AUTH".to_owned());
                return Err(Failure::Answer(why));
            }
        }
        let reply = ask(&mut stream, &[b"PING"]).await?;
        expect(&reply, "+PONG")
    }
}

/// Sends a command, and reads one line of the reply.
async fn ask(stream: &mut BufReader<Stream>, words: &[&[u8]]) -> Result<Vec<u8>, Failure> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    let lost = |error| Failure::exchange(&error);
    stream.write_all(&command).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut reply = Vec::new();
    let mut limited = stream.take(LONGEST);
    limited.read_until(b'\n', &mut reply).await.map_err(lost)?;
    match reply.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.to_vec()),
        None if reply.len() as u64 == LONGEST => Err(Failure::Answer(STRANGE.to_owned())),
        None => Err(Failure::closed()),
    }
}

/// Compares a reply with the expected one. An error of the server is the reason of the failure.
fn expect(reply: &[u8], expected: &str) -> Result<(), Failure> {
    if reply == expected.as_bytes() {
        return Ok(());
    }
    let Some(error) = reply.strip_prefix(b"-") else {
        return Err(Failure::Answer(STRANGE.to_owned()));
    };
    Err(Failure::answered(&String::from_utf8_lossy(error)))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
