//! The reading of small files that a check needs: certificates and passwords.
//!
//! It blocks its thread for the read. So it takes regular files only, and no more than [`MOST`] bytes
//! of one; a pipe without a writer would block for ever.

use crate::service::{endpoint::failure::Failure, own_limit};
use rustix::fs::OFlags;
use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The most bytes of a file. A bundle of all public roots has 0.2 MiB.
const MOST: u64 = 1 << 20;

/// Reads a file, which is the value of `key`.
///
/// # Errors
/// [`Failure::Impossible`] with the key and the path, but nothing of the content.
pub(super) fn read(key: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let why = match content(path) {
        Ok(content) => return Ok(content),
        Err(error) if own_limit::is_cause(&error) => {
            return Err(Failure::OwnLimit(error.to_string()));
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => "does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
            _ => format!("cannot be read: {error}"),
        },
    };
    Err(Failure::Impossible(format!(
        "{key} {} {why}",
        path.display()
    )))
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(content)
}
