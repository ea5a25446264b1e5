//! The passwords of checks, which are in files.
//!
//! A file is read for each check, so a changed password is used from the next check on. No message
//! contains a part of it.

use super::files;
use crate::service::endpoint::failure::Failure;
use std::path::Path;

/// Reads a password: the only line of the file, without its line break.
///
/// # Errors
/// [`Failure::Impossible`] names the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = files::read("password_file", path)?;
    let unusable = |why| {
        let path = path.display();
        Err(Failure::Impossible(format!("password_file {path} {why}")))
    };
    if content.ends_with(b"\n") {
        content.pop();
    }
    if content.ends_with(b"\r") {
        content.pop();
    }
    if content.is_empty() {
        return unusable("is empty");
    }
    if content.contains(&b'\n') {
        return unusable("has more than one line");
    }
    Ok(content)
}

/// Reads the password of a connection from a password file of libpq: the first line with this host,
/// port, database and user counts
/// (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).
///
/// # Errors
/// [`Failure::Impossible`] names the file.
pub(super) fn of_pgpass(path: &Path, connection: [&str; 4]) -> Result<Vec<u8>, Failure> {
    let content = files::read("passfile", path)?;
    let found = content
        .split(|byte| *byte == b'\n')
        .find_map(|line| of_line(line, connection));
    found.ok_or_else(|| {
        let (path, [host, port, database, user]) = (path.display(), connection);
        Failure::Impossible(format!(
            "passfile {path} has no line for {host}:{port}:{database}:{user}"
        ))
    })
}

/// Returns the password of a line if the rest of it fits. A backslash takes the meaning from the next
/// character.
fn of_line(line: &[u8], connection: [&str; 4]) -> Option<Vec<u8>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut rest = Some(line).filter(|line| !line.starts_with(b"#"))?;
    for expected in connection {
        let (field, after) = field(rest);
        if field != b"*" && field != expected.as_bytes() {
            return None;
        }
        rest = after?;
    }
    Some(field(rest).0).filter(|password| !password.is_empty())
}

/// Returns the text up to the next colon, and what follows the colon.
fn field(text: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let (mut field, mut at) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b':' => return (field, Some(&text[at + 1..])),
            b'\\' if at + 1 < text.len() => {
                at += 1;
                field.push(text[at]);
            }
            byte => field.push(*byte),
        }
        at += 1;
    }
    (field, None)
}
